"""A connection whose PROXY header is awaited: nobody's yet, for all we know of it is the proxy that passes it on.

    AWAITED ──header──► COMPLETE ──serve──► SERVED
       │                   │
       └───────────────────┴──────────────► OVER

* AWAITED: reading the header; the deadline runs. It ends well in one call of `on_complete`, or else in one of
  `on_failure`.
* COMPLETE: the header's client is known, and the doorkeepers are being asked, for which reading is paused and what came
  behind the header is kept. Whoever was called decides, in this call or later, by `serve` or by `close`.
* SERVED: handed over, and not ours any more. Nobody is told anything.
* OVER: closed, or closing; `on_gone` is called once, when the socket is gone, whatever came before.

Not one octet is sent.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from typing import cast

from iocproxy.errors import ProxyHeaderFailure
from iocproxy.link import Timer
from iocproxy.net.address import Address
from iocproxy.net.attach import SocketLink
from iocproxy.proxy_protocol import Addresses, HeaderReader, ProxyHeaderError


class State(enum.Enum):
    AWAITED = enum.auto()
    COMPLETE = enum.auto()
    SERVED = enum.auto()
    OVER = enum.auto()


_AWAITED, _COMPLETE, _SERVED, _OVER = State


class AwaitedHeader(asyncio.Protocol):
    """The first protocol of a connection from the proxy at `sender`. `seconds` is how long the header may take."""

    __slots__ = (
        "_link",
        "_on_complete",
        "_on_failure",
        "_on_gone",
        "_reader",
        "_rest",
        "_seconds",
        "_state",
        "_timer",
        "sender",
    )

    def __init__(
        self,
        sender: Address,
        *,
        timer: Callable[[Callable[[], None]], Timer],
        seconds: float,
        on_complete: Callable[[AwaitedHeader, Addresses | None], None],
        on_failure: Callable[[AwaitedHeader, ProxyHeaderFailure, str], None],
        on_gone: Callable[[AwaitedHeader], None],
    ) -> None:
        self.sender = sender
        self._timer = timer(self._expired)
        self._seconds = seconds
        self._on_complete = on_complete
        self._on_failure = on_failure
        self._on_gone = on_gone
        self._reader = HeaderReader()
        self._rest = b""
        self._link: SocketLink | None = None
        self._state = _AWAITED

    def __repr__(self) -> str:
        return f"<AwaitedHeader {self._state.name} from {self.sender}>"

    # ── from the event loop ──────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._link = link = cast("SocketLink", transport)
        if self._state is _OVER:  # the proxy stopped while the connection was being set up
            link.abort()
        else:
            self._timer.arm(self._seconds)

    def data_received(self, data: bytes) -> None:
        if self._state is not _AWAITED:
            return
        try:
            read = self._reader.feed(data)
        except ProxyHeaderError as error:
            self._fail(error.failure, str(error))
            return
        if read is not None:
            named, self._rest = read
            self._state = _COMPLETE
            self._timer.drop()
            assert self._link is not None
            self._link.pause_reading()
            self._on_complete(self, named)

    def eof_received(self) -> bool:
        if self._state is _AWAITED:
            self._left("the connection ended")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._state is _AWAITED:
            self._left(f"the connection was lost: {exc}" if exc is not None else "the connection was lost")
        self._state = _OVER
        self._timer.drop()
        self._on_gone(self)

    # ── from whoever decides ─────────────────────────────────────────────────────────────────────────────────────

    def serve(self, protocol: asyncio.Protocol) -> None:
        """Hand the connection over, with what came behind the header. Raises OSError when it is gone."""
        link, rest = self._link, self._rest
        if self._state is not _COMPLETE or link is None or link.is_closing():
            raise ConnectionResetError("lost behind its PROXY header")
        self._state = _SERVED
        self._rest = b""
        link.hand_over(protocol, rest)

    def close(self) -> None:
        """Refused: close at once. Does nothing to a connection that was handed over."""
        if self._state is not _SERVED:
            self._state = _OVER
            if self._link is not None:
                self._link.abort()

    def stop(self) -> None:
        """The proxy stops, and nothing is lost with a connection that has not said who it is."""
        if self._state is _AWAITED:
            self._fail(ProxyHeaderFailure.STOPPED, "the proxy is stopping")

    # ── endings ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _expired(self) -> None:
        if self._state is _AWAITED:
            received = len(self._reader.received)
            why = f"no complete header within {self._seconds:g} s; {received} octets had come"
            self._fail(ProxyHeaderFailure.TIMEOUT, why)

    def _left(self, how: str) -> None:
        received = self._reader.received
        if received:
            self._fail(ProxyHeaderFailure.BROKEN_OFF, f"{how} after {len(received)} octets")
        else:
            self._fail(ProxyHeaderFailure.SILENT, f"{how} before anything was said")

    def _fail(self, failure: ProxyHeaderFailure, why: str) -> None:
        self._state = _OVER
        self._timer.drop()
        if self._link is not None:
            self._link.abort()
        self._on_failure(self, failure, why)
