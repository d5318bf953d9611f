"""The life of one request, from its head to the record of how it ended.

Theory of operation
-------------------
An exchange stands between a client connection and an upstream connection and is called by both. Each call runs to its
end without waiting: with an idle upstream connection at hand, a request goes out within the call that brought its
head, and a response within the call that brought it (DESIGN: synchronous first). What really waits, and only that, is
a task of its own (`wait`): asynchronous middleware (exchange/hooks.py), connecting (exchange/leasing.py). There is at
most one such task at a time, `_task`, and without a lease the client side is held meanwhile, so that nothing piles up.

    DECIDING ──► CONNECTING ──► WAITING ──► RESPONDING ──► OVER
        │             ▲            │ │           │
        │             └── retry ───┘ └► TUNNEL ──┤
        └────────────── answered ────────────────┘

* DECIDING: routing and middleware. No upstream is involved.
* CONNECTING: no lease yet. What arrives of the body is in `_kept`, bounded because the client is held.
* WAITING: the lease is ours and has been sent the head. Nothing has come back, so a retry is still possible.
* RESPONDING: the head of the response has been sent to the client: from here on an error can only break it off.
* TUNNEL: bytes both ways (exchange/tunnel.py).
* OVER: the record is written; neither side may call again.

Flow control is coupled: a side that cannot be written holds the other one.
"""

from __future__ import annotations

import asyncio
import enum
import functools
from collections.abc import Callable, Coroutine
from typing import Any

from iocproxy.errors import ProxyError, Side, own_fault
from iocproxy.exchange.answers import ALLOWED, error_answer, own_response, told
from iocproxy.exchange.bounds import (
    COUNTED,
    check_head,
    hops_left,
    misdirected,
    no_route,
    not_allowed,
    one_hop_less,
    too_large,
)
from iocproxy.exchange.forwarding import VIA
from iocproxy.exchange.hooks import HeldResponse, run_request_hooks
from iocproxy.exchange.leasing import IDEMPOTENT, connect
from iocproxy.exchange.negotiation import Form, accepted, wanted_form
from iocproxy.exchange.outgoing import request_for, response_for, without_hsts
from iocproxy.exchange.pages import ErrorPages
from iocproxy.exchange.ports import ClientSide, Lease, Server
from iocproxy.exchange.rewriting import check_answer, octets, without_framing
from iocproxy.exchange.shared import SERVERS_OWN, Goal, Shared
from iocproxy.exchange.tunnel import Tunnel, switching
from iocproxy.http1.body import NO_TRAILERS
from iocproxy.http1.chunked import LAST_CHUNK, encode_chunk, last_chunk
from iocproxy.http1.errors import bad_response
from iocproxy.http1.framing import CHUNKED, UNTIL_CLOSE
from iocproxy.http1.request import RequestHead
from iocproxy.http1.response import ResponseHead
from iocproxy.http1.serialize import response_head
from iocproxy.message import Fields, Record, Request, Response, reason_phrase
from iocproxy.middleware.guard import Refusal


class Phase(enum.Enum):
    DECIDING = enum.auto()
    CONNECTING = enum.auto()
    WAITING = enum.auto()
    RESPONDING = enum.auto()
    TUNNEL = enum.auto()
    OVER = enum.auto()


_DECIDING, _CONNECTING, _WAITING, _RESPONDING, _TUNNEL, _OVER = Phase

#: How much of a request's body is kept for a retry, in octets.
_REPLAY_LIMIT = 64 * 1024

#: How many interim responses (1xx) may precede the final one.
_MAX_INTERIM = 16


