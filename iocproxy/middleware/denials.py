"""Denying clients for a time: because of the answers they got (`[[limits.penalties]]`), or because a program says so.

    answer ──► Penalties.on_ended ──full window──► Doorman.deny ──► connections closed at accept
                                                      ▲             requests answered 429, with a true Retry-After
                                        Proxy.deny ───┘

What is counted, exactly: every request that has ended, by the status that its client was answered, for the client that
asked (behind a trusted proxy the real one; where no request could be read, who is connected). Not counted is

* what the denial itself has answered, or an access list: neither of them may keep a penalty alive;
* anything of a client while it is denied, such as what was under way when the denial began;
* who is exempt, and who is a trusted proxy: its clients could get all of them denied by sending what cannot be read.

With the denial a client's windows are empty again: when its time is over it begins anew.

A penalty with `dry_run` denies nobody; who would be denied is kept in a table of its own, so that what it would have
refused can be counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_network
from math import ceil, isfinite
from typing import Any, NamedTuple

from iocproxy.clock import Clock
from iocproxy.limits import ClientKeys, Denials, NetworkSet, Windows
from iocproxy.limits.access import network_of
from iocproxy.message import Client, Request
from iocproxy.middleware.access import AccessGuard
from iocproxy.middleware.decisions import Decided
from iocproxy.middleware.guard import Guard, Refusal
from iocproxy.telemetry import Counters

#: What a denial by program is called where penalties have their names.
BY_PROGRAM = "denials"

#: For how long a program may deny somebody, in seconds.
MAX_SECONDS = 30 * 86_400.0


class Doorman(Guard):
    """Knows who is denied, and turns them away with the word "denied"; `decided` has everything that a client may be
    denied for by name.

    Requests come to `screen`, which is in no chain before somebody has been denied: then it calls `begin`, once, which
    whoever made it has set to what puts it there.
    """

    __slots__ = (
        "_clock",
        "_counters",
        "_decided",
        "_dry",
        "_exempt",
        "_keys",
        "_tables",
        "_trusted",
        "answered",
        "begin",
        "denials",
        "total",
    )

    def __init__(
        self,
        decided: Mapping[str, Decided],
        keys: ClientKeys,
        exempt: NetworkSet,
        trusted: NetworkSet,
        *,
        max_clients: int,
        clock: Clock,
        counters: Counters,
    ) -> None:
        self._decided = decided
        self._keys = keys
        self._exempt = exempt
        self._trusted = trusted
        self._clock = clock
        self._counters = counters
        self.denials = Denials(max_clients)
        self._dry = Denials(max_clients)
        self._tables = self.denials, self._dry
        self.total = dict.fromkeys(decided, 0)  #: denials so far, by name
        self.begin: Callable[[], None] | None = None
        #: the request that was turned away last; the answer to it follows at once
        self.answered: Request | None = None

    # ── turning away ─────────────────────────────────────────────────────────────────────────────────────────────

    def on_connect(self, client: Client) -> str | None:
        table = self._table(client.key, client.address)
        if table is None:
            return None
        self._decided[table.name(client.key)].refuse(client.key, client.address, listener=client.listener)
        if table is self._dry:
            self._counters.dry_run_connections += 1
            return None
        return "denied"

    def screen(self, request: Request) -> Refusal | None:
        table = self._table(request.key, request.address)
        if table is None:
            return None
        name = table.name(request.key)
        self._decided[name].refuse(request.key, request.address, route=request.route)
        if table is self._dry:
            self._counters.dry_run_requests += 1
            return None
        self._counters.requests_limited += 1
        self.answered = request
        # RFC 9110 section 10.2.3: whole seconds; rounded up, so that whoever waits so long gets through
        left = max(table.left(request.key, self._clock()), 1.0)
        return Refusal(429, f"denied for a time: {name!r}", [("Retry-After", str(ceil(left)))])

    def _table(self, key: bytes, address: str) -> Denials | None:
        """The table that the client is denied in."""
        for table in self._tables:
            if table.left(key, self._clock() if len(table) else 0.0):
                return None if self.spares(address) else table
        return None

    def spares(self, address: str) -> bool:
        """Whether it is never denied for a time; others of its network may be."""
        return address in self._exempt or address in self._trusted

    # ── denying ──────────────────────────────────────────────────────────────────────────────────────────────────

    def denied(self, key: bytes, *, dry_run: bool = False) -> bool:
        """Whether the client is denied now, or would be by the penalties with `dry_run`."""
        table = self._dry if dry_run else self.denials
        return len(table) > 0 and table.left(key, self._clock()) > 0.0

    def deny(self, key: bytes, address: str, seconds: float, name: str, *, dry_run: bool = False) -> None:
        """Unless the client is denied for longer already."""
        table = self._dry if dry_run else self.denials
        if not table.deny(key, self._clock(), seconds, name):
            return
        self.total[name] += 1
        event = "client_would_be_denied" if dry_run else "client_denied"
        self._decided[name].tell(event, address, seconds=seconds)
        if self.begin is not None:
            self.begin()
            self.begin = None

    def deny_client(self, given: str, seconds: float) -> None:
        """By program. Raises ValueError for what is not one client, or no time."""
        if not (isfinite(seconds) and 0.0 < seconds <= MAX_SECONDS):
            raise ValueError(f"a denial lasts more than 0 and at most {MAX_SECONDS:.0f} s, not {seconds}")
        key = self._key(given)
        if "/" not in given and self.spares(given):
            raise ValueError(f"{given} is exempt or a trusted proxy, which nobody is denied for; use the access lists")
        self.deny(key, given, seconds, BY_PROGRAM)

    def pardon_client(self, given: str, windows: Iterable[Windows] = ()) -> bool:
        """Let a client off that is denied, for whatever, and forget what was counted. Whether it was denied. Raises
        ValueError for what is not one client."""
        key, now = self._key(given), self._clock()
        for each in windows:
            each.forget(key)
        self._dry.pardon(key, now)
        denied = self.denials.pardon(key, now)
        if denied:
            self._decided[BY_PROGRAM].tell("client_pardoned", given)
        return denied

    def _key(self, given: str) -> bytes:
        """Of an address, or of the network that exactly one client is."""
        if "/" not in given:
            return self._keys.key(given)
        network = network_of(ip_network(given))
        keys = self._keys
        whole = keys.ipv4_prefix if network.bits == 32 else keys.ipv6_prefix
        if network.code & 0xFF not in {whole, network.bits}:
            a_client = f"an IPv4 /{keys.ipv4_prefix} or an IPv6 /{keys.ipv6_prefix}"
            raise ValueError(f"{given} is not one client, which is {a_client}; networks belong into the access lists")
        return keys.key(str(ip_network(given).network_address))

    def stats(self) -> dict[str, Any]:
        """How many are denied now and would be, and how often that came about, by name."""
        now = self._clock()
        return {
            "now": self.denials.count(now),
            "dry_run": self._dry.count(now),
            "evicted": self.denials.evicted,
            "by": dict(self.total),
        }

    def __repr__(self) -> str:
        return f"<Doorman {self.denials!r}>"


class Penalty(NamedTuple):
    name: str
    statuses: frozenset[int]
    windows: Windows
    seconds: float
    dry_run: bool


class Penalties(Guard):
    """Counts answers, and has the doorman deny who got too many."""

    __slots__ = ("_access", "_clock", "_doorman", "_watched", "penalties")

    def __init__(
        self, penalties: Iterable[Penalty], doorman: Doorman, access: AccessGuard | None, clock: Clock
    ) -> None:
        self.penalties = tuple(penalties)
        self._doorman = doorman
        self._access = access
        self._clock = clock
        statuses = frozenset[int]().union(*(each.statuses for each in self.penalties))
        self._watched = {
            status: tuple(each for each in self.penalties if status in each.statuses) for status in statuses
        }

    def on_ended(self, client: Client, request: Request | None, status: int) -> None:
        watching = self._watched.get(status)
        if watching is None:
            return
        who = client if request is None else request
        key, address, doorman = who.key, who.address, self._doorman
        if request is not None and request is doorman.answered:
            return
        if (
            doorman.spares(address)
            or doorman.denied(key)
            or (self._access is not None and self._access.denies(address))
        ):
            return
        now = self._clock()
        spared = None  # whether penalties with `dry_run` would have denied the client already; asked where one is met
        for penalty in watching:
            if penalty.dry_run:
                if spared is None:
                    spared = doorman.denied(key, dry_run=True)
                if spared:
                    continue
            if penalty.windows.fill(key, now):
                penalty.windows.forget(key)
                doorman.deny(key, address, penalty.seconds, penalty.name, dry_run=penalty.dry_run)
