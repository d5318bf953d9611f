"""Who has to go when there is no room: connections that are doing nothing, those first that never did anything.

Theory of operation
-------------------
Room runs out in three ways: `limits.connections.total` is reached, the process may open no more files, or the machine
has next to no memory left. Then a batch of idle connections is closed, as their timeout would have done a little later:

1. those that have been open for `_GRACE` without a request, in their handshake or after it, and those whose head has
   been coming for as long: who only holds places goes first, and it is what attackers do;
2. those between two requests;
3. those that have been seen to take less than `min_body_rate` of a full buffer for `_STALLED`. What was taken when is
   only known of times at which room was needed, so these five seconds begin with the first of them.

In each the one that would have timed out first is the first to go, which is the one that has been idle for longest. Any
other request under way, its body, a tunnel: never. So who works the proxy to its limits with requests is not shed, and
is the business of the limits per client.

It may *seem* better to keep idle connections in an order of their own, so that the first is found at once. That would
cost every request two steps in a list, for something that normally never happens. Here nothing is kept: all connections
are looked at when room is needed, and a whole batch is closed for it, so that the look is shared by that many
newcomers. When it finds nobody, it is not repeated for `_FRUITLESS`: a flood against a proxy that is full of active
clients costs a comparison each.

A connection is closed in an iteration of its own, so the room is not there yet when `make_room` returns. Newcomers wait
in a line (server/admission.py), never more of them than there are connections about to close, and are admitted one for
one as these are gone.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from math import inf
from typing import Literal, NamedTuple

from structlog.typing import FilteringBoundLogger

from iocproxy.client.connection import ClientConnection
from iocproxy.config import Timeouts
from iocproxy.limits import NetworkSet
from iocproxy.telemetry.counters import Counters
from iocproxy.tls import ServerLink

Why = Literal["total", "files", "memory"]

#: How long (seconds) a connection may be open without a request, and how long a head may be coming, before it is among
#: the first to go. A client that has something to say says it within a round trip or two. With much more for heads, a
#: flood of slow ones would have all places to itself for so long, as those between requests are closed for it.
_GRACE = 1.0

#: How long (seconds) a client may take next to nothing of a full buffer before it is among those that go last, and how
#: far apart looks may be to make one observation.
_STALLED = 5.0
_FORGOTTEN = 10.0

#: Connections closed for one look at all of them, at most; and at most this part of those that are open.
_BATCH = 64
_PART = 50

#: How long nobody is looked for again, after there was nobody, in seconds.
_FRUITLESS = 0.1

#: How often the memory that is left is looked at, in seconds.
_LOOK = 1.0

#: Sheds less than this far apart, in seconds, are one episode, told of when it begins and once in so long.
_EPISODE = 10.0


class _Reader(NamedTuple):
    """What was seen of a client with a full buffer to read."""

    deadline: float  #: by which it has to have taken something
    waiting: int  #: octets, at `since`
    since: float  #: since when it has taken next to nothing


class Shedding:
    """Chooses and closes. `open_` is the owner's own dict of connections, looked at and never changed here.

    `leaving` are those that were told to go and are not gone yet; the owner takes out of it who is. `exempt` are the
    networks that no limit holds for: theirs is none of the places that the total is about.
    """

    def __init__(
        self,
        open_: dict[ClientConnection, ServerLink | None],
        *,
        timeouts: Timeouts,
        now: Callable[[], float],
        counters: Counters,
        log: FilteringBoundLogger,
        exempt: NetworkSet | None = None,
    ) -> None:
        self._open = open_
        self._timeouts = timeouts
        self._now = now
        self._counters = counters
        self._log = log
        self._exempt = exempt
        self._fruitless_until = -inf
        self._told: dict[Why, tuple[float, int]] = {}  # when it was last told of, and how many have been shed since
        self.readers: dict[ClientConnection, _Reader] = {}
        self._before: dict[ClientConnection, _Reader] = {}  # `readers` of the look before, during a look
        self._looked = -inf
        self.leaving: set[ClientConnection] = set()

    def make_room(self, why: Why) -> bool:
        """Close a batch of idle connections. False: there is none, and nothing was done."""
        now = self._now()
        if now < self._fruitless_until:
            return False
        batch = min(_BATCH, max(1, len(self._open) // _PART))
        found = heapq.nsmallest(
            batch, self._idle(now, None if why != "total" else self._exempt), key=lambda each: each[:2]
        )
        if not found:
            self._fruitless_until = now + _FRUITLESS
            return False
        for _, _, connection, link in found:
            self.leaving.add(connection)
            if link is not None and link.info is None:
                link.close()
            else:
                connection.shed()
        self._counters.shed[why] += len(found)
        self._tell(why, len(found), now)
        return True

    def _idle(
        self, now: float, exempt: NetworkSet | None
    ) -> list[tuple[int, float, ClientConnection, ServerLink | None]]:
        """(which go first, when they would have timed out, who)."""
        timeouts, leaving = self._timeouts, self.leaving
        # The deadline of each was set when it began to wait: what is left of it says how long that was ago.
        silent = now + timeouts.request_header - _GRACE
        handshaking = now + timeouts.tls_handshake - _GRACE
        found: list[tuple[int, float, ClientConnection, ServerLink | None]] = []
        self._before = self.readers if now - self._looked < _FORGOTTEN else {}
        self.readers = {}
        self._looked = now
        for connection, link in self._open.items():
            if connection in leaving:
                continue
            when = connection.timer.when
            if connection.blocked:
                if self._stalls(connection, when, now):
                    found.append((2, when, connection, link))
                continue
            if connection.unread:  # a request may be here
                continue
            if link is not None and link.info is None:
                if when <= handshaking:
                    found.append((0, when, connection, link))
            elif connection.idle:
                if connection.requests:
                    found.append((1, when, connection, link))
                elif when <= silent:
                    found.append((0, when, connection, link))
            elif connection.in_head and when <= silent:
                found.append((0, when, connection, link))
        self._before = {}
        if exempt is not None:
            found = [each for each in found if each[2].client.address not in exempt]
        return found

    def _stalls(self, connection: ClientConnection, when: float, now: float) -> bool:
        waiting = connection.to_be_read
        if not waiting:
            return False
        seen = self._before.get(connection)
        # Another deadline: it has read to the end of what was waiting, and waits anew.
        if (
            seen is None
            or seen.deadline != when
            or seen.waiting < waiting
            or seen.waiting - waiting > connection.rules.min_body_rate * (now - seen.since)
        ):
            seen = _Reader(when, waiting, now)
        self.readers[connection] = seen
        return now - seen.since >= _STALLED

    def _tell(self, why: Why, count: int, now: float) -> None:
        last, more = self._told.get(why, (-inf, 0))
        more += count
        if now - last >= _EPISODE:
            self._log.warning("connections_shed", reason=why, connections=more, open=len(self._open))
            last, more = now, 0
        self._told[why] = last, more


async def watch_memory(shedding: Shedding, gauge: Callable[[], int], least: int) -> None:
    """Once a second: where less than `least` octets are left, make room."""
    while True:
        await asyncio.sleep(_LOOK)
        if gauge() < least:
            shedding.make_room("memory")