class Exchange:
    """One request and its response. The methods are those of `ports.RequestSide` and `ports.ResponseSide`."""

    __slots__ = (
        "_begun",
        "_bytes_in",
        "_bytes_out",
        "_chunking",
        "_close_delimited",
        "_goal",
        "_head",
        "_interim",
        "_keep_alive",
        "_kept",
        "_kept_size",
        "_outgoing",
        "_phase",
        "_request_done",
        "_request_id",
        "_retried",
        "_rules",
        "_server",
        "_status",
        "_task",
        "_trailers",
        "_tried",
        "_tunnel",
        "held",
        "lease",
        "request",
        "service",
        "side",
    )

    def __init__(self, service: Shared, side: ClientSide, head: RequestHead) -> None:
        self.service = service
        self.side = side
        self._phase = _DECIDING
        self._begun = service.now()
        self._task: asyncio.Task[None] | None = None
        # the request
        self._head = head
        fields = head.fields[:] if service.chain.shows_requests else head.fields  # others may share the head's
        self.request = Request(head.method, head.target, head.version, fields, head.host, side.client, side.scheme)
        self._request_done = False
        self._request_id = ""
        self._trailers = NO_TRAILERS
        self._bytes_in = 0
        self._rules = side.rules
        self._kept: list[bytes] | None = []  # the body so far, None once it can no longer be replayed
        self._kept_size = 0
        # towards the upstream
        self._goal: Goal | None = None
        self._server: Server | None = None
        self.lease: Lease | None = None
        self._outgoing = b""  # the head as it goes out, made once, where it is the same for every server
        self._tried: list[Server] = []
        self._retried = False
        # the response
        self._status = 0
        self._bytes_out = 0
        self._interim = 0
        self._keep_alive = False
        self._chunking = False
        self._close_delimited = False
        self.held: HeldResponse | None = None  # the response, while the middleware has it
        # a tunnel
        self._tunnel: Tunnel | None = None

    def __repr__(self) -> str:
        return f"<Exchange {self._phase.name} {self.request!r} status={self._status}>"

    # ── from the client ──────────────────────────────────────────────────────────────────────────────────────────

    def begin(self, body: bytes, *, done: bool, trailers: Fields) -> bool:
        """Steps 1 to 5 of the life of a request. False when it is over already, answered on the spot."""
        service, side, head, request = self.service, self.side, self._head, self.request
        counters = service.counters
        counters.requests += 1
        counters.requests_open += 1
        # :: Step 1, the head: who asks
        forwarding = side.forwarding
        if forwarding.trusted:
            request.address = forwarding.real_address(head)
            request.key = service.keys.key(request.address)
        ids = service.request_ids
        if ids is not None:
            self._request_id = request.request_id = ids.choose(head.section.request_id, trusted=forwarding.trusted)
        self._request_done = done
        self._trailers = trailers
        if body:
            self._keep(body)
        # :: Step 2, the host and its route
        if side.host_check is not None and not side.host_check.allows(head.host):
            self._fail(misdirected())
            return False
        route = service.routes.find(head.host, head.target)
        if route is None:
            self._without_route()
            return self._phase is not _OVER
        request.route = route.name
        self._goal = goal = route.goal
        self._rules = side.rules = rules = goal.rules
        if side.requests >= rules.max_requests:
            side.draining = True
        if (head.body or rules.tight_head or head.method in COUNTED) and not self._within_bounds():
            return False
        # :: Step 3, the middleware
        run_request_hooks(self)
        return self._phase is not _OVER

    def _without_route(self) -> None:
        self._fail(no_route())

    def _within_bounds(self) -> bool:
        """Whether the request may go on; answered otherwise."""
        head, request = self._head, self.request
        try:
            check_head(head, self._rules)
            if self._bytes_in > self._rules.max_body:
                raise too_large(self._rules.max_body)
            if head.method in COUNTED:
                left = hops_left(head.fields)
                if left == 0:
                    if head.method == "TRACE":
                        raise not_allowed("a TRACE that ends here")
                    self.answer(Response(200, [("Allow", ALLOWED)], b""))
                    return False
                if left is not None:
                    request.fields = one_hop_less(request.fields, left)
        except ProxyError as error:
            self._fail(error)
            return False
        return True

    def request_data(self, data: bytes, *, done: bool, trailers: Fields) -> None:
        self._request_done = done
        self._trailers = trailers
        if self._bytes_in + len(data) > self._rules.max_body:
            self._fail(too_large(self._rules.max_body))
            return
        lease = self.lease
        if lease is None:
            self._keep(data)
            if not done:
                self.side.hold()
            return
        self._bytes_in += len(data)
        if self._kept is not None:
            if self._phase is _WAITING and lease.reused and self._kept_size + len(data) <= _REPLAY_LIMIT:
                self._kept.append(data)
                self._kept_size += len(data)
            else:
                self._kept = None
        outgoing = self._framed(data)
        if outgoing or done:
            lease.write(outgoing, owed=done)

    def client_failed(self, error: ProxyError) -> None:
        self._fail(error)

    def client_lost(self, error: ProxyError | None) -> None:
        if self._phase is _TUNNEL:
            self.end_tunnel("" if error is None else told(error))
            return
        if not self._status:
            self._status = (0 if error is None else error.status) or 499
        self._drop_upstream()
        self._finish("client: closed the connection before the response was complete" if error is None else told(error))

    def client_blocked(self) -> None:
        if self.lease is not None:
            self.lease.hold()

    def client_unblocked(self) -> None:
        if self.lease is not None and self.held is None:
            self.lease.unhold()

    # ── middleware ───────────────────────────────────────────────────────────────────────────────────────────────

    def hook_failed(self, hook: str, error: Exception) -> None:
        head, request = self._head, self.request
        # what it made of the request may be as mistaken: the answer and the record go by what the client sent
        request.fields, request.target, request.host = head.fields, head.target, head.host
        self.service.log.error("middleware_failed", hook=hook, request=repr(request), exc_info=error)
        self._fail(own_fault(f"a middleware's {hook} failed", "middleware"))

    def crashed(self, error: Exception) -> None:
        """A fault of our own. The request must not hang on it, nor what it holds be lost."""
        self.service.log.error("exchange_failed", request=repr(self.request), exc_info=error)
        self._fail(own_fault("a fault of the proxy's own", "exchange"))

    def wait(self, work: Callable[[], Coroutine[Any, Any, Callable[[], None]]], name: str, of: object = None) -> None:
        """Run what `work` makes, and then what that returns, as the exchange's one task; `of` as for `Tasks.spawn`."""
        if self.lease is None and not self._request_done:
            self.side.hold()  # what comes of the body has nowhere to go
        self._task = self.service.tasks.spawn(self._waited(work), name=name, of=of)

    async def _waited(self, work: Callable[[], Coroutine[Any, Any, Callable[[], None]]]) -> None:
        try:
            goes_on = await work()
            self._task = None
            try:
                goes_on()
            finally:
                del goes_on  # it may hold an error whose traceback holds this frame
        except Exception as error:  # noqa: BLE001 - told by `crashed`
            self._task = None
            self.crashed(error)

    # ── towards the upstream ─────────────────────────────────────────────────────────────────────────────────────

    def choose(self, *, fresh: bool = False) -> None:
        """Pick a server and lease a connection to it; `fresh` when a kept one just turned out to be stale."""
        # :: Step 4, the upstream
        goal = self._goal
        assert goal is not None
        server = goal.upstream.pick(self._tried)
        assert server is not None  # a configuration has at least one server for each upstream
        lease = None if fresh else server.idle(self)
        if lease is not None:
            self._send(server, lease)
        else:
            self._phase = _CONNECTING
            self.wait(functools.partial(self._connect, server), f"connect {self.request.method}")

    async def _connect(self, server: Server) -> Callable[[], None]:
        assert self._goal is not None
        try:
            server, lease = await connect(self._goal.upstream, server, self._tried, self, self.service.log)
        except ProxyError as error:
            return functools.partial(self._fail, error)
        return functools.partial(self._send, server, lease)

    def _send(self, server: Server, lease: Lease) -> None:
        # :: Step 5, the head, with what has arrived of the body
        self._server = server
        self.lease = lease
        self._phase = _WAITING
        outgoing = self._outgoing
        if not outgoing:
            goal = self._goal
            assert goal is not None
            outgoing = request_for(server, goal, self._head, self.request, self._request_id, self.side.forwarding)
            if goal.host != SERVERS_OWN:
                self._outgoing = outgoing
        kept = self._kept
        if kept:
            outgoing += self._framed(b"".join(kept))
        elif self._request_done and self._head.body == CHUNKED:
            outgoing += self._last_of_request()
        if lease.reused:
            self.service.counters.upstream_reused += 1
        else:
            self._kept = None  # a new connection is not stale: there will be no retry
        # A client that waits for "100 Continue" is owed an answer before its request is complete.
        owed = self._request_done or self._head.expects_continue
        lease.start(self, self._head.method, outgoing, self._rules.timeouts, owed=owed)
        if not self._request_done and self.lease is lease and not lease.blocked:
            self.side.unhold()

    def _framed(self, data: bytes) -> bytes:
        """`data` of the request's body as it goes over the wire, with the end mark when it is complete."""
        if self._head.body != CHUNKED:
            return data
        chunk = encode_chunk(data) if data else b""
        return chunk + self._last_of_request() if self._request_done else chunk

    def _last_of_request(self) -> bytes:
        identity = self.service.identity
        if identity is None or not self._trailers:
            return last_chunk(self._trailers)
        return last_chunk(identity.reserved.without(self._trailers))

    def _keep(self, data: bytes) -> None:
        self._bytes_in += len(data)
        self._kept_size += len(data)
        if data and self._kept is not None:
            self._kept.append(data)

    # ── from the upstream ────────────────────────────────────────────────────────────────────────────────────────

    def interim_response(self, head: ResponseHead) -> None:
        self._interim += 1
        if self._interim > _MAX_INTERIM:
            self._fail(bad_response(f"more than {_MAX_INTERIM} interim responses"))
        elif self._head.version == 11:  # RFC 9110 section 15.2: never to an HTTP/1.0 client
            self.service.counters.responses[1] += 1
            self.side.write(response_head(head.status, head.reason, head.fields, VIA[head.version]))
            if head.status == 100:
                self.side.body_begins()

    def response(self, head: ResponseHead, body: bytes, *, done: bool, trailers: Fields) -> None:
        # :: Step 6, relay
        self._kept = None
        if self.service.chain.on_response:
            head = head.copy()  # the hooks may change it, and others share it
            self.held = HeldResponse(self, head, body, done, trailers)
            self.held.run()
        else:
            self.respond(head, body, done=done, trailers=trailers)

    def respond(self, head: ResponseHead, body: bytes, *, done: bool, trailers: Fields) -> None:
        """Send the head to the client, with what came along of the body."""
        side = self.side
        version = self._head.version
        self._status = head.status
        self._phase = _RESPONDING
        # RFC 9112 section 6.3: how the client will find the end
        if head.body < 0:
            self._chunking = version == 11
            self._close_delimited = version == 10
        self._keep_alive = keep_alive = (
            self._head.keep_alive
            and not side.draining
            and not self._close_delimited
            and (self._request_done or not done)  # an early answer: the rest of the body will not be read
        )
        usual = keep_alive and version == 11 and head.dated and not head.trailer
        strict = side.strict
        outgoing = b"" if not usual else head.usual if not strict else head.usual_with(strict)
        if not outgoing:
            framing = CHUNKED if self._chunking else UNTIL_CLOSE if self._close_delimited else head.body
            date = b"" if head.dated else self.service.date_line()
            outgoing = response_for(self._head, head, framing, date, keep_alive=keep_alive, strict=strict)
            if usual:
                if strict:
                    head.strict = strict, outgoing
                else:
                    head.usual = outgoing
        if body:
            self._bytes_out += len(body)
            outgoing += encode_chunk(body) if self._chunking else body
        if done:
            if self._chunking:
                outgoing += self._last_chunk(trailers)
            side.write(outgoing)
            self._complete()
        else:
            side.write(outgoing)

    def _last_chunk(self, trailers: Fields) -> bytes:
        """RFC 9110 section 6.5.1: trailers are for a client that asked for them; the others may do without."""
        return last_chunk(trailers) if self._head.section.takes_trailers else LAST_CHUNK

    def response_data(self, data: bytes, *, done: bool, trailers: Fields) -> None:
        parked = self.held
        if parked is not None:
            parked.body += data
            parked.done = done
            parked.trailers = trailers
            return
        self._bytes_out += len(data)
        if self._chunking:
            data = encode_chunk(data) if data else b""
            if done:
                data += self._last_chunk(trailers)
        if data:
            self.side.write(data)
        if done:
            self._complete()

    def upstream_failed(self, error: ProxyError) -> None:
        self.lease = None
        if self._phase is _TUNNEL:
            self.end_tunnel(told(error))
            return
        if (
            error.retryable
            and self._phase is _WAITING
            and not self._retried
            and not self._interim
            and self._kept is not None
            and self._head.method in IDEMPOTENT
        ):
            self._retried = True
            self.service.counters.upstream_retries += 1
            self.choose(fresh=True)
            return
        self._fail(error)

    def upstream_blocked(self) -> None:
        self.side.hold()

    def upstream_unblocked(self) -> None:
        self.side.unhold()

    # ── a tunnel ─────────────────────────────────────────────────────────────────────────────────────────────────

    def switched(self, head: ResponseHead, data: bytes) -> None:
        lease, side = self.lease, self.side
        assert lease is not None
        try:
            outgoing = switching(head, self._head, side.strict)
        except ProxyError as error:
            self._fail(error)
            return
        self._phase = _TUNNEL
        self._status = 101
        self.service.counters.tunnels_open += 1
        self._tunnel = tunnel = Tunnel(self, side, lease)
        side.write(outgoing)
        if data:
            tunnel.upstream_data(data)
        lease.begin_tunnel(tunnel)
        side.begin_tunnel(tunnel)

    def end_tunnel(self, error: str) -> None:
        tunnel, self._tunnel = self._tunnel, None
        assert tunnel is not None
        self._bytes_in += tunnel.bytes_in
        self._bytes_out += tunnel.bytes_out
        self.service.counters.tunnels_open -= 1
        if self.lease is not None:
            self.lease.release()  # closes it, after what is still to be written
            self.lease = None
        self._finish(error)
        self.side.exchange_over(keep_alive=False)

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _complete(self) -> None:
        """The response has been handed to the client in full."""
        lease, side = self.lease, self.side
        self.lease = None
        keep_alive = self._keep_alive and self._request_done
        # :: Step 8 before step 7, so that the connection is there for whoever comes next
        if lease is not None:
            if self._request_done:
                lease.release()
            else:
                lease.abort()  # an early answer: the upstream still waits for a body that will not be sent
        self._finish("")
        side.exchange_over(keep_alive=keep_alive)

    def _fail(self, error: ProxyError) -> None:
        """End with `error`: answered while nothing was sent to the client, else broken off so that it shows."""
        if self._phase is _OVER:
            return
        if self._phase is _TUNNEL:
            self.end_tunnel(told(error))
            return
        self._drop_upstream()
        if self._phase is _RESPONDING:
            self._finish(told(error))
            # Where only the end of the connection marks the end of the body, a plain close would look complete.
            self.side.exchange_broken(abort=self._close_delimited or self.side.scheme == "https")
        else:
            fields, body = error_answer(error.status, error.proxy_status, self._pages(), self._form())
            self._give(error.status, reason_phrase(error.status), fields, body, told(error))

    def _form(self) -> Form:
        return wanted_form(accepted(self.request.fields))

    def _pages(self) -> ErrorPages:
        """The operator's own, for errors of the proxy's."""
        return self.service.pages if self._goal is None else self._goal.pages

    def answer(self, said: object) -> None:
        """A middleware's own response, or a guard's."""
        if isinstance(said, Refusal):
            self._refuse(said)
            return
        try:
            response = check_answer(said)
        except ValueError as error:
            self.hook_failed("on_request", error)
            return
        fields = without_framing(response.fields, b"date")
        self._give(response.status, response.reason, fields, response.body or b"", "")

    def _refuse(self, refusal: Refusal) -> None:
        if refusal.closes:
            self.side.draining = True
        fields, body = error_answer(refusal.status, "http_request_denied", self._pages(), self._form())
        self._give(refusal.status, refusal.reason, [*fields, *refusal.fields], body, f"{Side.CLIENT}: {refusal.why}")

    def _give(self, status: int, reason: bytes, fields: Fields, body: bytes, error: str) -> None:
        head, side = self._head, self.side
        self._status = status
        keep_alive = head.keep_alive and self._request_done and not side.draining
        lines = self.service.date_line()
        if side.strict:
            lines += side.strict
            fields = without_hsts(fields)
        outgoing = own_response(lines, status, reason, fields, body, head.version, keep_alive=keep_alive)
        if head.method == "HEAD" or status in {204, 304}:
            side.write(outgoing)
        else:
            self._bytes_out = len(body)
            side.write(outgoing + body)
        self._finish(error)
        side.exchange_over(keep_alive=keep_alive)

    def _drop_upstream(self) -> None:
        """Let go of whatever waits or runs towards the upstream."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self.lease is not None:
            self.lease.abort()
            self.lease = None

    def _finish(self, error: str) -> None:
        # :: Step 7, the outcome
        self._phase = _OVER
        self.held = None
        service, request, client = self.service, self.request, self.side.client
        counters = service.counters
        counters.requests_open -= 1
        counters.bytes_in += self._bytes_in
        counters.bytes_out += self._bytes_out
        counters.responses[self._status // 100] += 1
        for hook in service.chain.on_ended:
            hook(client, request, self._status)
        if not service.chain.on_complete:
            return
        if service.chain.shows_requests:
            request.host, request.target = octets(request.host), octets(request.target)
        tls = client.tls
        service.complete(
            _record(
                (
                    service.wall(),
                    request.address,
                    self._head.method,
                    request.host.decode("latin-1"),
                    request.target.decode("latin-1"),
                    request.version,
                    self._status,
                    self._bytes_in,
                    self._bytes_out,
                    service.now() - self._begun,
                    self._server.name if self._server is not None else "",
                    request.route,
                    tls.version if tls is not None else "",
                    tls.resumed if tls is not None else False,
                    error,
                    self._request_id,
                )
            )
        )


#: A `Record` from its values without the detour through the keyword constructor.
_record: Callable[[tuple[object, ...]], Record] = functools.partial(tuple.__new__, Record)
