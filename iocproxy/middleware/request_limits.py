"""The limit per request: a sliding window for each client, and one for each route that has its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil
from typing import NamedTuple

from iocproxy.clock import Clock
from iocproxy.limits import NetworkSet, WindowLimit
from iocproxy.message import Request, Response


class RequestWindow(NamedTuple):
    """`window` is None where the limit is switched off."""

    window: WindowLimit | None
    dry_run: bool


class RequestLimits:
    """Answers 429 with Retry-After when a client is over its limit; a refused request does not count.

    `routes` holds the windows of the routes that have their own, by route name; `default` is for all others.
    `limited` is called for each request that is, or with `dry_run` would be, refused.
    """

    __slots__ = ("_clock", "_default", "_exempt", "_limited", "_routes")

    def __init__(
        self,
        default: RequestWindow,
        routes: Mapping[str, RequestWindow],
        exempt: NetworkSet,
        clock: Clock,
        limited: Callable[[Request, bool], None],
    ) -> None:
        self._default = default
        self._routes = dict(routes)
        self._exempt = exempt or None
        self._clock = clock
        self._limited = limited

    def on_request(self, request: Request) -> Response | None:
        window, dry_run = self._routes.get(request.route, self._default)
        # Who is exempt is not even looked up: it would take the place of a client that has to be remembered.
        if window is None or (self._exempt is not None and request.address in self._exempt):
            return None
        wait = window.check(request.key, self._clock())
        if not wait:
            return None
        self._limited(request, dry_run)
        return None if dry_run else too_many_requests(wait)


class TooManyRequests(Response):
    """The built-in limit's answer, which unlike a middleware's is one of the proxy's own errors."""

    __slots__ = ()


def too_many_requests(wait: float) -> TooManyRequests:
    """A 429 whose Retry-After is true: whole seconds, rounded up (RFC 9110 section 10.2.3)."""
    return TooManyRequests(
        429,
        [("Retry-After", str(ceil(wait))), ("Content-Type", "text/plain"), ("Cache-Control", "no-store")],
        b"Too many requests. Please slow down.\n",
    )
