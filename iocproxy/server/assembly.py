"""Putting the parts of a proxy together from its configuration: who works with whom stands here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from iocproxy.clock import Clock
from iocproxy.config import ClientCertificateFields, Config, Rate
from iocproxy.exchange.identity import IdentityFields
from iocproxy.exchange.pages import ErrorPages
from iocproxy.exchange.request_ids import RequestIds
from iocproxy.exchange.service import Service
from iocproxy.exchange.shared import SERVERS_OWN, Goal
from iocproxy.http1.heads import HeadLimits
from iocproxy.limits import ClientKeys, ConcurrencyLimit, NetworkSet, WindowLimit
from iocproxy.message import Client, Record, Request
from iocproxy.middleware import Chain
from iocproxy.middleware.access_log import AccessRecords
from iocproxy.middleware.connection_limits import ConnectionLimits
from iocproxy.middleware.handshake_limits import HandshakeLimits
from iocproxy.middleware.request_limits import RequestLimits, RequestWindow
from iocproxy.net.deadlines import DeadlineWheel
from iocproxy.net.resolver import Resolver
from iocproxy.net.tasks import Tasks
from iocproxy.routing import Route, RouteTable, compile_rules
from iocproxy.server.admission import Admission
from iocproxy.server.material import Material
from iocproxy.telemetry import AccessLog, Counters
from iocproxy.upstream.group import UpstreamGroup
from iocproxy.upstream.server import UpstreamServer


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the parts share, made by the proxy and outliving them."""

    clock: Clock
    log: FilteringBoundLogger
    counters: Counters
    tasks: Tasks
    wheel: DeadlineWheel
    resolver: Resolver
    executor: ThreadPoolExecutor
    access: AccessLog | None
    on_record: Callable[[Record], None] | None


@dataclass(frozen=True, slots=True)
class Assembly:
    service: Service
    admission: Admission
    upstreams: dict[str, UpstreamGroup[UpstreamServer]]


def assemble(config: Config, material: Material, around: Surroundings) -> Assembly:
    """On the running loop. Opens nothing and starts nothing."""
    head = HeadLimits(config.http.max_request_line, config.http.max_head, config.http.max_fields)
    keys = ClientKeys(config.limits.ipv4_prefix, config.limits.ipv6_prefix)
    upstreams = _upstreams(config, material, around, head)
    everywhere = compile_rules(config.http, config.timeouts, config.http)
    table = RouteTable(
        Route(
            _route_name(route.host, route.path),
            route.host or "",
            route.path,
            Goal(
                upstreams[route.upstream],
                compile_rules(config.http_of(route), config.timeouts_of(route), config.http),
                _UPSTREAM_HOSTS.get(route.upstream_host, route.upstream_host.encode("ascii")),
                ErrorPages(pages, material.pages),
            ),
        )
        for route, pages in zip(config.effective_routes, material.route_pages, strict=True)
    )
    request_id = config.forwarding.request_id
    chain = Chain(_members(config, material, around))
    service = Service(
        routes=table,
        chain=chain,
        keys=keys,
        trusted=NetworkSet(config.server.trusted_proxies),
        forwarded=config.forwarding.forwarded,
        request_ids=None if request_id == "off" else RequestIds(keep=request_id == "keep"),
        pages=ErrorPages(material.pages),
        counters=around.counters,
        tasks=around.tasks,
        log=around.log,
        now=around.wheel.time,
        identity=_identity(config.forwarding.client_certificate),
    )
    admission = Admission(
        service=service,
        chain=chain,
        keys=keys,
        limits=head,
        rules=everywhere,
        wheel=around.wheel,
        executor=around.executor,
        tasks=around.tasks,
        counters=around.counters,
        log=around.log,
        handshakes=_handshake_limits(config, around),
    )
    return Assembly(service, admission, upstreams)


_UPSTREAM_HOSTS = {"keep": None, "server": SERVERS_OWN}


