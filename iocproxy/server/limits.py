"""From the `[limits]` of a configuration to the guards that hold them; those that deny are in server/gatekeepers.py."""

from __future__ import annotations

from iocproxy.config import Config, Rates
from iocproxy.config.limits import RequestLimits as RequestSettings
from iocproxy.limits import ConcurrencyLimit, NetworkSet, Windows
from iocproxy.message import Client
from iocproxy.middleware.connection_limits import ConnectionLimits
from iocproxy.middleware.handshake_limits import HandshakeLimits
from iocproxy.middleware.request_limits import RequestLimits, RequestWindow
from iocproxy.server.surroundings import Surroundings


def guards(config: Config, around: Surroundings) -> list[object]:
    """The built-in members of the chain, in order."""
    limits = config.limits
    exempt = NetworkSet(limits.exempt)
    members: list[object] = [_connection_limits(config, around, exempt)]
    routes = {
        name: _request_window(route.limits.requests, f"requests {name}", limits.max_clients, around)
        for route in config.effective_routes
        if route.limits.requests is not None and (name := route_name(route.host, route.path))
    }
    default = _request_window(limits.requests, "requests", limits.max_clients, around)
    if default.windows is not None or any(own.windows is not None for own in routes.values()):
        members.append(RequestLimits(default, routes, exempt, around.clock, around.counters))
    return members


def route_name(host: str | None, path: str) -> str:
    """What a route is called in the log: ``api.example.com/v1/``, ``/`` for the one that takes everything."""
    return f"{host or ''}{path}"


def _request_window(settings: RequestSettings, name: str, max_clients: int, around: Surroundings) -> RequestWindow:
    windows = _windows(settings.rate, max_clients)
    decided = around.decisions.of(name, "requests", window=_longest(settings.rate), dry_run=settings.dry_run)
    return RequestWindow(windows, settings.dry_run, decided)


def _connection_limits(config: Config, around: Surroundings, exempt: NetworkSet) -> ConnectionLimits:
    limits = config.limits.connections

    decided = {
        why: around.decisions.of(
            f"connections {why}", "connections", window=_longest(limits.rate), dry_run=limits.dry_run
        )
        for why in ("rate", "client", "total")
    }

    def refused(client: Client, why: str) -> None:
        if limits.dry_run:
            around.counters.dry_run_connections += 1
        decided[why].refuse(client.key, client.address, listener=client.listener)

    return ConnectionLimits(
        ConcurrencyLimit(limits.concurrent, limits.total),
        _windows(limits.rate, config.limits.max_clients),
        exempt,
        around.clock,
        dry_run=limits.dry_run,
        refused=refused,
    )


def handshake_limits(config: Config, around: Surroundings) -> HandshakeLimits | None:
    limits = config.limits.handshakes
    windows = _windows(limits.rate, config.limits.max_clients)
    if windows is None:
        return None

    decided = around.decisions.of("handshakes", "handshakes", window=_longest(limits.rate), dry_run=limits.dry_run)

    def refused(client: Client) -> None:
        if limits.dry_run:
            around.counters.dry_run_connections += 1
        decided.refuse(client.key, client.address, listener=client.listener)

    exempt = NetworkSet(config.limits.exempt)
    return HandshakeLimits(windows, exempt, around.clock, dry_run=limits.dry_run, refused=refused)


def _windows(rates: Rates, max_clients: int) -> Windows | None:
    return Windows(rates, max_clients=max_clients) if rates else None


def _longest(rates: Rates) -> float:
    """How long a refusal may last, in seconds: as long the log is silent about the client."""
    return rates[-1].window if rates else 60.0
