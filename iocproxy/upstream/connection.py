"""One connection to a server: HTTP/1.1 responses in, as distrustful as towards a client.

    IDLE ──start──► HEAD ──► BODY ──► IDLE (kept in the pool) or CLOSED
                     └─101─► TUNNEL ──► CLOSED

* IDLE: in the pool. Whatever arrives was not asked for: closed.
* HEAD: a request was sent. Nothing of the final response has come, or only a part of its head.
* BODY: the exchange gets the body as it comes.

The exchange learns of the end of a message in the same call that brings its last bytes, and by then the connection
is IDLE again, so that it may be released in that call. Read errors of every kind end in `_failed`, once.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from typing import Protocol, cast

from iocproxy.config import Timeouts
from iocproxy.errors import ProxyError, Side, own_fault
from iocproxy.exchange.ports import ResponseSide, Tunnel
from iocproxy.http1.body import NO_TRAILERS, BodyReader, body_reader
from iocproxy.http1.chunked import ChunkError
from iocproxy.http1.errors import bad_response, bad_response_body
from iocproxy.http1.heads import BareLineFeed, HeadBuffer, HeadLimits, HeadTooLarge
from iocproxy.http1.response import ResponseHeadParser
from iocproxy.link import Link, Timer
from iocproxy.net.endings import end_output


class State(enum.Enum):
    IDLE = enum.auto()
    HEAD = enum.auto()
    BODY = enum.auto()
    TUNNEL = enum.auto()
    CLOSED = enum.auto()


_IDLE, _HEAD, _BODY, _TUNNEL, _CLOSED = State

#: What may wait in the output buffer before the client is held, in octets.
HIGH_WATER = 256 * 1024

#: How long a closing connection may take to write out what is left, in seconds.
_CLOSING = 5.0


class Owner(Protocol):
    """The pool a connection belongs to."""

    def give_back(self, connection: UpstreamConnection) -> None:
        """It is idle and may be used again."""
        ...

    def forget(self, connection: UpstreamConnection) -> None:
        """It is closed, or as good as; called once."""
        ...

    def tls_failed(self, error: ProxyError) -> None:
        """The server ended the TLS of a new connection before it answered anything."""
        ...


class UpstreamConnection(asyncio.Protocol):
    """Implements `ports.Lease`. `link` is there from `connection_made` on."""

    __slots__ = (
        "_exchange",
        "_forgotten",
        "_heads",
        "_held",
        "_method",
        "_owed",
        "_owner",
        "_parser",
        "_reader",
        "_reusable",
        "_state",
        "_timeouts",
        "_timer",
        "_tunnel",
        "blocked",
        "link",
        "on_open",
        "reused",
    )

    def __init__(
        self,
        owner: Owner,
        limits: HeadLimits,
        parser: ResponseHeadParser,
        timeouts: Timeouts,
        timer: Callable[[Callable[[], None]], Timer],
    ) -> None:
        # for the connection's life
        self._owner = owner
        self._timeouts = timeouts
        self._timer = timer(self._expired)
        self.link: Link | None = None
        self.on_open: Callable[[], None] | None = None  #: called when the connection (TLS included) stands
        self._heads = HeadBuffer(limits)
        self._parser = parser
        self._state = _IDLE
        self._forgotten = False
        self.reused = False
        self.blocked = False
        self._held = False
        # for one exchange
        self._exchange: ResponseSide | None = None
        self._tunnel: Tunnel | None = None
        self._method = ""
        self._reader: BodyReader | None = None
        self._reusable = False
        self._owed = False  # the next word is the upstream's: in HEAD, the deadline runs

    def __repr__(self) -> str:
        return f"<UpstreamConnection {self._state.name}{' reused' if self.reused else ''}>"

    # ── from the event loop ──────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.link = link = cast("Link", transport)
        link.set_write_buffer_limits(high=HIGH_WATER)
        if self.on_open is not None:
            self.on_open()
            self.on_open = None

    def data_received(self, data: bytes) -> None:
        state = self._state
        if state is _HEAD:
            self._read_head(data)
        elif state is _BODY:
            self._read_body(data)
        elif state is _TUNNEL:
            assert self._tunnel is not None
            self._tunnel.upstream_data(data)
        elif state is _IDLE:
            self._close()  # not asked for: perhaps a 408 before it closes, perhaps an attempt to poison the pool

    def eof_received(self) -> bool | None:
        state = self._state
        if state is _TUNNEL:
            assert self._tunnel is not None
            self._tunnel.upstream_eof()
            return self._state is _TUNNEL
        if state is _BODY:
            assert self._reader is not None
            if self._reader.close():
                self._body_done(b"")
                return False
        self._lost("the server closed the connection")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.drop()
        if self._state is not _CLOSED:
            if exc is None:
                self._lost("the server closed the connection")
            elif isinstance(exc, ProxyError) and exc.proxy_status.startswith("tls_"):
                # In TLS 1.3 a server judges our certificate when the handshake is over on our side
                # (RFC 8446 section 4.4.2.4), so that its alert comes in place of the first response.
                if self._state is _HEAD and not self.reused:
                    self._owner.tls_failed(exc)
                self._lost(str(exc), exc.proxy_status)
            else:
                self._lost(f"the connection broke: {exc}")
        self._forget()

    def pause_writing(self) -> None:
        self.blocked = True
        if self._state is _HEAD:
            self._timer.arm(self._timeouts.upstream_response)  # it is the upstream that does not read
        if self._exchange is not None:
            self._exchange.upstream_blocked()

    def resume_writing(self) -> None:
        self.blocked = False
        if self._state is _HEAD:
            self._arm_response()
        if self._exchange is not None:
            self._exchange.upstream_unblocked()

    # ── from the exchange ────────────────────────────────────────────────────────────────────────────────────────

    def start(self, exchange: ResponseSide, method: str, data: bytes, timeouts: Timeouts, *, owed: bool) -> None:
        self._exchange = exchange
        self._timeouts = timeouts
        self._method = method
        self._state = _HEAD
        self._owed = owed
        if owed:
            self._timer.arm(timeouts.upstream_response)
        else:
            self._timer.cancel()
        assert self.link is not None
        self.link.write(data)

    def write(self, data: bytes, *, owed: bool) -> None:
        if self._state is _HEAD:
            self._owed = owed
            if not self.blocked:
                self._arm_response()
        assert self.link is not None
        self.link.write(data)

    def _arm_response(self) -> None:
        """The response's time counts from the last of the request; until then the silence is the client's."""
        if self._owed and not self._held:  # while it is held the silence is ours
            self._timer.arm(self._timeouts.upstream_response)
        else:
            self._timer.cancel()

    def begin_tunnel(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel

    def end_output(self) -> None:
        assert self.link is not None
        end_output(self.link)

    def hold(self) -> None:
        if not self._held:
            self._held = True
            self._timer.cancel()  # the silence is ours
            assert self.link is not None
            self.link.pause_reading()

    def unhold(self) -> None:
        if self._held:
            self._held = False
            if self._state is _BODY:
                self._timer.arm(self._timeouts.upstream_body)
            elif self._state is _HEAD:
                self._arm_response()
            assert self.link is not None
            self.link.resume_reading()

    def release(self) -> None:
        self._exchange = None
        self._tunnel = None
        if self._state is _IDLE and self._reusable and not self.blocked:
            if self._held:
                self.unhold()
            self.reused = True
            self._timer.arm(self._timeouts.upstream_idle)
            self._owner.give_back(self)
        elif self._state is not _CLOSED:
            self._close()

    def abort(self) -> None:
        self._exchange = None
        self._tunnel = None
        if self._state is not _CLOSED:
            self._state = _CLOSED
            self._timer.cancel()
            if self.link is not None:
                self.link.abort()
        self._forget()

    def shut(self) -> None:
        """Close it while idle: the pool is full, or the proxy stops."""
        self._close()

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _read_head(self, data: bytes) -> None:
        exchange = self._exchange
        assert exchange is not None
        while True:
            try:
                taken = self._heads.take(data)
                if taken is None:
                    return
                head = self._parser.parse(taken[0], self._method)
            except HeadTooLarge as error:
                self._failed(bad_response(f"the upstream sent {error}", "http_response_header_section_size"))
                return
            except BareLineFeed as error:
                self._failed(bad_response(str(error)))
                return
            except ProxyError as error:
                self._failed(error)
                return
            data = taken[1]
            if head.status >= 200:
                break
            if head.status == 101:
                self._state = _TUNNEL
                self._timer.cancel()
                exchange.switched(head, data)
                return
            if head.status == 100 and self._owed:
                self._owed = False  # the rest of the request is the client's to send; a write tells when it is there
                self._arm_response()
            exchange.interim_response(head)
            # the exchange may have had enough of them
            if not data or self._exchange is None:
                return
        self._reusable = head.keep_alive
        size = len(data)
        if 0 <= head.body <= size:  # the usual small response: all of it is here
            self._state = _IDLE
            if head.body != size:
                self._reusable = False  # what follows belongs to nothing
                data = data[: head.body]
            exchange.response(head, data, done=True, trailers=NO_TRAILERS)
            return
        reader = body_reader(head.body)
        try:
            body = reader.feed(data) if data else b""
        except ChunkError as error:
            self._failed(bad_response(f"a body that is not in the chunked coding: {error}"))
            return
        if reader.done:
            self._message_done(reader.rest)
            exchange.response(head, body, done=True, trailers=reader.trailers)
            return
        self._reader = reader
        self._state = _BODY
        self._timer.arm(self._timeouts.upstream_body)
        exchange.response(head, body, done=False, trailers=NO_TRAILERS)

    def _read_body(self, data: bytes) -> None:
        reader, exchange = self._reader, self._exchange
        assert reader is not None
        assert exchange is not None
        try:
            body = reader.feed(data)
        except ChunkError as error:
            self._failed(bad_response_body(f"a body that is not in the chunked coding: {error}"))
            return
        if reader.done:
            self._message_done(reader.rest)
            exchange.response_data(body, done=True, trailers=reader.trailers)
        else:
            if not self._held:
                self._timer.arm(self._timeouts.upstream_body)
            if body:
                exchange.response_data(body, done=False, trailers=NO_TRAILERS)

    def _body_done(self, rest: bytes) -> None:
        exchange = self._exchange
        assert exchange is not None
        self._message_done(rest)
        exchange.response_data(b"", done=True, trailers=NO_TRAILERS)

    def _message_done(self, rest: bytes) -> None:
        """The response is complete. Bytes behind it belong to nothing: the connection is not used again."""
        self._state = _IDLE
        self._reader = None
        if rest:
            self._reusable = False

    # ── endings ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _lost(self, why: str, proxy_status: str = "connection_terminated") -> None:
        """The connection ended before the message did, or while idle."""
        if self._state is _IDLE:
            exchange = self._exchange
            self._close()
            if exchange is not None:  # it was handed the response and never let go: a fault of ours, told already
                self._exchange = None
                exchange.upstream_failed(own_fault("a fault of the proxy's own", "response"))
        elif self._state is _HEAD:
            # Nothing came back on a connection that had been kept: it was closed before the request arrived, or so we
            # may assume for a request that can be repeated (RFC 9112 section 9.3.1).
            fresh = not self.reused or self._heads.kept
            self._failed(
                ProxyError(
                    why,
                    side=Side.UPSTREAM,
                    stage="response",
                    status=502,
                    retryable=not fresh,
                    proxy_status=proxy_status,
                )
            )
        elif self._state is _TUNNEL:
            self._failed(ProxyError(why, side=Side.UPSTREAM, stage="tunnel"))
        else:
            self._failed(bad_response_body(f"{why} within the body"))

    def _expired(self) -> None:
        if self._state is _IDLE:
            self._close()
        elif self._state is _HEAD:
            self._failed(
                ProxyError(
                    "no response in time",
                    side=Side.UPSTREAM,
                    stage="response",
                    status=504,
                    proxy_status="http_response_timeout",
                )
            )
        elif self._state is _BODY:
            self._failed(
                ProxyError(
                    "silence within the response's body",
                    side=Side.UPSTREAM,
                    stage="body",
                    status=504,
                    proxy_status="connection_read_timeout",
                )
            )
        elif self.link is not None:  # closing takes too long
            self.link.abort()

    def _failed(self, error: ProxyError) -> None:
        exchange = self._exchange
        self.abort()
        if exchange is not None:
            exchange.upstream_failed(error)

    def _close(self) -> None:
        if self._state is not _CLOSED:
            self._state = _CLOSED
            self._timer.arm(_CLOSING)
            if self.link is not None:
                self.link.close()
        self._forget()

    def _forget(self) -> None:
        if not self._forgotten:
            self._forgotten = True
            self._owner.forget(self)
