"""The sections about limits: what one client may take, and what becomes of those who want more."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from iocproxy.config import shapes
from iocproxy.config.base import Section
from iocproxy.config.limit_values import Key, KeyPart, Rate, Rates
from iocproxy.config.shapes import (
    AnswerStatus,
    CountOrOff,
    FilePath,
    Flag,
    IpNetwork,
    Items,
    LimitKey,
    LimitName,
    NeededRates,
    RatesOrOff,
    SomeItems,
    Storage,
)

_BY_ADDRESS = Key([KeyPart("address")])

_DRY_RUN = "Only log and count what would be refused."
_KEY = (
    "What tells clients apart: the address (the real one behind trusted proxies), the certificate a client showed, a "
    "header field, a cookie, a parameter of the query, a segment of the path (1 is the first), the host, the method, "
    'the route, or several together. "everyone" counts all clients as one.'
)
_MISSING = (
    'Where a part of the key is missing or empty: "address" puts the address in its place, "skip" lets the request '
    'pass uncounted, "refuse" answers 403. One that can be read in two ways, such as a field that stands twice, is '
    "answered with 400 in any case."
)
_CONCURRENT = (
    "Requests of one client under way at a time, tunnels included. What is refused has no Retry-After, as nobody knows "
    "when one of them ends."
)
_STATUS = "What refused requests are answered with, 429 and 503 with Retry-After; `[errors]` may have a page for it."
_FIELDS = (
    "Tell clients how much is left, in the fields `RateLimit` and `RateLimit-Policy` of what upstreams answer and of "
    "what is refused."
)


class AccessLists(Section):
    """Who may connect at all. The most specific network that holds an address decides; where `allow` or `allow_files`
    is given, who is in no network is refused too. Connections are refused at accept; requests that come from such an
    address through a trusted proxy, or on a connection from before a change, are answered with 403. `limits.exempt`
    opens nothing here."""

    allow: Items[IpNetwork] = Field((), description="Networks that may connect.", examples=[["203.0.113.0/24"]])
    deny: Items[IpNetwork] = Field((), description="Networks that may not.", examples=[["192.0.2.0/24"]])
    allow_files: Items[FilePath] = Field(
        (),
        description="Text files with one network or address a line; what follows # is a comment.",
        examples=[["partners.txt"]],
    )
    deny_files: Items[FilePath] = Field(
        (), description="As `allow_files`, of networks that may not connect.", examples=[["blocked.txt"]]
    )
    check: Annotated[float | None, shapes.duration("50ms", "1h").or_off()] = Field(
        30.0,
        description="How often the files are looked at for changes. One with a fault is logged, and what it held "
        "before stays in force.",
        examples=["30s"],
    )
    dry_run: Flag = Field(False, description=_DRY_RUN, examples=[True])


class ConnectionLimits(Section):
    """Checked when a connection is accepted, before any TLS work. What is refused is closed."""

    rate: RatesOrOff = Field(
        Rates([Rate(60, 10.0)]),
        description="New connections of one client: no interval of that length sees more.",
        examples=["60/10s", ["20/1s", "100/1m"]],
    )
    concurrent: CountOrOff = Field(100, description="Open connections of one client.", examples=[100])
    total: CountOrOff = Field(10_000, description="Open connections of all clients together.", examples=[10_000])
    shed: Flag = Field(
        True,
        description="Close connections that do nothing to make room for others when `total` is reached, or when files "
        "or memory run short: those that never asked for anything, those idle between requests, the longest first, and "
        "in the end those that read next to nothing of their response.",
        examples=[True],
    )
    free_memory: Annotated[int | None, shapes.size("1MiB", "1024GiB").or_off()] = Field(
        64 * 1024**2,
        description="Memory runs short when the machine, or the container, has less than this left.",
        examples=["64MiB"],
    )
    dry_run: Flag = Field(False, description=_DRY_RUN, examples=[True])


class HandshakeLimits(Section):
    """Checked when a connection is accepted at a listener with TLS, before any TLS work. Failed handshakes are counted:
    those that the client broke off, got wrong or did not finish in time. Who has too many of them is closed."""

    rate: RatesOrOff = Field(
        Rates([Rate(30, 60.0)]),
        description="Failed handshakes of one client: with so many in such a time, it is refused.",
        examples=["30/1m"],
    )
    dry_run: Flag = Field(False, description=_DRY_RUN, examples=[True])


class RequestLimits(Section):
    """Checked for every request. What is refused is answered with 429 and Retry-After, and not counted."""

    rate: RatesOrOff = Field(
        Rates([Rate(300, 10.0)]),
        description="Requests of one client: no interval of that length sees more. Of several rates all hold.",
        examples=["300/10s", ["20/1s", "600/1m"]],
    )
    concurrent: CountOrOff = Field(None, description=_CONCURRENT, examples=[50])
    key: LimitKey = Field(_BY_ADDRESS, description=_KEY, examples=["address", ["header:X-Api-Key", "path:1"]])
    missing: Annotated[str, shapes.choice("address", "skip", "refuse")] = Field(
        "address", description=_MISSING, examples=["refuse"]
    )
    status: Annotated[int, shapes.whole(400, 599)] = Field(429, description=_STATUS, examples=[503])
    ratelimit_fields: Flag = Field(False, description=_FIELDS, examples=[True])
    dry_run: Flag = Field(False, description=_DRY_RUN, examples=[True])


class RouteRequestLimits(RequestLimits):
    """Holds for the requests of one route in place of `[limits.requests]`, and is counted on its own."""

    rate: RatesOrOff = Field(
        description="Requests of one client to this route: no interval of that length sees more. Of several rates all "
        "hold.",
        examples=["20/1s"],
    )


class LimitRule(RequestLimits):
    """A further limit on requests, counted on its own. A request has to be within every limit that is for it; where one
    refuses, none counts it. Whoever may choose the value of its key may choose a new one for each request: the limit by
    address in `[limits.requests]` holds beside it."""

    name: LimitName = Field(
        description="What counters, log lines and RateLimit fields call it; each name may stand once.",
        examples=["logins"],
    )
    methods: Items[shapes.Method] = Field(
        (), description="The methods it is for; left out: all.", examples=[["POST", "PUT"]]
    )
    rate: RatesOrOff = Field(
        Rates(),
        description="Requests of one client: no interval of that length sees more. Of several rates all hold.",
        examples=["5/1m"],
    )


class Penalty(Section):
    """Clients that get too many answers of a kind are denied for a time: their connections are closed at accept, and
    their requests on open ones answered with 429 and Retry-After. Nothing is counted while a client is denied. Who is
    in `limits.exempt` or `server.trusted_proxies` is never denied."""

    name: LimitName = Field(
        description="What counters and log lines call it; each name may stand once.", examples=["guessing"]
    )
    statuses: SomeItems[AnswerStatus] = Field(
        description='The statuses that count, of upstreams and of the proxy itself; "4xx" is a whole class, 499 not '
        "included.",
        examples=[[401, 403]],
    )
    rate: NeededRates = Field(
        description="Answers of that kind to one client: who gets so many in such a time is denied.",
        examples=["20/1m"],
    )
    deny: Annotated[float, shapes.duration("1s", "30d")] = Field(description="For how long.", examples=["10m"])
    dry_run: Flag = Field(False, description=_DRY_RUN, examples=[True])


class Bandwidth(Section):
    """Octets a second on one client connection, kept to by pausing whoever sends. Heads and framing are counted, TLS
    around them is not."""

    receive: Annotated[int | None, shapes.size("1KiB", "1024GiB").or_off()] = Field(
        None, description="From a client.", examples=["1MiB"]
    )
    send: Annotated[int | None, shapes.size("1KiB", "1024GiB").or_off()] = Field(
        None, description="To a client.", examples=["10MiB"]
    )


class Redis(Section):
    """How the windows are shared through Redis or Valkey; for `storage = "redis://…"`. The rates of connections and of
    requests are shared; what is open at a time, failed handshakes and penalties stay with each proxy."""

    timeout: Annotated[float, shapes.duration("1ms", "1s")] = Field(
        0.02, description="How long a request may wait for it.", examples=["10ms"]
    )
    on_failure: Annotated[str, shapes.choice("local", "allow", "deny")] = Field(
        "local",
        description='While it is slow or gone: "local" lets each proxy count for itself, "allow" lets everybody pass, '
        '"deny" answers requests with 503, and connections are counted as with "local".',
        examples=["local"],
    )
    prefix: Annotated[str, shapes.redis_prefix()] = Field(
        "iocproxy:",
        description="What its keys begin with. Proxies with the same prefix share their limits.",
        examples=["shop:"],
    )
    ca: FilePath | None = Field(
        None,
        description="For `rediss://`: the authorities its certificate is checked against, in place of the system's.",
        examples=["redis-ca.pem"],
    )


class Limits(Section):
    """What one client may take. On by default; a limit given as false is off."""

    ipv4_prefix: Annotated[int, shapes.whole(1, 32)] = Field(
        32, description="IPv4 addresses that share this many bits are one client.", examples=[32]
    )
    ipv6_prefix: Annotated[int, shapes.whole(1, 128)] = Field(
        64, description="IPv6 addresses that share this many bits are one client.", examples=[64]
    )
    exempt: Items[IpNetwork] = Field((), description="Networks that no limit holds for.", examples=[["127.0.0.0/8"]])
    max_clients: Annotated[int, shapes.whole(1, 10_000_000)] = Field(
        100_000,
        description="Clients that each limit remembers at a time; bounds the memory the limits take.",
        examples=[100_000],
    )
    storage: Storage = Field(
        "memory",
        description="Where the windows are kept: in this process, or shared with others through Redis or Valkey.",
        examples=["memory", "redis://10.0.0.5:6379/0"],
    )
    redis: Redis = Field(default_factory=Redis, description="The shared windows.")
    access: AccessLists = Field(default_factory=AccessLists, description="Who may connect at all.")
    connections: ConnectionLimits = Field(default_factory=ConnectionLimits, description="Limits at accept.")
    handshakes: HandshakeLimits = Field(default_factory=HandshakeLimits, description="Limit on failed TLS handshakes.")
    requests: RequestLimits = Field(default_factory=RequestLimits, description="Limits per request.")
    rules: Items[LimitRule] = Field((), description="Further limits per request.")
    penalties: Items[Penalty] = Field((), description="Denials for a time.")
    bandwidth: Bandwidth = Field(default_factory=Bandwidth, description="Octets a second.")


class RouteBandwidth(Section):
    """Holds for the requests of one route in place of `[limits.bandwidth]`. What is left out is as it stands there."""

    receive: Annotated[int, shapes.size("1KiB", "1024GiB").or_unbounded(shapes.UNBOUNDED)] | None = Field(
        None, description="As in `[limits.bandwidth]`.", examples=["1MiB"]
    )
    send: Annotated[int, shapes.size("1KiB", "1024GiB").or_unbounded(shapes.UNBOUNDED)] | None = Field(
        None, description="As in `[limits.bandwidth]`.", examples=["10MiB"]
    )


class RouteLimits(Section):
    """The limits of one route."""

    cost: Annotated[int, shapes.whole(1, 1_000)] = Field(
        1,
        description="What a request of this route counts for in every rate that it is counted in.",
        examples=[5],
    )
    requests: RouteRequestLimits | None = Field(
        None, description="The route's own request limit; without it `[limits.requests]` holds."
    )
    rules: Items[LimitRule] = Field((), description="Further limits on the requests of this route.")
    bandwidth: RouteBandwidth = Field(default_factory=RouteBandwidth, description="Octets a second.")
