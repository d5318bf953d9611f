"""Several limits at once, against a log of everything that was admitted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iocproxy.clock import ManualClock
from iocproxy.limits import Windows
from iocproxy.middleware.rate_storage import Answer, Left, LocalRates, Question


class Log:
    """One limit by brute force: the time of each unit. Exact for limits up to 16, as `Windows` is."""

    def __init__(self, rates: list[tuple[int, int]], binding: bool) -> None:
        self.rates = rates
        self.binding = binding
        self.units: dict[bytes, list[float]] = {}

    def wait(self, key: bytes, now: float, cost: int) -> float:
        waits = [0.0]
        for limit, window in self.rates:
            inside = [unit for unit in self.units.get(key, []) if now - unit < window]
            over = len(inside) + cost - limit
            if over > 0:
                waits.append(inside[over - 1] + window - now)
        return max(waits)

    def count(self, key: bytes, now: float, cost: int) -> None:
        self.units.setdefault(key, []).extend([now] * cost)


_LIMITS = st.tuples(
    st.sampled_from([[(1, 2)], [(3, 5)], [(8, 10)], [(16, 10)], [(2, 1), (5, 10)], [(3, 2), (4, 7), (9, 60)]]),
    st.booleans(),
)
#: Quarters of a second: exact as floats, and often right on the edge of a window.
_STEPS = st.tuples(
    st.integers(0, 24), st.integers(1, 2), st.lists(st.sampled_from([b"a", b"b"]), min_size=4, max_size=4)
)


@given(st.lists(_LIMITS, min_size=1, max_size=4), st.lists(_STEPS, max_size=40))
def test_all_or_nothing_and_true_waits(
    limits: list[tuple[list[tuple[int, int]], bool]], steps: list[tuple[int, int, list[bytes]]]
) -> None:
    clock = ManualClock()
    rates = LocalRates(clock)
    windows = [Windows(limit) for limit, _ in limits]
    logs = [Log(limit, binding) for limit, binding in limits]
    for quarters, cost, keys in steps:
        clock.advance(quarters / 4)
        now = clock()
        asked = list(zip(windows, logs, keys, strict=False))
        costs = [min(cost, subject.limit) for subject in windows]
        questions = [
            Question("x", subject, key, each, log.binding, False)
            for (subject, log, key), each in zip(asked, costs, strict=True)
        ]
        expected = [log.wait(key, now, each) for (_, log, key), each in zip(asked, costs, strict=True)]
        said = [answer.wait for answer in rates.ask(questions)]
        assert said == pytest.approx(expected)
        if not any(wait and log.binding for wait, log in zip(expected, logs, strict=True)):
            for (_, log, key), each, wait in zip(asked, costs, expected, strict=True):
                if not wait:
                    log.count(key, now, each)
            continue
        # who waits exactly as long as the longest wait says gets through
        wait = max(wait for wait, log in zip(expected, logs, strict=True) if log.binding)
        for (subject, log, key), each in zip(asked, costs, strict=True):
            if log.binding:
                assert subject.peek(key, now + wait, each) == 0.0
        clock.advance(wait)


def test_what_is_refused_by_one_is_counted_by_none() -> None:
    clock = ManualClock()
    wide, narrow = Windows([(5, 10.0)]), Windows([(1, 10.0)])
    rates = LocalRates(clock)
    for order in ([wide, narrow], [narrow, wide]):
        questions = [Question("x", each, b"k", 1, True, False) for each in order]
        for _ in range(20):
            rates.ask(questions)
    assert wide.members[0].remaining(b"k", clock()) == 4


def test_a_dry_run_keeps_nobody_out_and_counts_only_what_was_admitted() -> None:
    clock = ManualClock()
    real, dry = Windows([(2, 10.0)]), Windows([(1, 10.0)])
    rates = LocalRates(clock)

    def ask(*order: Windows) -> list[bool]:
        found = rates.ask([Question("x", each, b"k", 1, each is real, False) for each in order])
        return [not answer.wait for answer in found]

    assert ask(real, dry) == [True, True]
    assert ask(dry, real) == [False, True]
    assert ask(real, dry) == [False, False]
    dry.forget(b"k")
    assert ask(real, dry) == [False, True]
    assert ask(dry, real) == [True, False]
    assert dry.members[0].remaining(b"k", clock()) == 1  # neither of the last two


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 3)), max_size=30))
def test_what_is_left_is_true(steps: list[tuple[int, int]]) -> None:
    """So many units are admitted at once and no more; there are more after exactly so many seconds and not before."""
    clock = ManualClock()
    rates, windows = LocalRates(clock), Windows([(4, 2.0), (9, 10.0)])
    for quarters, cost in steps:
        clock.advance(quarters / 4)
        now = clock()
        (answer,) = rates.ask([Question("x", windows, b"k", cost, True, True)])
        assert len(answer.left) == 2
        for window, (units, more_in) in zip(windows.members, answer.left, strict=True):
            assert units == window.remaining(b"k", now)
            if units:
                assert window.peek(b"k", now, units) == 0.0
            if units == window.limit:
                assert more_in == 0.0
            else:
                assert window.peek(b"k", now, units + 1) == more_in > 0.0


def test_what_is_left_is_said_where_it_was_asked_for() -> None:
    rates = LocalRates(ManualClock())
    questions = [Question(str(tell), Windows([(3, 10.0)]), b"k", 2, True, tell) for tell in (True, False)]
    assert list(rates.ask(questions)) == [Answer(0.0, (Left(1, 10.0),)), Answer(0.0)]
    assert list(rates.ask(questions)) == [Answer(10.0, (Left(1, 10.0),)), Answer(10.0)]


def test_a_cost_that_no_window_holds_is_a_fault() -> None:
    rates = LocalRates(ManualClock())
    fits, small = (Question("x", Windows([(limit, 1.0)]), b"k", 2, True, False) for limit in (2, 1))
    for questions in ([small], [fits, small], [small, fits]):
        with pytest.raises(ValueError, match="a cost is 1 to the limit of 1, not 2"):
            rates.ask(questions)
