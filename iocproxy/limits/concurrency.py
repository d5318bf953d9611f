"""How many at once: connections or requests open now, per client and in all."""

from __future__ import annotations

from typing import Literal

#: Which bound refused: the client's own (its fault, 429) or the total (our capacity, 503).
Refused = Literal["client", "total"]


class ConcurrencyLimit:
    """Counts what is open now. Memory is one entry per key that has something open, so it needs no bound of its own.

    None means no bound. `limit_per_key` and `total` may be changed at any time; what is open stays open.
    Raises ValueError for a bound below 1.
    """

    __slots__ = ("_open", "admitted", "limit_per_key", "open", "refused_client", "refused_total", "total")

    def __init__(self, limit_per_key: int | None, total: int | None) -> None:
        for name, bound in (("limit_per_key", limit_per_key), ("total", total)):
            if bound is not None and bound < 1:
                raise ValueError(f"{name} must be at least 1 or None, not {bound}")
        self.limit_per_key = limit_per_key
        self.total = total
        self.open = 0  #: open now, all keys together
        self.admitted = 0
        self.refused_client = 0
        self.refused_total = 0
        self._open: dict[bytes, int] = {}

    def acquire(self, key: bytes) -> Refused | None:
        """None: admitted, and the caller owes one `release(key)`. Otherwise the bound that refused; nothing is owed.

        Where both bounds are reached the answer is "client": a greedy client must not look like our lack of capacity.
        """
        count = self._open.get(key, 0)
        if self.limit_per_key is not None and count >= self.limit_per_key:
            self.refused_client += 1
            return "client"
        if self.total is not None and self.open >= self.total:
            self.refused_total += 1
            return "total"
        self._open[key] = count + 1
        self.open += 1
        self.admitted += 1
        return None

    def release(self, key: bytes) -> None:
        """Give back what one `acquire(key)` admitted. Raises ValueError, and changes nothing, where nothing is held."""
        count = self._open.get(key, 0)
        if count == 0:
            raise ValueError(f"released more often than acquired: {key!r}")
        if count == 1:
            del self._open[key]
        else:
            self._open[key] = count - 1
        self.open -= 1

    def count(self, key: bytes) -> int:
        """How many this key has open now."""
        return self._open.get(key, 0)

    def __len__(self) -> int:
        """How many keys have something open."""
        return len(self._open)

    def __repr__(self) -> str:
        return f"<ConcurrencyLimit {self.limit_per_key} per key, {self.total} in all, {self.open} open>"
