"""The proxy: start, serve, drain, stop.

    MADE ──start──► STARTING ──► RUNNING ──stop──► STOPPING ──► STOPPED
                       └──────────(a fault, or stop)─────────────▲

Everything that can be wrong is found before anything listens: first what the configuration names is loaded, then, when
all of that is good, all addresses are bound, and only then are the parts started. A fault anywhere undoes what was done
and is told together with all others of its kind.

A proxy has no global state: no signal handlers, no logging set-up, no default executor. Two in one process do not meet.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import functools
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TextIO, cast

from structlog.typing import FilteringBoundLogger

from iocproxy.clock import Clock, monotonic
from iocproxy.config import Config
from iocproxy.errors import ConfigError, Fault
from iocproxy.message import Record
from iocproxy.middleware.decisions import Decisions
from iocproxy.net.address import Address
from iocproxy.net.deadlines import DeadlineWheel
from iocproxy.net.free_memory import memory_gauge
from iocproxy.net.listener import Listener
from iocproxy.net.memory import keep_buffers_on_the_heap
from iocproxy.net.resolver import Resolver
from iocproxy.net.sockets import bind_listener
from iocproxy.net.tasks import Tasks
from iocproxy.server.admission import Admission
from iocproxy.server.assembly import Assembly, assemble
from iocproxy.server.certificates import Certificates, Serving
from iocproxy.server.conduct import Conduct
from iocproxy.server.gatekeepers import Gatekeepers
from iocproxy.server.material import Material, access_file_fault, load_material
from iocproxy.server.shedding import watch_memory
from iocproxy.server.storage import open_storage, shared_windows
from iocproxy.server.surroundings import Surroundings
from iocproxy.telemetry import AccessLog, Counters, LogFormat, Writer, library_logger
from iocproxy.telemetry.library_stream import LibraryStream
from iocproxy.telemetry.sessions import SessionCounters
from iocproxy.tls import CertificateStore


class Phase(enum.Enum):
    MADE = "made"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Proxy:
    """A reverse proxy inside a running event loop.

    ``await Proxy(config).serve()`` runs until it is cancelled or `stop` is called. ``async with Proxy(config) as
    proxy:`` is started on entry and drained on exit. A proxy is started once; make another to start again.

    `clock` is what the limits go by (seconds, never back). `log` takes events; without it they go to the standard
    library's logger "iocproxy". `access_stream` takes the lines about requests where the configuration names no
    `access_file` (a `Writer` is started and closed by whoever made it); without either they go to the logger
    "iocproxy.access". `on_record` is called with the `Record` of
    each request, on the loop's thread.
    """

    def __init__(
        self,
        config: Config,
        *,
        clock: Clock = monotonic,
        log: FilteringBoundLogger | None = None,
        access_stream: TextIO | Writer | None = None,
        on_record: Callable[[Record], None] | None = None,
    ) -> None:
        self.config = config
        self._clock = clock
        self._log: FilteringBoundLogger = log if log is not None else library_logger()
        self._access_stream = access_stream
        self._on_record = on_record
        self._phase = Phase.MADE
        self._counters = Counters()
        self._decisions = Decisions(clock, self._log)
        self._addresses: tuple[Address, ...] = ()
        self._listeners: list[Listener] = []
        self._certificates: Certificates | None = None
        self._material: Material | None = None
        self._assembly: Assembly | None = None
        self._around: Surroundings | None = None
        self._asked = asyncio.Event()  # somebody wants it to stop
        self._hurry = asyncio.Event()  # and at once
        self._stopped = asyncio.Event()

    def __repr__(self) -> str:
        where = ", ".join(map(str, self._addresses))
        return f"<Proxy {self._phase.value}{' ' + where if where else ''}>"

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The bound addresses in the order of the configuration's listeners; with port 0, the port that was given.
        Empty before `start`."""
        return self._addresses

    def stats(self) -> dict[str, Any]:
        """What the proxy has done since its start, as plain data; docs/logging.md explains each key."""
        stats: dict[str, Any] = dict(self._counters.snapshot())
        stats["accept_errors"] = sum(listener.lost + listener.paused for listener in self._listeners)
        stats["limits"] = self._decisions.stats()
        stats["offenders"] = self._decisions.offenders()
        shared = self._around.shared if self._around is not None else None
        stats["storage"] = shared.stats() if shared is not None else {}
        gates = self._assembly.gates if self._assembly is not None else None
        stats["access"] = gates.lists.stats() if gates is not None and gates.lists is not None else {}
        stats["denials"] = gates.doorman.stats() if gates is not None else {}
        stats["sessions"] = self._certificates.session_stats() if self._certificates is not None else {}
        stats["certificates"] = self._certificates.stats() if self._certificates is not None else {}
        if self._assembly is not None:
            stats["upstreams"] = {
                name: {server.name: server.stats() for server in group.servers}
                for name, group in self._assembly.upstreams.items()
            }
        return stats

    def reopen_access_log(self) -> None:
        """Open `access_file` anew, after it was renamed; what is not written yet goes to the new file. From any thread.

        Does nothing where there is no such file. When it cannot be opened, the log says so and the old one stays in
        use.
        """
        if self._around is not None and self._around.access is not None:
            self._around.access.reopen()

    async def renew_certificates(self) -> list[Fault]:
        """Read the certificates, client authorities and revocation lists of all listeners again, changed or not.

        New connections get what is new; open ones keep what they have, and sessions go on wherever neither certificate
        nor policy has changed. What cannot be used is logged and returned, and the old stays in use in its place. So it
        goes by itself every `server.certificate_check`. Raises RuntimeError when the proxy is not running.
        """
        if self._phase is not Phase.RUNNING or self._certificates is None or self._around is None:
            raise RuntimeError(f"only a running proxy renews certificates, and this one is {self._phase.value}")
        # A task of the proxy's own: it is not half done when whoever waits for it is cancelled.
        task = self._around.tasks.spawn(self._certificates.renew(), name="renewal")
        await asyncio.wait([task])
        if task.cancelled():
            raise RuntimeError("the proxy was stopped meanwhile")
        return [self.config.placed(fault) for fault in task.result()]

    async def reload_access_lists(self) -> list[Fault]:
        """Read the files of `[limits.access]` again, changed or not.

        What they hold now decides from then on; a connection from before is answered 403 and closed when its next
        request comes. What cannot be used is logged and returned, and what it held before stays in force. So it goes by
        itself every `limits.access.check`. Raises RuntimeError when the proxy is not running.
        """
        around, gates = self._running("reloads access lists")
        if gates.lists is None:
            return []
        task = around.tasks.spawn(gates.lists.reload(), name="access lists")
        await asyncio.wait([task])
        if task.cancelled():
            raise RuntimeError("the proxy was stopped meanwhile")
        return [self.config.placed(fault) for fault in task.result()]

    def deny(self, client: str, seconds: float) -> None:
        """Deny a client for a time, unless it is denied for longer already: its connections are closed at accept, its
        requests on open ones answered with 429.

        `client` is an address, and means whoever is counted with it; or the network of one client in full. Raises
        ValueError for anything else, for who is exempt or a trusted proxy, and for a time that is not above 0 and at
        most 30 days; RuntimeError when the proxy is not running.
        """
        self._running("denies")[1].deny(client, seconds)

    def pardon(self, client: str) -> bool:
        """Let a client off that is denied, by `deny` or a penalty, and forget what was counted; whether it was denied.
        Raises what `deny` raises."""
        return self._running("pardons")[1].pardon(client)

    def _running(self, what: str) -> tuple[Surroundings, Gatekeepers]:
        if self._phase is not Phase.RUNNING or self._around is None or self._assembly is None:
            raise RuntimeError(f"only a running proxy {what}, and this one is {self._phase.value}")
        return self._around, self._assembly.gates

    # ── starting ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Load, bind, listen. Raises `ConfigError` with every fault of what is loaded or, when there is none, of the
        limits' storage and of what is bound; then nothing is left running.

        Raises RuntimeError when it was started before, or when `stop` was called meanwhile. Whoever calls this calls
        `stop`.
        """
        if self._phase is not Phase.MADE:
            raise RuntimeError(f"a proxy is started once, and this one is {self._phase.value}")
        self._phase = Phase.STARTING
        try:
            await self._start()
        except BaseException:
            await asyncio.shield(asyncio.ensure_future(self._dismantle()))
            raise
        self._phase = Phase.RUNNING

    async def _start(self) -> None:
        config, loop = self.config, asyncio.get_running_loop()
        keep_buffers_on_the_heap()
        executor = ThreadPoolExecutor(config.server.threads, thread_name_prefix="iocproxy")
        tasks, resolver = Tasks(self._log), Resolver(loop)
        around = self._around = Surroundings(
            clock=self._clock,
            log=self._log,
            counters=self._counters,
            decisions=self._decisions,
            tasks=tasks,
            wheel=DeadlineWheel(loop),
            resolver=resolver,
            executor=executor,
            access=self._access_log(),
            on_record=self._on_record,
            shared=shared_windows(config, self._clock, self._log, tasks, resolver),
        )
        material = await loop.run_in_executor(executor, load_material, config)
        faults = await open_storage(config, around.shared)
        if self._asked.is_set():
            raise RuntimeError("the proxy was stopped while it started")
        sockets = self._bind(faults)
        if around.access is not None:
            self._open_access_log(around.access, faults)
        if faults:
            for sock in sockets:
                sock.close()
            raise ConfigError(faults)
        assembly = self._assembly = assemble(config, material, around)
        self._certificates = Certificates(
            executor=executor,
            log=self._log,
            check=config.server.certificate_check,
            warn=config.server.certificate_warning,
        )
        around.wheel.start()
        for index, sock in enumerate(sockets):
            self._listen(sock, index, material, assembly)
        self._addresses = tuple(listener.address for listener in self._listeners)
        for path, text in material.warnings:
            self._log.warning("configuration", key=path, warning=text)
        for listener in self._listeners:
            listener.start()
        around.tasks.spawn(self._certificates.watch(), name="certificates")
        least, gauge = config.limits.connections.free_memory, memory_gauge()
        if assembly.admission.shedding is not None and least is not None and gauge is not None:
            around.tasks.spawn(watch_memory(assembly.admission.shedding, gauge, least), name="memory")
        if assembly.gates.lists is not None:
            around.tasks.spawn(assembly.gates.lists.watch(), name="access lists")
        for listener, settings in zip(self._listeners, config.listeners, strict=True):
            scheme = "http" if settings.tls is None else "https"
            self._log.info("listening", address=str(listener.address), url=f"{scheme}://{listener.address}")

    def _bind(self, faults: list[Fault]) -> list[socket.socket]:
        sockets = []
        for index, settings in enumerate(self.config.listeners):
            try:
                sockets.append(bind_listener(settings.bind.host, settings.bind.port))
            except OSError as error:
                found = f"cannot listen on {settings.bind}: {error.strerror or error}"
                fault = Fault(f"listeners[{index}].bind", found, "an address of this machine with a free port")
                faults.append(self.config.placed(fault))
        return sockets

    def _listen(self, sock: socket.socket, index: int, material: Material, assembly: Assembly) -> None:
        assert self._around is not None
        assert self._certificates is not None
        name = str(Address.of(sock.getsockname()))
        loaded, tls = material.listeners[index], self.config.listeners[index].tls
        serving = None
        if loaded is not None and tls is not None:
            counters = self._counters.sessions[name] = SessionCounters()
            serving = Serving(name, tls, f"listeners[{index}].tls", loaded, counters)
            self._certificates.add(serving)
        assembly.admission.conducts[name] = Conduct.of(self.config.listeners[index], assembly.service)
        headers = assembly.admission.headers if self.config.listeners[index].proxy_protocol else None
        accept = assembly.admission.admit if headers is None else headers.accept
        admit = functools.partial(self._admit, accept, name, serving)
        shedding = assembly.admission.shedding
        shortage = None if shedding is None else functools.partial(shedding.make_room, "files")
        self._listeners.append(Listener(sock, admit, tasks=self._around.tasks, log=self._log, on_shortage=shortage))

    @staticmethod
    def _admit(
        admit: Callable[[socket.socket, Address, str, CertificateStore | None], None],
        name: str,
        serving: Serving | None,
        sock: socket.socket,
        address: Address,
    ) -> None:
        admit(sock, address, name, None if serving is None else serving.store)

    def _access_log(self) -> AccessLog | None:
        settings = self.config.logging
        if not settings.access:
            return None
        destination = settings.access_file or self._access_stream or cast("TextIO", LibraryStream())
        return AccessLog(destination, cast("LogFormat", settings.format), log=self._log, counters=self._counters)

    def _open_access_log(self, access: AccessLog, faults: list[Fault]) -> None:
        try:
            access.start()
        except OSError as error:
            faults.append(self.config.placed(access_file_fault(self.config.logging.access_file, error)))

    # ── running ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def serve(self) -> None:
        """Start, and run until `stop` is called or this is cancelled; then drain. Raises what `start` raises."""
        await self.start()
        try:
            await self._asked.wait()
        finally:
            await self.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # ── stopping ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def stop(self, drain: float | None = None) -> None:
        """Stop listening, let requests under way end for at most `drain` seconds (the configuration's `drain_timeout`
        by default, 0 for none), cut off the rest, and return when everything is closed.

        May be called again, also while it is stopping: with a `drain` of 0 it stops waiting. When this is cancelled,
        everything is cut off before the cancellation goes on.
        """
        self._asked.set()
        if drain is not None and drain <= 0:
            self._hurry.set()
        if self._phase is Phase.MADE:
            self._phase = Phase.STOPPED
            self._stopped.set()
        if self._phase is not Phase.RUNNING:
            await self._stopped.wait()
            return
        self._phase = Phase.STOPPING
        seconds = self.config.server.drain_timeout if drain is None else drain
        try:
            await self._drain(seconds)
        finally:
            await asyncio.shield(asyncio.ensure_future(self._dismantle()))

    async def _drain(self, seconds: float) -> None:
        assert self._assembly is not None
        assert self._around is not None
        admission, tasks = self._assembly.admission, self._around.tasks
        for listener in self._listeners:
            listener.close()
        self._log.info("stopping", open=len(admission), drain=seconds)
        if self._hurry.is_set() or seconds <= 0:
            return
        draining = asyncio.ensure_future(_drained(admission, tasks, seconds))
        hurry = asyncio.ensure_future(self._hurry.wait())
        try:
            await asyncio.wait([draining, hurry], return_when=asyncio.FIRST_COMPLETED)
        finally:
            draining.cancel()
            hurry.cancel()
            await asyncio.gather(draining, hurry, return_exceptions=True)

    async def _dismantle(self) -> None:
        """Close whatever there is, in the order in which nobody misses it. Never fails half-way."""
        for listener in self._listeners:
            listener.close()
        around, assembly = self._around, self._assembly
        if assembly is not None:
            left = len(assembly.admission)
            if left:
                self._log.warning("connections_cut_off", connections=left)
            await assembly.admission.abort()
            for group in assembly.upstreams.values():
                for server in group.servers:
                    server.abort()
        if around is not None:
            await around.tasks.close()
            if around.shared is not None:
                await around.shared.close()
            around.resolver.close()
            around.wheel.stop()
            await _in_thread(functools.partial(_join, around))
        if self._phase is not Phase.STARTING:
            self._log.info("stopped")
        self._phase = Phase.STOPPED
        self._stopped.set()


async def _drained(admission: Admission, tasks: Tasks, seconds: float) -> None:
    """Requests under way end, and then what middleware does about those that have ended."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await admission.drain(seconds)
            await tasks.ended("on_complete")


def _join(around: Surroundings) -> None:
    """Blocking: what is under way in the executor (CPU work only) is waited for, the access log is written out.

    Name lookups are not waited for: they have threads of their own (`Resolver`).
    """
    if around.access is not None:
        around.access.close()
    around.executor.shutdown(wait=True, cancel_futures=True)


async def _in_thread(work: Callable[[], None]) -> None:
    """Run `work` in a thread of its own: the executor cannot wait for its own end, and the loop's default executor
    belongs to the program that embeds us."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def run() -> None:
        try:
            work()
        finally:
            loop.call_soon_threadsafe(done.set_result, None)

    thread = threading.Thread(target=run, name="iocproxy-stop")
    thread.start()
    await done
    thread.join()
