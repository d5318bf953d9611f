"""What must hold between the settings about who may come at all; for `whole.contradictions`.

Only what stands in the configuration itself is looked at here. What its files hold is seen by who loads them, and there
a network may stand twice and within another: such lists are put together by programs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from iocproxy.config.faults import Problem
from iocproxy.config.given import attempt, get, items
from iocproxy.config.limit_values import read_status, show_status
from iocproxy.config.limits import AccessLists
from iocproxy.config.lines import Loc, spell
from iocproxy.config.shapes import read_path
from iocproxy.config.values import Network, read_duration, read_network, show

_LISTS = ("allow", "deny")
_FILES = ("allow_files", "deny_files")


def access(settings: Mapping[str, Any]) -> Iterator[Problem]:
    limits = get(settings, "limits")
    table, at = get(limits, "access"), ("limits", "access")
    yield from _exempt(limits)
    yield from _unused(table, at)
    yield from _networks(table, at)
    yield from _files(table, at)
    for index, penalty in items(limits, "penalties"):
        yield from _penalty(penalty, ("limits", "penalties", index))


def _read(table: Any, key: str, at: Loc) -> dict[Loc, Network]:
    """The networks that can be read, by key path; IPv4 networks that are mapped into IPv6 as what they mean."""
    found: dict[Loc, Network] = {}
    for index, given in items(table, key):
        network = attempt(read_network, given)
        if network is not None:
            found[*at, key, index] = _meant(network)
    return found


def _meant(network: Network) -> Network:
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    return network if mapped is None or network.prefixlen < 96 else IPv4Network((int(mapped), network.prefixlen - 96))


class _Known:
    """Networks, to find the one around another."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self._known = {(each.max_prefixlen, each.prefixlen, int(each.network_address)): each for each in networks}

    def around(self, network: Network) -> Network | None:
        """The smallest that holds this one and is wider."""
        first, bits = int(network.network_address), network.max_prefixlen
        for prefix in range(network.prefixlen - 1, -1, -1):
            wider = self._known.get((bits, prefix, first >> bits - prefix << bits - prefix))
            if wider is not None:
                return wider
        return None


def _first_places(found: Mapping[Loc, Network]) -> dict[Network, Loc]:
    places: dict[Network, Loc] = {}
    for loc, network in found.items():
        places.setdefault(network, loc)
    return places


def _exempt(limits: Any) -> Iterator[Problem]:
    found = _read(limits, "exempt", ("limits",))
    places = _first_places(found)
    known = _Known(places)
    for loc, network in found.items():
        if places[network] != loc:
            yield Problem(loc, show(str(network)), f"the same network as {spell(places[network])}")
        elif (wider := known.around(network)) is not None:
            yield Problem(loc, show(str(network)), f"lies within {wider}, which is {spell(places[wider])}")


def _networks(table: Any, at: Loc) -> Iterator[Problem]:
    found = {key: _read(table, key, at) for key in _LISTS}
    places = {key: _first_places(found[key]) for key in _LISTS}
    known = _Known({**places["deny"], **places["allow"]})
    # a network in a file may come between two of these
    whole = not any(get(table, key) for key in _FILES)
    for key, other in (_LISTS, _LISTS[::-1]):
        for loc, network in found[key].items():
            first, opposite = places[key][network], places[other].get(network)
            wider = known.around(network)
            if first != loc:
                yield Problem(loc, show(str(network)), f"the same network as {spell(first)}")
            elif opposite is not None and key == "deny":
                yield Problem(loc, show(str(network)), f"is also {spell(opposite)}; one of the two")
            elif opposite is None and whole and wider is not None and wider not in places[other]:
                said = f"lies within {wider}, which is {spell(places[key][wider])}, and changes nothing"
                yield Problem(loc, show(str(network)), said)


def _files(table: Any, at: Loc) -> Iterator[Problem]:
    seen: dict[Any, Loc] = {}
    for key in _FILES:
        for index, given in items(table, key):
            file, loc = attempt(read_path, given), (*at, key, index)
            if file is not None and seen.setdefault(file, loc) != loc:
                yield Problem(loc, show(str(given)), f"the same file as {spell(seen[file])}")


def _unused(table: Any, at: Loc) -> Iterator[Problem]:
    """Settings about lists where there are none; a model has the default of what it was not told."""
    files = any(get(table, key) for key in _FILES)
    default = AccessLists.model_fields["check"].default
    check = get(table, "check", default)
    if not files and (check is False or check is None or attempt(read_duration, check) != default):
        yield Problem((*at, "check"), "`check` without files", "it is for `allow_files` and `deny_files`")
    if get(table, "dry_run") is True and not files and not any(get(table, key) for key in _LISTS):
        said = "it is for `allow`, `deny`, `allow_files` and `deny_files`"
        yield Problem((*at, "dry_run"), "`dry_run` without networks", said)


def _penalty(penalty: Any, at: Loc) -> Iterator[Problem]:
    seen: dict[str, Loc] = {}
    statuses = {(*at, "statuses", index): attempt(read_status, given) for index, given in items(penalty, "statuses")}
    for loc, status in statuses.items():
        if status is not None:
            seen.setdefault(status, loc)
    for loc, status in statuses.items():
        if status is None:
            continue
        kind = f"{status[0]}xx"
        if seen[status] != loc:
            yield Problem(loc, show(show_status(status)), f"the same as {spell(seen[status])}")
        elif kind != status and kind in seen and status != "499":  # which is in no class
            yield Problem(loc, show(show_status(status)), f"lies within {kind}, which is {spell(seen[kind])}")
