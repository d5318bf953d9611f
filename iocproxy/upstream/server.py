"""One server and its connections: the idle ones kept for reuse, the limit, and who waits for a place."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections import deque
from concurrent.futures import ThreadPoolExecutor

from structlog.typing import FilteringBoundLogger

from iocproxy.config import Server, Timeouts
from iocproxy.errors import ProxyError, Side, own_fault
from iocproxy.exchange.ports import Asking
from iocproxy.http1.heads import HeadLimits
from iocproxy.http1.response import ResponseHeadParser
from iocproxy.net.attach import attach
from iocproxy.net.connect import open_socket
from iocproxy.net.connect_errors import is_ours
from iocproxy.net.deadlines import DeadlineWheel
from iocproxy.net.resolver import Resolver
from iocproxy.telemetry.counters import Counters
from iocproxy.tls import ClientLink, KeptSession, UpstreamTls
from iocproxy.upstream.connection import UpstreamConnection

#: Exchanges that may wait for one server's connections; more are answered 503 at once.
MAX_WAITING = 1024

#: Failures for want of files, ports or memory, or TLS failures of one kind, less than this far apart (seconds) are one
#: episode and logged once.
EPISODE = 10.0


class UpstreamServer:
    """Implements `ports.Server` and owns the connections to one server.

    Idle connections are used last in, first out, so that a load that shrinks lets the rest expire.
    """

    def __init__(
        self,
        server: Server,
        *,
        max_connections: int,
        max_idle: int,
        tls: UpstreamTls | None,
        limits: HeadLimits,
        timeouts: Timeouts,
        wheel: DeadlineWheel,
        resolver: Resolver,
        executor: ThreadPoolExecutor,
        counters: Counters,
        log: FilteringBoundLogger,
    ) -> None:
        self.name = f"[{server.host}]:{server.port}" if ":" in server.host else f"{server.host}:{server.port}"
        self.authority = server.authority.encode("ascii")
        self._server = server
        self._max_connections = max_connections
        self._max_idle = max_idle
        self._tls = tls
        self._session = KeptSession(wheel.time)
        self._limits = limits
        self._parser = ResponseHeadParser(limits)
        self._timeouts = timeouts
        self._wheel = wheel
        self._resolver = resolver
        self._executor = executor
        self._counters = counters
        self._log = log
        self._idle: list[UpstreamConnection] = []
        self._open: set[UpstreamConnection] = set()
        self._connecting = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._closed = False
        self._last_shortage = float("-inf")
        self._tls_failures: dict[str, float] = {}  # when each kind was last seen

    def __repr__(self) -> str:
        return (
            f"<UpstreamServer {self.name} open={len(self._open)} idle={len(self._idle)} waiting={len(self._waiting)}>"
        )

    def stats(self) -> dict[str, int]:
        """Connections now: open, of those idle, and requests that wait for one. Of an https server, its handshakes."""
        stats = {"open": len(self._open), "idle": len(self._idle), "waiting": len(self._waiting)}
        if self._tls is not None:
            stats["handshakes_full"] = self._session.handshakes_full
            stats["handshakes_resumed"] = self._session.handshakes_resumed
        return stats

    # ── leasing ──────────────────────────────────────────────────────────────────────────────────────────────────

    def idle(self, asking: Asking) -> UpstreamConnection | None:
        idle = self._idle
        while idle:
            connection = idle.pop()
            link = connection.link
            if link is not None and not link.is_closing():
                return connection
        return None

    async def connect(self, asking: Asking) -> UpstreamConnection:
        """A new connection, or one that became idle while waiting for a place. Raises `ProxyError`."""
        waiting = ""  # for what, "" for the server itself
        try:
            async with asyncio.timeout(self._timeouts.connect):
                while len(self._open) + self._connecting >= self._max_connections:
                    connection = self.idle(asking)  # one may have been given back since the exchange looked
                    if connection is not None:
                        return connection
                    if self._make_place():
                        break
                    waiting = "place"
                    await self._place()
                    waiting = ""
                self._connecting += 1
                try:
                    waiting = "address"
                    targets = await self._resolver.resolve(self._server.host, self._server.port)
                    waiting = ""
                    sock = await open_socket(targets, self.name)
                    waiting = "handshake" if self._tls is not None else ""
                    return await self._open_on(sock, asking)
                finally:
                    self._connecting -= 1
                    self._wake()
        except TimeoutError:
            error = self._too_late(waiting)
            if waiting == "handshake":
                self._session.drop_any()
        except socket.gaierror as failure:
            error = self._error(f"the name {self._server.host} was not found: {failure}", "dns_error")
        except ConnectionRefusedError as failure:
            error = self._error(failure.strerror or str(failure), "connection_refused")
        except OSError as failure:
            why = failure.strerror or str(failure)
            error = self._shortage(why) if is_ours(failure) else self._error(why, "destination_unavailable")
        except ProxyError as failure:
            error = failure
        if waiting == "handshake":
            self.tls_failed(error)
        if error.side is Side.UPSTREAM:
            self._counters.upstream_connect_failures += 1
        try:
            raise error
        finally:
            del error  # it holds this frame

    async def _open_on(self, sock: socket.socket, asking: Asking) -> UpstreamConnection:
        loop = asyncio.get_running_loop()
        connection = UpstreamConnection(self, self._limits, self._parser, self._timeouts, self._wheel.timer)
        if self._tls is None:
            await attach(loop, sock, connection)
        else:
            await self._handshake(loop, sock, connection, self._tls)
        link = connection.link
        if link is None or link.is_closing():  # it has told us of that already, and would take its place for good
            raise self._error("the server closed the connection at once", "connection_terminated")
        self._open.add(connection)
        self._counters.upstream_connects += 1
        return connection

    def _make_place(self) -> bool:
        """Whether an idle connection could be closed that is of no use to who is asking."""
        return False

    async def _handshake(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, connection: UpstreamConnection, tls: UpstreamTls
    ) -> None:
        opened: asyncio.Future[None] = loop.create_future()

        def failed(error: ProxyError) -> None:
            if not opened.done():
                opened.set_exception(error)

        connection.on_open = functools.partial(_settle, opened)
        link = ClientLink(
            connection,
            tls=tls,
            timer=None,  # the whole of connecting has one deadline
            handshake_timeout=self._timeouts.connect,
            executor=self._executor,
            loop=loop,
            on_failure=failed,
            session=self._session,
        )
        await attach(loop, sock, link)
        try:
            await opened
        except asyncio.CancelledError:
            link.handshake_timed_out()
            connection.abort()
            raise

    def _too_late(self, waiting: str) -> ProxyError:
        if waiting == "place":
            return self._busy()
        if waiting == "address":
            return self._error(f"looking up {self._server.host} took too long", "dns_timeout", 504)
        if waiting == "handshake":
            return self._error(
                f"the TLS handshake was not complete within the {self._timeouts.connect:g} s of `timeouts.connect`",
                "connection_timeout",
                504,
                stage="handshake",
            )
        return self._error("connecting took too long", "connection_timeout", 504)

    def tls_failed(self, error: ProxyError) -> None:
        """Tell the log, once for all the connections that meet with the same kind of failure."""
        if error.side is not Side.UPSTREAM:
            return
        now, kind = self._wheel.time(), error.proxy_status
        if now - self._tls_failures.get(kind, float("-inf")) > EPISODE:
            self._log.warning("upstream_tls_failed", server=self.name, error=str(error))
        self._tls_failures[kind] = now

    def _shortage(self, why: str) -> ProxyError:
        """Nothing is left to connect with: no other server can be reached either, and none is to blame."""
        self._counters.upstream_connect_shortages += 1
        now = self._wheel.time()
        if now - self._last_shortage > EPISODE:
            self._log.warning("connect_shortage", server=self.name, error=why)
        self._last_shortage = now
        return own_fault(why, "connect", status=503)

    def _error(self, why: str, proxy_status: str, status: int = 502, *, stage: str = "connect") -> ProxyError:
        return ProxyError(
            why, side=Side.UPSTREAM, stage=stage, status=status, retryable=True, proxy_status=proxy_status
        )

    # ── waiting for a place ──────────────────────────────────────────────────────────────────────────────────────

    async def _place(self) -> None:
        """Return when a connection became idle or a place free; whoever waited longest first."""
        if len(self._waiting) >= MAX_WAITING or self._closed:
            raise self._busy()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._wake()  # our turn came as we left: it is the next one's
            else:
                self._waiting.remove(turn)
            raise

    def _wake(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _busy(self) -> ProxyError:
        return ProxyError(
            f"all {self._max_connections} connections to {self.name} are in use",
            side=Side.PROXY,
            stage="connect",
            status=503,
            retryable=True,
            proxy_status="connection_limit_reached",
        )

    # ── what connections tell their owner ────────────────────────────────────────────────────────────────────────

    def give_back(self, connection: UpstreamConnection) -> None:
        if self._closed or (len(self._idle) >= self._max_idle and not self._waiting):
            connection.shut()
            return
        self._idle.append(connection)
        if self._waiting:
            self._wake()

    def forget(self, connection: UpstreamConnection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._wake()

    def close(self) -> None:
        """Close what is idle now, and what is given back later when it is."""
        self._closed = True
        for connection in self._idle[:]:
            connection.shut()

    def abort(self) -> None:
        """Close everything at once."""
        self._closed = True
        for connection in list(self._open):
            connection.abort()


def _settle(opened: asyncio.Future[None]) -> None:
    if not opened.done():
        opened.set_result(None)
