"""One proxy in the foreground of this process, under the operating system's signals.

    starting ──listens──► serving ──1st signal──► draining ──all ended, or drain_timeout──► stopped: 0
        │                                            └───────2nd signal: cut off──────────► stopped: 0
        └─ any signal: given up, nothing was in flight ───────────────────────────────────► stopped: 0

SIGHUP renews the certificates and reloads the access lists, unless it means that the terminal has gone away that this
was started on: that stops it.
A failure in any state is logged and gives 1. A configuration that cannot be used is the caller's to tell.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from iocproxy.config.values import show_duration
from iocproxy.errors import ConfigError
from iocproxy.net.sockets import raise_file_limit
from iocproxy.net.tasks import Tasks
from iocproxy.server import Proxy
from iocproxy.telemetry import Logger
from iocproxy.workers.collector import settled_heap
from iocproxy.workers.signals import signals

#: Makes the proxy on the running loop, not started yet, and takes down afterwards what was made around it.
Opening = Callable[[], AbstractAsyncContextManager[Proxy]]


def run(opening: Opening, *, log: Logger, started: Callable[[Proxy], None] | None = None) -> int:
    """Run one proxy until a signal ends it; returns the exit code: 0 for a clean stop, 1 for a failure.

    Call it on the main thread, without a running loop. `started` is called once the proxy listens. Raises ConfigError
    with every fault when the proxy cannot start as configured; then nothing is left running.
    """
    log.info("file_limit", files=raise_file_limit())
    foreground = _Foreground(log, started)
    factory: Callable[[], asyncio.AbstractEventLoop]
    if sys.platform == "win32":
        factory = asyncio.ProactorEventLoop
    else:
        factory = asyncio.SelectorEventLoop  # by name: a policy that some package has set does not count
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(foreground.run(opening))


class _Foreground:
    """From the first signal handler set to the last one put back."""

    def __init__(self, log: Logger, started: Callable[[Proxy], None] | None) -> None:
        self._log = log
        self._started = started
        self._starting: asyncio.Future[None] | None = None
        self._serving: Proxy | None = None
        self._asked = asyncio.Event()
        self._asked_again = asyncio.Event()
        self._tasks = Tasks(log)
        self._terminals = _terminals()

    async def run(self, opening: Opening) -> int:
        asyncio.get_running_loop().set_exception_handler(self._unhandled)
        with signals(stop=self._on_signal, reopen=self._on_reopen, renew=self._on_renew):
            try:
                async with opening() as proxy:
                    try:
                        await self._run(proxy)
                    finally:
                        await self._tasks.close()
            except ConfigError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it was, it is logged and becomes the exit code
                self._log.error("failed", exc_info=error)
                return 1
        return 0

    async def _run(self, proxy: Proxy) -> None:
        if self._asked.is_set() or not await self._start(proxy):
            return
        try:
            if self._started is not None:
                self._started(proxy)
            with settled_heap():
                await self._asked.wait()
                await self._stop(proxy)
        finally:
            await proxy.stop(drain=0)  # after a failure; it is stopped already otherwise

    async def _start(self, proxy: Proxy) -> bool:
        """True when it serves, False when a signal came first."""
        starting = self._starting = asyncio.ensure_future(proxy.start())
        try:
            await starting
        except asyncio.CancelledError:
            if not self._asked.is_set():
                raise
            return False
        self._serving = proxy
        return True

    async def _stop(self, proxy: Proxy) -> None:
        async with asyncio.TaskGroup() as group:
            hurry = group.create_task(self._hurry(proxy), name="second signal")
            await proxy.stop()
            hurry.cancel()

    async def _hurry(self, proxy: Proxy) -> None:
        await self._asked_again.wait()
        await proxy.stop(drain=0)

    def _on_signal(self, name: str) -> None:
        if self._asked.is_set():
            if not self._asked_again.is_set():
                self._log.warning("stopping_at_once", signal=name)
            self._asked_again.set()
            return
        self._asked.set()
        if self._serving is None:
            self._log.info("start_given_up", signal=name)
            if self._starting is not None:
                self._starting.cancel()
            return
        self._log.info(
            "signal",
            signal=name,
            requests_in_flight=self._serving.stats()["requests_open"],
            drain=show_duration(self._serving.config.server.drain_timeout),
            hint="a second signal stops at once",
        )

    def _on_reopen(self, name: str) -> None:
        self._log.info("reopening", signal=name)
        if self._serving is not None:
            self._serving.reopen_access_log()

    def _on_renew(self, name: str) -> None:
        if self._terminals - _terminals():
            # Whoever closes a terminal's window means to end what runs there.
            self._on_signal(name)
            return
        self._log.info("renewing", signal=name)
        if self._serving is not None:
            self._tasks.spawn(self._renew(self._serving), name="renewal")

    async def _renew(self, proxy: Proxy) -> None:
        with contextlib.suppress(RuntimeError):  # it is stopping
            await proxy.renew_certificates()
            await proxy.reload_access_lists()

    def _unhandled(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What asyncio has nobody to give to: for the log, like everything else."""
        self._log.error("unhandled", message=context.get("message", ""), exc_info=context.get("exception"))


def _terminals() -> set[int]:
    """The standard streams that are a terminal which is still there; a descriptor of one that was hung up says no."""
    return {number for number in (0, 1, 2) if os.isatty(number)}
