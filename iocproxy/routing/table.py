"""The route table: the most specific host first, within it the longest path prefix.

Order of hosts: the exact name, then the wildcard with the most labels (``*.b.example.com`` before ``*.example.com``),
then routes without a host. Within a host the longest path prefix wins; a host whose paths do not match lets the next
less specific host have its turn. A prefix ends at a segment's border: ``/v1`` takes ``/v1`` and ``/v1/x``, not
``/v10``. A path that climbs (``/v1/../admin``) is matched as it stands, and forwarded as it stands.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Route(Generic[T]):
    """`host` is lower-case, "" for any, or begins with ``*.``; `path` begins with a slash; `goal` is where it leads."""

    name: str
    host: str
    path: str
    goal: T


class RouteTable(Generic[T]):
    """Finds the route for a host and a target; immutable."""

    __slots__ = ("_any", "_exact", "_only", "_wildcards")

    def __init__(self, routes: Iterable[Route[T]]) -> None:
        self._exact: dict[bytes, list[tuple[bytes, bytes, Route[T]]]] = {}
        self._wildcards: dict[bytes, list[tuple[bytes, bytes, Route[T]]]] = {}
        self._any: list[tuple[bytes, bytes, Route[T]]] = []
        by_length = sorted(routes, key=lambda route: len(route.path), reverse=True)
        for route in by_length:
            prefix = route.path.encode("ascii")
            entry = (prefix, prefix if prefix.endswith(b"/") else prefix + b"/", route)
            if not route.host:
                self._any.append(entry)
            elif route.host.startswith("*."):
                self._wildcards.setdefault(route.host[1:].encode("ascii"), []).append(entry)
            else:
                self._exact.setdefault(route.host.encode("ascii"), []).append(entry)
        #: the one route that takes everything, where that is all there is
        self._only = (
            by_length[0] if len(by_length) == 1 and not by_length[0].host and by_length[0].path == "/" else None
        )

    def find(self, host: bytes, target: bytes) -> Route[T] | None:
        """The route for an authority (``host`` or ``host:port``) and a target in origin form, or None."""
        if self._only is not None:
            return self._only
        name = _name(host)
        path = target.partition(b"?")[0]
        entries = self._exact.get(name)
        if entries is not None:
            route = _longest(entries, path)
            if route is not None:
                return route
        if self._wildcards:
            dot = name.find(b".")
            while dot >= 0:  # RFC 6125 style would stop after one label; a route may cover a whole subtree
                entries = self._wildcards.get(name[dot:])
                if entries is not None:
                    route = _longest(entries, path)
                    if route is not None:
                        return route
                dot = name.find(b".", dot + 1)
        return _longest(self._any, path)

    def __len__(self) -> int:
        return len(self._any) + sum(map(len, self._exact.values())) + sum(map(len, self._wildcards.values()))


def _longest(entries: list[tuple[bytes, bytes, Route[T]]], path: bytes) -> Route[T] | None:
    for prefix, directory, route in entries:
        if path.startswith(directory) or prefix in {path, b"/"}:
            return route
    return None


def _name(host: bytes) -> bytes:
    """The lower-case name without its port and without the root's trailing dot."""
    host = host.lower()
    if host.startswith(b"["):
        return host.partition(b"]")[0] + b"]"
    return host.partition(b":")[0].rstrip(b".")
