"""Where client, exchange and upstream meet. Nobody on either side imports the other; they import these.

Calls run in one call stack (DESIGN: synchronous first), so each says what the caller may rely on afterwards. "Must not
be called again" means that the callee has let go of the caller for this exchange.
"""

from __future__ import annotations

from typing import Protocol

from iocproxy.config import Timeouts
from iocproxy.errors import ProxyError
from iocproxy.exchange.forwarding import Forwarding as Forwarding  # noqa: PLC0414 - for the client side
from iocproxy.http1.request import RequestHead
from iocproxy.http1.response import ResponseHead
from iocproxy.message import Client, Fields, Request
from iocproxy.net.address import Address
from iocproxy.routing import Rules
from iocproxy.tls.hosts import HostCheck


class ClientSide(Protocol):
    """The client connection, as its exchange sees it."""

    client: Client
    scheme: str
    forwarding: Forwarding
    #: What the host of each request is held against; None where every host may be asked for.
    host_check: HostCheck | None
    #: The request under way is the last one: its response has to announce that the connection will close.
    draining: bool
    #: What was written waits for the client to read. Set before `RequestSide.client_blocked`; no exchange begins then.
    blocked: bool
    #: How many requests the connection has seen, the one under way included.
    requests: int
    #: What holds for the request under way; the exchange sets it once it knows the route.
    rules: Rules

    #: The complete Strict-Transport-Security line that goes into every response, b"" for none.
    strict: bytes

    def write(self, data: bytes) -> None:
        """Send to the client. When its buffer fills, `RequestSide.client_blocked` is called before this returns."""
        ...

    def hold(self) -> None:
        """Stop reading the request's body. Idempotent."""
        ...

    def unhold(self) -> None:
        """Read on. Idempotent."""
        ...

    def exchange_over(self, *, keep_alive: bool) -> None:
        """The response is complete; with `keep_alive` the next request may begin, which it may do in this call."""
        ...

    def exchange_broken(self, *, abort: bool) -> None:
        """The response cannot be completed: close so that the client sees it (with a reset when `abort`)."""
        ...

    def begin_tunnel(self, tunnel: Tunnel) -> None:
        """From now on bytes go to `tunnel` as they come; what was read ahead goes first. `exchange_over` ends it."""
        ...

    def end_output(self) -> None:
        """Tunnel: the upstream will send nothing more; pass that on as far as the connection allows."""
        ...

    def body_begins(self) -> None:
        """100 (Continue) was passed on: from now on the request's body is the client's to send."""
        ...

    def touch(self) -> None:
        """Tunnel: something moved; the idle deadline begins anew."""
        ...

    def reached(self) -> Address | None:
        """The address of ours that the client's connection came to, as the system tells; None once it is gone."""
        ...


class RequestSide(Protocol):
    """An exchange, as the client connection sees it."""

    def request_data(self, data: bytes, *, done: bool, trailers: Fields) -> None:
        """More of the request's body (may be empty when `done`); `trailers` come with the last of it."""
        ...

    def client_failed(self, error: ProxyError) -> None:
        """The request cannot be completed (deadline, bad framing); answered with the error if still possible."""
        ...

    def client_lost(self, error: ProxyError | None) -> None:
        """The connection to the client is gone, or about to be: by `error` of ours, None for the client's own doing.
        Must not be called again."""
        ...

    def client_blocked(self) -> None: ...
    def client_unblocked(self) -> None: ...


class Exchanges(Protocol):
    """Makes exchanges; what a client connection is given to work with."""

    def connected(self, client: Client, scheme: str) -> Forwarding:
        """The connection stands, TLS included. Returns what it keeps as its `forwarding`."""
        ...

    def begin(
        self, side: ClientSide, head: RequestHead, body: bytes, *, done: bool, trailers: Fields
    ) -> RequestSide | None:
        """Take a request up, with what has come of its body. Returns None when it was answered on the spot
        (`exchange_over` has been called)."""
        ...

    def refuse(self, side: ClientSide, error: ProxyError, *, content: bool) -> None:
        """Answer what could not be read as a request, with `content` unless it was a HEAD; ends in
        `exchange_over(keep_alive=False)`."""
        ...


