"""The demo's origin server: a real socket on 127.0.0.1, served on the proxy's own loop."""

from __future__ import annotations

import asyncio
import socket
from types import TracebackType
from typing import Self

from iocproxy.cli.demo.connection import OriginConnection
from iocproxy.cli.demo.routes import Site
from iocproxy.net.address import Address
from iocproxy.net.attach import attach
from iocproxy.net.listener import Listener
from iocproxy.net.sockets import bind_listener, prepare_client
from iocproxy.net.tasks import Tasks
from iocproxy.telemetry import Logger


class DemoOrigin:
    """``async with DemoOrigin(log) as origin:`` listens on a port of the system's choice and closes all at the end.

    asyncio's own server is not enough even for a demo: on Windows it stops accepting for good as soon as one client
    resets in its queue.
    """

    def __init__(self, log: Logger) -> None:
        self._loop = asyncio.get_running_loop()
        self._site = Site()
        self._tasks = Tasks(log)
        self._listener = Listener(bind_listener("127.0.0.1", 0), self._accept, tasks=self._tasks, log=log)
        self._open: set[OriginConnection] = set()
        self._empty = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://{self._listener.address}"

    async def __aenter__(self) -> Self:
        self._listener.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        await self._tasks.close()
        while self._open:
            self._empty.clear()
            for connection in self._open:
                connection.abort()
            await self._empty.wait()

    def _accept(self, sock: socket.socket, address: Address) -> None:
        self._tasks.spawn(self._serve(sock), name=f"demo origin {address}")

    async def _serve(self, sock: socket.socket) -> None:
        connection = OriginConnection(self._site, self._open.add, self._closed)
        try:
            prepare_client(sock)
        except OSError:  # gone already
            sock.close()
            return
        await attach(self._loop, sock, connection)

    def _closed(self, connection: OriginConnection) -> None:
        self._open.discard(connection)
        if not self._open:
            self._empty.set()
