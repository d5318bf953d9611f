"""Several sliding windows of one client at once: all of them hold, and the tightest answers.

A unit is counted in every window or in none. `WindowLimit` cannot take a unit back, so all are asked before any counts.
"""

from __future__ import annotations

from collections.abc import Iterable

from iocproxy.limits.window import WindowLimit


class Windows:
    """The questions are those of `WindowLimit`, and cost the same where there is one window only."""

    __slots__ = ("check", "count", "limit", "members", "peek")

    def __init__(self, rates: Iterable[tuple[int, float]], *, max_clients: int = 100_000) -> None:
        """`rates` holds (limit, seconds) pairs, at least one. Raises ValueError as `WindowLimit` does."""
        self.members = tuple(WindowLimit(limit, window, max_clients=max_clients) for limit, window in rates)
        if not self.members:
            raise ValueError("at least one window is needed")
        #: the largest cost that can ever be admitted
        self.limit = min(member.limit for member in self.members)
        only = self.members[0] if len(self.members) == 1 else None
        self.check = self._check if only is None else only.check
        self.peek = self._peek if only is None else only.peek
        #: `check` for who has just been told 0.0 by `peek` at this very time
        self.count = self._count if only is None else only.check

    def _check(self, key: bytes, now: float, cost: int = 1) -> float:
        wait = self._peek(key, now, cost)
        if wait:
            for member in self.members:
                if member.peek(key, now, cost):
                    member.refused += 1
            return wait
        self._count(key, now, cost)
        return 0.0

    def _peek(self, key: bytes, now: float, cost: int = 1) -> float:
        wait = 0.0
        for member in self.members:
            wait = max(wait, member.peek(key, now, cost))
        return wait

    def _count(self, key: bytes, now: float, cost: int = 1) -> float:
        for member in self.members:
            member.check(key, now, cost)
        return 0.0

    def note(self, key: bytes, now: float, cost: int = 1) -> None:
        """Count what has happened, in every window that is not full yet; nobody can be refused it any more."""
        for member in self.members:
            member.check(key, now, cost)

    def fill(self, key: bytes, now: float) -> bool:
        """Count a unit of what has happened; whether that, or what came before it, has filled a window.

        What newcomers without a place in the table have used together is not held against any one of them.
        """
        full = False
        for member in self.members:
            shared = not member.holds(key) and member.remaining(key, now) < member.limit
            member.check(key, now)
            if shared:
                member.forget(key)
            elif member.holds(key) and member.peek(key, now):
                full = True
        return full

    def forget(self, key: bytes) -> None:
        """Forgive what the client has used."""
        for member in self.members:
            member.forget(key)

    def __len__(self) -> int:
        """How many clients the window with the most of them remembers."""
        return max(map(len, self.members))

    def __repr__(self) -> str:
        return f"<Windows {', '.join(f'{member.limit}/{member.window:g}s' for member in self.members)}>"
