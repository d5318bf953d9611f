"""The promise of `WindowLimit`, against a brute-force log of every admitted unit."""

from __future__ import annotations

import copy
import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from iocproxy.limits import WindowLimit

KEY = b"\x7f\x00\x00\x01"
MICRO = 1_000_000

#: Every layout there is: exact logs, and batches whose gate lies at 1, in the middle and at the full batch.
LIMITS = [1, 2, 3, 10, 15, 16, 17, 20, 31, 32, 33, 48, 60, 100, 241, 300]
WINDOWS = [1, 10, 60, 3_600]

Steps = list[tuple[int, int, int]]  # microseconds since the last step, cost, how often


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, int, Steps]:
    """(limit, window in seconds, steps), with gaps at and around every edge."""
    limit, window = draw(st.sampled_from(LIMITS)), draw(st.sampled_from(WINDOWS))
    whole = window * MICRO
    edges = [0, 1, 999, whole // 16, whole // limit, whole // 2, whole - 1, whole, whole + 1, 3 * whole]
    gap = st.one_of(st.sampled_from(edges), st.integers(0, whole // 4), st.integers(0, 40 * whole))
    cost = st.one_of(st.just(1), st.integers(1, limit), st.just(limit))
    step = st.tuples(gap, cost, st.integers(1, limit + 1))
    return limit, window, draw(st.lists(step, min_size=1, max_size=30))


def grain(window: int) -> int:
    """Microseconds: the coarsest a tick may be, as docs/design/limits.md promises it."""
    return max(1, math.ceil(window * MICRO * 2.4e-6))


@settings(max_examples=120, deadline=None)
@given(histories(), st.sampled_from([0, 1_000, 10_000_000]))
@example((10, 10, [(0, 1, 10), (9_999_999, 1, 1), (1, 1, 11)]), 1_000)
@example((100, 1, [(0, 1, 100), (1_000_000, 1, 101)]), 0)
def test_every_answer_against_the_log(history: tuple[int, int, Steps], start: int) -> None:
    limit, window, steps = history
    subject = WindowLimit(limit, window)
    whole, tick = window * MICRO, grain(window)
    log: list[int] = []  # the time of every admitted unit, in microseconds
    micros = start * MICRO
    for gap, cost, repeated in steps:
        micros += gap
        now = micros / MICRO
        for _ in range(repeated):
            peeked, remaining = subject.peek(KEY, now, cost), subject.remaining(KEY, now)
            wait = subject.check(KEY, now, cost)
            assert wait == peeked
            assert (wait == 0.0) == (cost <= remaining)
            if wait:
                break
            log += [micros] * cost
            # No half-open interval [t, t + window) holds more than `limit` units: any `limit` + 1 units in a row
            # span a window at least.
            for last in range(max(limit, len(log) - cost), len(log)):
                assert log[last] - log[last - limit] >= whole
        else:
            continue
        # Refused early by at most 1/16 of the limit: exactly at the limit where that is 16 or less.
        live = sum(micros - unit < whole + tick for unit in log[-limit:])
        assert live + cost > limit - (limit - 1) // 16
        # The wait is true, and no longer than it has to be.
        assert 0 < wait <= window + tick / MICRO
        assert copy.deepcopy(subject).check(KEY, now + wait, cost) == 0.0
        sooner = now + wait - 2 * tick / MICRO
        if sooner > now:
            assert copy.deepcopy(subject).check(KEY, sooner, cost) > 0.0
    assert subject.admitted + subject.refused >= len(steps)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([1, 2, 10, 17, 60]),
    st.sampled_from([0.1, 1 / 3, 1.0, 7.7, 86_400.0]),
    st.lists(st.one_of(st.floats(0, 2, allow_subnormal=True), st.sampled_from([0.0, 0.5, 1.0])), max_size=150),
)
def test_never_lax_at_any_reading_of_the_clock(limit: int, window: float, fractions: list[float]) -> None:
    """Readings off the ticks: rounding never admits, but for the eight last places that are one reading."""
    subject = WindowLimit(limit, window)
    log = [now for now in sorted(part * window for part in fractions) if subject.check(KEY, now) == 0.0]
    for first, beyond in zip(log, log[limit:], strict=False):
        assert beyond - first >= window - 8 * math.ulp(beyond)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([1, 3, 16, 20, 60]),
    st.lists(st.tuples(st.integers(-30_000, 12_000), st.integers(1, 8)), max_size=60),
)
def test_a_clock_that_steps_back(limit: int, steps: list[tuple[int, int]]) -> None:
    """An earlier time is taken for the latest one seen: still never more than the limit, and the wait stays true."""
    subject = WindowLimit(limit, 10)
    log: list[int] = []
    millis = latest = 50_000
    for gap, repeated in steps:
        millis = max(0, millis + gap)
        latest = max(latest, millis) if subject.admitted + subject.refused else millis
        for _ in range(repeated):
            wait = subject.check(KEY, millis / 1000)
            if wait == 0.0:
                log.append(latest)
                if len(log) > limit:
                    assert log[-1] - log[-1 - limit] >= 10_000
            else:
                assert copy.deepcopy(subject).check(KEY, millis / 1000 + wait) == 0.0


@pytest.mark.parametrize(
    ("limit", "window", "start"),
    [(1, 10, 1_000.0), (10, 10, 0.0), (10, 10, 1_000.1), (60, 10, 1_000.0), (300, 10, 123_456.789), (20, 1, 0.3)],
)
def test_the_limit_at_once_and_again_exactly_a_window_later(limit: int, window: float, start: float) -> None:
    subject = WindowLimit(limit, window)
    for round_ in range(40):  # through several epochs
        now = start + round_ * window
        assert [subject.check(KEY, now) for _ in range(limit)] == [0.0] * limit
        wait = subject.check(KEY, now)
        assert wait == pytest.approx(window)
        assert subject.remaining(KEY, now) == 0
    assert (subject.admitted, subject.refused) == (40 * limit, 40)


def test_the_refutation_of_two_buckets() -> None:
    """The example of docs/design/limits.md: 10 in 10 s, where the weighted counter admits 15 between 9.0 and 15.0."""
    subject = WindowLimit(10, 10)
    admitted = [at for at in [9.0] * 10 + [15.0] * 10 if subject.check(KEY, at) == 0.0]
    assert admitted == [9.0] * 10
    assert subject.check(KEY, 15.0) == pytest.approx(4.0)


def test_refusals_are_not_counted() -> None:
    subject = WindowLimit(2, 10)
    assert subject.check(KEY, 5.0, 2) == 0.0
    assert [subject.check(KEY, 5.0 + n) for n in range(1, 10)] == [10.0 - n for n in range(1, 10)]
    assert subject.check(KEY, 15.0, 2) == 0.0


def test_a_slow_client_is_never_refused() -> None:
    """One unit every 0.11 windows at a limit of ten, for thousands of windows: no old time may come back as new."""
    subject = WindowLimit(10, 1)
    assert all(subject.check(KEY, n * 0.11) == 0.0 for n in range(40_000))
    batched = WindowLimit(300, 1)
    assert all(batched.check(KEY, n * 0.9) == 0.0 for n in range(40_000))


def test_idle_for_days_then_back() -> None:
    for limit in (3, 100):
        subject = WindowLimit(limit, 60)
        for day in range(10):
            now = 1_000.0 + day * 86_400
            assert subject.remaining(KEY, now) == limit
            assert subject.check(KEY, now, limit) == 0.0
            assert subject.check(KEY, now + 59.0) == pytest.approx(1.0)


def test_clients_do_not_meet() -> None:
    subject = WindowLimit(1, 10)
    assert [subject.check(bytes([n]), 1.0) for n in range(100)] == [0.0] * 100
    assert all(subject.check(bytes([n]), 1.0) > 0 for n in range(100))


def test_forget_forgives() -> None:
    for limit in (1, 100):
        subject = WindowLimit(limit, 10)
        subject.check(KEY, 1.0, limit)
        subject.check(b"other", 1.0, limit)
        subject.forget(KEY)
        subject.forget(b"never seen")
        assert subject.remaining(KEY, 1.0) == limit
        assert subject.check(KEY, 1.0, limit) == 0.0
        assert subject.remaining(b"other", 1.0) == 0


@pytest.mark.parametrize("limit", [1, 16, 17, 31, 32, 300, 1_000_000])
@pytest.mark.parametrize("window", [1e-3, 0.25, 10, 86_400, 31_536_000])
def test_extremes(limit: int, window: float) -> None:
    for start in (0.0, 1e3, 1.7e9):
        subject = WindowLimit(limit, window)
        assert subject.check(KEY, start, limit) == 0.0
        wait = subject.check(KEY, start)
        assert wait == pytest.approx(window, rel=3e-6, abs=2e-6)
        assert subject.check(KEY, start + wait, limit) == 0.0


@pytest.mark.parametrize(("limit", "window"), [(0, 1.0), (-1, 1.0), (1, 0.0), (1, -1.0), (1, math.inf), (1, math.nan)])
def test_nonsense_is_refused(limit: int, window: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        WindowLimit(limit, window)


@pytest.mark.parametrize("cost", [0, -1, 11])
def test_a_cost_that_can_never_be_admitted(cost: int) -> None:
    subject = WindowLimit(10, 10)
    for _ in range(2):
        with pytest.raises(ValueError, match="a cost is 1 to the limit of 10"):
            subject.check(KEY, 1.0, cost)
        subject.check(KEY, 1.0)
    assert subject.remaining(KEY, 1.0) == 8


@pytest.mark.parametrize("now", [math.nan, math.inf, 1e30])
def test_a_time_that_is_none(now: float) -> None:
    subject = WindowLimit(10, 10)
    with pytest.raises(ValueError, match="not a time"):
        subject.check(KEY, now)
    assert subject.check(KEY, 1.0) == 0.0


def test_repr_shows_the_state() -> None:
    subject = WindowLimit(1, 10)
    subject.check(KEY, 1.0)
    subject.check(KEY, 1.0)
    assert repr(subject) == "<WindowLimit 1/10s 1 clients, 1 refused>"
