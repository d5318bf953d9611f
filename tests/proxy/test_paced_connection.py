"""`PacedConnection` between sides that are none: each reason to pause is undone by its own end only.

`Case.log` says what the link below (`read`, `stop`) and the exchange above (`hold`, `unhold`) were told.
"""

from __future__ import annotations

from math import inf
from types import SimpleNamespace
from typing import Any

import pytest

from iocproxy.client.paced import PacedConnection, Pacing
from iocproxy.config import Config
from iocproxy.http1.heads import HeadLimits
from iocproxy.http1.request import RequestHeadParser
from iocproxy.limits import NetworkSet
from iocproxy.message import Client
from iocproxy.routing import compile_rules
from iocproxy.telemetry.counters import Counters

KIB = 1024
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"


class Timer:
    def __init__(self, case: Case, expired: Any) -> None:
        self.case, self.expired, self.when = case, expired, inf
        case.timers.append(self)

    def arm(self, seconds: float) -> None:
        self.when = self.case.now + seconds

    def cancel(self) -> None:
        self.when = inf

    def drop(self) -> None:
        self.cancel()
        self.expired = None


class Case:
    """A connection at 100 KiB/s each way; nothing has passed yet, and the burst is 25 KiB."""

    def __init__(self) -> None:
        bandwidth = {"receive": 100 * KIB, "send": 100 * KIB}
        config = Config(
            listeners=[{"bind": "127.0.0.1:0"}],
            upstreams={"a": {"servers": ["http://127.0.0.1:9"]}},
            limits={"bandwidth": bandwidth},
        )
        self.now = 1000.0
        self.log: list[str] = []
        self.timers: list[Timer] = []
        self.soon: list[Any] = []
        self.begun = 0
        self.counters = Counters()
        self.lost: list[Any] = []
        self.subject = PacedConnection(
            Client("192.0.2.1", 1, b"k", "127.0.0.1:80"),
            self,
            scheme="http",
            limits=HeadLimits(),
            parser=RequestHeadParser(HeadLimits()),
            rules=compile_rules(config.http, config.timeouts, config.limits.bandwidth, config.http),
            timer=lambda expired: Timer(self, expired),
            loop=SimpleNamespace(time=lambda: self.now, call_soon=self.soon.append),
            on_closed=lambda connection, error: self.lost.append(error),
            pacing=Pacing(NetworkSet(), self.counters),
        )
        tell = self.log.append
        self.exchange = SimpleNamespace(
            client_blocked=lambda: tell("hold"),
            client_unblocked=lambda: tell("unhold"),
            request_data=lambda data, **_: None,
            client_lost=lambda error: None,
        )
        self.subject.connection_made(
            SimpleNamespace(  # type: ignore[arg-type]
                write=lambda data: None,
                pause_reading=lambda: tell("stop"),
                resume_reading=lambda: tell("read"),
                set_write_buffer_limits=lambda high: None,
                get_write_buffer_size=lambda: 0,
                get_extra_info=lambda name, default=None: default,
                close=lambda: tell("close"),
                write_eof=lambda: tell("end"),
            )
        )

    def connected(self, client: Client, scheme: str) -> Any:
        return SimpleNamespace(trusted=False)

    def begin(self, *_: Any, **__: Any) -> Any:
        self.begun += 1
        return self.exchange

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for timer in self.timers:
            if timer.when <= self.now:
                timer.when = inf
                timer.expired()
        while self.soon:
            self.soon.pop(0)()

    @property
    def told(self) -> list[str]:
        told, self.log[:] = self.log[:], []
        return told

    @property
    def left(self) -> float:
        """Seconds until the connection's own deadline."""
        return self.timers[0].when - self.now


def test_the_client_reads_again_before_the_pause_is_over() -> None:
    case = Case()
    case.subject.data_received(GET)
    case.subject.write(bytes(35 * KIB))
    assert case.told == ["hold"]
    case.subject.pause_writing()
    case.subject.resume_writing()
    assert case.subject.blocked
    assert "unhold" not in case.told
    case.sleep(0.11)
    assert case.told == ["unhold"]
    assert not case.subject.blocked


def test_the_pause_is_over_before_the_client_reads_again() -> None:
    case = Case()
    case.subject.data_received(GET)
    case.subject.pause_writing()
    case.subject.write(bytes(35 * KIB))
    case.sleep(0.11)
    assert case.told == ["hold"]
    assert case.subject.blocked
    case.subject.resume_writing()
    assert case.told == ["unhold"]
    assert not case.subject.blocked


