"""Accepting on a completion port: several accepts outstanding, each in a task that survives whatever it gets.

Theory of operation
-------------------
Each `sock_accept` keeps one AcceptEx with the kernel. `OUTSTANDING` tasks do so in a loop, so that a burst does not
wait for a round of the event loop per connection.

`IocpProactor.accept` (windows_events.py) also starts a task of its own, `accept_coro`, which nobody awaits: when the
accept fails, it dies with the same exception, and asyncio reports "Task exception was never retrieved"; it also closes
the half-made socket only when cancelled. That task is created in the first synchronous step of `sock_accept`. So
that step, and nothing else, runs under a task factory of ours, which makes the task as the loop would have and has it
cleaned up after. No exception handler is involved: those, and the embedder's own task factory, stay as they are.

On a selector loop `sock_accept` starts no task and only one may be outstanding (a second `add_reader` would replace the
first); the rest is the same.
"""

from __future__ import annotations

import asyncio
import inspect
import socket
import types
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any

from .tasks import Tasks

#: AcceptEx calls kept with the kernel.
OUTSTANDING = 8

_Accepted = tuple[socket.socket, tuple[Any, ...]]


class ProactorAccept:
    """Accepts in tasks from `start` to `stop`, which may alternate.

    `accepted` is handed each socket with its address; `failed` is told of each error and returns how many seconds to
    wait before the next attempt. Neither may raise; both may call `stop`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        accepted: Callable[[socket.socket, tuple[Any, ...]], None],
        failed: Callable[[Exception], float],
        *,
        tasks: Tasks,
        name: str,
        outstanding: int = OUTSTANDING,
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._accepted = accepted
        self._failed = failed
        self._tasks = tasks
        self._name = name
        self._outstanding = outstanding
        self._running: list[asyncio.Task[None]] = []

    def start(self) -> None:
        if not self._running:
            self._running = [
                self._tasks.spawn(self._run(), name=f"{self._name} {number}")
                for number in range(1, self._outstanding + 1)
            ]

    def stop(self) -> None:
        running, self._running = self._running, []
        for task in running:
            task.cancel()

    async def _run(self) -> None:
        while True:
            try:
                sock, sockaddr = await _accept(self._loop, self._sock)
            except Exception as exc:  # noqa: BLE001 - an accept error never ends the listener
                delay = self._failed(exc)
            else:
                self._accepted(sock, sockaddr)
                delay = 0.0
            # An accept that completes at once does not yield: let those being served have their turn.
            await asyncio.sleep(delay)


@types.coroutine
def _accept(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> Generator[Any, Any, _Accepted]:
    """`loop.sock_accept(sock)` without the noise, and without losing a connection that arrives while cancelled."""
    accepting: Coroutine[Any, Any, _Accepted] = loop.sock_accept(sock)
    factory = loop.get_task_factory()
    loop.set_task_factory(partial(_make_task, factory))  # must not await until it is put back
    try:
        waiting = accepting.send(None)
    except StopIteration as completed:
        at_once: _Accepted = completed.value
        return at_once
    finally:
        loop.set_task_factory(factory)
    try:
        yield waiting
    except BaseException as exc:
        if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
            waiting.result()[0].close()
        accepting.throw(exc)
        raise
    resumed: _Accepted = yield from accepting
    return resumed


def _make_task(
    factory: Any, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **kwargs: Any
) -> asyncio.Future[Any]:
    """Make a task as `factory` or else the loop itself would, and have it cleaned up after."""
    half_made = inspect.getcoroutinelocals(coro).get("conn")
    task: asyncio.Future[Any] = (
        asyncio.Task(coro, loop=loop, **kwargs) if factory is None else factory(loop, coro, **kwargs)
    )
    task.add_done_callback(partial(_retrieve, half_made))
    return task


def _retrieve(half_made: socket.socket | None, task: asyncio.Future[Any]) -> None:
    if not task.cancelled() and task.exception() is not None and half_made is not None:
        half_made.close()
