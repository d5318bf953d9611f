"""From the `[limits]` of a configuration to the guards that hold them; those that deny are in server/gatekeepers.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from iocproxy.config import Config, Rates
from iocproxy.limits import ConcurrencyLimit, NetworkSet, Windows
from iocproxy.message import Client
from iocproxy.middleware.connection_limits import ConnectionLimits, SharedConnectionLimits
from iocproxy.middleware.handshake_limits import HandshakeLimits
from iocproxy.server.request_limits import request_limits
from iocproxy.server.surroundings import Surroundings


def guards(config: Config, around: Surroundings) -> list[object]:
    """The built-in members of the chain, in order."""
    exempt = NetworkSet(config.limits.exempt)
    members: list[object] = [_connection_limits(config, around, exempt)]
    requests = request_limits(config, around)
    if requests is not None:
        members.append(requests)
    return members


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

    make: Callable[..., ConnectionLimits] = ConnectionLimits
    if around.shared is not None:
        make = partial(SharedConnectionLimits, around.shared, "connections rate")
    return make(
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
