"""Heads written anew from parsed parts; nothing received is ever copied through as a block."""

from __future__ import annotations

from iocproxy.http1.framing import CHUNKED, NO_BODY, BodyLength
from iocproxy.message import Fields

_NAME_AND_VALUE = b": ".join
_LINES = b"\r\n".join


def request_head(method: str, target: bytes, lines: bytes, body: BodyLength, tail: bytes) -> bytes:
    """A request's head for an upstream.

    `lines` are from `request_lines`, for the same `body`. `tail` holds the complete lines that this proxy adds
    (forwarding fields, Via, Connection), each with its CRLF.
    """
    if body == NO_BODY and method in _BODY_EXPECTED:
        tail = b"Content-Length: 0\r\n" + tail  # RFC 9110 section 8.6: a user agent SHOULD say so for these methods
    return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (method.encode("ascii"), target, lines, tail)


def request_lines(host: bytes, fields: Fields, body: BodyLength) -> bytes:
    """The lines for Host, the client's fields as they came, and the framing. Host comes first, as RFC 9110 section 7.2
    asks."""
    lines = [b"Host: " + host, *map(_NAME_AND_VALUE, fields)]
    if body > 0:
        lines.append(b"Content-Length: %d" % body)
    elif body == CHUNKED:
        lines.append(b"Transfer-Encoding: chunked")
    lines.append(b"")
    return _LINES(lines)


_BODY_EXPECTED = frozenset({"POST", "PUT", "PATCH"})


def response_head(status: int, reason: bytes, fields: Fields, tail: bytes) -> bytes:
    """A response's head for a client; `tail` as in `request_head`, framing included."""
    lines = [b"HTTP/1.1 %d %b" % (status, reason)]
    lines.extend(map(_NAME_AND_VALUE, fields))
    return b"%b\r\n%b\r\n" % (_LINES(lines), tail)
