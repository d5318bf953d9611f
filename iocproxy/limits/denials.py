"""Who is denied for a time, and until when.

At most `max_clients` are remembered. When there is no room, those go that have been let off already, and then whoever
would be soonest. Clients stand in buckets by the second in which their time is over, and a heap knows the order of the
buckets that there are; a denial costs the same however many clients are denied, but for a push onto that heap where
nobody else's time ends in the same second.

A clock that steps back is taken to stand still as far as anybody's time being over goes: who has been let off stays
so. Who is denied stays denied until the clock reads what it had to read, which is what `left` counts to.
"""

from __future__ import annotations

from heapq import heappop, heappush
from math import ceil

#: How many of those whose time is over a newcomer forgets. More than one, so that the table shrinks again.
_FORGETS = 2

#: Empty buckets that are left alone, as their second will come.
_EMPTY = 1_000


class Denials:
    """`name` says what a client was denied for; it is not looked at here. Times are seconds.

    Raises ValueError when `max_clients` is below 1.
    """

    __slots__ = ("_buckets", "_denied", "_latest", "_order", "evicted", "max_clients")

    def __init__(self, max_clients: int = 100_000) -> None:
        if max_clients < 1:
            raise ValueError(f"max_clients must be at least 1, not {max_clients}")
        self.max_clients = max_clients
        self.evicted = 0  #: clients forgotten, for want of room, before their time was over
        self._denied: dict[bytes, tuple[float, str]] = {}
        self._buckets: dict[int, dict[bytes, None]] = {}  #: by the second at which all in it are let off; may be empty
        self._order: list[int] = []  #: heap of the keys of `_buckets`
        self._latest = float("-inf")

    def deny(self, key: bytes, now: float, seconds: float, name: str) -> bool:
        """Deny the client until `now + seconds`. False, and nothing changes, where it is denied for longer already."""
        self._latest = max(self._latest, now)
        until = self._latest + seconds
        before = self._denied.get(key)
        if before is not None:
            if before[0] >= until:
                return False
            self._take_out(key, before[0])
        else:
            self._let_off(_FORGETS)
            while len(self._denied) >= self.max_clients:
                if (self._soonest() or 0.0) > self._latest:
                    self.evicted += 1
        self._denied[key] = until, name
        second = ceil(until)
        bucket = self._buckets.get(second)
        if bucket is None:
            bucket = self._buckets[second] = {}
            heappush(self._order, second)
        bucket[key] = None
        return True

    def left(self, key: bytes, now: float) -> float:
        """Seconds until the client is let off, 0.0 where it is not denied."""
        denied = self._denied.get(key)
        if denied is None:
            return 0.0
        self._latest = max(self._latest, now)
        return denied[0] - now if denied[0] > self._latest else 0.0

    def name(self, key: bytes) -> str:
        """What a client that is denied was denied for. Raises KeyError for one that never was."""
        return self._denied[key][1]

    def pardon(self, key: bytes, now: float) -> bool:
        """Let the client off. Whether it was denied."""
        denied = self.left(key, now) > 0.0
        before = self._denied.get(key)
        if before is not None:
            self._take_out(key, before[0])
        return denied

    def count(self, now: float) -> int:
        """How many are denied now. Forgets all others."""
        self._latest = max(self._latest, now)
        self._let_off(len(self._denied))
        ending = self._buckets.get(ceil(self._latest), ())  # within the second that is under way
        return len(self._denied) - sum(self._denied[key][0] <= self._latest for key in ending)

    def _let_off(self, most: int) -> None:
        """Forget at most so many of those whose second is over."""
        while most and self._order and self._order[0] <= self._latest:
            if self._soonest() is not None:
                most -= 1

    def _soonest(self) -> float | None:
        """Take out one of those who are let off soonest; returns when that would have been, or None where it took out
        an empty bucket instead."""
        second = self._order[0]
        bucket = self._buckets[second]
        if bucket:
            key, _ = bucket.popitem()
            return self._denied.pop(key)[0]
        del self._buckets[second]
        heappop(self._order)
        return None

    def _take_out(self, key: bytes, until: float) -> None:
        del self._denied[key]
        del self._buckets[ceil(until)][key]
        if len(self._order) > 2 * len(self._denied) + _EMPTY:
            self._buckets = {second: bucket for second, bucket in self._buckets.items() if bucket}
            self._order = sorted(self._buckets)

    def __len__(self) -> int:
        """How many are remembered: those that are denied, and some whose time is over."""
        return len(self._denied)

    def __repr__(self) -> str:
        return f"<Denials {len(self)} of at most {self.max_clients}>"
