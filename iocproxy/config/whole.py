"""What must hold between settings that are each right by themselves.

The checks read the settings as given, mappings and models alike, and step over whatever cannot be read: that is
reported by the section it stands in. So they find everything even where the sections found something already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from iocproxy.config.faults import Problem, did_you_mean
from iocproxy.config.lines import spell
from iocproxy.config.sections import Http
from iocproxy.config.values import (
    RefusedError,
    Server,
    read_bind,
    read_route_host,
    read_route_path,
    read_server_url,
    read_size,
    read_whole,
    show,
)

T = TypeVar("T")


def contradictions(settings: Mapping[str, Any]) -> list[Problem]:
    return [*_binds(settings), *_upstreams(settings), *_routes(settings), *_heads(settings)]


def _binds(settings: Mapping[str, Any]) -> Iterator[Problem]:
    seen: dict[tuple[str, int], int] = {}
    for index, listener in _items(settings, "listeners"):
        bind = _try(read_bind, _get(listener, "bind"))
        if bind is None or bind.port == 0:
            continue
        first = seen.setdefault(bind, index)
        if first != index:
            loc = ("listeners", index, "bind")
            yield Problem(loc, show(str(bind)), f"must be another address than {spell(('listeners', first, 'bind'))}")


def _upstreams(settings: Mapping[str, Any]) -> Iterator[Problem]:
    upstreams = _get(settings, "upstreams")
    if not isinstance(upstreams, Mapping):
        return
    if not upstreams:
        yield Problem(("upstreams",), "an empty table", "must have at least one")
    for name, upstream in upstreams.items():
        at = ("upstreams", str(name))
        seen: dict[Server, int] = {}
        for index, item in _items(upstream, "servers"):
            url = item if isinstance(item, str | Server) else _get(item, "url")
            server = url._replace(weight=1) if isinstance(url, Server) else _try(read_server_url, url)
            if server is None:
                continue
            first = seen.setdefault(server, index)
            if first != index:
                other = spell((*at, "servers", first))
                yield Problem((*at, "servers", index), show(server.url), f"the same server as {other}; use `weight`")
        if _get(upstream, "ca") is not None and _get(upstream, "verify") is False:
            yield Problem(
                (*at, "ca"), "`ca` beside `verify = false`", "one of the two: nothing is checked against `ca`"
            )


def _routes(settings: Mapping[str, Any]) -> Iterator[Problem]:
    upstreams = _get(settings, "upstreams")
    named = [str(name) for name in upstreams] if isinstance(upstreams, Mapping) else []
    if len(named) > 1 and not _get(settings, "routes"):
        yield Problem(
            ("upstreams",), f"{len(named)} upstreams and no routes", "[[routes]] must say which one answers what"
        )
    seen: dict[tuple[str, str], int] = {}
    for index, route in _items(settings, "routes"):
        upstream = _get(route, "upstream")
        if isinstance(upstream, str) and upstream and named and upstream not in named:
            allowed = f"{did_you_mean(upstream, named)}upstreams: {', '.join(named)}"
            yield Problem(("routes", index, "upstream"), f"no upstream {show(upstream)}", allowed)
        given = _get(route, "host")
        host = "" if given is None else _try(read_route_host, given)
        path = _try(read_route_path, _get(route, "path", "/"))
        if host is None or path is None:
            continue
        first = seen.setdefault((host, path), index)
        if first != index:
            said = f"the same host and path as routes[{first}]; each pair may stand once"
            yield Problem(("routes", index), show(f"{host or 'any host'} {path}"), said)


def _heads(settings: Mapping[str, Any]) -> Iterator[Problem]:
    """A head is read within `[http]` before its route is known."""
    defaults = Http()
    for index, route in _items(settings, "routes"):
        for key, read in (("max_request_line", read_size), ("max_head", read_size), ("max_fields", read_whole)):
            own = _try(read, _get(_get(route, "http"), key))
            bound = _try(read, _get(settings.get("http"), key, getattr(defaults, key)))
            if own is not None and bound is not None and own > bound:
                loc = ("routes", index, "http", key)
                yield Problem(loc, show(own), f"at most what http.{key} allows, which is {show(bound)}")


def _get(table: Any, key: str, default: Any = None) -> Any:
    if isinstance(table, Mapping):
        return table.get(key, default)
    return getattr(table, key, default) if isinstance(table, BaseModel) else default


def _items(table: Any, key: str) -> Iterator[tuple[int, Any]]:
    items = _get(table, key)
    yield from enumerate(items if isinstance(items, list | tuple) else ())


def _try(read: Callable[[Any], T], value: Any) -> T | None:
    try:
        return read(value)
    except RefusedError:
        return None
