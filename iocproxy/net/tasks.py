"""Every task has an owner: nothing runs on unseen, and nothing dies unheard."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from structlog.typing import FilteringBoundLogger

T = TypeVar("T")


class Tasks:
    """The tasks of one owner. They are kept alive until done; one that dies is logged with its name."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        self._log = log
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, coro: Coroutine[Any, Any, T], *, name: str, of: object = None) -> asyncio.Task[T]:
        """Run `coro` as an owned task of the running loop. It may be awaited and cancelled like any other.

        `of` is what `coro` awaits, where somebody else made it: should the task be cancelled before it begins, a
        coroutine is closed, or Python would warn of it.
        """
        task = asyncio.get_running_loop().create_task(coro, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        if isinstance(of, Coroutine):
            task.add_done_callback(lambda _: of.close())
        return task

    async def ended(self, name: str) -> None:
        """Wait until no task of that name is left, those spawned meanwhile included. Cancels none."""
        while waiting := [task for task in self._tasks if task.get_name() == name]:
            await asyncio.wait(waiting)

    async def close(self) -> None:
        """Cancel every task and wait until all have ended, those spawned meanwhile included.

        A task may close its owner: it is then the only one left.
        """
        this = asyncio.current_task()
        while others := [task for task in self._tasks if task is not this]:
            for task in others:
                task.cancel()
            await asyncio.wait(others)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            self._log.error("task_died", task=task.get_name(), error=repr(exc), exc_info=exc)

    def __len__(self) -> int:
        return len(self._tasks)

    def __repr__(self) -> str:
        return f"<Tasks {sorted(task.get_name() for task in self._tasks)}>"


def run_through(coro: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that never suspends, without a task. Raises what it raises, and RuntimeError if it does suspend:
    then it has been closed, and what it was about is not done."""
    try:
        coro.send(None)
    except StopIteration:
        return
    coro.close()
    raise RuntimeError(f"{coro!r} was not to wait, and did")
