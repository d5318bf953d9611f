"""`SharedWindows` on a loop of its own, with a real Redis: what is asked together, what goes wrong, what is left."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import structlog

from iocproxy.clock import ManualClock
from iocproxy.config.redis_url import RedisUrl, read_storage
from iocproxy.limits import Windows
from iocproxy.middleware import shared_windows
from iocproxy.middleware.rate_storage import Answer, Left, Question, Unavailable
from iocproxy.middleware.redis_link import RedisLink, StorageError
from iocproxy.middleware.shared_windows import SharedWindows
from iocproxy.net.resolver import Resolver
from iocproxy.net.tasks import Tasks
from iocproxy.testing.patience import PATIENCE

Start = Callable[..., Any]

#: No wait is below 0.
UNAVAILABLE = -1.0


class Heard:
    """The log, as a list."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.log = structlog.wrap_logger(
            structlog.ReturnLogger(),
            processors=[self._hear],
            wrapper_class=structlog.make_filtering_bound_logger(0),
            cache_logger_on_first_use=False,
        ).bind()

    def _hear(self, logger: object, method: str, event: Any) -> Any:
        self.events.append({**event, "level": method})
        raise structlog.DropEvent

    def named(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == name]


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
async def start(heard: Heard) -> AsyncIterator[Start]:
    """Starts shared windows; all that is left of them in the end is checked."""
    made: list[tuple[SharedWindows, Tasks]] = []

    async def make(server: Any, *, clock: Any = time.monotonic, **settings: Any) -> SharedWindows:
        tasks = Tasks(heard.log)
        settings = {"timeout": 1.0, "on_failure": "local", "prefix": "test:", "ca": None, **settings}
        url = read_storage(getattr(server, "url", server))
        assert isinstance(url, RedisUrl)
        settings |= {"connect_timeout": PATIENCE, "resolver": Resolver(asyncio.get_running_loop())}
        shared = SharedWindows(url, clock=clock, log=heard.log, tasks=tasks, **settings)
        made.append((shared, tasks))
        await shared.start()
        return shared

    yield make
    for shared, tasks in made:
        await tasks.close()
        await shared.close()
        assert len(tasks) == 0
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("limits")] == []
    assert not heard.named("task_died")


async def ask(shared: SharedWindows, *questions: Question) -> float:
    """The longest wait, `UNAVAILABLE` for `Unavailable`."""
    try:
        said = shared.ask(questions)
        answers = await said if isinstance(said, Awaitable) else said
    except Unavailable:
        return UNAVAILABLE
    return max(answer.wait for answer in answers)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - of several objects, some of them in another process
            await asyncio.sleep(0.005)


def minute(limit: int, name: str = "limit", key: bytes = b"client", cost: int = 1, **flags: bool) -> Question:
    return Question(name, Windows([(limit, 60.0)]), key, cost, flags.get("binding", True), flags.get("tell", False))


async def test_what_is_asked_at_once_goes_out_as_one(start: Start, redis_server: Any) -> None:
    shared = await start(redis_server)
    mine = minute(3)
    said = await asyncio.gather(*(ask(shared, mine) for _ in range(5)))
    assert said[:3] == [0.0] * 3
    assert all(59.0 < wait <= 60.0 for wait in said[3:])
    stats = shared.stats()
    assert (stats["round_trips"], stats["decided"], stats["undecided"]) == (1, 5, 0)


async def test_a_call_is_about_so_many_windows(
    start: Start, redis_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_windows, "_BATCH", 8)
    shared = await start(redis_server)
    rates = [(5, 1.0), (20, 60.0), (40, 600.0)]
    several = [Question(name, Windows(rates), b"client", 1, True, False) for name in "ab"]
    said = await asyncio.gather(*(ask(shared, *several) for _ in range(10)))
    assert said.count(0.0) == 5
    assert shared.stats()["round_trips"] == 5


async def test_a_crowd_is_sent_in_pieces(start: Start, redis_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_windows, "_BATCH", 8)
    shared = await start(redis_server)
    mine = minute(40)
    said = await asyncio.gather(*(ask(shared, mine) for _ in range(50)))
    assert said.count(0.0) == 40
    assert shared.stats()["round_trips"] == 7


