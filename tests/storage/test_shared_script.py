"""The script that decides in Redis, against a brute-force log of every admitted unit. Time is given to it."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from iocproxy.clock import ManualClock
from iocproxy.limits import WindowLimit, Windows
from iocproxy.middleware.rate_storage import LocalRates, Question
from iocproxy.middleware.redis_link import SCRIPT

MICRO = 1_000_000
START = 1_700_000_000 * MICRO

#: Every layout there is: exact logs, and batches whose gate lies at 1, in the middle and at the full batch.
LIMITS = [1, 2, 3, 10, 15, 16, 17, 20, 31, 32, 33, 48, 60, 100, 241, 300]
#: Seconds. Redis forgets keys by its own clock, so windows are longer than a test.
WINDOWS = [60, 3_600, 86_400]

Steps = list[tuple[int, int, int]]  # microseconds since the last step, cost, how often
shared_client = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], print_blob=True
)


def decide(client: redis.Redis, now: int, *requests: list[tuple[str, int, int, int]]) -> list[int]:
    """Each request is one question that binds, with (key, limit, microseconds, cost) for each of its windows."""
    keys = [key for request in requests for key, *_ in request]
    arguments: list[Any] = [now]
    for request in requests:
        arguments += [1, 1, 0, request[0][3], len(request)]
        arguments += [number for _, limit, window, _ in request for number in (limit, window)]
    return client.eval(SCRIPT, len(keys), *keys, *arguments)  # type: ignore[no-any-return]


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, int, Steps]:
    """(limit, window in seconds, steps), with gaps at and around every edge."""
    limit, window = draw(st.sampled_from(LIMITS)), draw(st.sampled_from(WINDOWS))
    whole = window * MICRO
    edges = [0, 1, 999, whole // 16, whole // limit, whole // 2, whole - 1, whole, whole + 1, 3 * whole]
    gap = st.one_of(st.sampled_from(edges), st.integers(0, whole // 4), st.integers(0, 40 * whole))
    cost = st.one_of(st.just(1), st.integers(1, limit), st.just(limit))
    step = st.tuples(gap, cost, st.integers(1, limit + 1))
    return limit, window, draw(st.lists(step, min_size=1, max_size=25))


@shared_client
@given(history=histories())
@example(history=(10, 60, [(0, 1, 10), (59_999_999, 1, 1), (1, 1, 11)]))
@example(history=(100, 60, [(0, 1, 100), (60_000_000, 1, 101)]))
def test_every_answer_against_the_log(redis_client: redis.Redis, history: tuple[int, int, Steps]) -> None:
    limit, window, steps = history
    client, whole = redis_client, window * MICRO
    client.flushall()
    log: list[int] = []  # the time of every admitted unit, in microseconds
    now = START
    for gap, cost, repeated in steps:
        now += gap
        request = [("key", limit, whole, cost)]
        waits = decide(client, now, *[request] * repeated)
        admitted = waits.count(0)
        assert waits[:admitted] == [0] * admitted  # who was refused once is refused again
        log += [now] * (cost * admitted)
        # No half-open interval [t, t + window) holds more than `limit` units: any `limit` + 1 units in a row span a
        # window at least.
        for last in range(max(limit, len(log) - cost * admitted), len(log)):
            assert log[last] - log[last - limit] >= whole
        if admitted == repeated:
            continue
        # Refused early by at most 1/16 of the limit: exactly at the limit where that is 16 or less.
        live = sum(now - unit < whole for unit in log[-limit:])
        assert live + cost > limit - (limit - 1) // 16
        # The wait is true, and no longer than it has to be.
        (wait,) = set(waits[admitted:])
        assert 0 < wait <= whole
        state = client.get("key") or b""
        assert decide(client, now + wait, request) == [0]
        client.set("key", state)
        assert decide(client, now + wait - 1, request) == [1]
        assert client.get("key") == state  # refusals change nothing


@shared_client
@given(history=histories())
def test_it_decides_as_the_windows_of_one_process(redis_client: redis.Redis, history: tuple[int, int, Steps]) -> None:
    limit, window, steps = history
    redis_client.flushall()
    local = WindowLimit(limit, window)
    seconds = 1_000
    for gap, cost, _ in steps:
        seconds += gap // MICRO  # whole seconds, which are on its ticks
        wait = local.check(b"key", seconds, cost)
        shared = decide(redis_client, START + seconds * MICRO, [("key", limit, window * MICRO, cost)])
        assert shared == [round(wait * MICRO)]


@shared_client
@given(
    st.lists(
        st.tuples(st.integers(0, 40 * MICRO), st.sampled_from([1, 2, 5]), st.sampled_from(["ab", "a", "b", "ba"])),
        max_size=60,
    )
)
def test_counted_by_all_or_by_none(redis_client: redis.Redis, steps: list[tuple[int, int, str]]) -> None:
    """Two limits of several windows, and requests that are for one of them or for both."""
    redis_client.flushall()
    rates = {"a": [(5, 60), (12, 600)], "b": [(7, 90)]}
    logs: dict[str, list[int]] = {"a": [], "b": []}
    now = START
    for gap, cost, names in steps:
        now += gap
        request = [(f"{name}:{window}", limit, window * MICRO, cost) for name in names for limit, window in rates[name]]
        (wait,) = decide(redis_client, now, request)
        full = [  # limits up to 16 are exact
            (name, window)
            for name in names
            for limit, window in rates[name]
            if sum(now - unit < window * MICRO for unit in logs[name]) + cost > limit
        ]
        assert (wait > 0) == bool(full), (wait, full)
        if not wait:
            for name in names:
                logs[name] += [now] * cost


_RATES = [[(1, 2)], [(3, 5)], [(16, 10)], [(40, 10)], [(300, 7)], [(2, 1), (5, 10)], [(3, 2), (4, 7), (50, 60)]]
_LIMITS = st.lists(st.tuples(st.sampled_from(_RATES), st.booleans(), st.booleans()), min_size=1, max_size=4)
_STEPS = st.tuples(
    st.integers(0, 24), st.integers(1, 2), st.lists(st.sampled_from("ab"), min_size=4, max_size=4), st.integers(1, 9)
)


@shared_client
@given(limits=_LIMITS, steps=st.lists(_STEPS, max_size=25))
def test_several_questions_as_one_process_answers_them(
    redis_client: redis.Redis, limits: list[tuple[list[tuple[int, int]], bool, bool]], steps: list[Any]
) -> None:
    """Some bind and some are dry runs, some are told what is left: all is as with `LocalRates`, and that is tested."""
    redis_client.flushall()
    clock = ManualClock()
    rates, windows = LocalRates(clock), [Windows(limit) for limit, _, _ in limits]
    for seconds, cost, clients, repeated in steps:
        clock.advance(seconds)
        questions = [
            Question(str(number), subject, client.encode(), min(cost, subject.limit), binds, tell)
            for number, (subject, client, (_, binds, tell)) in enumerate(zip(windows, clients, limits, strict=False))
        ]
        keys: list[str] = []
        arguments: list[int] = []
        for _ in range(repeated):
            arguments.append(len(questions))
            for name, subject, key, price, binds, tell in questions:
                arguments += [binds, tell, price, len(subject.members)]
                for member in subject.members:
                    # longer by a hundred, or Redis forgets the keys within the test: waits are longer by as much
                    arguments += [member.limit, round(member.window * 100 * MICRO)]
                    keys.append(f"{name}:{member.limit}:{key.decode()}")
        now = START + round(clock() * 100 * MICRO)
        said = redis_client.eval(SCRIPT, len(keys), *keys, now, *map(int, arguments))
        expected: list[int] = []
        for _ in range(repeated):
            for wait, left in rates.ask(questions):
                expected.append(round(wait * 100 * MICRO))
                expected += [number for units, more_in in left for number in (units, round(more_in * 100 * MICRO))]
        assert said == expected


def test_many_requests_are_decided_one_after_the_other(redis_client: redis.Redis) -> None:
    redis_client.flushall()
    mine, other = [("mine", 3, 60 * MICRO, 1)], [("mine", 3, 60 * MICRO, 1), ("other", 1, 60 * MICRO, 1)]
    assert decide(redis_client, START, mine, other, other, mine, mine) == [0, 0, 60 * MICRO, 0, 60 * MICRO]
    assert decide(redis_client, START) == []


def test_a_clock_that_steps_back_locks_nobody_out(redis_client: redis.Redis) -> None:
    redis_client.flushall()
    request = [("key", 2, 60 * MICRO, 1)]
    hour = 3_600 * MICRO
    assert decide(redis_client, START, request, request, request) == [0, 0, 60 * MICRO]
    # an hour earlier: what was counted counts for a window from now on, and that is what is said
    back = START - hour
    assert decide(redis_client, back, request) == [60 * MICRO]
    assert decide(redis_client, back + 59 * MICRO, request) == [MICRO]
    assert decide(redis_client, back + 60 * MICRO, request, request, request) == [0, 0, 60 * MICRO]


def test_a_clock_that_steps_back_and_one_window_of_two(redis_client: redis.Redis) -> None:
    """The window that would admit is not counted by the one that refuses, though its times are written anew."""
    redis_client.flushall()
    tight, wide = ("tight", 1, 60 * MICRO, 1), ("wide", 2, 60 * MICRO, 1)
    assert decide(redis_client, START, [tight, wide]) == [0]
    back = START - 3_600 * MICRO
    assert decide(redis_client, back, [wide, tight], [wide, tight]) == [60 * MICRO] * 2
    assert decide(redis_client, back, [wide], [wide]) == [0, 60 * MICRO]


def test_keys_are_forgotten_when_nothing_in_them_counts(redis_client: redis.Redis) -> None:
    redis_client.flushall()
    assert decide(redis_client, START, [("key", 100, 60 * MICRO, 1), ("short", 1, 50_000, 1)]) == [0]
    assert 59_000 < redis_client.pttl("key") <= 60_001
    assert 0 < redis_client.pttl("short") <= 51
    assert redis_client.memory_usage("key") < 400
    assert redis_client.config_get("maxmemory")  # the server is still well


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"x",
        b"\xff" * 32,  # not a number
        b"\x7f\xf0" + bytes(30),  # infinite
        bytes(32),  # a fill of nothing
        b"\x40\x08" + bytes(30),  # a fill of three, where a batch is one
        b"\x3f\xf8" + bytes(30),  # of one and a half
        b"\x3f\xf0" + bytes(6) + b"\xbf\xf0" + bytes(22),  # a time before all times
        bytes(24),
        bytes(4096),
    ],
)
def test_what_is_no_window_is_told_and_left_alone(redis_client: redis.Redis, garbage: bytes) -> None:
    redis_client.flushall()
    redis_client.set("key", garbage)
    good, bad = ("good", 3, 60 * MICRO, 1), ("key", 3, 60 * MICRO, 1)
    assert decide(redis_client, START, [bad], [good, bad], [good]) == [-1, -2, 0]
    assert redis_client.get("key") == garbage
    redis_client.delete("key")
    redis_client.lpush("key", "of another type")
    assert decide(redis_client, START, [good, bad], [good], [good], [good]) == [-2, 0, 0, 60 * MICRO]
    assert redis_client.llen("key") == 1


def test_the_servers_clock(redis_client: redis.Redis) -> None:
    redis_client.flushall()
    request = ["1", "1", "0", "1", "1", "1", str(60 * MICRO)]
    before = redis_client.time()
    assert redis_client.eval(SCRIPT, 1, "key", "", *request) == [0]
    (wait,) = redis_client.eval(SCRIPT, 1, "key", "", *request)
    after = redis_client.time()
    passed = (after[0] - before[0]) * MICRO + after[1] - before[1]
    assert 60 * MICRO - passed <= wait <= 60 * MICRO
