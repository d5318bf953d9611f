"""Several windows at once, against one log of times for each."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iocproxy.limits import Windows

KEY = b"key"

RATES = st.sampled_from(
    [
        [(3, 1.0), (5, 10.0)],
        [(20, 1.0), (60, 10.0)],
        [(1, 0.5), (3, 2.0), (5, 10.0)],
        [(40, 1.0), (100, 4.0)],
        [(2, 1.0)],
    ]
)
STEPS = st.lists(
    st.tuples(st.sampled_from([0, 0, 1, 250, 499, 500, 501, 999, 1000, 1001, 4000, 10_000]), st.integers(1, 3)),
    max_size=80,
)


@settings(max_examples=150, deadline=None)
@given(RATES, STEPS)
def test_no_window_ever_sees_too_much_and_every_wait_is_true(
    rates: list[tuple[int, float]], steps: list[tuple[int, int]]
) -> None:
    subject = Windows(rates)
    log: list[int] = []
    millis = 50_000
    for gap, cost in steps:
        millis += gap
        if cost > subject.limit:
            continue
        now = millis / 1000
        asked = subject.peek(KEY, now, cost)
        wait = subject.check(KEY, now, cost)
        assert asked == wait
        if not wait:
            log.extend([millis] * cost)
            for limit, window in rates:
                assert sum(millis - at < window * 1000 for at in log) <= limit
            continue
        # Some window is as good as full: early by 1/16 of its limit at most.
        assert any(
            sum(millis - at < window * 1000 for at in log) + cost > limit - (limit - 1) // 16 for limit, window in rates
        )
        assert copy.deepcopy(subject).check(KEY, now + wait, cost) == 0.0
        if wait > 0.002:
            assert copy.deepcopy(subject).check(KEY, now + wait - 0.002, cost) > 0.0


def test_what_one_window_refuses_the_other_does_not_count() -> None:
    subject = Windows([(1, 1.0), (3, 10.0)])
    assert subject.check(KEY, 100.0) == 0.0
    assert [subject.check(KEY, 100.5) for _ in range(50)] == [0.5] * 50
    assert subject.check(KEY, 101.0) == 0.0
    assert subject.check(KEY, 102.0) == 0.0
    assert subject.check(KEY, 103.0) == pytest.approx(7.0)
    assert [member.refused for member in subject.members] == [50, 1]
    assert [member.admitted for member in subject.members] == [3, 3]


def test_what_has_happened_is_counted_wherever_there_is_room() -> None:
    subject = Windows([(1, 1.0), (3, 10.0)])
    for _ in range(5):
        subject.note(KEY, 100.0)
    assert subject.peek(KEY, 101.0) == pytest.approx(9.0)


def test_forget_and_length() -> None:
    subject = Windows([(1, 1.0), (2, 10.0)], max_clients=5)
    subject.check(KEY, 100.0)
    subject.check(b"other", 100.0)
    assert len(subject) == 2
    subject.forget(KEY)
    assert subject.check(KEY, 100.0) == 0.0
    assert subject.check(b"other", 100.0) == pytest.approx(1.0)
    assert repr(subject) == "<Windows 1/1s, 2/10s>"


def test_no_windows_at_all() -> None:
    with pytest.raises(ValueError, match="at least one window"):
        Windows([])
