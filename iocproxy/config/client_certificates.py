"""What must hold between the settings about client certificates; for `whole.contradictions`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from iocproxy.config.faults import Problem
from iocproxy.config.given import attempt, get, items
from iocproxy.config.lines import Loc, spell
from iocproxy.config.values import read_field_name, read_tls_host, show

_ASKS = ("optional", "required")
_FILES = ("client_ca", "client_crl")


def listener_tables(settings: Mapping[str, Any]) -> Iterator[Problem]:
    for index, listener in items(settings, "listeners"):
        tls = get(listener, "tls")
        if tls is not None:
            yield from _listener(tls, ("listeners", index, "tls"))


def _listener(tls: Any, at: Loc) -> Iterator[Problem]:
    auth = get(tls, "client_auth", "none")
    seen: dict[str, Loc] = {}
    hosts: list[Problem] = []
    for number, entry in items(tls, "hosts"):
        here = (*at, "hosts", number)
        hosts.extend(_names(entry, here, seen))
        hosts.extend(_host(tls, entry, here))
    has_ca, has_crl = (get(tls, key) is not None for key in _FILES)
    if auth in _ASKS and not has_ca:
        yield Problem((*at, "client_auth"), f"{show(auth)} without `client_ca`", "`client_ca` says whose certificates")
    elif has_crl and not has_ca:
        yield Problem(
            (*at, "client_crl"), "`client_crl` without `client_ca`", "lists of the authorities in `client_ca`"
        )
    elif auth == "none":  # a word that cannot be read may have meant to ask
        for key in _FILES:
            if get(tls, key) is not None and not any(_uses(entry, key) for _, entry in items(tls, "hosts")):
                said = '`client_auth` must be "optional" or "required", here or for hosts without one of their own'
                yield Problem((*at, key), f'`{key}` beside `client_auth = "none"`', said)
    yield from hosts


def _uses(entry: Any, key: str) -> bool:
    """Whether these hosts go by the listener's `key`, as far as can be known."""
    return get(entry, "client_auth") not in {"none", None} and get(entry, key) is None


def _names(entry: Any, at: Loc, seen: dict[str, Loc]) -> Iterator[Problem]:
    for number, given in items(entry, "names"):
        name, here = attempt(read_tls_host, given), (*at, "names", number)
        if name is None:
            continue
        first = seen.setdefault(name, here)
        if first != here:
            yield Problem(here, show(name), f"the same name as {spell(first)}; each may stand once")


def _host(tls: Any, entry: Any, at: Loc) -> Iterator[Problem]:
    own = {key: get(entry, key) for key in ("client_auth", *_FILES, "min_version")}
    if all(value is None for value in own.values()):
        yield Problem(at, "hosts without rules of their own", f"must have one of {', '.join(own)}")
        return
    auth = own["client_auth"] if own["client_auth"] is not None else get(tls, "client_auth", "none")
    if auth == "none":
        for key in _FILES:
            if own[key] is not None:
                said = 'must go, or `client_auth` be "optional" or "required"'
                yield Problem((*at, key), f'`{key}` beside `client_auth = "none"`', said)
    elif own["client_auth"] in _ASKS and own["client_ca"] is None and get(tls, "client_ca") is None:
        said = "`client_ca`, here or of the listener, says whose certificates"
        yield Problem((*at, "client_auth"), f"{show(auth)} without `client_ca`", said)
    elif own["client_ca"] is not None and own["client_crl"] is None and get(tls, "client_crl") is not None:
        # Neither to check its clients against another authority's list nor to leave it out would be what was meant.
        said = "must have a `client_crl` of its own, as the listener's is of other authorities"
        yield Problem((*at, "client_ca"), "`client_ca` without `client_crl`", said)


def field_names(settings: Mapping[str, Any]) -> Iterator[Problem]:
    """Two fields that a server behind us might take for one are a fault."""
    at = ("forwarding", "client_certificate")
    table = get(get(settings, "forwarding"), "client_certificate")
    seen: dict[str, str] = {}
    for key in ("subject", "issuer", "serial", "fingerprint", "dns", "email", "uri", "not_after"):
        name = attempt(read_field_name, get(table, key))
        if name is None:
            continue
        first = seen.setdefault(name.lower(), key)
        if first != key:
            yield Problem((*at, key), show(name), f"must be another name than {spell((*at, first))}")
