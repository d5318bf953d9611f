"""Where the rates of requests are asked and counted: the one place that a shared storage takes.

A request is in several windows at once and has to be within all of them. If one counted it and the next refused it, the
client would pay for what it did not get, and the wait it was told would be false when it comes again. So all are asked
before any counts, and between the two nothing else may be counted: here because both happen in one call, with a shared
storage because both happen in one step over there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

from iocproxy.clock import Clock
from iocproxy.limits import Windows


class Question(NamedTuple):
    """May this client do so much more? `name` is the limit's, the same in every process with this configuration."""

    name: str
    windows: Windows
    key: bytes
    cost: int
    binding: bool  #: False for a dry run: it keeps nobody out
    tell: bool  #: whether the answer is to say what is left


class Left(NamedTuple):
    """What one window has left for a client: so many units, and seconds until there are more (0.0: nothing is used)."""

    units: int
    more_in: float


class Answer(NamedTuple):
    """`wait` as from `Windows.check`; `left`, where it was asked for, of each window, the shortest first."""

    wait: float
    left: tuple[Left, ...] = ()


class Unavailable(Exception):  # noqa: N818 - what becomes of it is an answer, and not a fault
    """The storage cannot be asked now."""


class RateStorage(Protocol):
    """What holds the windows."""

    def ask(self, questions: Sequence[Question]) -> Sequence[Answer] | Awaitable[Sequence[Answer]]:
        """One answer for each question; there is at least one, and no two are for the same windows.

        Where one that is binding has to wait, nothing is counted anywhere. Otherwise each that need not wait counts its
        cost, the binding ones all of them. Raises ValueError for a cost that is larger than a window's limit.

        The answers may have to be awaited. Then the request may be over before they come, its client gone: an awaitable
        that nobody ever awaits, or whose waiting is cancelled, must leave nothing behind (a future, not a coroutine).

        Raises Unavailable, at once or when it is awaited, where nobody can say and nobody is to pass.
        """

    def shortcut(self, windows: Windows) -> Callable[[bytes, float], float] | None:
        """What does the same as `ask` for one binding question of cost 1, with the time as second argument: a call
        without any of these objects. None where there is no such thing."""


class LocalRates:
    """The windows of this process, which answer at once."""

    __slots__ = ("_clock",)

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def ask(self, questions: Sequence[Question]) -> Sequence[Answer]:
        """See `RateStorage`."""
        now = self._clock()
        if len(questions) == 1:
            (only,) = questions
            return [answer(only, only.windows.check(only.key, now, only.cost), now)]
        *others, last = questions
        # :: Step 1, ask; the last one counts at once when the others let it
        refused = False
        waits = []
        for question in others:
            wait = question.windows.peek(question.key, now, question.cost)
            waits.append(wait)
            if wait and question.binding:
                refused = True
        wait = (last.windows.peek if refused else last.windows.check)(last.key, now, last.cost)
        waits.append(wait)
        # :: Step 2, count
        if not refused and not (wait and last.binding):
            for question, wait in zip(others, waits, strict=False):
                if not wait:
                    question.windows.count(question.key, now, question.cost)
        return [answer(question, wait, now) for question, wait in zip(questions, waits, strict=True)]

    def shortcut(self, windows: Windows) -> Callable[[bytes, float], float]:
        """See `RateStorage`."""
        return windows.check


_WITHIN = Answer(0.0)


def answer(question: Question, wait: float, now: float) -> Answer:
    """With what is left in the windows of this process, where that was asked for."""
    if not question.tell:
        return Answer(wait) if wait else _WITHIN
    left = []
    for window in question.windows.members:
        units = window.remaining(question.key, now)
        more_in = window.peek(question.key, now, units + 1) if units < window.limit else 0.0
        left.append(Left(units, more_in))
    return Answer(wait, tuple(left))
