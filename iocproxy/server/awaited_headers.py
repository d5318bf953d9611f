"""The door in front of the door, at listeners with `proxy_protocol`: connections whose header is not complete yet.

Who is not a trusted proxy is closed at accept: to believe a header of anybody's would be to let everybody choose whom
the limits count. What a trusted one passes on gets to `Admission.admit` when its header is complete, with the address
from the header, as if it had been accepted from there; from then on nobody knows the difference. Until then it counts
against the total of open connections and nothing else: whose limits should it count against?
"""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from iocproxy.config import Timeouts
from iocproxy.errors import ProxyHeaderFailure
from iocproxy.limits import ClientKeys, NetworkSet
from iocproxy.middleware.decisions import Decided
from iocproxy.net.address import Address
from iocproxy.net.attach import attach
from iocproxy.net.deadlines import DeadlineWheel
from iocproxy.net.loops import is_proactor
from iocproxy.net.sockets import prepare_client
from iocproxy.net.tasks import Tasks, run_through
from iocproxy.proxy_protocol import Addresses
from iocproxy.server.proxy_header import AwaitedHeader
from iocproxy.server.shedding import Shedding
from iocproxy.telemetry.counters import Counters
from iocproxy.tls import CertificateStore

#: Headers awaited at a time, whatever the limits say.
MOST = 10_000

#: These are a health check's, or our own doing: nothing to tell an operator of.
_USUAL = {ProxyHeaderFailure.SILENT, ProxyHeaderFailure.STOPPED}

Admit = Callable[["socket.socket | AwaitedHeader", Address, str, "CertificateStore | None"], None]


class AwaitedHeaders:
    """Owns connections from accept until their header is complete; then `admit` is called, which owns them.

    `total` is how many connections may be open in all, those here included; None where that is not limited. `refused`
    is told of those that are closed at accept.
    """

    def __init__(
        self,
        *,
        admit: Admit,
        trusted: NetworkSet,
        total: int | None,
        keys: ClientKeys,
        timeouts: Timeouts,
        wheel: DeadlineWheel,
        tasks: Tasks,
        counters: Counters,
        refused: Decided,
        log: FilteringBoundLogger,
        shedding: Shedding | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._admit = admit
        self._trusted = trusted
        self._total = total
        self._keys = keys
        self._timeouts = timeouts
        self._wheel = wheel
        self._tasks = tasks
        self._counters = counters
        self._refused = refused
        self._log = log
        self._shedding = shedding
        self._waits = is_proactor(self._loop)  # a connection is not made at once there
        self._awaited: set[AwaitedHeader] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._awaited)

    def accept(self, sock: socket.socket, address: Address, listener: str, store: CertificateStore | None) -> None:
        """Take an accepted socket over. Does not wait; does not raise for anything a client does."""
        if address.host not in self._trusted:
            self._counters.proxy_protocol_failures[ProxyHeaderFailure.UNTRUSTED] += 1
            self._refuse(sock, address, listener, "untrusted")
            return
        if self._full() or len(self._awaited) >= MOST:
            self._counters.refused_total += 1
            self._refuse(sock, address, listener, "total")
            return
        timeouts = self._timeouts
        awaited = AwaitedHeader(
            address,
            timer=self._wheel.timer,
            seconds=timeouts.request_header if store is None else timeouts.tls_handshake,
            on_complete=functools.partial(self._complete, listener, store),
            on_failure=functools.partial(self._failed, listener),
            on_gone=self._forget,
        )
        self._counters.connections_open += 1
        self._awaited.add(awaited)
        self._empty.clear()
        if self._waits:
            self._tasks.spawn(self._attach(sock, awaited), name="accept")
        else:
            run_through(self._attach(sock, awaited))

    def _full(self) -> bool:
        """Whether there is no room. Where somebody idle is about to leave there is, and his place is not waited for."""
        if self._total is None:
            return False
        shedding, taken = self._shedding, self._counters.connections_open
        if shedding is None:
            return taken >= self._total
        return taken - len(shedding.leaving) >= self._total and not shedding.make_room("total")

    def _refuse(self, sock: socket.socket, address: Address, listener: str, reason: str) -> None:
        sock.close()
        self._refused.refuse(self._keys.key(address.host), address.host, listener=listener, reason=reason)

    async def _attach(self, sock: socket.socket, awaited: AwaitedHeader) -> None:
        try:
            prepare_client(sock)
            await attach(self._loop, sock, awaited)
        except OSError as error:  # reset between accept and here
            sock.close()
            self._log.debug("connection_lost_early", client=awaited.sender.host, error=str(error))
            self._forget(awaited)
        except BaseException:
            sock.close()
            self._forget(awaited)
            raise

    def _complete(
        self, listener: str, store: CertificateStore | None, awaited: AwaitedHeader, named: Addresses | None
    ) -> None:
        self._forget(awaited)
        client = awaited.sender if named is None else Address(named.source, named.source_port)
        self._admit(awaited, client, listener, store)

    def _failed(self, listener: str, awaited: AwaitedHeader, failure: ProxyHeaderFailure, why: str) -> None:
        self._counters.proxy_protocol_failures[failure] += 1
        tell = self._log.debug if failure in _USUAL else self._log.info
        tell(
            "proxy_protocol_failed",
            client=awaited.sender.host,
            listener=listener,
            failure=str(failure),
            reason=why,
        )

    def _forget(self, awaited: AwaitedHeader) -> None:
        if awaited in self._awaited:
            self._awaited.remove(awaited)
            self._counters.connections_open -= 1
            if not self._awaited:
                self._empty.set()

    def stop(self) -> None:
        """Close them all; `gone` says when they are."""
        for awaited in list(self._awaited):
            awaited.stop()

    async def gone(self) -> None:
        """Return when no header is awaited, and the sockets of those that were are closed."""
        await self._empty.wait()
