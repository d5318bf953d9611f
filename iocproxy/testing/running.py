"""A real proxy in a background thread, with everything it says within reach of the test.

Theory of operation: one thread with one event loop for each proxy, so that a blocking test and an asynchronous one see
the same thing: a server that is simply there. The test never touches the proxy's objects from its own thread; what it
wants to know (`stats`) is asked on the proxy's loop.

Everything that arrives (events, records) is appended under a condition and counted in `_version`. `wait_for` looks at
the predicate outside that condition, as a predicate may ask the loop, and the loop may be waiting to append.

What must not happen in a proxy (an exception nobody handled, a task that outlives `stop`, a thread that does not end)
is gathered in `problems`; the fixture fails the test with them.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import sys
import threading
import time
import traceback
from collections.abc import Callable, MutableMapping
from types import TracebackType
from typing import Any, Self, TypeVar

import structlog

from iocproxy.clock import Clock, monotonic
from iocproxy.config import Config
from iocproxy.errors import Fault
from iocproxy.message import Record
from iocproxy.server import Proxy
from iocproxy.testing.patience import PATIENCE, Deadline

T = TypeVar("T")

# `stats` changes without anything arriving; a predicate about it is looked at this often, in seconds.
_GLANCE = 0.02


class RunningProxy:
    """`Proxy(config)`, serving from `start` (or the ``with`` statement) to `stop`."""

    def __init__(self, config: Config, *, clock: Clock = monotonic) -> None:
        self.config = config
        self._clock = clock
        self._changed = threading.Condition()
        self._version = 0
        self._log: list[dict[str, Any]] = []
        self._records: list[Record] = []
        self._problems: list[str] = []
        self._ready: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._proxy: Proxy | None = None
        self._stop_asked: asyncio.Event | None = None
        self._drain: float | None = 0.0
        self._stats: dict[str, Any] = {}
        self._addresses: tuple[tuple[str, int], ...] = ()

    # -- where it is

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """(host, port) to connect to, in the order of the configuration's listeners.

        Where a listener is bound to every address, the host is that family's loopback address.
        """
        return self._addresses

    @property
    def address(self) -> tuple[str, int]:
        """Of the first listener without TLS. Raises LookupError when there is none."""
        return self._first(tls=False)

    @property
    def tls_address(self) -> tuple[str, int]:
        """Of the first listener with TLS. Raises LookupError when there is none."""
        return self._first(tls=True)

    @property
    def url(self) -> str:
        """``http://host:port`` of `address`."""
        return f"http://{_authority(self.address)}"

    @property
    def tls_url(self) -> str:
        """``https://host:port`` of `tls_address`."""
        return f"https://{_authority(self.tls_address)}"

    def _first(self, *, tls: bool) -> tuple[str, int]:
        for listener, address in zip(self.config.listeners, self._addresses, strict=True):
            if (listener.tls is not None) is tls:
                return address
        raise LookupError(f"no listener {'with' if tls else 'without'} TLS")

    # -- what it says

    @property
    def log(self) -> list[dict[str, Any]]:
        """Every event so far: its keys, with ``event`` and ``level``; a traceback is under ``exception``."""
        with self._changed:
            return list(self._log)

    @property
    def records(self) -> list[Record]:
        """How every request so far ended, in that order."""
        with self._changed:
            return list(self._records)

    @property
    def problems(self) -> list[str]:
        """What must not happen in a proxy and did; complete after `stop`."""
        with self._changed:
            return list(self._problems)

    def events(self, name: str) -> list[dict[str, Any]]:
        """The events of that name."""
        return [event for event in self.log if event["event"] == name]

    def stats(self) -> dict[str, Any]:
        """`Proxy.stats()` now; after `stop`, what it was at the end."""
        if self._thread is None or not self._thread.is_alive():
            return self._stats
        loop, proxy = self._loop, self._proxy
        assert loop is not None and proxy is not None, "start comes first"  # noqa: PT018
        answer: concurrent.futures.Future[dict[str, Any]] = concurrent.futures.Future()
        loop.call_soon_threadsafe(lambda: answer.set_result(proxy.stats()))
        return answer.result(PATIENCE)

    def renew_certificates(self) -> list[Fault]:
        """`Proxy.renew_certificates()`, on the proxy's loop."""
        loop, proxy = self._loop, self._proxy
        assert loop is not None and proxy is not None, "start comes first"  # noqa: PT018
        return asyncio.run_coroutine_threadsafe(proxy.renew_certificates(), loop).result(PATIENCE)

    def reload_access_lists(self) -> list[Fault]:
        """`Proxy.reload_access_lists()`, on the proxy's loop."""
        loop, proxy = self._loop, self._proxy
        assert loop is not None and proxy is not None, "start comes first"  # noqa: PT018
        return asyncio.run_coroutine_threadsafe(proxy.reload_access_lists(), loop).result(PATIENCE)

    def deny(self, client: str, seconds: float) -> None:
        """`Proxy.deny()`, on the proxy's loop."""
        self._on_loop(lambda proxy: proxy.deny(client, seconds))

    def pardon(self, client: str) -> bool:
        """`Proxy.pardon()`, on the proxy's loop."""
        return self._on_loop(lambda proxy: proxy.pardon(client))

    def _on_loop(self, work: Callable[[Proxy], T]) -> T:
        loop, proxy = self._loop, self._proxy
        assert loop is not None and proxy is not None, "start comes first"  # noqa: PT018

        async def run() -> T:
            return work(proxy)

        return asyncio.run_coroutine_threadsafe(run(), loop).result(PATIENCE)

    def wait_for(self, predicate: Callable[[RunningProxy], T], timeout: float = PATIENCE) -> T:
        """Until `predicate(proxy)` is true; returns what it returned. Blocks the calling thread.

        It is looked at whenever an event or a record arrives, and every now and then. Raises TimeoutError, with the
        last events in its message, when it does not come true within `timeout` seconds.
        """
        deadline = Deadline(timeout, f"{predicate} did not come true")
        while True:
            with self._changed:
                seen = self._version
            value = predicate(self)
            if value:
                return value
            try:
                left = deadline.remaining()
            except TimeoutError as error:
                raise TimeoutError(f"{error}; {self!r}, the last events: {self.log[-5:]!r}") from None
            with self._changed:
                self._changed.wait_for(lambda seen=seen: self._version != seen, min(left, _GLANCE))  # type: ignore[misc]

    def wait_for_records(self, count: int, timeout: float = PATIENCE) -> list[Record]:
        """Until `count` requests have ended; returns all records. A response is read before its record is there."""
        self.wait_for(lambda proxy: len(proxy.records) >= count, timeout)
        return self.records

    def wait_for_event(self, name: str, timeout: float = PATIENCE) -> dict[str, Any]:
        """Until an event of that name was logged; returns the first."""
        return self.wait_for(lambda proxy: proxy.events(name), timeout)[0]

    # -- life

    def start(self) -> Self:
        """Listen; once. Raises what `Proxy.start` raises, ConfigError above all; then nothing is left behind."""
        if self._thread is not None:
            raise RuntimeError(f"started already: {self!r}")
        self._thread = threading.Thread(target=self._run, name="iocproxy-testing-proxy", daemon=True)
        self._thread.start()
        try:
            self._ready.result(PATIENCE)
        except BaseException:
            if not self._ready.done():
                raise TimeoutError(
                    f"the proxy did not start within {PATIENCE:g} s; it is at\n{self._where()}"
                ) from None
            self._thread.join()
            raise
        return self

    def stop(self, drain: float | None = 0.0) -> None:
        """Stop as `Proxy.stop(drain=…)` does: cut off requests in flight after `drain` seconds, None: as configured.

        Returns when the thread has ended; may be called more than once. Raises TimeoutError when it does not end.
        """
        thread, loop, asked = self._thread, self._loop, self._stop_asked
        if thread is None or loop is None or asked is None or not thread.is_alive():
            return
        self._drain = drain
        loop.call_soon_threadsafe(asked.set)
        allowed = PATIENCE + (self.config.server.drain_timeout if drain is None else drain)
        thread.join(allowed)
        if thread.is_alive():
            raise TimeoutError(f"the proxy did not stop within {allowed:g} s; it is at\n{self._where()}")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        running = self._thread is not None and self._thread.is_alive()
        where = " ".join(_authority(address) for address in self._addresses)
        return f"<RunningProxy {where} {'running' if running else 'stopped'} records={len(self.records)}>"

    # -- its thread

    def _run(self) -> None:
        factory: type[asyncio.AbstractEventLoop]
        if sys.platform == "win32":
            factory = asyncio.ProactorEventLoop
        else:
            factory = asyncio.SelectorEventLoop
        try:
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(self._serve())
        except BaseException as error:  # noqa: BLE001  handed to the thread that started this one
            if self._ready.done():
                self._problem("the proxy's thread ended with an exception", error)
            else:
                self._ready.set_exception(error)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._unhandled)
        self._stop_asked = asyncio.Event()
        self._proxy = Proxy(self.config, clock=self._clock, log=self._logger(), on_record=self._record)
        await self._proxy.start()
        self._addresses = tuple((_reachable(host), port) for host, port in self._proxy.addresses)
        self._ready.set_result(None)
        await self._stop_asked.wait()
        await self._proxy.stop(drain=self._drain)
        self._stats = self._proxy.stats()
        await asyncio.sleep(0)  # callbacks that the end itself has queued
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            self._problem(f"a task outlived stop: {task!r}")
        # An exception that nobody fetched is reported when its task is collected: now, not in some later test.
        gc.collect(1)

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        del loop
        details = {key: value for key, value in context.items() if key not in {"message", "exception"}}
        self._problem(f"{context.get('message', 'unhandled')} {details!r}", context.get("exception"))

    def _problem(self, what: str, error: BaseException | None = None) -> None:
        if error is not None:
            what += "\n" + "".join(traceback.format_exception(error))
        with self._changed:
            self._problems.append(what)
            self._version += 1
            self._changed.notify_all()

    def _record(self, record: Record) -> None:
        with self._changed:
            self._records.append(record)
            self._version += 1
            self._changed.notify_all()

    def _logger(self) -> Any:
        """A structlog logger of our own making: nothing of the host program's structlog configuration is used."""
        return structlog.wrap_logger(
            structlog.ReturnLogger(),
            processors=[self._capture],
            wrapper_class=structlog.make_filtering_bound_logger(0),
            context_class=dict,
            cache_logger_on_first_use=False,
        ).bind()

    def _capture(self, logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        del logger
        entry = {**event, "level": method}
        error = entry.pop("exc_info", None)
        if error is True:
            error = sys.exception()
        elif isinstance(error, tuple):
            error = error[1]
        if isinstance(error, BaseException):
            entry["exception"] = "".join(traceback.format_exception(error))
        with self._changed:
            self._log.append(entry)
            self._version += 1
            self._changed.notify_all()
        raise structlog.DropEvent

    def _where(self) -> str:
        """The stack of the proxy's thread."""
        frame = sys._current_frames().get(self._thread.ident or 0) if self._thread is not None else None
        return "".join(traceback.format_stack(frame)) if frame is not None else "(ended)"


def leftover_threads(before: set[threading.Thread], seconds: float = 2.0) -> list[str]:
    """The proxies' own threads that were not there `before` and have not ended `seconds` from now."""
    until = time.monotonic() + seconds
    left = []
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("iocproxy") and not thread.name.startswith("iocproxy-testing"):
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                left.append(f"a thread outlived stop: {thread.name}")
    return left


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - looked up, not bound


def _authority(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