async def test_what_this_proxy_knows_is_not_asked(start: Start, redis_server: Any) -> None:
    clock = ManualClock()
    shared = await start(redis_server, clock=clock)
    mine = minute(2)
    assert [await ask(shared, mine) for _ in range(2)] == [0.0, 0.0]
    clock.advance(5)
    assert shared.ask([mine]) == [Answer(55.0)]  # no awaitable
    assert shared.stats()["refused_locally"] == 1
    assert shared.stats()["round_trips"] == 2
    clock.advance(55)
    wait = await ask(shared, mine)  # here a minute has passed, in Redis it has not
    assert 55.0 < wait <= 60.0


async def test_what_others_have_counted_is_told_by_redis(start: Start, redis_server: Any) -> None:
    one, two = await start(redis_server), await start(redis_server)
    assert [await ask(one, minute(3)) for _ in range(3)] == [0.0] * 3
    assert 59.0 < await ask(two, minute(3)) <= 60.0
    assert await ask(two, minute(3, key=b"another")) == 0.0
    assert await ask(two, minute(3, "another")) == 0.0
    assert await ask(two, minute(4)) == 0.0  # another rate is another limit, and damages nothing
    assert 59.0 < await ask(one, minute(3)) <= 60.0
    apart = await start(redis_server, prefix="apart:")
    assert await ask(apart, minute(3)) == 0.0


async def test_several_limits_count_all_or_none(start: Start, redis_server: Any) -> None:
    shared = await start(redis_server)
    dear, cheap = minute(10, "dear", cost=4), minute(100, "cheap", cost=4)
    assert [await ask(shared, dear, cheap) for _ in range(2)] == [0.0, 0.0]
    other = await start(redis_server)  # knows nothing
    fresh = [minute(each.windows.limit, each.name, cost=4) for each in (cheap, dear)]
    assert await ask(other, *fresh) > 59.0
    assert await ask(other, minute(100, "cheap", cost=92)) == 0.0  # the third was not counted
    assert await ask(other, minute(100, "cheap")) > 59.0


async def test_keys_tell_no_secrets(start: Start, redis_server: Any) -> None:
    shared = await start(redis_server)
    await ask(shared, Question("api", Windows([(3, 60.0), (100, 3600.0)]), b"secret" * 1000, 1, True, False))
    keys = sorted(key for key in redis_server.command("KEYS", "*") if b":trial:" not in key)
    assert [key[:-32] for key in keys] == [b"test:api:100/3600000000us:", b"test:api:3/60000000us:"]


async def test_dry_runs_and_what_is_left(start: Start, redis_server: Any) -> None:
    shared = await start(redis_server)
    real, dry = minute(2, "real", tell=True), minute(1, "dry", binding=False)
    first = await shared.ask([real, dry])
    assert [answer.wait for answer in first] == [0.0, 0.0]
    (left,) = first[0].left
    assert left.units == 1
    assert 59.0 < left.more_in <= 60.0
    assert first[1].left == ()
    second = await shared.ask([real, dry])
    assert second[0].wait == 0.0  # the dry run keeps nobody out
    assert 59.0 < second[1].wait <= 60.0
    third = shared.ask([real, dry])  # no awaitable
    assert third[0].left[0].units == 0
    assert (shared.stats()["round_trips"], shared.stats()["refused_locally"]) == (2, 1)


@pytest.mark.parametrize("on_failure", ["local", "allow", "deny"])
async def test_what_is_left_without_redis(start: Start, redis_server: Any, on_failure: str) -> None:
    clock = ManualClock()
    shared = await start(redis_server, on_failure=on_failure, clock=clock)
    dry = minute(2, "dry", binding=False, tell=True)
    await shared.ask([dry])
    redis_server.kill()
    await ask(shared, minute(9, "other"))
    assert shared.ask([dry]) == [Answer(0.0, (Left(0, 60.0),))]
    third = shared.ask([dry])  # nobody denies a dry run
    assert third[0].wait == (60.0 if on_failure == "local" else 0.0)
    clock.advance(60)
    assert shared.ask([dry]) == [Answer(0.0, (Left(1, 60.0),))]