def _identity(settings: ClientCertificateFields) -> IdentityFields | None:
    names = {part: name for part, name in settings if isinstance(name, str)}
    return IdentityFields(names, rfc9440=settings.rfc9440) if names or settings.rfc9440 else None


def _route_name(host: str | None, path: str) -> str:
    """What a route is called in the log: ``api.example.com/v1/``, ``/`` for the one that takes everything."""
    return f"{host or ''}{path}"


def _upstreams(
    config: Config, material: Material, around: Surroundings, head: HeadLimits
) -> dict[str, UpstreamGroup[UpstreamServer]]:
    groups = {}
    for name, upstream in config.upstreams.items():
        weighted = []
        for server in upstream.servers:
            made = UpstreamServer(
                server,
                max_connections=upstream.max_connections,
                max_idle=upstream.max_idle,
                tls=material.upstream_tls.get((name, server.host)) if server.scheme == "https" else None,
                limits=head,
                timeouts=config.timeouts,
                wheel=around.wheel,
                resolver=around.resolver,
                executor=around.executor,
                counters=around.counters,
                log=around.log,
            )
            weighted.append((made, server.weight))
        groups[name] = UpstreamGroup(name, weighted)
    return groups


def _members(config: Config, material: Material, around: Surroundings) -> list[object]:
    """The chain's members in order: the limits, the user's, the records of what happened."""
    limits = config.limits
    exempt = NetworkSet(limits.exempt)
    members: list[object] = [_connection_limits(config, around, exempt)]
    routes = {
        _route_name(route.host, route.path): RequestWindow(
            _window(route.limits.requests.rate, limits.max_clients), route.limits.requests.dry_run
        )
        for route in config.effective_routes
        if route.limits.requests is not None
    }
    default = RequestWindow(_window(limits.requests.rate, limits.max_clients), limits.requests.dry_run)
    if default.window is not None or any(own.window is not None for own in routes.values()):

        def limited(request: Request, dry_run: bool) -> None:
            if dry_run:
                around.counters.dry_run_requests += 1
                around.log.info("request_would_be_limited", client=request.address, route=request.route, dry_run=True)
            else:
                around.counters.requests_limited += 1
                around.log.debug("request_limited", client=request.address, route=request.route)

        members.append(RequestLimits(default, routes, exempt, around.clock, limited))
    members.extend(material.middlewares)
    if around.access is not None:
        members.append(AccessRecords(around.access))
    if around.on_record is not None:
        members.append(_Listening(around.on_record))
    return members


def _connection_limits(config: Config, around: Surroundings, exempt: NetworkSet) -> ConnectionLimits:
    limits = config.limits.connections

    def would_refuse(client: Client, why: str) -> None:
        around.counters.dry_run_connections += 1
        around.log.info("connection_would_be_refused", client=client.address, reason=why, dry_run=True)

    return ConnectionLimits(
        ConcurrencyLimit(limits.concurrent, limits.total),
        _window(limits.rate, config.limits.max_clients),
        exempt,
        around.clock,
        dry_run=limits.dry_run,
        would_refuse=would_refuse,
    )


def _handshake_limits(config: Config, around: Surroundings) -> HandshakeLimits | None:
    limits = config.limits.handshakes
    window = _window(limits.rate, config.limits.max_clients)
    if window is None:
        return None

    def would_refuse(client: Client) -> None:
        around.counters.dry_run_connections += 1
        around.log.info("connection_would_be_refused", client=client.address, reason="handshakes", dry_run=True)

    exempt = NetworkSet(config.limits.exempt)
    return HandshakeLimits(window, exempt, around.clock, dry_run=limits.dry_run, would_refuse=would_refuse)


def _window(rate: Rate | None, max_clients: int) -> WindowLimit | None:
    return None if rate is None else WindowLimit(rate.limit, rate.window, max_clients=max_clients)


class _Listening:
    """The embedding program's `on_record`, as the last member."""

    def __init__(self, on_record: Callable[[Record], None]) -> None:
        self.on_complete = on_record
