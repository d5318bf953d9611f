"""Sliding windows that several proxies share, through Redis or Valkey.

Theory of operation
-------------------
Redis decides, with one script that asks and counts all windows of a request at once (shared_windows.lua). Each proxy
has windows of its own beside it, which hold what Redis admitted to *it*. Where these refuse, Redis would too, so that
the answer is there without asking; and where Redis cannot be asked they are what is left.

What has to be asked within one iteration of the event loop, or while all connections are busy, goes out as one call of
the script: one round trip, one command to encode, one answer to parse. Each connection carries one call at a time.

    DOWN ──(a connection is made and the script has been tried)──► UP ──(an error, an answer that is late)──► DOWN

Down, nobody waits for anything: `on_failure` decides at once, and a task of our own goes on trying to connect, at
growing intervals. So no request ever connects, and none waits longer than `timeout`: a call has until the deadline of
the first request in it. When that has passed, all others that wait are decided as well.

Times never meet: Redis goes by its own clock and we by ours, and only waits, which are differences, go from one to the
other.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from structlog.typing import FilteringBoundLogger

from iocproxy.clock import Clock
from iocproxy.config.redis_url import RedisUrl
from iocproxy.limits import Windows
from iocproxy.middleware.redis_link import RedisLink, StorageError
from iocproxy.net.tasks import Tasks

T = TypeVar("T")

#: The answer where Redis cannot be asked and `on_failure` is "deny". No wait is below 0.
UNAVAILABLE = -1.0

#: Connections to Redis, so that one call can be gathered while another is under way.
_CONNECTIONS = 2

#: Requests decided by one call of the script, which stops everything else in Redis for their sake.
_BATCH = 128

#: Requests that may wait to be sent; beyond that they are decided as if Redis were gone.
_WAITING = 8_192

#: Between two attempts to connect, in seconds: at first, and at most.
_FIRST, _LAST = 0.1, 5.0

#: So long it must have been up for the next attempt to come after `_FIRST` again.
_STEADY = 10.0

#: How often an idle connection is tried, in seconds: before somebody in between forgets it, or Redis closes it.
_IDLE = 15.0

#: How long an idle connection may take to answer then, in seconds.
_PATIENCE = 1.0

#: Iterations of the event loop that a call may take beyond its deadline. After a stall of the loop's own, an answer may
#: have come in time and be read only now; that is no fault of Redis.
_GRACE = 3

#: Between two lines in the log about keys that hold something else, in seconds.
_TOLD = 60.0


class Asked(NamedTuple):
    """One limit that a request has to be within: its name, its windows, whom it is counted for and for how much."""

    name: str
    windows: Windows
    key: bytes
    cost: int


class Later(Generic[T]):
    """The awaitable of `decide(wait)`. Unlike a coroutine it may be dropped without having been awaited."""

    __slots__ = ("_decide", "_said")

    def __init__(self, said: Awaitable[float], decide: Callable[[float], T]) -> None:
        self._said = said
        self._decide = decide

    def __await__(self) -> Generator[Any, None, T]:
        wait = yield from self._said.__await__()
        return self._decide(wait)


class _Waiting(NamedTuple):
    asked: Sequence[Asked]
    now: float  #: by the limits' clock
    deadline: float  #: by the loop's clock
    answer: asyncio.Future[float]


class _Known(NamedTuple):
    windows: Windows
    prefixes: tuple[str, ...]  #: what the key of each member begins with
    arguments: tuple[tuple[bytes, bytes], ...]  #: the limit of each member, and its length in microseconds


class SharedWindows:
    """Asked about requests on the loop's thread, between `start` and `close`."""

    def __init__(
        self,
        url: RedisUrl,
        *,
        timeout: float,
        on_failure: str,
        prefix: str,
        ca: Path | None,
        connect_timeout: float,
        clock: Clock,
        log: FilteringBoundLogger,
        tasks: Tasks,
    ) -> None:
        self._url = url
        self._timeout = timeout
        self._on_failure = on_failure
        self._prefix = prefix
        self._ca = ca
        self._connect_timeout = connect_timeout
        self._clock = clock
        self._log = log
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._known: dict[str, _Known] = {}
        self._up = False
        self._reason = ""  #: why it is down
        self._since = 0.0  #: when it came up or went down, by the loop's clock
        self._idle: list[RedisLink] = []
        self._calls: dict[asyncio.Task[None], tuple[RedisLink, asyncio.TimerHandle]] = {}
        self._spoilt: list[RedisLink] = []  #: to be closed
        self._queue: deque[_Waiting] = deque()
        self._flushing = False
        self._wake = asyncio.Event()  #: for `_watch`: it is down
        self._pause = _FIRST  #: before the next attempt to connect
        self._told = float("-inf")
        # counted
        self._decided = self._local = self._undecided = self._failures = self._rounds = self._bad_keys = 0

    def stats(self) -> dict[str, Any]:
        """What has been asked since the start; docs/logging.md explains each key."""
        return {
            "address": str(self._url),
            "up": self._up,
            "reason": self._reason,
            "decided": self._decided,
            "refused_locally": self._local,
            "undecided": self._undecided,
            "bad_keys": self._bad_keys,
            "round_trips": self._rounds,
            "failures": self._failures,
        }

    # ── the question ─────────────────────────────────────────────────────────────────────────────────────────────

    def ask(self, asked: Sequence[Asked]) -> float | Awaitable[float]:
        """Whether a request is within all these limits: 0.0, and it is counted by all of them; or the seconds after
        which it may be, and it is counted by none; or `UNAVAILABLE`.

        A wait is true as far as Redis or this proxy knows. One that this proxy knows is a lower bound: others may have
        admitted more. Names are those of different limits. What is returned never raises, and may be cancelled; what
        Redis has counted by then stays counted.
        """
        now = self._clock()
        if not self._up:
            return self._undecidable(asked, now)
        wait = _peek(asked, now)
        if wait:
            self._local += 1
            return wait
        if len(self._queue) >= _WAITING:
            return self._undecidable(asked, now)
        loop = self._loop
        answer: asyncio.Future[float] = loop.create_future()
        self._queue.append(_Waiting(asked, now, loop.time() + self._timeout, answer))
        if not self._flushing:
            self._flushing = True
            loop.call_soon(self._flush)
        return answer

    def _undecidable(self, asked: Sequence[Asked], now: float) -> float:
        """By `on_failure`."""
        self._undecided += 1
        if self._on_failure == "allow":
            _note(asked, now)  # so that who was let pass too often is known when it is up again
            return 0.0
        wait = _peek(asked, now)
        if wait:
            return wait
        if self._on_failure == "deny":
            return UNAVAILABLE
        _note(asked, now)
        return 0.0

    # ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _flush(self) -> None:
        self._flushing = False
        queue = self._queue
        while queue and self._idle:
            batch = [queue.popleft() for _ in range(min(len(queue), _BATCH))]
            link = self._idle.pop()
            task = self._tasks.spawn(self._call(link, batch), name="limits storage")
            self._calls[task] = link, self._loop.call_at(batch[0].deadline, self._late, task, _GRACE)
            # a task that is cancelled before it begins has no `finally`
            task.add_done_callback(functools.partial(self._called, batch))

    async def _call(self, link: RedisLink, batch: list[_Waiting]) -> None:
        keys: list[str] = []
        arguments = [b""]
        for waiting in batch:
            self._add(waiting.asked, keys, arguments)
        try:
            answers = await link.decide(keys, arguments)
        except StorageError as error:
            self._fail(str(error))
            return
        if len(answers) != len(batch):
            self._fail("an answer that makes no sense")
            return
        self._rounds += 1
        if self._up:
            self._calls.pop(_this_task())[1].cancel()
            self._idle.append(link)
        for waiting, microseconds in zip(batch, answers, strict=True):
            self._answered(waiting, microseconds)
        if self._queue and self._up:
            self._flush()

    def _add(self, asked: Sequence[Asked], keys: list[str], arguments: list[bytes]) -> None:
        """What the script is to be given about one request."""
        at = len(arguments)
        arguments.append(b"")
        count = 0
        for name, windows, key, cost in asked:
            known = self._known.get(name)
            if known is None or known.windows is not windows:
                known = self._known[name] = self._know(name, windows)
            # Whatever a key is made of, here it has one length, and nobody reads a header field out of Redis.
            client = hashlib.blake2b(key, digest_size=16).hexdigest()
            price = b"%d" % cost
            for prefix, (limit, window) in zip(known.prefixes, known.arguments, strict=True):
                keys.append(prefix + client)
                arguments += limit, window, price
                count += 1
        arguments[at] = b"%d" % count

    def _know(self, name: str, windows: Windows) -> _Known:
        """The rate stands in the key: who has another one for the same limit counts apart, and damages nothing."""
        rates = [(member.limit, round(member.window * 1e6)) for member in windows.members]
        return _Known(
            windows,
            tuple(f"{self._prefix}{name}:{limit}/{window}us:" for limit, window in rates),
            tuple((b"%d" % limit, b"%d" % window) for limit, window in rates),
        )

    def _answered(self, waiting: _Waiting, microseconds: int) -> None:
        if microseconds < 0:
            self._bad_key(waiting.asked, -microseconds)
            wait = self._undecidable(waiting.asked, waiting.now)
        else:
            self._decided += 1
            wait = microseconds / 1e6
            if not wait:
                # At the time of asking: Redis has counted it then or later, so that we never refuse for longer than it.
                _note(waiting.asked, waiting.now)
        if not waiting.answer.done():  # nobody may be waiting any more
            waiting.answer.set_result(wait)

    def _bad_key(self, asked: Sequence[Asked], number: int) -> None:
        self._bad_keys += 1
        now = self._loop.time()
        if now - self._told < _TOLD:
            return
        self._told = now
        keys: list[str] = []
        self._add(asked, keys, [])
        self._log.warning("limits_storage_key", address=str(self._url), key=keys[number - 1])

    def _late(self, task: asyncio.Task[None], grace: int) -> None:
        """The deadline of a call has passed."""
        if task.done():
            return
        if grace:
            self._loop.call_soon(self._late, task, grace - 1)
            return
        self._fail(f"no answer within {self._timeout * 1e3:g} ms")

    def _called(self, batch: list[_Waiting], task: asyncio.Task[None]) -> None:
        """However it ended: nobody is left waiting."""
        call = self._calls.pop(task, None)
        if call is not None:
            link, timer = call
            timer.cancel()
            self._spoilt.append(link)
        for waiting in batch:
            if not waiting.answer.done():
                waiting.answer.set_result(self._undecidable(waiting.asked, waiting.now))

    # ── down, and up again ───────────────────────────────────────────────────────────────────────────────────────

    def _fail(self, why: str) -> None:
        if not self._up:
            return
        self._up = False
        self._reason = why
        self._failures += 1
        up, self._since = self._loop.time() - self._since, self._loop.time()
        if up >= _STEADY:
            self._pause = _FIRST
        self._log.warning("limits_storage_failed", address=str(self._url), reason=why, on_failure=self._on_failure)
        for task in self._calls:
            if task is not asyncio.current_task():
                task.cancel()  # its requests are decided by `_called`
        self._spoilt += self._idle
        self._idle.clear()
        while self._queue:
            waiting = self._queue.popleft()
            if not waiting.answer.done():
                waiting.answer.set_result(self._undecidable(waiting.asked, waiting.now))
        self._wake.set()

    async def start(self) -> None:
        """Connect, try the script, and from then on keep it up. Raises StorageError."""
        self._idle = await self._connect()
        self._rise()
        self._tasks.spawn(self._watch(), name="limits storage watch")

    def _rise(self) -> None:
        self._up = True
        self._reason = ""
        self._since = self._loop.time()
        self._wake.clear()

    async def _connect(self) -> list[RedisLink]:
        """All connections, each tried. Raises StorageError, and leaves none behind."""
        links: list[RedisLink] = []
        try:
            for _ in range(_CONNECTIONS):
                links.append(await RedisLink.open(self._url, self._ca, self._connect_timeout))  # noqa: PERF401
            for link in links:
                await self._try(link, self._connect_timeout)  # it may have to compile the script
        except BaseException:
            for link in links:
                await link.close()
            raise
        return links

    async def _try(self, link: RedisLink, seconds: float) -> None:
        """What a request does. A replica refuses to write, a cluster to use keys of two slots, and a user may not be
        allowed any of it."""
        keys = [f"{self._prefix}trial:{number}" for number in range(2)]
        window = b"1000000", b"50000", b"1"
        try:
            async with asyncio.timeout(seconds):
                answers = await link.decide(keys, [b"", b"2", *window, *window])
        except TimeoutError:
            raise StorageError(f"no answer within {seconds * 1e3:g} ms") from None
        if len(answers) != 1:
            raise StorageError("an answer that makes no sense")
        if answers[0] < 0:
            raise StorageError(f"{keys[-answers[0] - 1]} holds something else")

    async def _watch(self) -> None:
        """Keep it up."""
        while True:
            if self._up:
                try:
                    async with asyncio.timeout(_IDLE):
                        await self._wake.wait()
                except TimeoutError:
                    await self._look()
                continue
            await self._close_spoilt()
            await asyncio.sleep(self._pause)
            self._pause = min(2 * self._pause, _LAST)
            try:
                links = await self._connect()
            except StorageError as error:
                self._reason = str(error)
                continue
            self._idle += links
            try:
                for link in links:
                    await self._try(link, self._timeout)  # there is no use in one that is slow
            except StorageError as error:
                self._reason = str(error)
                self._spoilt += self._idle
                self._idle.clear()
                continue
            seconds = round(self._loop.time() - self._since, 3)
            self._rise()
            self._log.info("limits_storage_back", address=str(self._url), seconds=seconds)

    async def _look(self) -> None:
        """Ping what is idle."""
        for link in list(self._idle):
            if link not in self._idle:  # in use meanwhile
                continue
            self._idle.remove(link)
            self._spoilt.append(link)  # unless it answers
            try:
                async with asyncio.timeout(_PATIENCE):
                    await link.ping()
            except TimeoutError:
                self._fail(f"no answer within {_PATIENCE:g} s")
            except StorageError as error:
                self._fail(str(error))
            if not self._up:
                return
            self._spoilt.remove(link)
            self._idle.append(link)
            self._flush()

    async def _close_spoilt(self) -> None:
        while self._spoilt:
            await self._spoilt.pop().close()

    async def close(self) -> None:
        """When its tasks have ended: nothing is left of the connections. Whoever still asks is decided by
        `on_failure`."""
        self._up = False
        self._spoilt += self._idle
        self._spoilt += [link for link, _ in self._calls.values()]
        self._idle.clear()
        self._calls.clear()
        await self._close_spoilt()


def _peek(asked: Sequence[Asked], now: float) -> float:
    wait = 0.0
    for _, windows, key, cost in asked:
        wait = max(wait, windows.peek(key, now, cost))
    return wait


def _note(asked: Sequence[Asked], now: float) -> None:
    for _, windows, key, cost in asked:
        windows.note(key, now, cost)


def _this_task() -> asyncio.Task[None]:
    task = asyncio.current_task()
    assert task is not None
    return task
