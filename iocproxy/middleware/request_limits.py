"""The limit per request: sliding windows for each client, and some for each route that has its own."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from functools import partial
from math import ceil
from typing import NamedTuple

from iocproxy.clock import Clock
from iocproxy.limits import NetworkSet, Windows
from iocproxy.message import Request
from iocproxy.middleware.decisions import Decided
from iocproxy.middleware.guard import Guard, Refusal
from iocproxy.middleware.shared_windows import UNAVAILABLE, Asked, Later, SharedWindows
from iocproxy.telemetry import Counters


class RequestWindow(NamedTuple):
    """`windows` is None where the limit is switched off."""

    windows: Windows | None
    dry_run: bool
    decided: Decided


class RequestLimits(Guard):
    """Answers 429 with Retry-After when a client is over its limit; a refused request does not count.

    `routes` holds the windows of the routes that have their own, by route name; `default` is for all others.
    """

    __slots__ = ("_clock", "_counters", "_default", "_exempt", "_routes")

    def __init__(
        self,
        default: RequestWindow,
        routes: Mapping[str, RequestWindow],
        exempt: NetworkSet,
        clock: Clock,
        counters: Counters,
    ) -> None:
        self._default = default
        self._routes = dict(routes)
        self._exempt = exempt or None
        self._clock = clock
        self._counters = counters

    def on_request(self, request: Request) -> Refusal | None:
        windows, dry_run, decided = self._routes.get(request.route, self._default)
        # Who is exempt is not even looked up: it would take the place of a client that has to be remembered.
        if windows is None or (self._exempt is not None and request.address in self._exempt):
            return None
        wait = windows.check(request.key, self._clock())
        return self._refuse(request, dry_run, decided, wait) if wait else None

    def _refuse(self, request: Request, dry_run: bool, decided: Decided, wait: float) -> Refusal | None:
        decided.refuse(request.key, request.address, route=request.route)
        if dry_run:
            self._counters.dry_run_requests += 1
            return None
        self._counters.requests_limited += 1
        # RFC 9110 section 10.2.3: whole seconds; rounded up, so that whoever waits so long gets through
        return Refusal(429, f"over the limit {decided.name!r}", [("Retry-After", str(ceil(wait)))])


class SharedRequestLimits(RequestLimits):
    """The same, counted by several proxies together. Answers 503 where nobody can say, and that is what was wanted."""

    __slots__ = ("_shared",)

    def __init__(
        self,
        shared: SharedWindows,
        default: RequestWindow,
        routes: Mapping[str, RequestWindow],
        exempt: NetworkSet,
        clock: Clock,
        counters: Counters,
    ) -> None:
        super().__init__(default, routes, exempt, clock, counters)
        self._shared = shared

    def on_request(self, request: Request) -> Refusal | Awaitable[Refusal | None] | None:  # type: ignore[override]
        windows, dry_run, decided = self._routes.get(request.route, self._default)
        if windows is None or (self._exempt is not None and request.address in self._exempt):
            return None
        said = self._shared.ask((Asked(decided.name, windows, request.key, 1),))
        if isinstance(said, float):
            return self._decide(request, dry_run, decided, said)
        return Later(said, partial(self._decide, request, dry_run, decided))

    def _decide(self, request: Request, dry_run: bool, decided: Decided, wait: float) -> Refusal | None:
        if wait == UNAVAILABLE:
            return None if dry_run else unavailable()
        return self._refuse(request, dry_run, decided, wait) if wait else None


def unavailable() -> Refusal:
    return Refusal(503, "the limits' storage cannot be asked", [("Retry-After", "1")])
