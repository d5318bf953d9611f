"""What all exchanges of one configuration work with. A reload makes a new one; exchanges under way keep theirs."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import NamedTuple

from structlog.typing import FilteringBoundLogger

from iocproxy.exchange.identity import IdentityFields
from iocproxy.exchange.pages import NO_PAGES, ErrorPages
from iocproxy.exchange.ports import Upstream
from iocproxy.exchange.request_ids import RequestIds
from iocproxy.limits import ClientKeys, NetworkSet
from iocproxy.message import Record
from iocproxy.middleware import Chain
from iocproxy.net.tasks import Tasks
from iocproxy.routing import RouteTable, Rules
from iocproxy.telemetry.counters import Counters

#: For `Goal.host`: each server is called by its own name. It is empty, no authority is.
SERVERS_OWN = b""


class Goal(NamedTuple):
    """Where a route leads.

    `host` is the Host that the upstream is sent: None for the client's, `SERVERS_OWN`, or an authority. `pages` are for
    the errors of requests on the way there.
    """

    upstream: Upstream
    rules: Rules
    host: bytes | None = None
    pages: ErrorPages = NO_PAGES


class Shared:
    """`now` is the event loop's clock, for durations; the wall clock is only written down.

    `forwarded` switches the Forwarded field on. `request_ids` is None where requests have none. `pages` are for errors
    before there is a route. `identity` is None where upstreams are not told of clients' certificates.
    """

    def __init__(
        self,
        *,
        routes: RouteTable[Goal],
        chain: Chain,
        keys: ClientKeys,
        trusted: NetworkSet,
        forwarded: bool,
        request_ids: RequestIds | None,
        pages: ErrorPages,
        counters: Counters,
        tasks: Tasks,
        log: FilteringBoundLogger,
        now: Callable[[], float],
        identity: IdentityFields | None = None,
    ) -> None:
        self.routes = routes
        self.chain = chain
        self.keys = keys
        self.counters = counters
        self.tasks = tasks
        self.log = log
        self.now = now
        self.wall = time.time
        self.trusted = trusted
        self.forwarded = forwarded
        self.request_ids = request_ids
        self.identity = identity
        self.pages = pages
        self._date = b""
        self._date_second = 0

    def date_line(self) -> bytes:
        """The Date field of now as a complete line; formatted once a second (RFC 9110 section 6.6.1)."""
        second = int(self.wall())
        if second != self._date_second:
            self._date_second = second
            self._date = b"Date: %b\r\n" % formatdate(second, usegmt=True).encode("ascii")
        return self._date

    def complete(self, record: Record) -> None:
        """Hand a record to every `on_complete`. One that fails is logged; the others still run."""
        for hook in self.chain.on_complete:
            try:
                waiting = hook(record)
                if waiting is not None:
                    self.tasks.spawn(_awaited(waiting), name="on_complete")
            except Exception:  # user code may fail in any way, and the request is over
                self.log.exception("middleware_failed", hook="on_complete")


async def _awaited(waiting: Awaitable[None]) -> None:
    await waiting
