"""A server that is told of the client at the head of each connection: the PROXY protocol towards an upstream.

Theory of operation
-------------------
What a connection begins with holds for all of it. So a connection belongs to the header it began with, and is leased to
exchanges with that very header and to no other: the idle ones are kept by header. As clients come and go there are idle
connections that nobody will ever ask for again; so it is the oldest one that makes place, where a new connection would
be one too many, and where one more would be kept than `max_idle` allows.

The header goes out before TLS, on the bare socket. It is a few hundred octets at most on a connection that has sent
nothing, and never has to wait in practice.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from iocproxy.config import Server
from iocproxy.exchange.ports import Asking
from iocproxy.net.address import Address
from iocproxy.proxy_protocol import Addresses, header_block, header_line
from iocproxy.upstream.connection import UpstreamConnection
from iocproxy.upstream.server import UpstreamServer


class IntroducingServer(UpstreamServer):
    """Either version is a subclass, made like an `UpstreamServer`."""

    def __init__(self, server: Server, **settings: Any) -> None:
        super().__init__(server, **settings)
        self._headers: dict[UpstreamConnection, bytes] = {}  #: what each open connection began with
        self._kept: dict[bytes, list[UpstreamConnection]] = {}  #: the idle ones by header, the one used last at the end

    def _header(self, addresses: Addresses) -> bytes:
        raise NotImplementedError

    def _header_for(self, asking: Asking) -> bytes:
        """Whose request it is, a trusted proxy's word taken into account, and where it came to.

        Of an address that somebody else has told, nobody knows the port: 0.
        """
        client, address = asking.side.client, asking.request.address
        port = client.port if address == client.address else 0
        reached = asking.side.reached() or _bound(client.listener)
        return self._header(Addresses(address, port, reached.host, reached.port))

    # ── leasing ──────────────────────────────────────────────────────────────────────────────────────────────────

    def idle(self, asking: Asking) -> UpstreamConnection | None:
        header = self._header_for(asking)
        kept = self._kept.get(header)
        while kept:
            connection = kept[-1]
            self._take(connection, header)
            link = connection.link
            if link is not None and not link.is_closing():
                return connection
        return None

    async def _open_on(self, sock: socket.socket, asking: Asking) -> UpstreamConnection:
        header = self._header_for(asking)
        try:
            await asyncio.get_running_loop().sock_sendall(sock, header)
        except BaseException:
            sock.close()
            raise
        connection = await super()._open_on(sock, asking)
        self._headers[connection] = header
        return connection

    def _make_place(self) -> bool:
        if not self._idle:
            return False
        self._idle[0].shut()  # which forgets it
        return True

    # ── what connections tell their owner ────────────────────────────────────────────────────────────────────────

    def give_back(self, connection: UpstreamConnection) -> None:
        if not self._closed and self._idle and len(self._idle) >= self._max_idle:
            self._idle[0].shut()
        super().give_back(connection)
        if self._idle and self._idle[-1] is connection:
            self._kept.setdefault(self._headers[connection], []).append(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        header = self._headers.pop(connection, None)
        if header is not None and connection in self._kept.get(header, ()):
            self._take(connection, header)
        super().forget(connection)

    def _take(self, connection: UpstreamConnection, header: bytes) -> None:
        """It is idle no more."""
        kept = self._kept[header]
        kept.remove(connection)
        if not kept:
            del self._kept[header]
        self._idle.remove(connection)


class IntroducingV1(IntroducingServer):
    def _header(self, addresses: Addresses) -> bytes:
        return header_line(addresses)


class IntroducingV2(IntroducingServer):
    def _header(self, addresses: Addresses) -> bytes:
        return header_block(addresses)


def _bound(listener: str) -> Address:
    """A listener's own address, for a connection that cannot be asked any more."""
    host, _, port = listener.rpartition(":")
    return Address(host.strip("[]"), int(port))
