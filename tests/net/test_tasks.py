import asyncio
import gc
import inspect

import pytest

from iocproxy.net.tasks import Tasks


async def test_a_task_that_dies_is_logged_with_its_name(tasks, log):
    async def die():
        raise KeyError("gone")

    task = tasks.spawn(die(), name="prober api")
    with pytest.raises(KeyError):
        await task
    assert log.entries[0]["event"] == "task_died"
    assert log.entries[0]["task"] == "prober api"
    assert log.entries[0]["level"] == "error"
    assert isinstance(log.entries[0]["exc_info"], KeyError)
    assert len(tasks) == 0


async def test_a_task_lives_while_nobody_else_holds_it(tasks):
    done = asyncio.Event()
    wake = asyncio.get_running_loop().create_future()

    async def work(future):
        await future
        done.set()

    tasks.spawn(work(wake), name="work")
    await asyncio.sleep(0)
    gc.collect()
    assert repr(tasks) == "<Tasks ['work']>"
    wake.set_result(None)
    await done.wait()
    await asyncio.sleep(0)
    assert len(tasks) == 0


async def test_close_waits_for_every_task_even_those_spawned_meanwhile(log):
    tasks = Tasks(log.logger)
    ended = []

    async def last_words():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("late")

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            tasks.spawn(last_words(), name="late")
            await asyncio.sleep(0)
            ended.append("work")

    tasks.spawn(work(), name="work")
    await asyncio.sleep(0)
    await tasks.close()
    assert sorted(ended) == ["late", "work"]
    assert len(tasks) == 0
    assert log.entries == []


async def test_a_task_may_close_its_owner(log):
    tasks = Tasks(log.logger)
    other = tasks.spawn(asyncio.Event().wait(), name="other")
    task = tasks.spawn(tasks.close(), name="closer")
    await task
    assert other.cancelled()


async def test_cancelling_close_is_not_swallowed(log):
    tasks = Tasks(log.logger)
    asked = asyncio.Event()
    end = asyncio.Event()

    async def stubborn():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            asked.set()
            await end.wait()
            raise

    task = tasks.spawn(stubborn(), name="stubborn")
    await asyncio.sleep(0)
    closing = asyncio.create_task(tasks.close())
    await asked.wait()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    end.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_a_task_would_have_awaited_is_closed_when_it_never_began(tasks):
    async def inner():
        raise AssertionError("it ran")

    async def outer(waiting):
        await waiting

    waiting = inner()
    task = tasks.spawn(outer(waiting), name="outer", of=waiting)
    task.cancel()
    await asyncio.wait([task])
    assert inspect.getcoroutinestate(waiting) == inspect.CORO_CLOSED
