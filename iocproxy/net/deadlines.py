"""One timer for any number of deadlines.

A connection moves its deadline several times per request and hardly ever reaches it. A `call_later` for each move
would cost a heap push, a handle and later a heap pop; here a move is an attribute write.

Theory of operation
-------------------
Time is cut into ticks. Slot `n` holds the deadlines to be looked at when `n * tick` has come; slots live in a dict,
so empty ones cost nothing. One loop timer fires each tick and looks at the slots that have come.

* A deadline stands in at most one slot, and that slot is never later than the one it belongs to. So moving it to a
  *later* time only writes `_when`: when its slot comes, it is put where it belongs by then. Moving it to before the
  start of its slot (`_floor`) takes it out and puts it in again.
* Cancelling writes `_when = inf` and notes the deadline for the next tick, which takes it out of its slot unless it
  was armed again. So the wheel drops what it holds of a closed connection within a tick, while a deadline that is
  cancelled and armed for every request pays for a slot at most once a tick.
* After a stall (a suspended laptop, a debugger) the wheel looks at the slots that exist, not at each tick missed.

It may *seem* enough to fire at `n * tick` sharp. But the loop runs a timer up to one clock resolution early (15.6 ms
on Windows, base_events._run_once), so the timer would find its slot not yet due, ask for the same moment again and
spin until the clock moves. Hence the resolution is added.

On Windows the tick also is the heartbeat that brings the loop round when a wake-up from another thread got lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from math import inf


class Deadline:
    """One deadline that can be moved, made by `DeadlineWheel.timer`; it expires once per arming.

    Arming and cancelling cost an attribute write in the usual case and may be done for every message.
    """

    __slots__ = ("_expired", "_floor", "_noted", "_slot", "_time", "_wheel", "_when")

    def __init__(self, wheel: DeadlineWheel, expired: Callable[[], None]) -> None:
        self._wheel = wheel
        self._time = wheel.time
        self._expired = expired
        self._when = inf  #: when it expires; inf: never
        self._slot: set[Deadline] | None = None  #: where it stands
        self._floor = inf  #: the start of that slot; inf while it stands in none
        self._noted = False  #: in the wheel's list of those cancelled since the last tick

    @property
    def when(self) -> float:
        """The loop time at which it expires, `inf` when it is not armed."""
        return self._when

    def arm(self, seconds: float) -> None:
        """Expire `seconds` from now (`inf`: never); replaces an earlier deadline."""
        self._when = when = self._time() + seconds
        if when < self._floor:
            self._wheel.place(self)

    def cancel(self) -> None:
        self._when = inf
        if not self._noted and self._slot is not None:
            self._noted = True
            self._wheel.cancelled.append(self)

    def drop(self) -> None:
        """Cancel for good. A connection and its deadline refer to each other, which only the garbage collector would
        find once both are done with."""
        self.cancel()
        self._expired = _nothing

    def __repr__(self) -> str:
        state = "idle" if self._when == inf else f"in {self._when - self._time():.3f} s"
        return f"<Deadline {state}>"


def _nothing() -> None:
    """In place of what a dropped deadline would call."""


class DeadlineWheel:
    """Deadlines of one event loop. Never early; late by at most a tick and what the loop itself is late.

    An `expired` callback that raises is reported to the loop's exception handler, as that of a `call_later` would
    be, and the others still run.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, tick: float = 0.1) -> None:
        """`tick` in seconds; at most 1 s, for the sake of Windows. Raises ValueError otherwise."""
        if not 0 < tick <= 1:
            raise ValueError(f"a tick is more than 0 and at most 1 second, not {tick}")
        # The loops of asyncio add one Python call to this, which counts where every message arms a deadline.
        plain = getattr(type(loop), "time", None) is asyncio.BaseEventLoop.time
        self.time = time.monotonic if plain else loop.time
        self.cancelled: list[Deadline] = []
        self._loop = loop
        self._tick = tick
        self._resolution = time.get_clock_info("monotonic").resolution
        self._slots: dict[int, set[Deadline]] = {}
        self._last = self._slot_begun()  #: the last slot that was looked at
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to tick. What was armed before counts from when it was armed."""
        if self._handle is None:
            self._schedule()

    def stop(self) -> None:
        """Stop ticking and forget every deadline; none expires any more. May be called twice."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._sweep()
        for slot in self._slots.values():
            while slot:
                self._take(slot)._when = inf
        self._slots.clear()

    def timer(self, expired: Callable[[], None]) -> Deadline:
        """A deadline that is not armed yet and calls `expired` when it passes."""
        return Deadline(self, expired)

    def __len__(self) -> int:
        """How many deadlines the wheel holds, those cancelled since the last tick included."""
        return sum(map(len, self._slots.values()))

    def __repr__(self) -> str:
        state = "stopped" if self._handle is None else "ticking"
        return f"<DeadlineWheel {state} tick={self._tick} deadlines={len(self)}>"

    def place(self, deadline: Deadline) -> None:
        """Put `deadline` into the slot it belongs to, but none that was already looked at. For `Deadline` only."""
        if deadline._slot is not None:
            deadline._slot.discard(deadline)
        number = max(int(deadline._when / self._tick), self._last) + 1
        slot = self._slots.get(number)
        if slot is None:
            slot = self._slots[number] = set()
        slot.add(deadline)
        deadline._slot = slot
        deadline._floor = (number - 1) * self._tick

    def _slot_begun(self) -> int:
        return int(self.time() / self._tick)

    def _schedule(self) -> None:
        self._last = max(self._last, self._slot_begun())
        self._handle = self._loop.call_at((self._last + 1) * self._tick + self._resolution, self._on_tick)

    def _on_tick(self) -> None:
        seen = self._last
        self._schedule()  # first, so that nothing raised below ends the ticking
        self._sweep()
        missed = self._last - seen
        if missed <= len(self._slots):
            come = list(range(seen + 1, self._last + 1))
        else:
            come = sorted(number for number in self._slots if number <= self._last)
        now = self.time()
        for number in come:
            slot = self._slots.get(number)
            while slot:  # `stop` may empty it under our hands
                self._look_at(self._take(slot), now)
            self._slots.pop(number, None)

    def _look_at(self, deadline: Deadline, now: float) -> None:
        if deadline._when <= now:
            deadline._when = inf
            try:
                deadline._expired()
            except Exception as exc:  # noqa: BLE001 - one connection's fault is not the others'
                self._loop.call_exception_handler(
                    {"message": f"{deadline._expired!r} failed when its deadline passed", "exception": exc}
                )
        elif deadline._when != inf:
            self.place(deadline)

    def _sweep(self) -> None:
        noted, self.cancelled = self.cancelled, []
        for deadline in noted:
            deadline._noted = False
            if deadline._when == inf and deadline._slot is not None:
                deadline._slot.discard(deadline)
                deadline._slot = None
                deadline._floor = inf

    @staticmethod
    def _take(slot: set[Deadline]) -> Deadline:
        deadline = slot.pop()
        deadline._slot = None
        deadline._floor = inf
        return deadline
