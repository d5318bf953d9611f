"""Errors that say who, where and what next; and the clock that tests move."""

from __future__ import annotations

import time

import pytest

from iocproxy.clock import ManualClock, monotonic
from iocproxy.errors import ConfigError, Fault, IocproxyError, ProxyError, Side


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault("a.b", "is 1", "must be 2", "f.toml", 7), "f.toml:7: a.b: is 1; must be 2"),
        (Fault("a.b", "is 1", "must be 2", "f.toml"), "f.toml: a.b: is 1; must be 2"),
        (Fault("a.b", "is 1", "must be 2"), "a.b: is 1; must be 2"),
        (Fault("a.b", "is 1", ""), "a.b: is 1"),
        (Fault("", "is empty", "", "f.toml", 1), "f.toml:1: is empty"),
        (Fault("", "is empty", ""), "is empty"),
    ],
)
def test_a_fault_says_where_what_and_what_instead(fault: Fault, said: str) -> None:
    assert str(fault) == said


def test_a_configuration_error_tells_all_faults_a_line_each() -> None:
    error = ConfigError(iter([Fault("a", "x", ""), Fault("b", "y", "")]))
    assert isinstance(error, IocproxyError)
    assert [fault.path for fault in error.faults] == ["a", "b"]
    assert str(error) == "a: x\nb: y"


def test_a_proxy_error_carries_what_the_proxy_acts_on() -> None:
    error = ProxyError("it broke", side=Side.UPSTREAM, stage="connect", status=502, retryable=True, proxy_status="x")
    assert (error.side, error.stage, error.status, error.retryable, error.proxy_status) == (
        "upstream",
        "connect",
        502,
        True,
        "x",
    )
    assert str(error) == "it broke"
    assert repr(error) == "<ProxyError upstream/connect status=502 'it broke'>"


def test_nothing_is_retried_or_answered_unless_said() -> None:
    error = ProxyError("it broke", side=Side.CLIENT, stage="body")
    assert (error.status, error.retryable, error.proxy_status) == (0, False, "")


def test_the_sides() -> None:
    assert list(Side) == ["client", "upstream", "proxy"]


class TestManualClock:
    def test_it_stands_still_until_it_is_moved(self) -> None:
        clock = ManualClock(5.0)
        assert clock() == clock() == 5.0
        assert clock.advance(2.5) == 7.5
        assert clock() == clock.now == 7.5
        assert repr(clock) == "<ManualClock 7.500>"

    def test_it_never_goes_back(self) -> None:
        clock = ManualClock()
        with pytest.raises(ValueError, match="cannot go back"):
            clock.advance(-0.001)
        assert clock() == 1000.0
        assert clock.advance(0) == 1000.0


def test_the_real_clock_is_monotonic() -> None:
    assert monotonic is time.monotonic