class ResponseSide(Protocol):
    """An exchange, as the upstream connection sees it."""

    def response(self, head: ResponseHead, body: bytes, *, done: bool, trailers: Fields) -> None:
        """The final head with what came along of its body, and its trailers when `done`. After `done` the lease is the
        exchange's to release."""
        ...

    def interim_response(self, head: ResponseHead) -> None:
        """A 1xx other than 101."""
        ...

    def switched(self, head: ResponseHead, data: bytes) -> None:
        """101: the connection is a tunnel; `data` followed the head."""
        ...

    def response_data(self, data: bytes, *, done: bool, trailers: Fields) -> None: ...

    def upstream_failed(self, error: ProxyError) -> None:
        """The response cannot be completed; the connection is gone or about to be. Must not be called again."""
        ...

    def upstream_blocked(self) -> None: ...
    def upstream_unblocked(self) -> None: ...


class Tunnel(Protocol):
    """Where the two sides' bytes go after a 101. All else that happens to a side is told to its exchange as before."""

    def client_data(self, data: bytes) -> None:
        """Bytes for the upstream."""
        ...

    def client_eof(self) -> None:
        """The client will send nothing more."""
        ...

    def upstream_data(self, data: bytes) -> None:
        """Bytes for the client."""
        ...

    def upstream_eof(self) -> None:
        """The upstream will send nothing more."""
        ...


class Lease(Protocol):
    """A borrowed upstream connection: one exchange's alone until it is released or aborted."""

    #: True when it carried an exchange before, so that it may turn out to be closed (a retry is safe then).
    reused: bool
    #: True while bytes that were written wait for the upstream to read.
    blocked: bool

    def start(self, exchange: ResponseSide, method: str, data: bytes, timeouts: Timeouts, *, owed: bool) -> None:
        """Send the first bytes of a request with `method`; its response goes to `exchange`.

        `owed` says that the next word is the upstream's, which `timeouts` give it time for; until then only what it
        does not read is held against it."""
        ...

    def write(self, data: bytes, *, owed: bool) -> None:
        """Send more, `owed` as in `start` (`data` may be empty then). When the buffer fills,
        `ResponseSide.upstream_blocked` is called before this returns."""
        ...

    def begin_tunnel(self, tunnel: Tunnel) -> None:
        """From now on bytes go to `tunnel` as they come. `release` and `abort` end it."""
        ...

    def end_output(self) -> None:
        """Tunnel: nothing more will be sent."""
        ...

    def hold(self) -> None: ...
    def unhold(self) -> None: ...

    def release(self) -> None:
        """Give it back after a complete exchange or a tunnel: kept for reuse where both messages allow, else closed
        once everything is written."""
        ...

    def abort(self) -> None:
        """Throw it away; the exchange hears nothing more from it."""
        ...


class Asking(Protocol):
    """An exchange, as who asks for a lease: a server that is told of clients wants to know for whom."""

    request: Request
    side: ClientSide


class Server(Protocol):
    """One server of an upstream."""

    name: str
    #: what it is called in a Host field: as in its URL, without a port that is the scheme's default
    authority: bytes

    def idle(self, asking: Asking) -> Lease | None:
        """A kept connection that looks alive; no waiting."""
        ...

    async def connect(self, asking: Asking) -> Lease:
        """A new connection, waiting for a place when the server's limit is reached. Raises `ProxyError`."""
        ...


class Upstream(Protocol):
    """A named group of servers."""

    name: str

    def pick(self, tried: list[Server]) -> Server | None:
        """The next server in turn that is not in `tried`; None when all were."""
        ...
