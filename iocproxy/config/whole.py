"""What must hold between settings that are each right by themselves.

The checks read the settings as given, mappings and models alike, and step over whatever cannot be read: that is
reported by the section it stands in. So they find everything even where the sections found something already.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from iocproxy.config.access_contradictions import access
from iocproxy.config.bandwidth_contradictions import bandwidths
from iocproxy.config.client_certificates import field_names, listener_tables
from iocproxy.config.faults import Problem, did_you_mean
from iocproxy.config.given import attempt, get, items, readable_server
from iocproxy.config.limit_names import limit_names
from iocproxy.config.lines import spell
from iocproxy.config.request_limit_contradictions import request_limits
from iocproxy.config.sections import Http
from iocproxy.config.storage import shared_windows
from iocproxy.config.values import (
    Server,
    read_bind,
    read_https_redirect,
    read_route_host,
    read_route_path,
    read_size,
    read_whole,
    show,
)


def contradictions(settings: Mapping[str, Any]) -> list[Problem]:
    return [
        *_binds(settings),
        *_listeners(settings),
        *_upstreams(settings),
        *_routes(settings),
        *_heads(settings),
        *_access_file(settings),
        *shared_windows(settings),
        *listener_tables(settings),
        *field_names(settings),
        *request_limits(settings),
        *limit_names(settings),
        *access(settings),
        *bandwidths(settings),
    ]


def _binds(settings: Mapping[str, Any]) -> Iterator[Problem]:
    seen: dict[tuple[str, int], int] = {}
    for index, listener in items(settings, "listeners"):
        bind = attempt(read_bind, get(listener, "bind"))
        if bind is None or bind.port == 0:
            continue
        first = seen.setdefault(bind, index)
        if first != index:
            loc = ("listeners", index, "bind")
            yield Problem(loc, show(str(bind)), f"must be another address than {spell(('listeners', first, 'bind'))}")


def _listeners(settings: Mapping[str, Any]) -> Iterator[Problem]:
    for index, listener in items(settings, "listeners"):
        at = ("listeners", index)
        bind = attempt(read_bind, get(listener, "bind"))
        port = attempt(read_https_redirect, get(listener, "https_redirect"))
        tls = get(listener, "tls")
        if get(listener, "proxy_protocol") is True and not get(settings.get("server"), "trusted_proxies"):
            said = "server.trusted_proxies must name the proxies whose headers are believed"
            yield Problem((*at, "proxy_protocol"), "`proxy_protocol = true` without trusted proxies", said)
        if port is not None and tls is not None:
            yield Problem((*at, "https_redirect"), "`https_redirect` beside `tls`", "only plain HTTP is sent on")
        elif port is not None and bind is not None and port == bind.port:
            yield Problem((*at, "https_redirect"), show(port), "must be another port than that of `bind`")
        if get(tls, "ciphers") is not None and get(tls, "min_version") == "1.3":
            said = "one of the two: the list is for TLS 1.2, and the suites of TLS 1.3 are OpenSSL's own"
            yield Problem((*at, "tls", "ciphers"), '`ciphers` beside `min_version = "1.3"`', said)
        seen: set[Any] = set()
        for number, name in items(tls, "alpn"):
            if isinstance(name, str) and name in seen:
                yield Problem((*at, "tls", "alpn", number), show(name), "each protocol may stand once")
            seen.add(name if isinstance(name, str) else None)


def _upstreams(settings: Mapping[str, Any]) -> Iterator[Problem]:
    upstreams = get(settings, "upstreams")
    if not isinstance(upstreams, Mapping):
        return
    if not upstreams:
        yield Problem(("upstreams",), "an empty table", "must have at least one")
    for name, upstream in upstreams.items():
        at = ("upstreams", str(name))
        seen: dict[Server, int] = {}
        plain = True  # as far as can be known
        for index, item in items(upstream, "servers"):
            server = readable_server(item)
            if server is None:
                plain = False
                continue
            plain = plain and server.scheme == "http"
            first = seen.setdefault(server, index)
            if first != index:
                other = spell((*at, "servers", first))
                yield Problem((*at, "servers", index), show(server.url), f"the same server as {other}; use `weight`")
        has_ca, unverified = get(upstream, "ca") is not None, get(upstream, "verify") is False
        if seen and plain:
            # `verify = true` is what a model says that was told nothing
            for key, there in (("ca", has_ca), ("verify", unverified)):
                if there:
                    yield Problem((*at, key), f"`{key}` without an https server", "only https servers are checked")
            for key, default in (("server_name", None), ("client_certificate", None), ("tls_min_version", "1.2")):
                if get(upstream, key, default) != default:
                    said = "it is for https servers only"
                    yield Problem((*at, key), f"`{key}` without an https server", said)
        elif has_ca and unverified:
            yield Problem(
                (*at, "ca"), "`ca` beside `verify = false`", "one of the two: nothing is checked against `ca`"
            )


def _routes(settings: Mapping[str, Any]) -> Iterator[Problem]:
    upstreams = get(settings, "upstreams")
    named = [str(name) for name in upstreams] if isinstance(upstreams, Mapping) else []
    if len(named) > 1 and not get(settings, "routes"):
        yield Problem(
            ("upstreams",), f"{len(named)} upstreams and no routes", "[[routes]] must say which one answers what"
        )
    seen: dict[tuple[str, str], int] = {}
    for index, route in items(settings, "routes"):
        upstream = get(route, "upstream")
        if isinstance(upstream, str) and upstream and named and upstream not in named:
            allowed = f"{did_you_mean(upstream, named)}upstreams: {', '.join(named)}"
            yield Problem(("routes", index, "upstream"), f"no upstream {show(upstream)}", allowed)
        given = get(route, "host")
        host = "" if given is None else attempt(read_route_host, given)
        path = attempt(read_route_path, get(route, "path", "/"))
        if host is None or path is None:
            continue
        first = seen.setdefault((host, path), index)
        if first != index:
            said = f"the same host and path as routes[{first}]; each pair may stand once"
            yield Problem(("routes", index), show(f"{host or 'any host'} {path}"), said)


def _heads(settings: Mapping[str, Any]) -> Iterator[Problem]:
    """A head is read within `[http]` before its route is known."""
    defaults = Http()
    for index, route in items(settings, "routes"):
        for key, read in (("max_request_line", read_size), ("max_head", read_size), ("max_fields", read_whole)):
            own = attempt(read, get(get(route, "http"), key))
            bound = attempt(read, get(settings.get("http"), key, getattr(defaults, key)))
            if own is not None and bound is not None and own > bound:
                loc = ("routes", index, "http", key)
                yield Problem(loc, show(own), f"at most what http.{key} allows, which is {show(bound)}")


def _access_file(settings: Mapping[str, Any]) -> Iterator[Problem]:
    logging = get(settings, "logging")
    if get(logging, "access_file") is not None and get(logging, "access") is False:
        loc = ("logging", "access_file")
        yield Problem(loc, "`access_file` beside `access = false`", "one of the two: no request is logged")
