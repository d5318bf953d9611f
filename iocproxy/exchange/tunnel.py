"""After a 101: bytes both ways, until both sides have said that no more will come.

Failing, blocking and the deadlines are the exchange's as before, which also writes down how it ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from iocproxy.exchange.forwarding import VIA
from iocproxy.exchange.outgoing import without_hsts
from iocproxy.exchange.ports import ClientSide, Lease
from iocproxy.http1.errors import bad_response
from iocproxy.http1.request import RequestHead
from iocproxy.http1.response import ResponseHead
from iocproxy.http1.serialize import response_head

if TYPE_CHECKING:  # the two know each other
    from iocproxy.exchange.exchange import Exchange


def switching(head: ResponseHead, request: RequestHead, strict: bytes) -> bytes:
    """A 101 as it goes to the client. Raises `ProxyError` where it switches to what was not asked for."""
    if not _offered(head.upgrade, request.upgrade):
        raise bad_response("a 101 that nobody asked for", "http_upgrade_failed")
    fields = without_hsts(head.fields) if strict else head.fields
    tail = b"Connection: Upgrade\r\nUpgrade: %b\r\n%b%b" % (head.upgrade, VIA[head.version], strict)
    return response_head(101, head.reason, fields, tail)


def _offered(chosen: bytes, offered: bytes) -> bool:
    """Whether every protocol of a 101 was in the request's Upgrade (RFC 9110 section 7.8)."""
    wanted = {item.strip(b" \t").lower() for item in offered.split(b",") if item.strip(b" \t")}
    return bool(chosen) and all(item.strip(b" \t").lower() in wanted for item in chosen.split(b","))


class Tunnel:
    """Implements `ports.Tunnel`. `bytes_in` came from the client, `bytes_out` went to it."""

    __slots__ = ("_client_ended", "_exchange", "_lease", "_side", "_upstream_ended", "bytes_in", "bytes_out")

    def __init__(self, exchange: Exchange, side: ClientSide, lease: Lease) -> None:
        self._exchange = exchange
        self._side = side
        self._lease = lease
        self._client_ended = False
        self._upstream_ended = False
        self.bytes_in = 0
        self.bytes_out = 0

    def client_data(self, data: bytes) -> None:
        self.bytes_in += len(data)
        self._lease.write(data, owed=False)

    def upstream_data(self, data: bytes) -> None:
        self.bytes_out += len(data)
        self._side.write(data)
        self._side.touch()

    def client_eof(self) -> None:
        self._client_ended = True
        if self._upstream_ended:
            self._exchange.end_tunnel("")
        else:
            self._lease.end_output()

    def upstream_eof(self) -> None:
        self._upstream_ended = True
        if self._client_ended:
            self._exchange.end_tunnel("")
        else:
            self._side.end_output()
