"""The ways in which an HTTP/1 message can be unacceptable, each a `ProxyError` that carries its own answer."""

from __future__ import annotations

from iocproxy.errors import ProxyError, Side


def bad_request(why: str, status: int = 400) -> ProxyError:
    """A request that is refused; the connection closes after the answer, because its framing cannot be trusted."""
    return ProxyError(why, side=Side.CLIENT, stage="head", status=status, proxy_status="http_request_error")


def bad_request_body(why: str, status: int = 400) -> ProxyError:
    """A request body that breaks its framing; what was forwarded of it must not look complete."""
    return ProxyError(why, side=Side.CLIENT, stage="body", status=status, proxy_status="http_request_error")


def bad_response(why: str, proxy_status: str = "http_protocol_error") -> ProxyError:
    """An upstream's head that is ambiguous or malformed: a 502, never passed on (RFC 9112 section 11.1)."""
    return ProxyError(why, side=Side.UPSTREAM, stage="response", status=502, proxy_status=proxy_status)


def bad_response_body(why: str) -> ProxyError:
    """An upstream's body that breaks its framing: the client's message ends visibly incomplete."""
    return ProxyError(why, side=Side.UPSTREAM, stage="body", status=502, proxy_status="http_response_incomplete")
