"""From an accepted socket to a client connection, or to a refusal. The same for every listener and event loop.

The limits come first and cost no more than a lookup: a refused client is not worth a protocol object, a task or a TLS
handshake. What is refused is closed, with a reset where bytes are waiting; there is nobody to talk to yet.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from structlog.typing import FilteringBoundLogger

from iocproxy.client.connection import ClientConnection
from iocproxy.client.paced import PacedConnection, Pacing
from iocproxy.errors import HandshakeFailure, ProxyError, TlsFailure
from iocproxy.exchange.service import Service
from iocproxy.http1.heads import HeadLimits
from iocproxy.http1.request import RequestHeadParser
from iocproxy.limits import ClientKeys, NetworkSet
from iocproxy.message import Client
from iocproxy.middleware.chain import Chain, Doorkeeper
from iocproxy.middleware.connection_limits import WAIT
from iocproxy.middleware.handshake_limits import HandshakeLimits
from iocproxy.net.address import Address
from iocproxy.net.attach import attach
from iocproxy.net.deadlines import DeadlineWheel
from iocproxy.net.loops import is_proactor
from iocproxy.net.sockets import prepare_client
from iocproxy.net.tasks import Tasks, run_through
from iocproxy.routing import Rules
from iocproxy.server.awaited_headers import AwaitedHeaders
from iocproxy.server.conduct import Conduct
from iocproxy.server.proxy_header import AwaitedHeader
from iocproxy.server.shedding import Shedding
from iocproxy.telemetry.counters import Counters
from iocproxy.tls import CertificateStore, ServerLink
from iocproxy.tls.offload import Turns

#: The words of the built-in limits (the first doorkeepers, and what stands before them) and the counters they go to.
_REFUSALS = {
    "rate": "refused_rate",
    "client": "refused_concurrent",
    "total": "refused_total",
    "handshakes": "refused_handshakes",
    "denied": "refused_denied",
}

#: How long aborted connections may take to be gone, in seconds.
_ABORTING = 5.0

#: What is admitted: a socket that was accepted, or a connection whose PROXY header was read. `close` closes either.
Arrival = socket.socket | AwaitedHeader


class Admission:
    """Owns the client connections of a proxy, from accept to close."""

    def __init__(
        self,
        *,
        service: Service,
        chain: Chain,
        keys: ClientKeys,
        limits: HeadLimits,
        rules: Rules,
        wheel: DeadlineWheel,
        executor: ThreadPoolExecutor,
        tasks: Tasks,
        counters: Counters,
        log: FilteringBoundLogger,
        handshakes: HandshakeLimits | None,
        sheds: bool = False,
        exempt: NetworkSet | None = None,
        pacing: Pacing | None = None,
    ) -> None:
        """With `sheds`, idle connections are closed when room is needed; those of `exempt` networks take none at the
        total. With `pacing` they may have a bandwidth."""
        self._loop = asyncio.get_running_loop()
        self._service = service
        self._chain = chain
        self._keys = keys
        self._limits = limits
        self._parser = RequestHeadParser(limits, service.identity.reserved if service.identity is not None else None)
        self._rules = rules
        self._connection: Callable[..., ClientConnection] = (
            ClientConnection if pacing is None else functools.partial(PacedConnection, pacing=pacing)
        )
        self._wheel = wheel
        self._executor = executor
        self._turns = Turns(self._loop)
        self._tasks = tasks
        self._counters = counters
        self._log = log
        self._handshakes = handshakes
        self._waits = is_proactor(self._loop)  # a connection is not made at once there
        #: how each listener conducts itself, by its name; whoever makes one puts it here
        self.conducts: dict[str, Conduct] = {}
        self._plain = Conduct(self._service)
        #: those whose PROXY header is awaited, at listeners that want one; they come here when it is complete
        self.headers: AwaitedHeaders | None = None
        self._open: dict[ClientConnection, ServerLink | None] = {}
        #: who goes when there is no room; None where nobody does
        self.shedding: Shedding | None = None
        if sheds:
            self.shedding = Shedding(
                self._open, timeouts=rules.timeouts, now=wheel.time, counters=counters, log=log, exempt=exempt
            )
        #: newcomers for whom a place is about to become free, as `admit` got them
        self._line: deque[tuple[Arrival, Address, str, CertificateStore | None]] = deque()
        self._draining = False
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        """How many connections are open, those in their handshake and those whose PROXY header is awaited included."""
        return len(self._open) + (len(self.headers) if self.headers is not None else 0)

    # ── arriving ─────────────────────────────────────────────────────────────────────────────────────────────────

    def admit(self, sock: Arrival, address: Address, listener: str, store: CertificateStore | None) -> None:
        """Take over what has arrived from `address`. Does not wait; does not raise for anything a client does."""
        client = Client(address.host, address.port, self._keys.key(address.host), listener)
        if store is not None and self._handshakes is not None and self._handshakes.refuses(client):
            self._refuse(sock, client, "handshakes", 0)
            return
        for index, doorkeeper in enumerate(self._chain.doorkeepers):
            said = self._ask(doorkeeper, client)
            if said is None or said is True:
                continue
            if said == WAIT:
                self._leave(client, self._chain.doorkeepers[:index])
                self._line.append((sock, address, listener, store))
                return
            if said is False or isinstance(said, str):
                self._refuse(sock, client, said, index)
                return
            self._counters.connections_open += 1
            self._tasks.spawn(self._ask_on(said, index, sock, client, store), name="accept", of=said)
            return
        self._counters.connections_open += 1
        if self._waits:
            self._tasks.spawn(self._attach(sock, client, store), name="accept")
        else:
            run_through(self._attach(sock, client, store))

    def make_room(self) -> bool:
        """Whether a newcomer may wait: a connection is about to be gone that nobody waits for yet."""
        shedding = self.shedding
        assert shedding is not None
        return len(self._line) < len(shedding.leaving) or shedding.make_room("total")

    def _room(self, connection: ClientConnection) -> None:
        """The place of `connection` is free."""
        assert self.shedding is not None
        self.shedding.leaving.discard(connection)
        self.shedding.readers.pop(connection, None)
        if self._line:
            self.admit(*self._line.popleft())

    def _dissolve_line(self) -> None:
        while self._line:
            self._line.popleft()[0].close()

    def _ask(self, doorkeeper: Doorkeeper, client: Client) -> bool | str | Awaitable[bool | str | None] | None:
        try:
            return doorkeeper.enter(client)
        except Exception as error:  # noqa: BLE001 - user code may fail in any way
            self._log.error("middleware_failed", hook="on_connect", client=client.address, exc_info=error)
            return False

    async def _ask_on(
        self,
        waiting: Awaitable[bool | str | None],
        index: int,
        sock: Arrival,
        client: Client,
        store: CertificateStore | None,
    ) -> None:
        """The doorkeepers from the first asynchronous one on; the client's bytes wait in the kernel meanwhile."""
        doorkeepers = self._chain.doorkeepers
        said: bool | str | Awaitable[bool | str | None] | None = waiting
        try:
            while True:
                if isinstance(said, Awaitable):
                    said = await said
                if said is False or isinstance(said, str):
                    break
                index += 1
                if index == len(doorkeepers):
                    break
                said = self._ask(doorkeepers[index], client)
        except Exception as error:  # noqa: BLE001 - user code may fail in any way
            self._log.error("middleware_failed", hook="on_connect", client=client.address, exc_info=error)
            said = False
        except BaseException:
            self._counters.connections_open -= 1
            self._refuse(sock, client, "stopping", index)
            raise
        if self._draining and said is not False and not isinstance(said, str):
            said, index = "stopping", len(doorkeepers)  # all have let the client in
        if said is False or isinstance(said, str):
            self._counters.connections_open -= 1
            self._refuse(sock, client, said, index)
        else:
            await self._attach(sock, client, store)

    def _refuse(self, sock: Arrival, client: Client, why: str | bool, index: int) -> None:
        """Close, and take back what the doorkeepers before number `index` noted."""
        sock.close()
        self._leave(client, self._chain.doorkeepers[:index])
        own = index < self._chain.own_doorkeepers and isinstance(why, str)
        counter = _REFUSALS.get(str(why), "refused_middleware") if own else "refused_middleware"
        setattr(self._counters, counter, getattr(self._counters, counter) + 1)
        self._log.debug("connection_refused", client=client.address, listener=client.listener, reason=str(why))

    async def _attach(self, sock: Arrival, client: Client, store: CertificateStore | None) -> None:
        conduct = self.conducts.get(client.listener, self._plain)
        connection = self._connection(
            client,
            conduct.exchanges,
            scheme="http" if store is None else "https",
            limits=self._limits,
            parser=self._parser,
            rules=self._rules,
            timer=self._wheel.timer,
            loop=self._loop,
            on_closed=self._closed,
            strict=conduct.strict,
        )
        self._counters.connections_accepted += 1
        link = None if store is None else self._tls(connection, store)
        self._open[connection] = link
        self._empty.clear()
        try:
            if isinstance(sock, socket.socket):
                prepare_client(sock)
                await attach(self._loop, sock, link or connection)
            else:
                sock.serve(link or connection)
        except OSError as error:  # reset between accept and here
            sock.close()
            self._log.debug("connection_lost_early", client=client.address, error=str(error))
            self._closed(connection)
        except BaseException:
            sock.close()
            self._closed(connection)
            raise

    def _tls(self, connection: ClientConnection, store: CertificateStore) -> ServerLink:
        def failed(error: ProxyError) -> None:
            self._handshake_failed(connection.client, error)
            self._closed(connection)

        link = ServerLink(
            connection,
            store=store,
            timer=connection.timer,
            handshake_timeout=self._rules.timeouts.tls_handshake,
            executor=self._executor,
            turns=self._turns,
            loop=self._loop,
            on_failure=failed,
        )
        connection.handshake_late = link.handshake_timed_out
        return link

    def _handshake_failed(self, client: Client, error: ProxyError) -> None:
        failure = error.handshake
        assert failure is not None
        self._counters.handshakes_failed[failure] += 1
        if failure.clients_doing and self._handshakes is not None:
            self._handshakes.failed(client)
        tell = self._log.debug if failure is HandshakeFailure.SILENT else self._log.info
        tell("handshake_failed", client=client.address, failure=str(failure), reason=str(error))

    def _tls_failed(self, client: Client, error: ProxyError, failure: TlsFailure) -> None:
        self._counters.tls_failed[failure] += 1
        tell = self._log.debug if failure is TlsFailure.TRUNCATED else self._log.info
        tell("tls_failed", client=client.address, failure=str(failure), reason=str(error))

    # ── leaving ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _closed(self, connection: ClientConnection, error: ProxyError | None = None) -> None:
        if connection not in self._open:
            return
        if error is not None and error.tls is not None:
            self._tls_failed(connection.client, error, error.tls)
        del self._open[connection]
        self._counters.connections_open -= 1
        self._leave(connection.client, self._chain.doorkeepers)
        if self.shedding is not None and (self.shedding.leaving or self.shedding.readers):
            self._room(connection)
        if not self._open:
            self._empty.set()

    def _leave(self, client: Client, doorkeepers: Sequence[Doorkeeper]) -> None:
        for doorkeeper in reversed(doorkeepers):
            try:
                doorkeeper.leave(client)
            except Exception as error:  # noqa: BLE001 - user code may fail in any way
                self._log.error("middleware_failed", hook="on_disconnect", client=client.address, exc_info=error)

    async def drain(self, seconds: float) -> int:
        """Let the requests under way end, for at most `seconds`; returns how many connections are still open then.

        Idle connections, those in their handshake and those whose PROXY header is awaited are closed at once: nothing
        is lost with them.
        """
        self._draining = True
        self._dissolve_line()
        for connection, link in list(self._open.items()):
            if link is not None and link.info is None:
                link.close()
            else:
                connection.drain()
        if self.headers is not None:
            self.headers.stop()
        try:
            async with asyncio.timeout(seconds):
                await self._gone()
        except TimeoutError:
            pass
        return len(self)

    async def abort(self) -> None:
        """Cut off every connection and wait until their sockets are closed."""
        self._draining = True
        self._dissolve_line()
        for connection, link in list(self._open.items()):
            if link is not None and link.info is None:
                link.abort()
            else:
                connection.abort()
        if self.headers is not None:
            self.headers.stop()
        try:
            async with asyncio.timeout(_ABORTING):
                await self._gone()
        except TimeoutError:
            self._log.error("connections_left", open=len(self))

    async def _gone(self) -> None:
        await self._empty.wait()
        if self.headers is not None:
            await self.headers.gone()