async def test_one_question_is_never_denied(start: Start, redis_server: Any) -> None:
    """For connections: nobody could be told why."""
    shared = await start(redis_server, on_failure="deny")
    mine = minute(2)
    assert await shared.ask_one(mine) == 0.0
    redis_server.kill()
    assert await shared.ask_one(mine) == 0.0
    assert shared.ask_one(mine) > 59.0
    assert shared.ask_one(minute(2, key=b"another")) == 0.0


async def test_an_answer_that_nobody_awaits(start: Start, redis_server: Any, heard: Heard) -> None:
    shared = await start(redis_server, on_failure="deny")
    dropped = shared.ask([minute(2)])
    del dropped
    assert await ask(shared, minute(2, "other")) == 0.0
    redis_server.kill()
    dropped = shared.ask([minute(2)])
    assert await ask(shared, minute(2, "other")) == UNAVAILABLE
    del dropped
    gc.collect()  # neither a coroutine nor a future with an exception complains


async def test_a_cost_that_no_window_holds_is_a_fault(start: Start, redis_server: Any) -> None:
    shared = await start(redis_server)
    for flags in ({}, {"binding": False}):
        with pytest.raises(ValueError, match="a cost is 1 to the limit of 1, not 2"):
            shared.ask([minute(1, cost=2, **flags)])
    assert await ask(shared, minute(1)) == 0.0


async def test_scripts_that_were_flushed_are_sent_again(start: Start, redis_server: Any, heard: Heard) -> None:
    shared = await start(redis_server)
    mine = minute(2)
    assert await ask(shared, mine) == 0.0
    redis_server.command("SCRIPT", "FLUSH")
    assert await ask(shared, mine) == 0.0
    assert await ask(shared, mine) > 0.0
    assert shared.stats()["failures"] == 0


@pytest.mark.parametrize(("on_failure", "said"), [("local", 0.0), ("allow", 0.0), ("deny", UNAVAILABLE)])
async def test_a_key_that_holds_something_else(
    start: Start, redis_server: Any, heard: Heard, on_failure: str, said: float
) -> None:
    shared = await start(redis_server, on_failure=on_failure)
    mine, other = minute(1), minute(1, key=b"another")
    assert await ask(shared, mine) == 0.0
    (key,) = (key for key in redis_server.command("KEYS", "*limit*"))
    redis_server.command("DEL", key)
    redis_server.command("LPUSH", key, "x")
    fresh = minute(1)
    assert await asyncio.gather(ask(shared, fresh), ask(shared, other)) == [said, 0.0]
    stats = shared.stats()
    assert (stats["up"], stats["bad_keys"], stats["undecided"]) == (True, 1, 1)
    (told,) = heard.named("limits_storage_key")
    assert (told["level"], told["key"]) == ("warning", key.decode())
    await ask(shared, minute(1))
    assert len(heard.named("limits_storage_key")) == 1  # a flood of requests is no flood of lines


async def test_nobody_waits_for_a_redis_that_stands_still(start: Start, redis_server: Any, heard: Heard) -> None:
    shared = await start(redis_server, timeout=0.05)
    mine = minute(100)
    with redis_server.stopped():
        begun = time.monotonic()
        said = await asyncio.gather(*(ask(shared, mine) for _ in range(300)))
        assert time.monotonic() - begun < 1.0
        assert said.count(0.0) == 100  # each proxy counts for itself
        assert shared.ask([minute(3)]) == [Answer(0.0)]  # no awaitable any more
        (failed,) = heard.named("limits_storage_failed")
        assert failed["reason"] == "no answer within 50 ms"
        assert failed["on_failure"] == "local"
        assert shared.stats()["failures"] == 1
    await until(lambda: shared.stats()["up"])
    assert len(heard.named("limits_storage_back")) == 1
    assert await ask(shared, minute(3, "later")) == 0.0
    assert shared.stats()["reason"] == ""


async def test_the_requests_of_all_calls_are_let_go_together(
    start: Start, redis_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_windows, "_BATCH", 1)
    shared = await start(redis_server, timeout=0.05, on_failure="deny")
    with redis_server.stopped():
        # two are sent, eight are in the queue
        said = await asyncio.gather(*(ask(shared, minute(9)) for _ in range(10)))
    assert said == [UNAVAILABLE] * 10


