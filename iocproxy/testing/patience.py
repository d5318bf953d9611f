"""How long a test waits before it says that something did not happen."""

from __future__ import annotations

import sys
import time

#: Seconds. Windows machines that run tests are slow, and Wine is ten times slower still.
PATIENCE = 60.0 if sys.platform == "win32" else 10.0


class Deadline:
    """A point in time after which waiting ends; `what` goes into the message of the TimeoutError."""

    __slots__ = ("_at", "_seconds", "_what")

    def __init__(self, seconds: float, what: str) -> None:
        self._seconds = seconds
        self._at = time.monotonic() + seconds
        self._what = what

    def remaining(self) -> float:
        """Seconds left, always positive. Raises TimeoutError when there are none."""
        left = self._at - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"{self._what} within {self._seconds:g} s")
        return left
