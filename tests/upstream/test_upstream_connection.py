"""One upstream connection between a link and an exchange that are none: what only happens at the wrong moment."""

from __future__ import annotations

from typing import Any

import pytest

from iocproxy.config import Timeouts
from iocproxy.errors import ProxyError, Side
from iocproxy.http1.heads import HeadLimits
from iocproxy.http1.response import ResponseHeadParser
from iocproxy.upstream.connection import UpstreamConnection

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Pool:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def give_back(self, connection: UpstreamConnection) -> None:
        self.calls.append("given back")

    def forget(self, connection: UpstreamConnection) -> None:
        self.calls.append("forgotten")

    def tls_failed(self, error: ProxyError) -> None:
        self.calls.append(f"TLS failed: {error}")


class Wire:
    """A link that takes everything."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: self.calls.append(name)


class Timer:
    def __init__(self) -> None:
        self.seconds: float | None = None

    def arm(self, seconds: float) -> None:
        self.seconds = seconds

    def cancel(self) -> None:
        self.seconds = None

    drop = cancel


class Asker:
    """An exchange that notes what it is told, and releases its lease when the response is complete."""

    def __init__(self, lease: UpstreamConnection, *, breaks: bool = False) -> None:
        self.lease = lease
        self.breaks = breaks
        self.calls: list[Any] = []

    def response(self, head: Any, body: bytes, *, done: bool, trailers: Any) -> None:
        self.calls.append("response")
        if self.breaks:
            raise RuntimeError("a bug")
        if done:
            self.lease.release()

    def upstream_failed(self, error: ProxyError) -> None:
        self.calls.append(error)

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: self.calls.append(name)


class Setting:
    def __init__(self) -> None:
        self.pool, self.wire, self.timer = Pool(), Wire(), Timer()
        self.timeouts = Timeouts(upstream_response="7s", upstream_body="8s", upstream_idle="9s")
        limits = HeadLimits()
        self.connection = UpstreamConnection(
            self.pool, limits, ResponseHeadParser(limits), self.timeouts, lambda _: self.timer
        )
        self.connection.connection_made(self.wire)  # type: ignore[arg-type]


@pytest.fixture
def setting() -> Setting:
    return Setting()


def test_it_is_given_back(setting: Setting) -> None:
    asker = Asker(setting.connection)
    setting.connection.start(asker, "GET", GET, setting.timeouts, owed=True)  # type: ignore[arg-type]
    setting.connection.data_received(OK)
    assert setting.pool.calls == ["given back"]
    assert setting.timer.seconds == 9.0


def test_while_what_was_written_waits_it_is_not_given_to_anybody_else(setting: Setting) -> None:
    """The server answered and did not read; whoever came next would be written behind what waits, without bound."""
    asker = Asker(setting.connection)
    setting.connection.start(asker, "POST", GET, setting.timeouts, owed=True)  # type: ignore[arg-type]
    setting.connection.pause_writing()
    setting.connection.data_received(OK)
    assert setting.pool.calls == ["forgotten"]
    assert "close" in setting.wire.calls


def test_an_exchange_that_breaks_on_the_response_is_told_that_the_connection_is_gone(setting: Setting) -> None:
    asker = Asker(setting.connection, breaks=True)
    setting.connection.start(asker, "GET", GET, setting.timeouts, owed=True)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="a bug"):
        setting.connection.data_received(OK)
    setting.connection.connection_lost(RuntimeError("a bug"))  # as asyncio does it
    response, error = asker.calls
    assert (response, error.side, error.status) == ("response", Side.PROXY, 500)
    assert setting.pool.calls == ["forgotten"]


def test_until_the_request_is_complete_the_silence_is_not_the_servers(setting: Setting) -> None:
    connection, timer = setting.connection, setting.timer
    connection.start(Asker(connection), "POST", b"head", setting.timeouts, owed=False)  # type: ignore[arg-type]
    assert timer.seconds is None
    connection.write(b"some", owed=False)
    assert timer.seconds is None
    connection.pause_writing()  # but that it does not read is
    assert timer.seconds == 7.0
    connection.resume_writing()
    assert timer.seconds is None
    connection.write(b"the rest", owed=True)
    assert timer.seconds == 7.0


def test_continue_hands_the_word_to_the_client(setting: Setting) -> None:
    connection, timer = setting.connection, setting.timer
    connection.start(Asker(connection), "POST", b"head", setting.timeouts, owed=True)  # type: ignore[arg-type]
    assert timer.seconds == 7.0
    connection.data_received(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    assert timer.seconds == 7.0
    connection.data_received(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert timer.seconds is None
    connection.write(b"body", owed=True)
    assert timer.seconds == 7.0
