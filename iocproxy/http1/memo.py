"""What was parsed lately, by its octets.

The same client says nearly the same in every request, and so does the same server: on a busy connection most field
sections are those of an earlier message, octet for octet. Parsing is a function of the octets alone, so its result can
serve them all; it must not be changed then. Nothing is assumed about a section that differs in a single octet.

Bounded in number and in octets of each, so that whoever sends a different section every time only makes it start over.
"""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")

#: How many are kept, and how long (octets) one may be: a few megabytes at the most, in each direction.
MAX_KEPT = 512
MAX_OCTETS = 2048


class Memo(dict[bytes, T]):
    """Ask it with `get`."""

    __slots__ = ()

    def keep(self, octets: bytes, parsed: T) -> None:
        if len(octets) <= MAX_OCTETS:
            if len(self) >= MAX_KEPT:
                self.clear()
            self[octets] = parsed
