"""``iocproxy check``: everything that starting would find, short of binding, and what the proxy would do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.text import Text

from iocproxy.cli.options import find_modules_beside
from iocproxy.config import Bandwidth, Config, LimitRule, Listener, Rates, RequestLimits, RouteBandwidth, load_config
from iocproxy.config.shapes import UNBOUNDED
from iocproxy.config.values import show_duration, show_size
from iocproxy.server.material import Material, faults_of, load_material
from iocproxy.server.storage import try_storage
from iocproxy.telemetry.lines import printable


def check(file: Path) -> Text:
    """A summary of what the file asks for. Raises ConfigError with every fault of the file and of what it names.

    User middleware is imported and instances are made, which runs its code.
    """
    find_modules_beside(file)
    config = load_config(file, further=faults_of)
    material = load_material(config)
    try_storage(config)
    sections = (
        ("Listeners", [row for listener in config.listeners for row in _listener(listener)]),
        ("Routes", list(_routes(config))),
        ("Upstreams", list(_upstreams(config))),
        ("Limits", [*_limits(config), *_access(config, material), *_penalties(config)]),
        ("Middleware", [(str(index), entry.use) for index, entry in enumerate(config.middleware, 1)]),
        ("Logging", [_logging(config)]),
        ("Warnings", [(place, warning) for place, warning in material.warnings]),
    )
    text = Text()
    text.append(f"{file}: good\n", "bold green")
    for title, rows in sections:
        if rows:
            text.append(f"\n{title}\n", "bold yellow" if title == "Warnings" else "bold")
            text.append(_columns(rows))
    text.rstrip()
    return text


def _columns(rows: Iterable[tuple[str, str]]) -> str:
    safe = [(printable(left), printable(right)) for left, right in rows]
    width = max(len(left) for left, _ in safe)
    return "".join(f"  {left:<{width}}  {right}".rstrip() + "\n" for left, right in safe)


def _listener(listener: Listener) -> Iterator[tuple[str, str]]:
    tls = listener.tls
    if listener.https_redirect is not None:
        yield f"http://{listener.bind}", f"sends everybody on to https, port {listener.https_redirect}"
        return
    if tls is None:
        yield f"http://{listener.bind}", ""
        return
    names = ", ".join(str(entry.cert) for entry in tls.certificates)
    hsts = f", HSTS {tls.hsts.value}" if tls.hsts is not None else ""
    yield f"https://{listener.bind}", f"TLS {tls.min_version} or newer, {names}{hsts}"
    if tls.client_auth != "none":
        yield "", f"client certificates are {tls.client_auth}"
    for hosts in tls.hosts:
        auth = hosts.client_auth or tls.client_auth
        said = "not asked for" if auth == "none" else auth
        version = f"TLS {hosts.min_version or tls.min_version} or newer, client certificates are {said}"
        yield "", f"{', '.join(hosts.names)}: {version}"


def _routes(config: Config) -> Iterator[tuple[str, str]]:
    for route in config.effective_routes:
        own = route.limits.requests
        limit = "" if own is None else f"   {_requests(own)}, counted on its own"
        cost = "" if route.limits.cost == 1 else f"   each request counts for {route.limits.cost}"
        pace = _bandwidth(route.limits.bandwidth)
        pace = pace and f"   {pace}"
        yield f"{route.host or 'any host'} {route.path}", f"-> {route.upstream}{limit}{cost}{pace}"
        for rule in route.limits.rules:
            yield "", f"{rule.name}: {_requests(rule)}"


def _upstreams(config: Config) -> Iterator[tuple[str, str]]:
    for name, upstream in config.upstreams.items():
        servers = (
            f"{server}{'' if server.weight == 1 else f' (weight {server.weight})'}" for server in upstream.servers
        )
        yield name, ", ".join(servers)
    unused = config.upstreams.keys() - {route.upstream for route in config.effective_routes}
    if unused:
        yield "", f"no route leads to: {', '.join(sorted(unused))}"


def _limits(config: Config) -> Iterator[tuple[str, str]]:
    limits = config.limits
    connections = limits.connections
    yield "connections", _rate(connections.rate, "new", dry_run=connections.dry_run)
    yield "", f"{_count(connections.concurrent)} open a client, {_count(connections.total)} open in all"
    if any(listener.tls is not None for listener in config.listeners):
        yield "handshakes", _rate(limits.handshakes.rate, "that failed", dry_run=limits.handshakes.dry_run)
    yield "requests", _requests(limits.requests)
    for rule in limits.rules:
        yield rule.name, _requests(rule)
    bandwidth = _bandwidth(limits.bandwidth)
    if bandwidth:
        yield "bandwidth", bandwidth
    yield "a client is", f"an IPv4 /{limits.ipv4_prefix} or an IPv6 /{limits.ipv6_prefix}"
    if limits.storage != "memory":
        yield "shared", f"through {limits.storage}, under {limits.redis.prefix}"
    if limits.exempt:
        yield "exempt", ", ".join(map(str, limits.exempt))


def _bandwidth(given: Bandwidth | RouteBandwidth) -> str:
    """What is said there, "" for nothing."""
    said = (("from", given.receive), ("to", given.send))
    parts = [f"{_octets(size)} a second {way} a connection" for way, size in said if size is not None]
    return " and ".join(parts)


def _octets(size: int) -> str:
    return "any number of octets" if size == UNBOUNDED else show_size(size)


def _requests(limit: RequestLimits) -> str:
    """One limit per request, as a sentence without its end."""
    counted = " and ".join(limit.methods) if isinstance(limit, LimitRule) and limit.methods else "requests"
    parts = [f"{rate.limit} {counted} in any {show_duration(rate.window)}" for rate in limit.rate]
    if limit.concurrent is not None:
        parts.append(f"{limit.concurrent} {counted} under way")
    if not parts:
        return "unlimited"
    return f"{' and '.join(parts)} {_WHOSE.get(str(limit.key), f'for each {limit.key}')}{_details(limit)}"


_WHOSE = {"address": "a client", "everyone": "of all clients together"}


def _details(limit: RequestLimits) -> str:
    said = "" if limit.status == 429 else f", answered with {limit.status}"
    if limit.missing != "address":
        said += f", {'uncounted' if limit.missing == 'skip' else '403'} without"
    if limit.ratelimit_fields:
        said += ", RateLimit fields"
    return f"{said}{_DRY_RUN}" if limit.dry_run else said


_DRY_RUN = " (dry run: only counted)"


def _access(config: Config, material: Material) -> Iterator[tuple[str, str]]:
    lists, loaded = config.limits.access, material.access
    if loaded is None:
        return
    dry = " (dry run: only counted)" if lists.dry_run else ""
    others = "all others are refused" if lists.allow or lists.allow_files else "all others may connect"
    said = f"{_networks(loaded.allowed)} allowed, {_networks(loaded.denied)} denied, {others}{dry}"
    yield "access", said
    for verdict, files in (("allowed", lists.allow_files), ("denied", lists.deny_files)):
        for file in files:
            yield "", f"{verdict}: {file}, {_networks(len(loaded.files[file]))}"


def _networks(count: int) -> str:
    return f"{count} network{'' if count == 1 else 's'}"


def _penalties(config: Config) -> Iterator[tuple[str, str]]:
    for penalty in config.limits.penalties:
        rate = _rate(penalty.rate, f"answers of {', '.join(penalty.statuses)}", dry_run=penalty.dry_run)
        yield penalty.name, f"denied for {show_duration(penalty.deny)} after {rate}"


def _rate(rates: Rates, what: str, *, dry_run: bool) -> str:
    if not rates:
        return "unlimited"
    said = " and ".join(f"{rate.limit} {what} in any {show_duration(rate.window)}" for rate in rates)
    return f"{said} a client{_DRY_RUN if dry_run else ''}"


def _count(count: int | None) -> str:
    return "any number" if count is None else str(count)


def _logging(config: Config) -> tuple[str, str]:
    logging = config.logging
    requests = "requests are not logged"
    if logging.access:
        requests = f"a line for every request{f', in {logging.access_file}' if logging.access_file else ''}"
    return f"{logging.format}, {logging.level}", requests
