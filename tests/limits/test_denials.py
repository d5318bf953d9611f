"""`Denials` against a plain dict of times, over days and with clocks that step back."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iocproxy.limits import Denials, denials

DAY = 86_400.0


def key(number: int) -> bytes:
    return number.to_bytes(4, "big")


def test_a_denial_ends_exactly_then() -> None:
    subject = Denials()
    assert subject.left(b"a", 1000.1) == 0.0
    assert subject.deny(b"a", 1000.1, 10.0, "guessing")
    assert subject.name(b"a") == "guessing"
    assert subject.left(b"a", 1000.1) == pytest.approx(10.0)
    assert subject.left(b"a", 1010.0) == pytest.approx(0.1)
    assert subject.left(b"b", 1010.0) == 0.0
    assert subject.count(1010.0) == 1
    assert subject.left(b"a", 1000.1 + 10.0) == 0.0
    assert subject.count(1000.1 + 10.0) == 0


def test_the_longer_denial_stands() -> None:
    subject = Denials()
    assert subject.deny(b"a", 0.0, 100.0, "long")
    assert not subject.deny(b"a", 10.0, 50.0, "short")
    assert subject.name(b"a") == "long"
    assert subject.deny(b"a", 10.0, 95.0, "longer")
    assert subject.left(b"a", 10.0) == 95.0
    assert subject.name(b"a") == "longer"
    assert subject.count(10.0) == 1
    assert subject.count(104.9) == 1
    assert subject.count(105.0) == 0


def test_a_pardon() -> None:
    subject = Denials()
    assert not subject.pardon(b"a", 0.0)
    subject.deny(b"a", 0.0, 100.0, "x")
    assert subject.pardon(b"a", 1.0)
    assert subject.left(b"a", 1.0) == 0.0
    assert not subject.pardon(b"a", 1.0)
    subject.deny(b"a", 2.0, 1.0, "x")
    assert not subject.pardon(b"a", 3.0)  # it was over
    assert len(subject) == 0


def test_a_clock_that_steps_back_lets_nobody_off_early_and_nobody_in_twice() -> None:
    subject = Denials()
    subject.deny(b"a", 1000.0, 60.0, "x")
    assert subject.left(b"a", 400.0) == 660.0  # what it takes by that clock
    assert subject.left(b"a", 1059.0) == 1.0
    assert subject.left(b"a", 1060.0) == 0.0
    assert subject.left(b"a", 1000.0) == 0.0  # over is over
    subject.deny(b"b", 500.0, 60.0, "x")  # as if it were 1060
    assert subject.left(b"b", 1119.0) == 1.0
    assert subject.left(b"b", 1120.0) == 0.0


def test_those_that_end_soonest_are_forgotten() -> None:
    subject = Denials(3)
    for number, seconds in enumerate((300.0, 100.0, 200.0)):
        subject.deny(key(number), 0.0, seconds, "x")
    subject.deny(key(3), 1.0, 150.0, "x")
    assert [subject.left(key(number), 1.0) > 0 for number in range(4)] == [True, False, True, True]
    assert subject.evicted == 1
    subject.deny(key(4), 1.0, 1.0, "x")  # even where the newcomer would be let off sooner still
    assert [subject.left(key(number), 1.0) > 0 for number in range(5)] == [True, False, True, False, True]
    assert len(subject) == 3
    assert repr(subject) == "<Denials 3 of at most 3>"


def test_those_whose_time_is_over_go_first() -> None:
    subject = Denials(100)
    for number in range(100):
        subject.deny(key(number), 0.0, 10.0, "x")
    for number in range(100, 200):
        subject.deny(key(number), 20.0, 10.0, "x")
    assert subject.evicted == 0
    assert len(subject) == 100
    subject.deny(key(0), 40.0, 10.0, "x")
    subject.deny(key(1), 40.0, 10.0, "x")
    assert len(subject) == 98  # two for each newcomer, so that the table shrinks


def test_a_flood_of_denials_is_bounded() -> None:
    subject = Denials(1_000)
    for number in range(50_000):
        subject.deny(key(number), number / 100, 3600.0, "x")
    assert len(subject) == 1_000
    assert subject.evicted == 49_000
    assert len(subject._buckets) == len(subject._order) <= 1_000
    assert subject.count(500.0) == 1_000


def test_buckets_are_bounded_where_denials_are_lengthened_and_lifted() -> None:
    subject = Denials()
    for number in range(10_000):
        subject.deny(b"a", 0.0, 10.0 + number, "x")
    assert len(subject._order) <= denials._EMPTY + 3
    for number in range(10_000):
        subject.deny(b"a", 0.0, 20_000.0 + number, "x")
        subject.pardon(b"a", 0.0)
    assert len(subject._order) == len(subject._buckets) <= denials._EMPTY + 3


actions = st.lists(
    st.tuples(
        st.sampled_from(["deny", "left", "pardon", "count"]),
        st.integers(0, 5),
        st.sampled_from([0.0, 0.3, 1.0, 59.7, 60.0, 3600.0, DAY, -0.5, -60.0, -DAY]),  # how the clock moves before it
        st.sampled_from([0.5, 1.0, 60.0, 600.0, DAY, 7 * DAY]),
    ),
    max_size=60,
)


@given(actions)
def test_over_days_as_a_plain_dict_has_it(steps: list[tuple[str, int, float, float]]) -> None:
    subject, model = Denials(), dict[bytes, float]()
    now = latest = 1_000.0
    subject.count(now)
    for action, number, moved, seconds in steps:
        now += moved
        latest = max(now, latest)
        subject.count(now)
        name, until = key(number), model.get(key(number), 0.0)
        if action == "deny":
            longer = latest + seconds > until
            assert subject.deny(name, now, seconds, "x") is longer
            model[name] = max(latest + seconds, until)
        elif action == "left":
            assert subject.left(name, now) == (until - now if until > latest else 0.0)
        elif action == "pardon":
            assert subject.pardon(name, now) is (until > latest)
            model.pop(name, None)
        else:
            assert subject.count(now) == sum(until > latest for until in model.values())


def test_at_random_nobody_is_let_off_early_while_there_is_room() -> None:
    dice = random.Random(5)
    subject, until, now = Denials(500), dict[bytes, float](), 0.0
    for _ in range(20_000):
        now += dice.random()
        name = key(dice.randrange(400))
        seconds = dice.choice([10.0, 60.0, 600.0])
        subject.deny(name, now, seconds, "x")
        until[name] = max(until.get(name, 0.0), now + seconds)
        other = key(dice.randrange(400))
        assert (subject.left(other, now) > 0) is (until.get(other, 0.0) > now)
    assert subject.evicted == 0


def test_no_room_at_all() -> None:
    with pytest.raises(ValueError, match="max_clients must be at least 1, not 0"):
        Denials(0)
