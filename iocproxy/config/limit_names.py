"""The names that the operator gives to limits: counters, log lines and RateLimit fields tell limits apart by them, so
each may stand once in the whole configuration. For `whole.contradictions`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from iocproxy.config.faults import Problem
from iocproxy.config.given import attempt, get, items
from iocproxy.config.limit_values import read_limit_name
from iocproxy.config.lines import Loc, spell
from iocproxy.config.values import show


def limit_names(settings: Mapping[str, Any]) -> Iterator[Problem]:
    seen: dict[str, Loc] = {}
    for loc, given in _names(settings):
        name = attempt(read_limit_name, given)
        if name is None:
            continue
        first = seen.setdefault(name, loc)
        if first != loc:
            yield Problem(loc, show(name), f"must be another name than {spell(first)}")


def _names(settings: Mapping[str, Any]) -> Iterator[tuple[Loc, Any]]:
    """Every name with its key path, in the order in which a file usually has them."""
    limits = get(settings, "limits")
    for kind in ("rules", "penalties"):
        for index, entry in items(limits, kind):
            yield ("limits", kind, index, "name"), get(entry, "name")
    for number, route in items(settings, "routes"):
        for index, entry in items(get(route, "limits"), "rules"):
            yield ("routes", number, "limits", "rules", index, "name"), get(entry, "name")
