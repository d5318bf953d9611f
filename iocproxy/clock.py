"""Where time comes from. Everything below `server` is handed the time; only the edges read a clock.

Deadlines run on the event loop's own clock (`loop.time()`), because the loop sleeps by it. Limits run on a `Clock`,
so that a test can move them through a window without waiting.
"""

from __future__ import annotations

import time
from collections.abc import Callable

#: Seconds from an arbitrary start, never going back: `time.monotonic` or the `now` of a `ManualClock`.
Clock = Callable[[], float]

monotonic: Clock = time.monotonic


class ManualClock:
    """A clock that stands still until it is told to move; callable, so that it serves as a `Clock`."""

    __slots__ = ("now",)

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> float:
        """Move forward by `seconds` (>= 0) and return the new time. Raises ValueError for a negative step."""
        if seconds < 0:
            raise ValueError(f"a monotonic clock cannot go back ({seconds} s)")
        self.now += seconds
        return self.now

    def __repr__(self) -> str:
        return f"<ManualClock {self.now:.3f}>"
