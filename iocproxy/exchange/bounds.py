"""Whether a request may go where its route leads, as far as its head tells."""

from __future__ import annotations

from iocproxy.errors import ProxyError, Side
from iocproxy.http1.errors import bad_request, bad_request_body
from iocproxy.http1.framing import NO_BODY
from iocproxy.http1.request import RequestHead
from iocproxy.message import Fields
from iocproxy.routing import Rules

#: Methods by which somebody may ask what stands between: each hop counts down (RFC 9110 section 7.6.2).
COUNTED = frozenset({"OPTIONS", "TRACE"})


def check_head(head: RequestHead, rules: Rules) -> None:
    """Raises `ProxyError` where the route's rules refuse the request. A body of unknown length is counted later."""
    if rules.tight_head:
        if head.line_size > rules.max_request_line:
            raise bad_request("request line too long for its route", 414)
        if head.size > rules.max_head:
            raise bad_request(f"a head of more than {rules.max_head} octets", 431)
        if head.section.count > rules.max_fields:
            raise bad_request(f"more than {rules.max_fields} header fields", 431)
    if head.method == "TRACE":
        if not rules.trace:
            raise not_allowed("TRACE is switched off")
        if head.body != NO_BODY:
            raise bad_request("a TRACE with content (RFC 9110 section 9.3.8)")
    if head.body > rules.max_body:
        raise too_large(rules.max_body)


def misdirected() -> ProxyError:
    """The connection may be used for other hosts (RFC 9110 section 15.5.20), so that it stays open."""
    said = "the host is under another TLS policy than the connection"
    return ProxyError(said, side=Side.CLIENT, stage="head", status=421, proxy_status="http_request_denied")


def no_route() -> ProxyError:
    said = "no route for this host and path"
    return ProxyError(said, side=Side.CLIENT, stage="route", status=404, proxy_status="destination_not_found")


def too_large(most: int) -> ProxyError:
    return bad_request_body(f"a body of more than {most} octets", 413)


def not_allowed(why: str) -> ProxyError:
    return ProxyError(why, side=Side.CLIENT, stage="head", status=405, proxy_status="http_request_denied")


def hops_left(fields: Fields) -> int | None:
    """The Max-Forwards of a request that counts its hops, None without one. Raises `ProxyError`."""
    values = [value for name, value in fields if name.lower() == b"max-forwards"]
    if not values:
        return None
    if len(values) > 1 or not values[0].isdigit() or len(values[0]) > _MAX_DIGITS:
        raise bad_request("a Max-Forwards that is not one plain number")
    return int(values[0])


def one_hop_less(fields: Fields, left: int) -> Fields:
    """A copy of `fields` for the next hop, which may pass the request on `left` - 1 times."""
    return [(name, b"%d" % (left - 1) if name.lower() == b"max-forwards" else value) for name, value in fields]


_MAX_DIGITS = 9
