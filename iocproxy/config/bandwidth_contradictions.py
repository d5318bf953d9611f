"""What must hold between the settings about octets a second; for `whole.contradictions`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from iocproxy.config.faults import Problem
from iocproxy.config.given import get, items
from iocproxy.config.shapes import UNBOUNDED


def bandwidths(settings: Mapping[str, Any]) -> Iterator[Problem]:
    everywhere = get(get(settings, "limits"), "bandwidth")
    for number, route in items(settings, "routes"):
        own = get(get(route, "limits"), "bandwidth")
        for key in ("receive", "send"):
            value, usual = get(own, key), get(everywhere, key)
            if (value is False or value == UNBOUNDED) and (usual is None or usual is False):
                loc = ("routes", number, "limits", "bandwidth", key)
                yield Problem(loc, f"`{key} = false` without limits.bandwidth.{key}", "there is none to be lifted")
