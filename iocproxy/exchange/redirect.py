"""A plain listener that sends everybody on to https.

Every request is answered with 308 (Permanent Redirect, RFC 9110 section 15.4.9) to the same host and target, before any
route is looked for. 308 and not 301, as Caddy does: with 301 a POST becomes a GET (section 15.4.2), and a form that was
sent to the old address arrives empty. Nothing but these is served as if the listener sent nobody on:

* what asks for the proof that a certificate authority wants to see over plain HTTP (RFC 8555 section 8.3), and
* what a trusted proxy says has come to it by https: sent on, it would come here again for ever.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Awaitable, Callable

from iocproxy.errors import ProxyError
from iocproxy.exchange.answers import ALLOWED
from iocproxy.exchange.bounds import not_allowed
from iocproxy.exchange.exchange import Exchange
from iocproxy.exchange.forwarding import Forwarding
from iocproxy.exchange.ports import ClientSide, RequestSide
from iocproxy.exchange.service import Service
from iocproxy.http1.errors import bad_request
from iocproxy.http1.request import RequestHead
from iocproxy.message import Client, Fields, Response
from iocproxy.routing import RouteTable

#: The token is base64url (RFC 8555 section 8.1), and that is all there may be: no path leads from here to another.
_CHALLENGE = re.compile(rb"/\.well-known/acme-challenge/[A-Za-z0-9_\-]{1,256}")

#: What a request target may hold here and a URI may not (RFC 3986 section 2).
_FOREIGN = re.compile(rb'["<>\\^`{|}]')


class HttpsRedirect:
    """`ports.Exchanges` of such a listener; https is at `port` of whatever host was asked for."""

    __slots__ = ("_nowhere", "_port", "_service")

    def __init__(self, service: Service, port: int) -> None:
        self._service = service
        self._nowhere = copy.copy(service)
        self._nowhere.routes = RouteTable(())
        self._port = b"" if port == 443 else b":%d" % port

    def connected(self, client: Client, scheme: str) -> Forwarding:
        """See `ports.Exchanges`."""
        return self._service.connected(client, scheme)

    def begin(
        self, side: ClientSide, head: RequestHead, body: bytes, *, done: bool, trailers: Fields
    ) -> RequestSide | None:
        """See `ports.Exchanges`."""
        if _stays(side, head):
            return self._service.begin(side, head, body, done=done, trailers=trailers)
        exchange = _Redirected(self._nowhere, side, head, self._port)
        try:
            goes_on = exchange.begin(body, done=done, trailers=trailers)
        except Exception as error:  # noqa: BLE001 - told by `crashed`
            exchange.crashed(error)
            return None
        return exchange if goes_on else None

    def refuse(self, side: ClientSide, error: ProxyError, *, content: bool) -> None:
        """See `ports.Exchanges`."""
        self._service.refuse(side, error, content=content)


def _stays(side: ClientSide, head: RequestHead) -> bool:
    if _CHALLENGE.fullmatch(head.target) and head.method in {"GET", "HEAD"}:
        return True
    return side.forwarding.trusted and head.section.forwarded_proto.lower() == b"https"


class _Redirected(Exchange):
    """A request that is sent on: it is limited, counted and logged like any other. Its service has no routes."""

    __slots__ = ("_port",)

    def __init__(self, service: Service, side: ClientSide, head: RequestHead, port: bytes) -> None:
        super().__init__(service, side, head)
        self._port = port

    def _without_route(self) -> None:
        if self.side.requests >= self._rules.max_requests:
            self.side.draining = True
        self._ask_guards()

    def _ask_guards(self, start: int = 0) -> None:
        """Ask the built-in limits from number `start` on, until one refuses or has to be waited for."""
        guards = self.service.chain.guards
        for index in range(start, len(guards)):
            said = guards[index](self.request)
            if said is None:
                continue
            if isinstance(said, Awaitable):
                goes_on = functools.partial(self._guard_answers, said, index + 1)
                self.wait(goes_on, f"on_request {self.request.method}", of=said)
            else:
                self.answer(said)
            return
        self._send_on()

    async def _guard_answers(self, waiting: Awaitable[Response | None], following: int) -> Callable[[], None]:
        said = await waiting
        if said is None:
            return functools.partial(self._ask_guards, following)
        return functools.partial(self.answer, said)

    def _send_on(self) -> None:
        head = self._head
        if head.method == "TRACE":
            self._fail(not_allowed("a TRACE that would be sent on"))
        elif head.target == b"*":
            # It asks about the server and not about anything at an address (RFC 9110 section 9.3.7).
            self.answer(Response(200, [("Allow", ALLOWED)], b""))
        else:
            try:
                where = _https(head, self._port)
            except ProxyError as error:
                self._fail(error)
            else:
                self.answer(Response(308, [("Location", where)], b""))


def _https(head: RequestHead, port: bytes) -> str:
    """The same resource under https. Raises ProxyError where it cannot be said."""
    host = head.host
    name = host[: host.find(b"]") + 1] if host.startswith(b"[") else host.partition(b":")[0]
    if not name:
        raise bad_request("no host to be sent on to")  # HTTP/1.0 need not name one
    target = _FOREIGN.sub(lambda found: b"%%%02X" % found[0][0], head.target)
    return (b"https://%b%b%b" % (name, port, target)).decode("ascii")
