"""What holds for the requests of one route, as plain numbers: compiled once, looked at for every request."""

from __future__ import annotations

from typing import NamedTuple

from iocproxy.config import Bandwidth, Http, Timeouts


class Rules(NamedTuple):
    """`max_*`, `min_*` and `trace` are those of `config.Http`, the route's own ones put in."""

    tight_head: bool  #: whether a head that was accepted may still be out of this route's bounds
    max_request_line: int
    max_head: int
    max_fields: int
    max_body: int
    max_requests: int
    min_body_rate: int
    min_body_grace: float
    trace: bool
    receive: int  #: octets a second from a client, 0 for no bound
    send: int  #: octets a second to it, 0 for no bound
    timeouts: Timeouts


def compile_rules(http: Http, timeouts: Timeouts, bandwidth: Bandwidth, everywhere: Http) -> Rules:
    """The rules of a route with these settings; `everywhere` is what a head must keep within in any case."""
    heads = ("max_request_line", "max_head", "max_fields")
    return Rules(
        tight_head=any(getattr(http, bound) < getattr(everywhere, bound) for bound in heads),
        max_request_line=http.max_request_line,
        max_head=http.max_head,
        max_fields=http.max_fields,
        max_body=http.max_body,
        max_requests=http.max_requests,
        min_body_rate=http.min_body_rate,
        min_body_grace=http.min_body_grace,
        trace=http.trace,
        receive=bandwidth.receive or 0,
        send=bandwidth.send or 0,
        timeouts=timeouts,
    )
