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
from iocproxy.middleware.rate_storage import Answer, Left, LocalRates, Question, Unavailable, answer
from iocproxy.middleware.redis_link import NONSENSE, RedisLink, StorageError
from iocproxy.net.resolver import Resolver
from iocproxy.net.tasks import Tasks

T = TypeVar("T")

#: Connections to Redis, so that one call can be gathered while another is under way.
_CONNECTIONS = 2

#: Windows that one call of the script is about, give or take a request's: everything else in Redis waits for it.
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


#: None is the answer where nobody is to pass (`Unavailable`).
_Answers = Sequence[Answer] | None


class _Later(Generic[T]):
    """The awaitable of `read(answers)`. Unlike a coroutine it may be dropped without having been awaited, and unlike a
    future that has an exception as well."""

    __slots__ = ("_answers", "_read")

    def __init__(self, answers: asyncio.Future[_Answers], read: Callable[[_Answers], T]) -> None:
        self._answers = answers
        self._read = read

    def __await__(self) -> Generator[Any, None, T]:
        answers = yield from self._answers.__await__()
        return self._read(answers)


class _Waiting(NamedTuple):
    questions: Sequence[Question]
    now: float  #: by the limits' clock
    deadline: float  #: by the loop's clock
    answers: asyncio.Future[_Answers]


class _Known(NamedTuple):
    windows: Windows
    prefixes: tuple[str, ...]  #: what the key of each member begins with
    arguments: tuple[bytes, ...]  #: for each member its limit, and its length in microseconds


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
        resolver: Resolver,
    ) -> None:
        self._url = url
        self._timeout = timeout
        self._on_failure = on_failure
        self._prefix = prefix
        self._ca = ca
        self._connect_timeout = connect_timeout
        self._clock = clock
        self._locally = LocalRates(clock)
        self._log = log
        self._tasks = tasks
        self._resolver = resolver
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
        self._decided = self._refused_locally = self._undecided = 0
        self._bad_keys = self._rounds = self._failures = 0

    def stats(self) -> dict[str, Any]:
        """What has been asked since the start; docs/logging.md explains each key."""
        return {
            "address": str(self._url),
            "up": self._up,
            "reason": self._reason,
            "decided": self._decided,
            "refused_locally": self._refused_locally,
            "undecided": self._undecided,
            "bad_keys": self._bad_keys,
            "round_trips": self._rounds,
            "failures": self._failures,
        }

    # ── the question ─────────────────────────────────────────────────────────────────────────────────────────────

    def ask(self, questions: Sequence[Question]) -> Sequence[Answer] | Awaitable[Sequence[Answer]]:
        """See `RateStorage`. Where this proxy refuses by what it knows itself, its waits are lower bounds, and what is
        left is what it knows of: others may have admitted more."""
        answers = self._begin(questions)
        return _Later(answers, _passed) if isinstance(answers, asyncio.Future) else _passed(answers)

    def shortcut(self, windows: Windows) -> None:
        """See `RateStorage`."""

    def ask_one(self, question: Question) -> float | Awaitable[float]:
        """Seconds to wait, as from `Windows.check`. Where nobody is to pass, each proxy counts for itself."""
        answers = self._begin([question])
        read = functools.partial(self._one, question)
        return _Later(answers, read) if isinstance(answers, asyncio.Future) else read(answers)

    def _one(self, question: Question, answers: _Answers) -> float:
        if answers is None:
            answers = self._locally.ask([question])
        return answers[0].wait

    def _begin(self, questions: Sequence[Question]) -> _Answers | asyncio.Future[_Answers]:
        if not self._up:
            return self._undecidable(questions)
        now = self._clock()
        refusal = _refusal(questions, now)
        if refusal is not None:
            self._refused_locally += 1
            return refusal
        if len(self._queue) >= _WAITING:
            return self._undecidable(questions)
        loop = self._loop
        answers: asyncio.Future[_Answers] = loop.create_future()
        self._queue.append(_Waiting(questions, now, loop.time() + self._timeout, answers))
        if not self._flushing:
            self._flushing = True
            loop.call_soon(self._flush)
        return answers

    def _undecidable(self, questions: Sequence[Question]) -> _Answers:
        """By `on_failure`."""
        self._undecided += 1
        if self._on_failure == "local":
            return self._locally.ask(questions)
        now = self._clock()
        if self._on_failure == "deny" and any(question.binding for question in questions):
            return _refusal(questions, now)
        for question in questions:  # so that who was let pass too often is known when it is up again
            question.windows.note(question.key, now, question.cost)
        return [answer(question, 0.0, now) for question in questions]

    # ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _flush(self) -> None:
        self._flushing = False
        queue = self._queue
        while queue and self._idle:
            batch, room = [], _BATCH
            while queue and room > 0:
                waiting = queue.popleft()
                batch.append(waiting)
                room -= sum(len(question.windows.members) for question in waiting.questions)
            link = self._idle.pop()
            task = self._tasks.spawn(self._call(link, batch), name="limits storage")
            self._calls[task] = link, self._loop.call_at(batch[0].deadline, self._late, task, _GRACE)
            # a task that is cancelled before it begins has no `finally`
            task.add_done_callback(functools.partial(self._called, batch))

    async def _call(self, link: RedisLink, batch: list[_Waiting]) -> None:
        keys: list[str] = []
        arguments = [b""]
        for waiting in batch:
            self._write(waiting.questions, keys, arguments)
        try:
            said = await link.decide(keys, arguments)
            answers = _read(batch, said)
        except StorageError as error:
            self._fail(str(error))
            return
        self._rounds += 1
        if self._up:
            self._calls.pop(_this_task())[1].cancel()
            self._idle.append(link)
        for waiting, found in zip(batch, answers, strict=True):
            self._answered(waiting, found)
        if self._queue and self._up:
            self._flush()

    def _write(self, questions: Sequence[Question], keys: list[str], arguments: list[bytes]) -> None:
        """What the script is to be given about one request."""
        arguments.append(b"%d" % len(questions))
        for name, windows, key, cost, binding, tell in questions:
            known = self._known.get(name)
            if known is None or known.windows is not windows:
                known = self._known[name] = self._know(name, windows)
            # Whatever a key is made of, here it has one length, and nobody reads a header field out of Redis.
            client = hashlib.blake2b(key, digest_size=16).hexdigest()
            arguments += (
                b"1" if binding else b"0",
                b"1" if tell else b"0",
                b"%d" % cost,
                b"%d" % len(known.prefixes),
                *known.arguments,
            )
            keys += [prefix + client for prefix in known.prefixes]

    def _know(self, name: str, windows: Windows) -> _Known:
        """The rate stands in the key: who has another one for the same limit counts apart, and damages nothing."""
        rates = [(member.limit, round(member.window * 1e6)) for member in windows.members]
        return _Known(
            windows,
            tuple(f"{self._prefix}{name}:{limit}/{window}us:" for limit, window in rates),
            tuple(b"%d" % number for rate in rates for number in rate),
        )

    def _answered(self, waiting: _Waiting, answers: list[Answer]) -> None:
        questions = waiting.questions
        bad = [number for number, (wait, _) in enumerate(answers) if wait < 0]
        found: _Answers
        if any(questions[number].binding for number in bad):
            self._bad_key(questions[bad[0]], answers[bad[0]])
            found = self._undecidable(questions)
        else:
            self._decided += 1
            refused = any(wait and question.binding for question, (wait, _) in zip(questions, answers, strict=True))
            for question, (wait, _) in zip(questions, answers, strict=True):
                if not refused and not wait:
                    # At the time of asking: Redis has counted it then or later, so that we never refuse for longer.
                    question.windows.note(question.key, waiting.now, question.cost)
            for number in bad:  # a dry run
                self._bad_key(questions[number], answers[number])
                answers[number] = Answer(0.0, answers[number].left)
            found = answers
        if not waiting.answers.done():  # nobody may be waiting any more
            waiting.answers.set_result(found)

    def _bad_key(self, question: Question, said: Answer) -> None:
        self._bad_keys += 1
        now = self._loop.time()
        if now - self._told < _TOLD:
            return
        self._told = now
        keys: list[str] = []
        self._write([question], keys, [])
        self._log.warning("limits_storage_key", address=str(self._url), key=keys[round(-said.wait * 1e6) - 1])

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
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(f"a fault of the proxy's own: {error!r}")
        for waiting in batch:
            if not waiting.answers.done():
                waiting.answers.set_result(self._undecidable(waiting.questions))

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
            if not waiting.answers.done():
                waiting.answers.set_result(self._undecidable(waiting.questions))
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
                link = await RedisLink.open(self._url, self._ca, self._resolver, self._connect_timeout)
                links.append(link)
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
        window = b"1000000", b"50000"
        try:
            async with asyncio.timeout(seconds):
                answers = await link.decide(keys, [b"", b"1", b"1", b"0", b"1", b"2", *window, *window])
        except TimeoutError:
            raise StorageError(f"no answer within {seconds * 1e3:g} ms") from None
        if len(answers) != 1:
            raise StorageError(NONSENSE)
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