def test_the_exchange_takes_more_before_the_pause_is_over() -> None:
    case = Case()
    case.subject.data_received(POST)
    case.subject.data_received(bytes(35 * KIB))
    case.subject.hold()
    assert case.told == ["stop"]
    case.subject.unhold()
    assert case.told == []
    case.sleep(0.11)
    assert case.told == ["read"]


def test_the_pause_is_over_before_the_exchange_takes_more() -> None:
    case = Case()
    case.subject.data_received(POST)
    case.subject.hold()
    case.subject.data_received(bytes(35 * KIB))
    case.sleep(0.11)
    assert case.told == ["stop"]
    case.subject.unhold()
    assert case.told == ["read"]


def test_a_pipeline_waits_for_both_its_turn_and_the_pause() -> None:
    case = Case()
    case.subject.data_received(GET)
    case.subject.data_received(GET * 2000)  # 50 KiB: the look-ahead, and a pause of 0.28 s
    assert case.told == ["stop"]
    case.sleep(0.3)
    assert case.told == []  # the look-ahead is still there
    case.subject.exchange_over(keep_alive=True)
    case.sleep(0.0)
    assert case.begun == 2


def test_no_request_begins_while_a_response_is_paid_for() -> None:
    case = Case()
    case.subject.data_received(GET)
    case.subject.write(bytes(45 * KIB))
    case.subject.exchange_over(keep_alive=True)
    assert case.left == inf  # it is not idle
    case.subject.data_received(GET)
    assert case.begun == 1
    case.sleep(0.19)
    assert case.begun == 1
    case.sleep(0.02)
    assert case.begun == 2
    case.subject.exchange_over(keep_alive=True)
    assert case.left == case.subject.rules.timeouts.keep_alive
    assert case.counters.paced == 1


@pytest.mark.parametrize("seconds", [0.1, 5.0], ids=["in the pause", "after it"])
def test_a_body_is_not_given_the_time_of_a_pause_that_began_before_it(seconds: float) -> None:
    case = Case()
    case.subject.rules = case.subject.rules._replace(min_body_rate=KIB, min_body_grace=5.0)
    case.subject.data_received(GET)
    case.subject.data_received(POST + bytes(50 * KIB))  # read ahead, and a pause of a quarter of a second
    case.sleep(seconds)
    case.subject.exchange_over(keep_alive=True)
    case.sleep(0.0)
    assert case.begun == 2
    begun = case.now
    assert case.subject._body_begun == begun
    case.sleep(0.2)
    assert case.told == ["stop", "read"]
    paused = 0.2 if seconds < 0.2 else 0.0
    assert case.subject._body_begun == pytest.approx(begun + paused)


def test_the_rate_of_a_route_ends_with_its_request() -> None:
    case = Case()
    usual = case.subject.rules
    case.subject.rules = usual._replace(receive=0, send=0)  # as the exchange does
    case.subject.data_received(POST)
    case.subject.data_received(bytes(900_000))
    case.subject.write(bytes(900_000))
    assert case.told == []
    case.subject.data_received(bytes(100_000))
    case.subject.exchange_over(keep_alive=True)
    case.subject.data_received(b"GET / HTTP/1.1\r\nX-Long: " + bytes(b"x" * 26 * KIB))  # its route is not known yet
    assert case.told == ["stop"]


def test_a_pause_of_the_last_request_ends_with_it() -> None:
    """What the client still sends is thrown away for a moment, and for that it has to be read."""
    case = Case()
    case.subject.data_received(POST)
    case.subject.data_received(bytes(500 * KIB))
    assert case.told == ["stop"]
    case.subject.write(bytes(500 * KIB))
    case.subject.exchange_over(keep_alive=False)
    assert case.told == ["hold", "read", "end"]
    assert not case.subject.blocked
    case.subject.data_received(bytes(500 * KIB))
    assert case.told == []


def test_a_lost_connection_leaves_no_timer() -> None:
    case = Case()
    case.subject.data_received(POST + bytes(100 * KIB))
    case.subject.write(bytes(100 * KIB))
    assert len(case.timers) == 3
    case.subject.connection_lost(None)
    assert [timer.expired for timer in case.timers] == [None, None, None]
    assert case.lost == [None]


@pytest.mark.parametrize("octets", [1, 20 * KIB])
def test_a_connection_that_is_never_paused_has_one_timer(octets: int) -> None:
    case = Case()
    case.subject.data_received(GET)
    case.subject.write(bytes(octets))
    case.subject.exchange_over(keep_alive=True)
    assert len(case.timers) == 1
