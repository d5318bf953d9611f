"""The front door of the exchanges: what a client connection is given to work with (`ports.Exchanges`)."""

from __future__ import annotations

from iocproxy.errors import ProxyError
from iocproxy.exchange.answers import error_answer, own_response, told
from iocproxy.exchange.exchange import Exchange
from iocproxy.exchange.forwarding import Forwarding
from iocproxy.exchange.negotiation import Form
from iocproxy.exchange.ports import ClientSide, RequestSide
from iocproxy.exchange.shared import Shared
from iocproxy.http1.request import RequestHead
from iocproxy.message import Client, Fields, Record, reason_phrase


class Service(Shared):
    """Takes connections and requests up."""

    def connected(self, client: Client, scheme: str) -> Forwarding:
        """See `ports.Exchanges`."""
        if client.tls is not None:
            self.counters.handshake(client.listener, client.tls)
        return Forwarding(client, scheme, self.trusted, forwarded=self.forwarded, identity=self.identity)

    def begin(
        self, side: ClientSide, head: RequestHead, body: bytes, *, done: bool, trailers: Fields
    ) -> RequestSide | None:
        """See `ports.Exchanges`."""
        exchange = Exchange(self, side, head)
        try:
            goes_on = exchange.begin(body, done=done, trailers=trailers)
        except Exception as error:  # noqa: BLE001 - told by `crashed`
            exchange.crashed(error)
            return None
        return exchange if goes_on else None

    def refuse(self, side: ClientSide, error: ProxyError, *, content: bool) -> None:
        """See `ports.Exchanges`."""
        fields, body = error_answer(error.status, error.proxy_status, self.pages, Form.HTML)
        head = own_response(
            self.date_line() + side.strict,
            error.status,
            reason_phrase(error.status),
            fields,
            body,
            11,
            keep_alive=False,
        )
        self.counters.requests += 1
        self.counters.responses[error.status // 100] += 1
        sent = len(body) if content else 0
        self.counters.bytes_out += sent
        side.write(head + body if content else head)
        for hook in self.chain.on_ended:
            hook(side.client, None, error.status)
        tls = side.client.tls
        self.complete(
            Record(
                finished=self.wall(),
                client=side.client.address,
                method="",
                host="",
                target="",
                version=0,
                status=error.status,
                bytes_in=0,
                bytes_out=sent,
                duration=0.0,
                upstream="",
                route="",
                tls_version=tls.version if tls is not None else "",
                tls_resumed=tls.resumed if tls is not None else False,
                error=told(error),
            )
        )
        side.exchange_over(keep_alive=False)