def _passed(answers: _Answers) -> Sequence[Answer]:
    if answers is None:
        raise Unavailable
    return answers


def _refusal(questions: Sequence[Question], now: float) -> list[Answer] | None:
    """The answers where this proxy refuses by what it knows itself, else None. Counts nothing. Raises ValueError for a
    cost that is larger than a limit."""
    waits = [windows.peek(key, now, cost) for _, windows, key, cost, _, _ in questions]
    if not any(wait and question.binding for question, wait in zip(questions, waits, strict=True)):
        return None
    return [answer(question, wait, now) for question, wait in zip(questions, waits, strict=True)]


def _read(batch: Sequence[_Waiting], said: Sequence[int]) -> list[list[Answer]]:
    """The answers to each request. A wait below 0 is the number of a window, in millionths. Raises StorageError."""
    numbers = iter(said)
    answers = []
    try:
        for waiting in batch:
            found = []
            for question in waiting.questions:
                wait = next(numbers) / 1e6
                told = question.windows.members if question.tell else ()
                found.append(Answer(wait, tuple(Left(next(numbers), next(numbers) / 1e6) for _ in told)))
            answers.append(found)
    except (StopIteration, RuntimeError):
        raise StorageError(NONSENSE) from None
    if next(numbers, None) is not None:
        raise StorageError(NONSENSE)
    return answers


def _this_task() -> asyncio.Task[None]:
    task = asyncio.current_task()
    assert task is not None
    return task
