"""Heads written anew from parsed parts; nothing received is ever copied through as a block."""

from __future__ import annotations

from iocproxy.http1.framing import CHUNKED, BodyLength
from iocproxy.message import Fields

_NAME_AND_VALUE = b": ".join
_LINES = b"\r\n".join


def request_head(method: str, target: bytes, host: bytes, fields: Fields, body: BodyLength, tail: bytes) -> bytes:
    """A request's head for an upstream.

    `tail` holds the complete lines that this proxy adds (forwarding fields, Via, Connection), each with its CRLF.
    Host comes first, as RFC 9110 section 7.2 asks; then the client's fields as they came.
    """
    lines = [b"%b %b HTTP/1.1\r\nHost: %b" % (method.encode("ascii"), target, host)]
    lines.extend(map(_NAME_AND_VALUE, fields))
    if body > 0:
        lines.append(b"Content-Length: %d" % body)
    elif body == CHUNKED:
        lines.append(b"Transfer-Encoding: chunked")
    elif method in _BODY_EXPECTED:
        lines.append(b"Content-Length: 0")  # RFC 9110 section 8.6: a user agent SHOULD say so for these methods
    return b"%b\r\n%b\r\n" % (_LINES(lines), tail)


_BODY_EXPECTED = frozenset({"POST", "PUT", "PATCH"})


def response_head(status: int, reason: bytes, fields: Fields, tail: bytes) -> bytes:
    """A response's head for a client; `tail` as in `request_head`, framing included."""
    lines = [b"HTTP/1.1 %d %b" % (status, reason)]
    lines.extend(map(_NAME_AND_VALUE, fields))
    return b"%b\r\n%b\r\n" % (_LINES(lines), tail)
