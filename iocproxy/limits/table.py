"""Which clients are remembered: a dict of bounded size with a clock hand.

Every key in the dict also stands in a ring (a plain list, in no particular order), and a hand goes round the ring
as newcomers arrive: it looks at a few places per newcomer, never at all of them, so a newcomer costs O(1) always.
What it finds there decides:

* EXPIRED: nothing of this client is inside the window any more. Forgetting it changes no answer; it goes first.
* COLD: inside the window, but with at most half of its limit used. Forgotten only when the table is full and the
  hand found nobody expired.
* HOT: more than half used. Never forgotten in favour of a newcomer: an offender cannot be washed out of the table by
  a flood of fresh addresses. Where the hand meets only these, the newcomer gets no place (`add` says False).

The dict's values are opaque here (ints; see window.py): the caller grades them. Ints and bytes are not tracked by the
garbage collector, so a large table does not slow its passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

EXPIRED: Final = 0
COLD: Final = 1
HOT: Final = 2

_LOOKS_GROWING: Final = 2  # > 1, so that the expired are found faster than newcomers arrive
_LOOKS_FULL: Final = 4


class Table:
    """At most `max_clients` states by client key. `states` is the dict itself, for the hot path to read and update.

    Entries are added through `add` alone, and never deleted from outside; an existing key's value may be replaced.
    """

    __slots__ = ("_churn", "_hand", "_ring", "_spare", "evicted", "max_clients", "states")

    def __init__(self, max_clients: int) -> None:
        """Raises ValueError when `max_clients` is below 1."""
        if max_clients < 1:
            raise ValueError(f"max_clients must be at least 1, not {max_clients}")
        self.max_clients = max_clients
        self.states: dict[bytes, int] = {}
        self.evicted = 0  #: clients forgotten while something of theirs was still inside the window
        self._ring: list[bytes] = []
        self._hand = 0
        self._churn = 0
        self._spare = _spare_entries(max_clients)

    def add(self, key: bytes, state: int, grade: Callable[[int], int]) -> bool:
        """Remember a key that is not in `states`. False: no place could be made, and nothing changed.

        `grade(state)` is EXPIRED, COLD or HOT, as of now.
        """
        if len(self._ring) < self.max_clients:
            self._sweep(grade)
            self._ring.append(key)
        elif not self._replace(key, grade):
            return False
        self.states[key] = state
        return True

    def _sweep(self, grade: Callable[[int], int]) -> None:
        """Look at the next places and drop the expired, so that the table follows the clients there are."""
        states, ring = self.states, self._ring
        for _ in range(min(_LOOKS_GROWING, len(ring))):
            place = self._hand if self._hand < len(ring) else 0
            self._hand = place + 1
            if grade(states[ring[place]]) == EXPIRED:
                del states[ring[place]]
                self._churned()
                last = ring.pop()
                if place < len(ring):
                    ring[place] = last

    def _replace(self, key: bytes, grade: Callable[[int], int]) -> bool:
        """Give the place of somebody expired, or else cold, to `key`. False where the hand met only hot clients."""
        states, ring = self.states, self._ring
        victim = -1
        for _ in range(_LOOKS_FULL):
            place = self._hand
            self._hand = place + 1 if place + 1 < len(ring) else 0
            found = grade(states[ring[place]])
            if found == EXPIRED:
                victim = place
                break
            if found == COLD and victim < 0:
                victim = place
        else:
            if victim < 0:
                return False
            self.evicted += 1
        del states[ring[victim]]
        ring[victim] = key
        self._churned()
        return True

    def _churned(self) -> None:
        """Rewrite the dict before its dead entries make CPython grow it (see `_spare_entries`)."""
        self._churn += 1
        if self._churn >= self._spare:
            self._churn = 0
            compact = dict(self.states)
            self.states.clear()
            self.states.update(compact)

    def __len__(self) -> int:
        return len(self._ring)


def _spare_entries(clients: int) -> int:
    """How many deletions a dict of that many keys takes before it is worth rewriting.

    A deletion leaves a dead entry behind. When no entry is left, CPython makes room for three times the live keys
    (`GROWTH_RATE` in Objects/dictobject.c): up to 120 bytes a client, where a dict that only ever grew takes 30 to
    60. Rewriting it a little earlier keeps it at that, for about 40 ns a newcomer. Where the tight dict would have
    next to no spare entries, CPython's own size is the good one. This is about memory only: a dict that works
    otherwise would be slightly larger, and no answer would differ.
    """
    size = 8
    while size * 2 // 3 < clients:
        size *= 2
    spare = size * 2 // 3 - clients
    return spare if spare >= max(1, clients // 8) else 4 * size