async def test_more_than_may_wait(start: Start, redis_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_windows, "_WAITING", 3)
    shared = await start(redis_server, on_failure="deny")
    said = await asyncio.gather(*(ask(shared, minute(9)) for _ in range(5)))
    assert said == [0.0] * 3 + [UNAVAILABLE] * 2
    assert shared.stats()["up"]


async def test_who_leaves_while_it_waits(start: Start, redis_server: Any) -> None:
    shared = await start(redis_server)
    mine = minute(2)
    leaving = asyncio.ensure_future(ask(shared, mine))
    staying = asyncio.ensure_future(ask(shared, mine))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying == 0.0
    assert await ask(shared, mine) > 0.0  # Redis had counted it, and so it counts
    with pytest.raises(asyncio.CancelledError):
        await leaving


async def test_killed_and_started_anew(start: Start, redis_server: Any, heard: Heard) -> None:
    shared = await start(redis_server, on_failure="local")
    mine = minute(3)
    assert await ask(shared, mine) == 0.0
    redis_server.kill()
    assert await ask(shared, mine) == 0.0
    assert not shared.stats()["up"]
    redis_server.start()
    await until(lambda: shared.stats()["up"])
    assert await ask(shared, mine) == 0.0
    assert await ask(shared, mine) > 0.0  # what it has admitted itself it has not forgotten
    (failed,), (back,) = heard.named("limits_storage_failed"), heard.named("limits_storage_back")
    assert (failed["level"], back["level"]) == ("warning", "info")
    assert back["seconds"] >= 0


async def test_a_fault_of_our_own_leaves_nobody_waiting(
    start: Start, redis_server: Any, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> list[int]:
        raise LookupError("a bug")

    shared = await start(redis_server, on_failure="deny")
    with monkeypatch.context() as patched:
        patched.setattr(RedisLink, "decide", fail)
        assert await asyncio.gather(*(ask(shared, minute(3)) for _ in range(3))) == [UNAVAILABLE] * 3
    (failed,), (died,) = heard.named("limits_storage_failed"), heard.named("task_died")
    assert "a bug" in failed["reason"]
    await until(lambda: shared.stats()["up"])
    assert await ask(shared, minute(3)) == 0.0
    heard.events.remove(died)


async def test_an_idle_connection_is_looked_after(
    start: Start, redis_server: Any, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis closes what is idle; that is noticed before somebody asks."""
    monkeypatch.setattr(shared_windows, "_IDLE", 0.05)
    shared = await start(redis_server)
    redis_server.command("CONFIG", "RESETSTAT")
    await until(lambda: b"cmdstat_ping:calls=" in raw_commandstats(redis_server))
    redis_server.kill()
    await until(lambda: heard.named("limits_storage_failed"))
    assert shared.stats()["undecided"] == 0
    redis_server.start()
    await until(lambda: shared.stats()["up"])


def raw_commandstats(server: Any) -> bytes:
    with server.client() as client:
        return b"cmdstat_ping:calls=" if "cmdstat_ping" in client.info("commandstats") else b""


async def test_a_replica_is_no_place_to_count(start: Start, redis_factory: Any, heard: Heard) -> None:
    server = redis_factory()
    shared = await start(server, on_failure="deny")
    assert await ask(shared, minute(3)) == 0.0
    server.command("REPLICAOF", "127.0.0.1", "1")  # it was failed over, and is the replica of another one now
    assert await ask(shared, minute(3)) == UNAVAILABLE
    assert "read only replica" in heard.named("limits_storage_failed")[0]["reason"]
    await until(lambda: shared.stats()["reason"])
    assert not shared.stats()["up"]
    server.command("REPLICAOF", "NO", "ONE")
    await until(lambda: shared.stats()["up"])


async def test_a_cluster_is_refused(start: Start, redis_factory: Any, free_port: Callable[[], int]) -> None:
    server = redis_factory(**{"cluster-enabled": "yes", "cluster-port": str(free_port())})
    with pytest.raises(StorageError, match="slot"):
        await start(server)


async def test_a_server_that_is_none(start: Start) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(StorageError):
        await start(f"redis://127.0.0.1:{port}")
    server.close()
    await server.wait_closed()
