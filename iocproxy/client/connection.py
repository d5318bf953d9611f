"""One client connection: requests in, one exchange at a time, in order.

    HEAD ──► BODY ──► BUSY ──► HEAD            the next request
      │        │        │
      │        └────────┴────► LINGER ──► CLOSED
      ├──────────(upgrade)───► TUNNEL ──► CLOSED
      └──────────(idle end)─────────────► CLOSED

* HEAD: between requests, or within a head (`_heads.kept` says which).
* BODY: an exchange runs and its request's body is still arriving.
* BUSY: an exchange runs and its request is complete. What arrives is the next request (pipelining): it is kept as
  bytes in `_ahead`, and reading stops, so the look-ahead is what one read brought.
* TUNNEL: bytes go to the exchange as they come.
* LINGER: the last response is out and the client may still be sending: what arrives is thrown away for a moment,
  because closing on unread bytes makes TCP reset the connection and may destroy the response (RFC 9112 section 9.6).
* CLOSED: closing or closed; nothing is read any more.

There is one deadline, whose meaning is the state's; it is moved, hardly ever cancelled (net/deadlines.py).
Reading is paused for the reasons in `_pauses`; it goes on when there is none.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from typing import cast

from iocproxy.errors import ProxyError, Side, TlsFailure
from iocproxy.exchange.ports import Exchanges, Forwarding, RequestSide, Tunnel
from iocproxy.http1.body import NO_TRAILERS, BodyReader, body_reader
from iocproxy.http1.chunked import ChunkError
from iocproxy.http1.errors import bad_request, bad_request_body
from iocproxy.http1.framing import NO_BODY
from iocproxy.http1.heads import MAX_EMPTY_LINES, BareLineFeed, HeadBuffer, HeadLimits, HeadTooLarge
from iocproxy.http1.request import RequestHead, RequestHeadParser, why_not_a_request
from iocproxy.link import Link, Timer
from iocproxy.message import Client
from iocproxy.net.address import Address
from iocproxy.net.endings import end_output, reset_when_closed, unread_octets
from iocproxy.routing import Rules
from iocproxy.tls.hosts import HostCheck


class State(enum.Enum):
    HEAD = enum.auto()
    BODY = enum.auto()
    BUSY = enum.auto()
    TUNNEL = enum.auto()
    LINGER = enum.auto()
    CLOSED = enum.auto()


_HEAD, _BODY, _BUSY, _TUNNEL, _LINGER, _CLOSED = State


#: Why reading is paused, as bits of `_pauses`.
_AHEAD = 1  # there is a request to be served before more may be read
_HELD = 2  # the exchange cannot take more of the body
PACED = 4  # the client has sent more than its bandwidth (client/paced.py)

#: What may wait in the output buffer before the upstream is held, in octets.
HIGH_WATER = 256 * 1024

#: How long (seconds) and how much (octets) is thrown away in LINGER; nginx lingers for 5 s between two reads.
_LINGER_TIME = 2.0
_LINGER_OCTETS = 1024 * 1024

#: How long a closing connection may take to be gone, in seconds. Where a response is still to be read it is
#: `response_write`, unless the connection is shed.
_CLOSING = 5.0


class ClientConnection(asyncio.Protocol):
    """Implements `ports.ClientSide`. `on_closed` is called once, when the connection is gone, with what was wrong with
    its TLS, if anything was."""

    __slots__ = (
        "_ahead",
        "_body_begun",
        "_body_octets",
        "_end_asked",
        "_eof",
        "_exchange",
        "_exchanges",
        "_full",
        "_heads",
        "_in_head",
        "_keep_alive",
        "_lingered",
        "_link",
        "_loop",
        "_max_request_line",
        "_on_closed",
        "_parser",
        "_paused_at",
        "_pauses",
        "_reader",
        "_reading",
        "_stalled_at",
        "_state",
        "_tunnel",
        "_waits",
        "blocked",
        "client",
        "draining",
        "forwarding",
        "handshake_late",
        "host_check",
        "requests",
        "rules",
        "scheme",
        "strict",
        "timer",
        "write",
    )

    forwarding: Forwarding  # from `connection_made` on

    def __init__(
        self,
        client: Client,
        exchanges: Exchanges,
        *,
        scheme: str,
        limits: HeadLimits,
        parser: RequestHeadParser,
        rules: Rules,
        timer: Callable[[Callable[[], None]], Timer],
        loop: asyncio.AbstractEventLoop,
        on_closed: Callable[[ClientConnection, ProxyError | None], None],
        strict: bytes = b"",
    ) -> None:
        # for the connection's life
        self.client = client
        self.scheme = scheme
        self.host_check: HostCheck | None = None
        self.strict = strict
        self.draining = False
        self.requests = 0
        self.write: Callable[[bytes], None] = _not_connected
        self._exchanges = exchanges
        self._keep_alive = rules.timeouts.keep_alive
        self.timer = timer(self._expired)
        #: what the timer calls before `connection_made`, when it is the handshake's
        self.handshake_late: Callable[[], None] | None = None
        self._loop = loop
        self._on_closed = on_closed
        self._max_request_line = limits.max_request_line
        self._link: Link | None = None
        self._heads = HeadBuffer(limits, empty_lines=MAX_EMPTY_LINES)
        self._parser = parser
        self._state = _HEAD
        self._pauses = 0
        self.blocked = False
        self._full = False  # what was written waits for the client, and `response_write` runs: always `blocked` then
        self._stalled_at = 0
        self._eof = False
        self._lingered = 0
        self._reading = False  # within `_read_heads`: a finished exchange leaves the next request to its loop
        # for one request
        self.rules = rules  # everybody's, and from the first request on its route's
        self._end_asked = False  # by the client: this request is its last
        self._body_begun = 0.0  # when its body would have begun without the time in which we read nothing
        self._body_octets = 0  # of it and its framing
        self._paused_at = 0.0
        self._waits = False  # the body comes when the upstream has said 100 (Continue)
        self._in_head = False
        self._exchange: RequestSide | None = None
        self._tunnel: Tunnel | None = None
        self._reader: BodyReader | None = None
        self._ahead = b""

    def __repr__(self) -> str:
        return f"<ClientConnection {self._state.name} {self.client!r}>"

    @property
    def idle(self) -> bool:
        """Between two requests, with nothing of the next one here."""
        return self._state is _HEAD and not self._heads.kept and not self._ahead

    @property
    def unread(self) -> bool:
        """Reading is paused: nobody knows what the client has sent since."""
        return self._pauses != 0

    @property
    def to_be_read(self) -> int:
        """Octets that the client has not taken, while there are so many that nothing more is written; 0 otherwise."""
        return unread_octets(self._link) if self._full and self._link is not None else 0

    @property
    def in_head(self) -> bool:
        """Within a head of which something is still to come."""
        return self._state is _HEAD and bool(self._heads.kept)

    # ── from the event loop ──────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._link = link = cast("Link", transport)
        self.handshake_late = None
        if self._state is _CLOSED:  # the proxy stopped while the connection was being set up
            link.abort()
            return
        link.set_write_buffer_limits(high=HIGH_WATER)
        self.write = link.write
        self.client.tls = link.get_extra_info("tls_info")
        self.host_check = link.get_extra_info("host_check")
        self.forwarding = self._exchanges.connected(self.client, self.scheme)
        self.timer.arm(self.rules.timeouts.request_header)

    def data_received(self, data: bytes) -> None:
        state = self._state
        if state is _HEAD:
            self._read_heads(data)
        elif state is _BODY:
            self._read_body(data)
        elif state is _TUNNEL:
            assert self._tunnel is not None
            self.timer.arm(self.rules.timeouts.tunnel_idle)
            self._tunnel.client_data(data)
        elif state is _BUSY:
            self._ahead += data
            self._pause(_AHEAD)
        elif state is _LINGER:
            self._lingered += len(data)
            if self._lingered > _LINGER_OCTETS:
                self._close()

    def eof_received(self) -> bool | None:
        """A client may end its side and still read the response (RFC 9112 section 9.6)."""
        self._eof = True
        state = self._state
        exchange = self._exchange
        if state is _BUSY or self._ahead:
            return True
        if state is _TUNNEL:
            assert self._tunnel is not None
            self._tunnel.client_eof()
            return self._state is _TUNNEL
        if state is _BODY:
            assert exchange is not None
            exchange.client_failed(bad_request_body("the connection ended within the request's body"))
        elif state is _HEAD:
            self._end_of_requests()
        self._close()
        return True  # the transport is closed by `_close`, once everything is written

    def connection_lost(self, exc: Exception | None) -> None:
        self.timer.drop()
        self.handshake_late = None
        self._state = _CLOSED
        self.write = _discard
        exchange, self._exchange = self._exchange, None
        error = exc if isinstance(exc, ProxyError) else None
        if exchange is not None:
            # who goes without close_notify has just gone
            exchange.client_lost(None if error is None or error.tls is TlsFailure.TRUNCATED else error)
        self._on_closed(self, error)

    def pause_writing(self) -> None:
        assert self._link is not None
        self.blocked = self._full = True
        self._stalled_at = unread_octets(self._link)
        self.timer.arm(self.rules.timeouts.response_write)
        if self._exchange is not None:
            self._exchange.client_blocked()

    def resume_writing(self) -> None:
        self._full = False
        self._arm()
        self._writable()

    def _writable(self) -> None:
        """Nothing stands in the way of writing any more."""
        self.blocked = False
        if self._exchange is not None:
            self._exchange.client_unblocked()
        elif self._ahead:
            self._loop.call_soon(self._read_ahead)

    # ── from the exchange (ports.ClientSide; `write` is the link's own) ──────────────────────────────────────────

    def hold(self) -> None:
        self._pause(_HELD)

    def unhold(self) -> None:
        self._unpause(_HELD)

    def exchange_over(self, *, keep_alive: bool) -> None:
        self._exchange = None
        self._tunnel = None
        self._reader = None
        if self._state is _CLOSED:
            return
        if not keep_alive:
            self._linger(complete=self._state in {_BUSY, _TUNNEL})
            return
        self._state = _HEAD
        if self._pauses:
            self._unpause(_HELD)
        if self._ahead:
            if not self._reading and not self.blocked:
                # Not now: the exchange that calls us stands on the stack, and so does its upstream connection.
                self._loop.call_soon(self._read_ahead)
        elif self._eof or self.draining:
            self._close()
        elif self.blocked:
            pass  # `response_write` runs; `resume_writing` arms what comes after it
        else:
            self.timer.arm(self._keep_alive)

    def exchange_broken(self, *, abort: bool) -> None:
        self._exchange = None
        if abort:
            if self._link is not None:
                reset_when_closed(self._link)
            self.abort()
        else:
            self._close()

    def begin_tunnel(self, tunnel: Tunnel) -> None:
        self._state = _TUNNEL
        self._tunnel = tunnel
        self.timer.arm(self.rules.timeouts.tunnel_idle)
        ahead, self._ahead = self._ahead, b""
        if ahead:
            tunnel.client_data(ahead)
        if self._eof:
            tunnel.client_eof()
        self._unpause(_AHEAD)

    def end_output(self) -> None:
        assert self._link is not None
        end_output(self._link)

    def body_begins(self) -> None:
        if self._waits:
            self._waits = False
            self._body_begun = self._loop.time()
            if self._state is _BODY:
                self._arm_body()

    def touch(self) -> None:
        if not self._full:
            self.timer.arm(self.rules.timeouts.tunnel_idle)

    def reached(self) -> Address | None:
        sockname = self._link.get_extra_info("sockname") if self._link is not None else None
        return Address.of(sockname) if sockname else None

    # ── from the proxy ───────────────────────────────────────────────────────────────────────────────────────────

    def drain(self) -> None:
        """Take no more requests: close when idle, else when the response under way is complete."""
        self.draining = True
        if self.idle:
            self._close()

    def shed(self) -> None:
        """Close, as the deadline would a little later: for a connection that is idle, has not got beyond a head, or
        reads next to nothing."""
        if self._full:
            self._cut_off()
        else:
            self._close(shed=True)

    def abort(self) -> None:
        """Close at once. A response under way is broken off so that it shows."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_lost(
                ProxyError("cut off before the response was complete", side=Side.PROXY, stage="stop", status=503)
            )
        self._state = _CLOSED
        link = self._link
        if link is not None:
            if exchange is not None or link.get_write_buffer_size():
                reset_when_closed(link)
            link.abort()

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _read_heads(self, data: bytes) -> None:
        """Serve the requests in `data` until one has to be waited for. A loop, so that a pipeline of requests that are
        answered on the spot (429) does not become a tower of calls."""
        self._reading = True
        try:
            while data and self._state is _HEAD and not self.blocked:
                data = self._read_one_head(data)
        finally:
            self._reading = False
        if self._state is not _HEAD:
            return
        if data:  # the client reads nothing: no more is answered before it does
            self._ahead += data
            self._pause(_AHEAD)
            return
        # every request in the read was answered on the spot
        if self._pauses:
            self._unpause(_AHEAD)
        if self._eof:
            self._end_of_requests()
        elif self.draining and self.idle:
            self._close()

    def _read_one_head(self, data: bytes) -> bytes:
        """Serve the first request in `data`; returns what is to be read next if it was answered on the spot."""
        try:
            taken = self._heads.take(data)
            if taken is None:
                self._incomplete_head()
                return b""
        except HeadTooLarge as error:
            self._refuse_large(error)
            return b""
        except BareLineFeed as error:
            self._refuse(bad_request(why_not_a_request(self._heads.kept) or str(error)))
            return b""
        try:
            head = self._parser.parse(taken[0])
        except ProxyError as error:
            self._refuse(error, taken[0])
            return b""
        self._in_head = False
        self._begin(head, taken[1])
        if self._state is not _HEAD:
            return b""
        ahead, self._ahead = self._ahead, b""
        return ahead

    def _begin(self, head: RequestHead, rest: bytes) -> None:
        """Hand one request over, with what has come of its body."""
        self.requests += 1
        self._end_asked = not head.keep_alive
        if head.body == NO_BODY:
            if rest or self._pauses:
                self._body_done(rest)
            else:
                self._state = _BUSY
            self._exchange = self._exchanges.begin(self, head, b"", done=True, trailers=NO_TRAILERS)
        else:
            reader = self._reader = body_reader(head.body)
            try:
                body = reader.feed(rest) if rest else b""
            except ChunkError as error:
                refusal = bad_request_body(f"a body that is not in the chunked coding: {error}")
                self._refuse(refusal, head.method.encode("ascii") + b" ")
                return
            if reader.done:
                self._body_done(reader.rest)
            else:
                self._unpause(_AHEAD)  # before there is a body: the pause was none of its time
                self._state = _BODY
                self._body_begun = self._loop.time()
                self._body_octets = len(rest)
                self._waits = head.expects_continue and not rest
            self._exchange = self._exchanges.begin(self, head, body, done=reader.done, trailers=reader.trailers)
            if self._state is _BODY:
                self._arm_body()

    def _read_body(self, data: bytes) -> None:
        reader, exchange = self._reader, self._exchange
        assert reader is not None
        assert exchange is not None
        self._body_octets += len(data)
        if self._waits:
            self._waits = False
            self._body_begun = self._loop.time()
        try:
            body = reader.feed(data)
        except ChunkError as error:
            exchange.client_failed(bad_request_body(f"a body that is not in the chunked coding: {error}"))
            return
        if reader.done:
            self._body_done(reader.rest)
            exchange.request_data(body, done=True, trailers=reader.trailers)
        else:
            self._arm_body()
            if body:
                exchange.request_data(body, done=False, trailers=NO_TRAILERS)

    def _body_done(self, rest: bytes) -> None:
        """The request is complete; `rest` belongs to the next one. Without it reading goes on, to see the client go."""
        self._state = _BUSY
        self._reader = None
        if rest:
            self._ahead = rest
            self._pause(_AHEAD)
        elif self._pauses:
            self._unpause(_AHEAD)

    def _read_ahead(self) -> None:
        """The next of the requests that came with an earlier one."""
        if self._state is _HEAD and not self._exchange and not self.blocked:
            data, self._ahead = self._ahead, b""
            self._read_heads(data)

    def _end_of_requests(self) -> None:
        """The client will send no more; what it sent is answered."""
        if self._heads.kept:
            self._refuse(bad_request("the connection ended within the request's head"))
        self._close()

    def _incomplete_head(self) -> None:
        kept = self._heads.kept
        why = why_not_a_request(kept) if kept else ""
        if why:
            self._refuse(bad_request(why))
        elif len(kept) > self._max_request_line and b"\r\n" not in kept:
            self._refuse(bad_request("request line too long", 414))
        elif not self._in_head:
            self._in_head = True
            self.timer.arm(self.rules.timeouts.request_header)

    def _refuse_large(self, error: HeadTooLarge) -> None:
        kept = self._heads.kept
        if b"\r\n" not in kept[: self._max_request_line + 2] and len(kept) > self._max_request_line:
            self._refuse(bad_request("request line too long", 414))
        else:
            self._refuse(bad_request(str(error), 431))

    def _refuse(self, error: ProxyError, head: bytes = b"") -> None:
        self._state = _LINGER  # the client may well be in the middle of sending
        self._exchanges.refuse(self, error, content=not (head or self._heads.kept).startswith(b"HEAD "))

    # ── pausing and deadlines ────────────────────────────────────────────────────────────────────────────────────

    def _pause(self, why: int) -> None:
        if not self._pauses and self._link is not None:
            self._link.pause_reading()
            if self._state is _BODY:
                self._paused_at = self._loop.time()
        self._pauses |= why

    def _unpause(self, why: int) -> None:
        if self._pauses & why:
            self._pauses &= ~why
            if not self._pauses and self._state is not _CLOSED and self._link is not None:
                self._link.resume_reading()
                if self._state is _BODY:
                    self._body_begun += self._loop.time() - self._paused_at
                    self._arm_body()

    def _arm(self) -> None:
        """Arm the deadline that the state asks for."""
        state = self._state
        if state is _HEAD:
            self.timer.arm(self._keep_alive)
        elif state is _BODY:
            self._arm_body()
        elif state is _TUNNEL:
            self.timer.arm(self.rules.timeouts.tunnel_idle)
        elif state is _LINGER:
            self.timer.arm(_LINGER_TIME)

    def _arm_body(self) -> None:
        """Until the silence is too long, or the body has come too slowly on the whole, whichever is sooner."""
        rules = self.rules
        if self._full:
            return  # `response_write` runs
        if self._waits:
            self.timer.cancel()  # the upstream's deadline runs
            return
        seconds = rules.timeouts.request_body
        if rules.min_body_rate:
            allowed = self._body_begun + rules.min_body_grace + self._body_octets / rules.min_body_rate
            seconds = max(0.0, min(seconds, allowed - self._loop.time()))
        self.timer.arm(seconds)

    def _expired(self) -> None:
        state = self._state
        if self.handshake_late is not None:
            self.handshake_late()
        elif state is _CLOSED:
            if self._link is not None and self._link.get_write_buffer_size():
                self._write_stalled()
            else:
                self.abort()
        elif self._full:
            self._write_stalled()
        elif state is _HEAD:
            if self._heads.kept:
                self._refuse(bad_request("the request's head took too long", 408))
            else:
                self._close()
        elif state is _BODY and not self._pauses:
            assert self._exchange is not None
            self._exchange.client_failed(bad_request_body("the request's body came too slowly", 408))
        elif state is _TUNNEL:
            assert self._exchange is not None
            self._exchange.client_failed(ProxyError("the tunnel was idle", side=Side.CLIENT, stage="tunnel"))
        elif state is _LINGER:
            self._close()

    def _write_stalled(self) -> None:
        """A client may read slowly, but not as good as nothing."""
        assert self._link is not None
        rules = self.rules
        waiting = unread_octets(self._link)
        if self._stalled_at - waiting >= max(1, rules.min_body_rate * rules.timeouts.response_write):
            self._stalled_at = waiting
            self.timer.arm(rules.timeouts.response_write)
        else:
            self._cut_off()

    def _cut_off(self) -> None:
        exchange, self._exchange = self._exchange, None
        assert self._link is not None
        reset_when_closed(self._link)
        if exchange is not None:
            exchange.client_lost(
                ProxyError("did not read the response", side=Side.CLIENT, stage="response", status=408)
            )
        self.abort()

    # ── closing ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _linger(self, *, complete: bool) -> None:
        """After the last response: close, but not on top of what the client is still sending, or may send before it has
        read that the connection ends. Who asked for the end itself has nothing more to send."""
        if self._eof or (complete and self._end_asked and not self._ahead):
            self._close()
            return
        self._state = _LINGER
        self._ahead = b""
        self._unpause(_AHEAD | _HELD)
        if not self._full:  # else `response_write` runs
            self.timer.arm(_LINGER_TIME)
        assert self._link is not None
        end_output(self._link)

    def _close(self, *, shed: bool = False) -> None:
        if self._state is not _CLOSED:
            self._state = _CLOSED
            link = self._link
            if link is not None:
                if not shed and link.get_write_buffer_size():
                    # The response is the client's to read, as slowly as one whose connection stays open.
                    self._stalled_at = unread_octets(link)
                    self.timer.arm(self.rules.timeouts.response_write)
                else:
                    self._stalled_at = 0
                    self.timer.arm(_CLOSING)
                link.close()


def _not_connected(data: bytes) -> None:
    raise RuntimeError("written to before the connection was made")


def _discard(data: bytes) -> None:
    """The connection is gone."""
