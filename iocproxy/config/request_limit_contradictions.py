"""What must hold between the settings about limits per request; for `whole.contradictions`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from iocproxy.config.faults import Problem
from iocproxy.config.given import attempt, get, items
from iocproxy.config.limit_values import Key, KeyPart, Rates, read_key, read_rates
from iocproxy.config.limits import RequestLimits
from iocproxy.config.lines import Loc, spell
from iocproxy.config.values import read_field_name, read_whole, show, show_duration

_METHODS = """
ACL BIND CHECKOUT COPY DELETE GET HEAD LINK LOCK M-SEARCH MERGE MKACTIVITY MKCALENDAR MKCOL MOVE NOTIFY OPTIONS PATCH
POST PROPFIND PROPPATCH PURGE PUT QUERY REBIND REPORT SEARCH SOURCE SUBSCRIBE TRACE UNBIND UNLINK UNLOCK UNSUBSCRIBE
"""
#: The methods that llhttp reads, and so the only ones that are ever limited; CONNECT, which it reads too, is refused.
FORWARDED_METHODS = frozenset(_METHODS.split())

_FIELDS = """
connection content-length expect forwarded host http2-settings keep-alive proxy-authenticate proxy-authorization
proxy-connection te trailer transfer-encoding upgrade x-forwarded-for x-forwarded-host x-forwarded-port
x-forwarded-proto x-forwarded-server x-real-ip
"""
#: Fields that are for the proxy itself and taken out before a request is limited.
UNSEEN_FIELDS = frozenset(_FIELDS.split())

#: Parts of a key that every request has.
_ALWAYS_THERE = frozenset({"address", "everyone", "method", "route"})

_WORDS = ("key", "missing", "status", "ratelimit_fields", "dry_run")


class _Limit(NamedTuple):
    loc: Loc
    given: Any
    is_rule: bool
    route: int | None  #: the number of the route it is of

    def get(self, key: str) -> Any:
        return get(self.given, key, None if self.is_rule and key == "rate" else RequestLimits.model_fields[key].default)

    @property
    def rates(self) -> Rates | None:
        """None where they cannot be read."""
        rates = self.get("rate")
        return Rates() if rates is None else attempt(read_rates, rates)


def request_limits(settings: Mapping[str, Any]) -> Iterator[Problem]:
    limits = list(_limits(settings))
    for limit in limits:
        yield from _nothing_to_refuse(limit)
        yield from _fields_without_rate(limit)
        yield from _key(limit, settings)
        yield from _methods(limit, settings)
    yield from _policy_names(limits)
    yield from _costs(settings, limits)


def _limits(settings: Mapping[str, Any]) -> Iterator[_Limit]:
    everywhere = get(settings, "limits")
    if get(everywhere, "requests") is not None:
        yield _Limit(("limits", "requests"), get(everywhere, "requests"), False, None)
    else:
        yield _Limit(("limits", "requests"), {}, False, None)
    for index, rule in items(everywhere, "rules"):
        yield _Limit(("limits", "rules", index), rule, True, None)
    for number, route in items(settings, "routes"):
        own = get(route, "limits")
        if get(own, "requests") is not None:
            yield _Limit(("routes", number, "limits", "requests"), get(own, "requests"), False, number)
        for index, rule in items(own, "rules"):
            yield _Limit(("routes", number, "limits", "rules", index), rule, True, number)


def _is_off(limit: _Limit) -> bool:
    """As far as can be known."""
    rates, concurrent = limit.rates, limit.get("concurrent")
    return rates is not None and not rates and (concurrent is None or concurrent is False)


def _nothing_to_refuse(limit: _Limit) -> Iterator[Problem]:
    if not _is_off(limit):
        return
    if limit.is_rule:
        yield Problem(limit.loc, "a rule without `rate` and `concurrent`", "must have at least one of the two")
        return
    for word in _WORDS:
        value = limit.get(word)
        default = RequestLimits.model_fields[word].default
        if value != default and not (word == "key" and attempt(read_key, value) == default):
            said = "`rate` or `concurrent` must be given: nothing is refused"
            yield Problem((*limit.loc, word), f"`{word}` of a limit that is off", said)


def _fields_without_rate(limit: _Limit) -> Iterator[Problem]:
    if limit.get("ratelimit_fields") is True and limit.rates == () and not _is_off(limit):
        loc = (*limit.loc, "ratelimit_fields")
        yield Problem(
            loc, "`ratelimit_fields` without `rate`", "`rate` must be given: the fields tell what is left of it"
        )


def _key(limit: _Limit, settings: Mapping[str, Any]) -> Iterator[Problem]:
    key = attempt(read_key, limit.get("key"))
    if key is None:
        return
    if limit.get("missing") in {"skip", "refuse"} and _ALWAYS_THERE.issuperset(part.kind for part in key):
        found = f"{show(limit.get('missing'))} beside a key that is never missing"
        yield Problem((*limit.loc, "missing"), found, 'must be left out, or "address"')
    unseen = UNSEEN_FIELDS | _reserved(settings)
    for part in key:
        at = _part_loc(limit, key, part)
        if part.kind == "header" and part.name in unseen:
            instead = "host" if part.name == "host" else "address"
            yield Problem(at, show(str(part)), f'a field that no limit gets to see; "{instead}" may be what is meant')
        elif part.kind == "certificate" and not _asks_for_certificates(settings):
            said = 'needs a listener with `client_auth = "optional"` or "required": no client is asked for one'
            yield Problem(at, show(str(part)), said)


def _part_loc(limit: _Limit, key: Key, part: KeyPart) -> Loc:
    given = limit.get("key")
    listed = isinstance(given, list | tuple) and not isinstance(given, Key | KeyPart)
    return (*limit.loc, "key", key.index(part)) if listed else (*limit.loc, "key")


def _reserved(settings: Mapping[str, Any]) -> frozenset[str]:
    """Fields in which upstreams are told of a client's certificate: no client may send them."""
    table = get(get(settings, "forwarding"), "client_certificate")
    parts = ("subject", "issuer", "serial", "fingerprint", "dns", "email", "uri", "not_after")
    names = (attempt(read_field_name, get(table, part)) for part in parts)
    return frozenset(name.lower() for name in names if name is not None)


