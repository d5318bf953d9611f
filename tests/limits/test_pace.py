"""`Pace`: how long to pause, so that a stream keeps to its rate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iocproxy.limits import Pace

KIB = 1024


def test_the_burst_passes_and_what_is_beyond_it_is_waited_for() -> None:
    pace = Pace(100 * KIB)  # a burst of 25 KiB
    assert pace.took(25 * KIB, 1000.0) == 0.0
    assert pace.took(10 * KIB, 1000.0) == pytest.approx(0.1)
    assert pace.took(10 * KIB, 1000.05) == pytest.approx(0.15)  # within the pause: the whole debt
    assert pace.took(0, 1000.2) == 0.0
    assert repr(pace) == "<Pace 102400 octets/s>"


def test_a_slow_rate_has_a_burst_of_sixteen_kibibytes() -> None:
    pace = Pace(KIB)
    assert pace.took(16 * KIB, 1000.0) == 0.0
    assert pace.took(KIB, 1000.0) == pytest.approx(1.0)


def test_idle_time_is_kept_for_one_burst_only() -> None:
    pace = Pace(100 * KIB)
    pace.took(25 * KIB, 1000.0)
    assert pace.took(25 * KIB, 5000.0) == 0.0
    assert pace.took(10 * KIB, 5000.0) == pytest.approx(0.1)


def test_without_a_rate_nothing_waits() -> None:
    pace = Pace(0)
    assert pace.took(10**12, 1000.0) == 0.0
    assert repr(pace) == "<Pace unbounded>"
    with pytest.raises(ValueError, match="at least 0"):
        Pace(-1)


def test_changing_the_rate_to_and_fro_forgives_nothing() -> None:
    pace = Pace(100 * KIB)
    pace.took(45 * KIB, 1000.0)  # 0.2 s of debt
    pace.change(0)
    assert pace.took(10**9, 1000.0) == 0.0
    pace.change(100 * KIB)
    assert pace.took(10 * KIB, 1000.1) == pytest.approx(0.2)
    pace.change(10 * KIB)  # what passes now takes ten times as long, what has passed does not
    assert pace.took(KIB, 1000.1) == pytest.approx(0.3)


@given(
    st.sampled_from([KIB, 10 * KIB, 1000 * KIB, 100_000 * KIB]),
    st.lists(
        st.tuples(st.integers(1, 256 * KIB), st.floats(0, 0.15), st.sampled_from([0.0, 0.0, 0.0, 0.01, 5.0])),
        min_size=1,
        max_size=200,
    ),
)
def test_no_second_sees_more_than_the_rate_the_burst_and_one_piece(
    rate: int, pieces: list[tuple[int, float, float]]
) -> None:
    """`late` is the clock's that ends the pause, `idle` the sender's."""
    pace, now = Pace(rate), 1000.0
    passed: list[tuple[float, int]] = []
    for octets, late, idle in pieces:
        passed.append((now, octets))
        wait = pace.took(octets, now)
        now += (wait + late if wait else 0.0) + idle
    burst = max(rate / 4, 16 * KIB)
    for index, (begin, _) in enumerate(passed):
        within = [octets for when, octets in passed[index:] if when < begin + 1]
        # the last piece is the one that may make the debt
        assert sum(within[:-1]) <= (rate + burst) * 1.000_001


@pytest.mark.parametrize("rate", [KIB, 64 * KIB, 10_000 * KIB, 100_000 * KIB])
@pytest.mark.parametrize("piece", [4_000, 64 * KIB, 256 * KIB])
def test_a_stream_that_never_pauses_itself_gets_its_rate(rate: int, piece: int) -> None:
    """Pauses end at the ticks of a clock, every 0.1 s and a little late; that costs nothing in the long run."""
    pace, now, passed = Pace(rate), 1000.0, 0
    end = now + max(20.0, 40 * piece / rate)
    while now < end:
        passed += piece
        wait = pace.took(piece, now)
        if wait:
            now = (int((now + wait) / 0.1) + 1) * 0.1 + 0.016
    burst = max(rate / 4, 16 * KIB)
    assert passed - burst - piece <= rate * (end - 1000.0) * 1.01
    assert passed >= rate * (end - 1000.0) * 0.95
