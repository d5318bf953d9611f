"""Putting the parts of a proxy together from its configuration: who works with whom stands here and nowhere else."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from iocproxy.client.paced import Pacing
from iocproxy.config import ClientCertificateFields, Config
from iocproxy.exchange.identity import IdentityFields
from iocproxy.exchange.pages import ErrorPages
from iocproxy.exchange.request_ids import RequestIds
from iocproxy.exchange.service import Service
from iocproxy.exchange.shared import SERVERS_OWN, Goal
from iocproxy.http1.heads import HeadLimits
from iocproxy.limits import ClientKeys, NetworkSet
from iocproxy.message import Record
from iocproxy.middleware import Chain
from iocproxy.middleware.access_log import AccessRecords
from iocproxy.middleware.connection_limits import ConnectionLimits
from iocproxy.routing import Route, RouteTable, compile_rules
from iocproxy.server.admission import Admission
from iocproxy.server.awaited_headers import AwaitedHeaders
from iocproxy.server.gatekeepers import Gatekeepers, gatekeepers
from iocproxy.server.limits import guards, handshake_limits
from iocproxy.server.material import Material
from iocproxy.server.request_limits import route_name
from iocproxy.server.surroundings import Surroundings
from iocproxy.upstream.group import UpstreamGroup
from iocproxy.upstream.introducing import IntroducingV1, IntroducingV2
from iocproxy.upstream.server import UpstreamServer


@dataclass(frozen=True, slots=True)
class Assembly:
    service: Service
    admission: Admission
    upstreams: dict[str, UpstreamGroup[UpstreamServer]]
    gates: Gatekeepers


def assemble(config: Config, material: Material, around: Surroundings) -> Assembly:
    """On the running loop. Opens nothing and starts nothing."""
    head = HeadLimits(config.http.max_request_line, config.http.max_head, config.http.max_fields)
    keys = ClientKeys(config.limits.ipv4_prefix, config.limits.ipv6_prefix)
    upstreams = _upstreams(config, material, around, head)
    everywhere = compile_rules(config.http, config.timeouts, config.limits.bandwidth, config.http)
    table = RouteTable(
        Route(
            route_name(route.host, route.path),
            route.host or "",
            route.path,
            Goal(
                upstreams[route.upstream],
                compile_rules(
                    config.http_of(route), config.timeouts_of(route), config.bandwidth_of(route), config.http
                ),
                _UPSTREAM_HOSTS.get(route.upstream_host, route.upstream_host.encode("ascii")),
                ErrorPages(pages, material.pages),
            ),
        )
        for route, pages in zip(config.effective_routes, material.route_pages, strict=True)
    )
    request_id = config.forwarding.request_id
    gates = gatekeepers(config, material.access, keys, around)
    chain = Chain([*gates.members, *_members(config, material, around)])
    gates.doorman.begin = functools.partial(chain.screen, gates.doorman.screen)
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
        handshakes=handshake_limits(config, around),
        sheds=config.limits.connections.shed,
        exempt=NetworkSet(config.limits.exempt) if config.limits.exempt else None,
        pacing=_pacing(config, around),
    )
    if admission.shedding is not None:
        for member in chain.members:
            if isinstance(member, ConnectionLimits):
                member.make_room = admission.make_room
    if any(listener.proxy_protocol for listener in config.listeners):
        admission.headers = _awaited_headers(config, around, keys, admission)
    return Assembly(service, admission, upstreams, gates)


def _pacing(config: Config, around: Surroundings) -> Pacing | None:
    """None where no connection can have a bandwidth."""
    bandwidths = [config.limits.bandwidth, *map(config.bandwidth_of, config.effective_routes)]
    if not any(bandwidth.receive or bandwidth.send for bandwidth in bandwidths):
        return None
    return Pacing(NetworkSet(config.limits.exempt), around.counters)


def _awaited_headers(config: Config, around: Surroundings, keys: ClientKeys, admission: Admission) -> AwaitedHeaders:
    limits = config.limits.connections
    return AwaitedHeaders(
        admit=admission.admit,
        trusted=NetworkSet(config.server.trusted_proxies),
        total=None if limits.dry_run else limits.total,
        keys=keys,
        timeouts=config.timeouts,
        wheel=around.wheel,
        tasks=around.tasks,
        counters=around.counters,
        refused=around.decisions.of("proxy_protocol", "connections", window=60.0),
        log=around.log,
        shedding=None if limits.dry_run else admission.shedding,
    )


_INTRODUCING = {"v1": IntroducingV1, "v2": IntroducingV2}

_UPSTREAM_HOSTS = {"keep": None, "server": SERVERS_OWN}


def _identity(settings: ClientCertificateFields) -> IdentityFields | None:
    names = {part: name for part, name in settings if isinstance(name, str)}
    return IdentityFields(names, rfc9440=settings.rfc9440) if names or settings.rfc9440 else None


def _upstreams(
    config: Config, material: Material, around: Surroundings, head: HeadLimits
) -> dict[str, UpstreamGroup[UpstreamServer]]:
    groups = {}
    for name, upstream in config.upstreams.items():
        weighted = []
        for server in upstream.servers:
            kind = UpstreamServer if upstream.proxy_protocol is None else _INTRODUCING[upstream.proxy_protocol]
            made = kind(
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
    """The chain's members behind the gatekeepers, in order: the limits, the user's, the records of what happened."""
    members = [*guards(config, around), *material.middlewares]
    if around.access is not None:
        members.append(AccessRecords(around.access))
    if around.on_record is not None:
        members.append(_Listening(around.on_record))
    return members


class _Listening:
    """The embedding program's `on_record`, as the last member."""

    def __init__(self, on_record: Callable[[Record], None]) -> None:
        self.on_complete = on_record