def _asks_for_certificates(settings: Mapping[str, Any]) -> bool:
    for _, listener in items(settings, "listeners"):
        tls = get(listener, "tls")
        tables = [tls, *(hosts for _, hosts in items(tls, "hosts"))]
        if any(get(table, "client_auth") not in {None, "none"} for table in tables):
            return True
    return False


def _methods(limit: _Limit, settings: Mapping[str, Any]) -> Iterator[Problem]:
    if not limit.is_rule:
        return
    seen: dict[str, int] = {}
    for index, method in items(limit.given, "methods"):
        if not isinstance(method, str):
            continue
        at = (*limit.loc, "methods", index)
        if seen.setdefault(method, index) != index:
            yield Problem(at, show(method), "each method may stand once")
        elif method == "TRACE" and not _passes_trace(settings, limit.route):
            yield Problem(at, show(method), "needs `http.trace = true`: it is refused before any limit")
        elif method.isupper() and method not in FORWARDED_METHODS:
            yield Problem(at, show(method), "must be a method that is forwarded, such as GET, POST or PROPFIND")


def _passes_trace(settings: Mapping[str, Any], number: int | None) -> bool:
    everywhere = get(get(settings, "http"), "trace", False)
    own = [get(get(route, "http"), "trace") for index, route in items(settings, "routes") if number in {None, index}]
    return any((everywhere if trace is None else trace) is not False for trace in own or [None])


def _policy_names(limits: list[_Limit]) -> Iterator[Problem]:
    """A limit with several windows is several policies to a client, each with its length behind the name."""
    taken: dict[str, Loc] = {}
    for limit in limits:
        rates = limit.rates
        if limit.get("ratelimit_fields") is True and rates and len(rates) > 1:
            name = get(limit.given, "name") if limit.is_rule else "requests"
            taken.update({f"{name}-{show_duration(rate.window)}": limit.loc for rate in rates})
    for limit in limits:
        name = get(limit.given, "name") if limit.is_rule else None
        if isinstance(name, str) and name in taken and limit.get("ratelimit_fields") is True:
            said = f"must be another name: a window of {spell(taken[name])} has this one in RateLimit-Policy"
            yield Problem((*limit.loc, "name"), show(name), said)


def _costs(settings: Mapping[str, Any], limits: list[_Limit]) -> Iterator[Problem]:
    for number, route in items(settings, "routes"):
        cost = attempt(read_whole, get(get(route, "limits"), "cost", 1))
        if cost is None:
            continue
        own = [limit for limit in limits if limit.route == number]
        replaced = any(not limit.is_rule for limit in own)
        for limit in limits:
            here = limit.route == number or (limit.route is None and (limit.is_rule or not replaced))
            least = min((rate.limit for rate in limit.rates or ()), default=cost)
            if here and cost > least:
                found = f"{cost}, more than the {least} of {spell((*limit.loc, 'rate'))}"
                yield Problem(("routes", number, "limits", "cost"), found, "no such request could ever pass")
