"""Who is refused most, in bounded memory: the Space-Saving sketch (Metwally, Agrawal, El Abbadi 2005).

At most `places` clients are counted. One that has none takes the place of whoever has the smallest count, and starts
from that count, which is also how much its own may be too high. So no count is too low, and whoever was refused more
often than one `places`-th of all refusals is among them for certain.
"""

from __future__ import annotations

from typing import NamedTuple


class Offender(NamedTuple):
    """`refused` is too high by `error` at most."""

    name: str
    refused: int
    error: int


class Offenders:
    """A refusal costs O(1) on the average: the smallest are found for many newcomers at a time."""

    __slots__ = ("_counts", "_errors", "_places", "_smallest")

    def __init__(self, places: int = 256) -> None:
        """Raises ValueError when `places` is below 1."""
        if places < 1:
            raise ValueError(f"places must be at least 1, not {places}")
        self._places = places
        self._counts: dict[str, int] = {}
        self._errors: dict[str, int] = {}
        #: names that had the smallest count when it was last looked for, and that count
        self._smallest: tuple[list[str], int] = [], 0

    def refused(self, name: str) -> None:
        """Count one refusal of the client."""
        counts = self._counts
        if name in counts:
            counts[name] += 1
        elif len(counts) < self._places:
            counts[name] = 1
            self._errors[name] = 0
        else:
            floor = self._make_room()
            counts[name] = floor + 1
            self._errors[name] = floor

    def _make_room(self) -> int:
        """Drop one with the smallest count; returns that count. Counts only grow, and newcomers are above it."""
        counts = self._counts
        names, floor = self._smallest
        while True:
            while names:
                name = names.pop()
                if counts.get(name) == floor:
                    del counts[name], self._errors[name]
                    return floor
            floor = min(counts.values())
            names = [name for name, count in counts.items() if count == floor]
            self._smallest = names, floor

    def top(self, number: int) -> list[Offender]:
        """Those with the highest counts, the highest first."""
        first = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))[:number]
        return [Offender(name, count, self._errors[name]) for name, count in first]

    def __len__(self) -> int:
        return len(self._counts)
