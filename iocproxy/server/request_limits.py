"""From `[limits.requests]`, the rules and the limits of routes to the guard that holds them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from iocproxy.config import Config, Rates
from iocproxy.config.limit_values import Key, KeyPart
from iocproxy.config.limits import LimitRule
from iocproxy.config.limits import RequestLimits as RequestSettings
from iocproxy.limits import ConcurrencyLimit, NetworkSet, Windows
from iocproxy.middleware.rate_storage import LocalRates, RateStorage
from iocproxy.middleware.ratelimit_fields import Policies
from iocproxy.middleware.request_keys import key_reader
from iocproxy.middleware.request_limits import Plan, RequestLimit, RequestLimits
from iocproxy.server.surroundings import Surroundings

_BY_ADDRESS = Key([KeyPart("address")])


def request_limits(config: Config, around: Surroundings) -> RequestLimits | None:
    """None where nothing is limited."""
    settings, max_clients = config.limits, config.limits.max_clients
    default = _limit(settings.requests, "requests", max_clients, around)
    everywhere = [(rule, _limit(rule, rule.name, max_clients, around)) for rule in settings.rules]
    plans = {}
    for route in config.effective_routes:
        name, own = route_name(route.host, route.path), route.limits
        first = default if own.requests is None else _limit(own.requests, f"requests {name}", max_clients, around)
        rules = [*everywhere, *((rule, _limit(rule, rule.name, max_clients, around)) for rule in own.rules)]
        plans[name] = _plan(first, rules, own.cost)
    elsewhere = _plan(default, everywhere, 1)
    if not any(plan.all_limits() for plan in (elsewhere, *plans.values())):
        return None
    rates: RateStorage = LocalRates(around.clock) if around.shared is None else around.shared
    return RequestLimits(elsewhere, plans, NetworkSet(settings.exempt), rates, around.clock, around.counters)


def route_name(host: str | None, path: str) -> str:
    """What a route is called in the log: ``api.example.com/v1/``, ``/`` for the one that takes everything."""
    return f"{host or ''}{path}"


def _plan(first: RequestLimit | None, rules: Sequence[tuple[LimitRule, RequestLimit | None]], cost: int) -> Plan:
    """What holds for the requests of a route: sorted out by method where some rule is for some methods only."""
    named = {method for rule, _ in rules for method in rule.methods}

    def limits(method: str | None) -> tuple[RequestLimit, ...]:
        return tuple(_present([first, *(limit for rule, limit in rules if not rule.methods or method in rule.methods)]))

    return Plan(limits(None), cost, {method: Plan(limits(method), cost) for method in named})


def _present(limits: Iterable[RequestLimit | None]) -> Iterable[RequestLimit]:
    return (limit for limit in limits if limit is not None)


def _limit(settings: RequestSettings, name: str, max_clients: int, around: Surroundings) -> RequestLimit | None:
    """None where it is switched off."""
    rates, concurrent = settings.rate, settings.concurrent
    if not rates and concurrent is None:
        return None
    return RequestLimit(
        decided=around.decisions.of(name, "requests", window=_longest(rates), dry_run=settings.dry_run),
        windows=Windows(rates, max_clients=max_clients) if rates else None,
        concurrent=ConcurrencyLimit(concurrent, None) if concurrent is not None else None,
        key=key_reader(settings.key, settings.missing),
        by_address=settings.key == _BY_ADDRESS,
        status=settings.status,
        policies=Policies(name, rates) if settings.ratelimit_fields and rates else None,
        dry_run=settings.dry_run,
    )


def _longest(rates: Rates) -> float:
    """How long a refusal may last, in seconds: as long the log is silent about the client."""
    return rates[-1].window if rates else 60.0
