"""The responses the proxy gives itself: small, escaped by construction, in the form the client asked for.

Nothing a client or upstream sent is ever part of such a body, so there is nothing to escape.
"""

from __future__ import annotations

import functools
import json

from iocproxy.errors import ProxyError
from iocproxy.exchange.negotiation import Form
from iocproxy.exchange.pages import ErrorPages
from iocproxy.http1.serialize import response_head
from iocproxy.message import Fields, reason_phrase

#: What the proxy calls itself in Via and Proxy-Status (RFC 9110 section 7.6.3, RFC 9209 section 2).
PSEUDONYM = "iocproxy"

#: The methods that a proxy in front of any server can promise.
ALLOWED = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"

#: Said to the client. The error's own text goes to the log: it may name servers that are nobody's business.
_EXPLANATIONS = {
    400: "The request could not be understood.",
    403: "This request is not allowed.",
    404: "No route leads to this address.",
    405: "This method is not available here.",
    408: "The request took too long to arrive.",
    413: "The request's content is too large.",
    414: "The address is too long.",
    417: "The expectation cannot be met.",
    421: "This host needs a connection of its own.",
    429: "Too many requests. Please slow down.",
    431: "The request's header fields are too large.",
    500: "Something went wrong in the proxy.",
    501: "The request uses something that is not supported here.",
    502: "The server behind this proxy gave no valid answer.",
    503: "The service is busy or not available. Please try again later.",
    504: "The server behind this proxy took too long to answer.",
    505: "This version of HTTP is not supported here.",
}


@functools.lru_cache(maxsize=256)
def error_body(status: int, form: Form) -> tuple[bytes, bytes]:
    """(content type, body) for an error of `status`."""
    title = reason_phrase(status).decode("ascii") or "Error"
    text = _EXPLANATIONS.get(status, title)
    if form is Form.JSON:
        return form.value, _json({"status": status, "error": title, "message": text})
    if form is Form.PROBLEM:
        # RFC 9457 section 4.2.1: of no type of its own, so the title is that of the status
        return form.value, _json({"type": "about:blank", "title": title, "status": status, "detail": text})
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{status} {title}</title></head>\n'
        f"<body><h1>{status} {title}</h1><p>{text}</p><hr><p>{PSEUDONYM}</p></body></html>\n"
    )
    return form.value, page.encode("ascii")


def _json(said: dict[str, object]) -> bytes:
    return json.dumps(said).encode() + b"\n"


def error_fields(status: int, proxy_status: str, content_type: bytes) -> Fields:
    """The fields of an error answer: Proxy-Status (RFC 9209) says to operators what the page does not."""
    fields: Fields = [(b"Content-Type", content_type), (b"Cache-Control", b"no-store")]
    if proxy_status:
        fields.append((b"Proxy-Status", f"{PSEUDONYM}; error={proxy_status}".encode("ascii")))
    if status == 405:
        fields.append((b"Allow", ALLOWED.encode("ascii")))  # RFC 9110 section 15.5.6
    return fields


def error_answer(status: int, proxy_status: str, pages: ErrorPages, form: Form) -> tuple[Fields, bytes]:
    """The fields and the body of the answer to an error: the operator's page where there is one."""
    content_type, body = pages.find(status, as_json=form is not Form.HTML) or error_body(status, form)
    return error_fields(status, proxy_status, content_type), body


def own_response(
    lines: bytes, status: int, reason: bytes, fields: Fields, body: bytes, version: int, *, keep_alive: bool
) -> bytes:
    """The head of a response that the proxy itself gives; `lines` are the complete ones that every response has."""
    tail = lines
    if status not in {204, 304}:
        tail = b"Content-Length: %d\r\n%b" % (len(body), tail)
    if not keep_alive:
        tail = b"Connection: close\r\n" + tail
    elif version == 10:
        tail = b"Connection: keep-alive\r\n" + tail
    return response_head(status, reason, fields, tail)


def told(error: ProxyError) -> str:
    """An error as the record tells it: whose fault, and what."""
    return f"{error.side}: {error}"
