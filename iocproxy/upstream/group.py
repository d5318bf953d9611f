"""A named group of servers and whose turn it is: weighted round robin."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import cycle
from math import gcd
from typing import Generic, TypeVar

T = TypeVar("T")


def smooth_order(weighted: list[tuple[T, int]]) -> list[T]:
    """One whole round in which each member stands as often as its weight, spread as evenly as can be.

    The smooth weighted round robin of nginx: every step all members gain their weight, the richest is taken and pays
    the total. The round is as long as the sum of the weights over their common divisor.
    """
    divisor = gcd(*(weight for _, weight in weighted))
    weights = [weight // divisor for _, weight in weighted]
    total = sum(weights)
    gained = [0] * len(weights)
    order: list[T] = []
    for _ in range(total):
        for index, weight in enumerate(weights):
            gained[index] += weight
        richest = max(range(len(gained)), key=gained.__getitem__)
        gained[richest] -= total
        order.append(weighted[richest][0])
    return order


class UpstreamGroup(Generic[T]):
    """`pick` in O(1), but for servers that were tried already."""

    __slots__ = ("_next", "_only", "name", "servers")

    def __init__(self, name: str, weighted: Iterable[tuple[T, int]]) -> None:
        """`weighted` holds at least one server with its weight, which is at least 1."""
        members = list(weighted)
        self.name = name
        self.servers: tuple[T, ...] = tuple(server for server, _ in members)
        self._only = self.servers[0] if len(self.servers) == 1 else None
        self._next = cycle(smooth_order(members))

    def pick(self, tried: Sequence[object]) -> T | None:
        """The server whose turn it is, passing over those in `tried`; None when all were tried."""
        if not tried:
            return self._only if self._only is not None else next(self._next)
        if len(tried) >= len(self.servers) and all(server in tried for server in self.servers):
            return None
        while (server := next(self._next)) in tried:
            pass
        return server

    def __repr__(self) -> str:
        return f"<UpstreamGroup {self.name} servers={len(self.servers)}>"
