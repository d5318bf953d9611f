"""A strict reading of a connection's bytes, written from the RFCs and docs/design/framing.md, and from nothing else.

It shares no code with `iocproxy.http1`: a mistake would have to be made twice to stay unseen. It is no proxy's parser:
it wants all the bytes at once and repairs nothing. What iocproxy refuses by policy and not by grammar (methods it does
not know, targets, limits) is refused here too, so that both must come to the same.
"""

from __future__ import annotations

import re
from typing import NamedTuple

Fields = list[tuple[bytes, bytes]]

MAX_HEAD = 32 * 1024
MAX_LINE = 8 * 1024
MAX_FIELDS = 100
MAX_EMPTY_LINES = 4
MAX_INTERIM = 16
MAX_CHUNK_LINE = 256
MAX_TRAILERS = 8 * 1024

#: What llhttp knows beyond RFC 9110 section 9; the rest is answered with 501.
METHODS = frozenset(
    b"GET HEAD POST PUT DELETE OPTIONS TRACE PATCH COPY LOCK MKCOL MOVE PROPFIND PROPPATCH SEARCH UNLOCK BIND REBIND "
    b"UNBIND ACL REPORT MKACTIVITY CHECKOUT MERGE M-SEARCH NOTIFY SUBSCRIBE UNSUBSCRIBE PURGE MKCALENDAR LINK UNLINK "
    b"SOURCE QUERY".split()
)

#: Of this hop, or rewritten by whoever forwards the message: not compared.
OWNED = frozenset(
    b"connection keep-alive proxy-connection te trailer transfer-encoding upgrade http2-settings proxy-authorization "
    b"proxy-authenticate content-length host expect via forwarded x-forwarded-for x-forwarded-proto x-forwarded-host "
    b"x-forwarded-port x-forwarded-server x-real-ip x-request-id".split()
)
#: What nobody may have removed by naming it in Connection, beyond those.
KEPT = frozenset(b"date content-type content-encoding cookie set-cookie authorization".split())

_NAME = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(" + _NAME + rb") ([!-~]+) HTTP/1[.]([01])")
_STATUS_LINE = re.compile(rb"HTTP/1[.]([01]) ([1-5]\d\d)(?: ([ \t!-~\x80-\xff]*))?")
_FIELD = re.compile(rb"(" + _NAME + rb"):([ \t!-~\x80-\xff]*)")
_QUOTED = rb'"(?:[^\x00-\x08\x0a-\x1f\x7f"\\]|\\[^\x00-\x08\x0a-\x1f\x7f])*"'
_EXTENSION = rb"[ \t]*;[ \t]*" + _NAME + rb"(?:[ \t]*=[ \t]*(?:" + _NAME + rb"|" + _QUOTED + rb"))?"
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,15})(?:" + _EXTENSION + rb")*")
_NUMBER = re.compile(rb"\d{1,18}")
_ABSOLUTE = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?#]*)([^?#]*)([?][^#]*)?")
_HOST = re.compile(rb"(?:\[[0-9a-fA-F:.]{2,45}\]|(?:%[0-9a-fA-F]{2}|[-A-Za-z0-9._~!$&'()*+,;=])+)(?::\d{0,5})?")


class Seen(NamedTuple):
    """A message as it must be seen by whoever it is for; of a response `method` is the status, `target` the reason."""

    method: bytes
    target: bytes
    host: bytes
    fields: Fields
    body: bytes
    trailers: Fields


class Reading(NamedTuple):
    """`messages` are complete. `partial` has a head in order and a body that is refused or not all there.

    `end`: "" (nothing is left), "last" (what is left must not be read), "refused", "cut short", or "tunnel" (what is
    left is not HTTP). `rest` is what is left; of requests that are refused or cut short, from the first of them on.
    `interim` says how many of `messages` are interim responses, `until_close` that the end of the connection is the
    end of the final one.
    """

    messages: list[Seen]
    partial: Seen | None
    end: str
    rest: bytes = b""
    interim: int = 0
    until_close: bool = False


class _Refused(Exception):  # noqa: N818 - control flow of this file
    pass


class _CutShort(Exception):  # noqa: N818
    pass


class _Partial(Exception):  # noqa: N818
    def __init__(self, body: bytes, end: str) -> None:
        super().__init__(end)
        self.body = body
        self.end = end


def read_requests(data: bytes, room: int = 1) -> Reading:
    """Every request that a strict server reads from `data` until it must read no further.

    Its limits on a head are `room` times iocproxy's: a proxy adds to what it forwards.
    """
    messages: list[Seen] = []
    at = start = 0
    try:
        while True:
            start = at
            at = start = _empty_lines(data, at)
            if at == len(data):
                return Reading(messages, None, "")
            head, at = _head(data, at, room)
            line, fields = _fields(head, room)
            match = _REQUEST_LINE.fullmatch(line)
            _insist(match is not None and len(line) <= MAX_LINE)
            method, target, minor = match.groups()
            _insist(method in METHODS)
            host, target = _host_and_target(method, target, minor, fields)
            _insist(all(value.lower() == b"100-continue" for value in _all(fields, b"expect")))
            length, chunked = _framing(minor, fields)
            seen = Seen(method, target, host, end_to_end(fields), b"", [])
            try:
                body, trailers, at = _chunks(data, at) if chunked else (*_octets(data, at, length or 0), at)
                at += 0 if chunked else len(body)
            except _Partial as partial:
                return Reading(messages, seen._replace(body=partial.body), partial.end, data[start:])
            messages.append(seen._replace(body=body, trailers=trailers))
            if not _stays_open(minor, fields):
                return Reading(messages, None, "last", data[at:])
    except _Refused:
        return Reading(messages, None, "refused", data[start:])
    except _CutShort:
        return Reading(messages, None, "cut short", data[start:])


def read_response(data: bytes, method: bytes = b"GET", offered: bytes = b"", room: int = 1) -> Reading:
    """The response to one request with `method` (its Upgrade field: `offered`), with the interim ones before it.

    `data` is all that the connection brought before it ended in an orderly way; `room` as in `read_requests`.
    """
    messages: list[Seen] = []
    at = 0
    interim = 0
    try:
        while True:
            head, at = _head(data, at, room)
            line, fields = _fields(head, room)
            match = _STATUS_LINE.fullmatch(line)
            _insist(match is not None)
            minor, status, reason = match.groups()
            length, chunked = _framing(minor, fields, request=False)
            _insist(status != b"205" or not length)  # RFC 9110 section 15.3.6
            seen = Seen(status, reason or b"", b"", end_to_end(fields), b"", [])
            if status == b"101":
                chosen = b",".join(_all(fields, b"upgrade")[-1:]).split(b",")
                wanted = {item.strip(b" \t").lower() for item in offered.split(b",")} - {b""}
                # RFC 9110 section 7.8: to something that was offered, and said so in Connection
                _insist(b"upgrade" in _options(fields) and {item.strip(b" \t").lower() for item in chosen} <= wanted)
                return Reading([*messages, seen], None, "tunnel", data[at:], interim)
            if status < b"200":
                interim += 1
                _insist(interim <= MAX_INTERIM)
                messages.append(seen)
                continue
            if method == b"HEAD" or status in {b"204", b"304"}:
                length, chunked = 0, False
            until_close = length is None and not chunked
            if until_close:
                length = len(data) - at
            try:
                body, trailers, at = _chunks(data, at) if chunked else (*_octets(data, at, length or 0), at)
                at += 0 if chunked else len(body)
            except _Partial as partial:
                return Reading(messages, seen._replace(body=partial.body), partial.end, b"", interim)
            messages.append(seen._replace(body=body, trailers=trailers))
            return Reading(messages, None, "last", data[at:], interim, until_close)
    except _Refused:
        return Reading(messages, None, "refused", b"", interim)
    except _CutShort:
        return Reading(messages, None, "cut short", b"", interim)


def read_chunked(data: bytes) -> Reading:
    """A body in the chunked coding, as the one message, and what follows it."""
    nothing = Seen(b"", b"", b"", [], b"", [])
    try:
        body, trailers, at = _chunks(data, 0)
    except _Partial as partial:
        return Reading([], nothing._replace(body=partial.body), partial.end)
    return Reading([nothing._replace(body=body, trailers=trailers)], None, "last", data[at:])


def end_to_end(fields: Fields) -> Fields:
    """What is passed on as it came: neither of this hop nor named in Connection (RFC 9110 section 7.6.1)."""
    named = _options(fields) - KEPT
    return [field for field in fields if field[0].lower() not in OWNED | named]


def _insist(condition: bool) -> None:
    if not condition:
        raise _Refused


def _empty_lines(data: bytes, at: int) -> int:
    """RFC 9112 section 2.2; their number is bounded."""
    for _ in range(MAX_EMPTY_LINES):
        if not data.startswith(b"\r\n", at):
            return at
        at += 2
    if data.startswith(b"\r\n", at):
        raise _Refused
    return at


def _head(data: bytes, at: int, room: int) -> tuple[bytes, int]:
    end = data.find(b"\r\n\r\n", at)
    if max(end + 4, 0 if end >= 0 else len(data)) - at > MAX_HEAD * room:
        raise _Refused
    if end < 0:
        if data.count(b"\n", at) != data.count(b"\r\n", at):
            raise _Refused  # whatever comes, it cannot become a head
        raise _CutShort
    return data[at:end], end + 4


def _fields(head: bytes, room: int) -> tuple[bytes, Fields]:
    line, *lines = head.split(b"\r\n")
    fields = []
    for each in lines:
        match = _FIELD.fullmatch(each)
        if match is None:
            raise _Refused
        fields.append((match[1], match[2].strip(b" \t")))
    if len(fields) > MAX_FIELDS * room:
        raise _Refused
    return line, fields


def _all(fields: Fields, wanted: bytes) -> list[bytes]:
    return [value for name, value in fields if name.lower() == wanted]


def _options(fields: Fields) -> set[bytes]:
    return {item.strip(b" \t").lower() for value in _all(fields, b"connection") for item in value.split(b",")}


def _stays_open(minor: bytes, fields: Fields) -> bool:
    """RFC 9112 section 9.3."""
    options = _options(fields)
    return b"close" not in options and (minor == b"1" or b"keep-alive" in options)


def _is_host(value: bytes) -> bool:
    return len(value) <= 255 and _HOST.fullmatch(value) is not None


def _host_and_target(method: bytes, target: bytes, minor: bytes, fields: Fields) -> tuple[bytes, bytes]:
    """RFC 9112 section 3.2, for a server that is nobody's forward proxy."""
    hosts = _all(fields, b"host")
    if len(hosts) > 1 or (minor == b"1" and not hosts) or not all(map(_is_host, hosts)):
        raise _Refused
    host = hosts[0] if hosts else b""
    if target.startswith(b"/") and b"#" not in target:
        return host, target
    if target == b"*" and method == b"OPTIONS":
        return host, target
    match = _ABSOLUTE.fullmatch(target)
    if match is None or not _is_host(match[1]) or (host and match[1].lower() != host.lower()):
        raise _Refused
    path, query = match[2], match[3] or b""
    if not path and not query and method == b"OPTIONS":
        return match[1], b"*"
    return match[1], (path or b"/") + query


def _framing(minor: bytes, fields: Fields, *, request: bool = True) -> tuple[int | None, bool]:
    """(the length announced, whether chunked): RFC 9112 section 6, without its repairs."""
    codings, lengths = _all(fields, b"transfer-encoding"), _all(fields, b"content-length")
    if codings:
        if minor == b"0" or lengths or len(codings) > 1 or codings[0].lower() != b"chunked":
            raise _Refused
        return None, True
    if not lengths:
        return (0 if request else None), False
    if len(lengths) > 1 or _NUMBER.fullmatch(lengths[0]) is None:
        raise _Refused
    return int(lengths[0]), False


def _octets(data: bytes, at: int, length: int) -> tuple[bytes, Fields]:
    body = data[at : at + length]
    if len(body) < length:
        raise _Partial(body, "cut short")
    return body, []


def _chunks(data: bytes, at: int) -> tuple[bytes, Fields, int]:
    """RFC 9112 section 7.1."""
    body = b""
    while True:
        line, at = _line(data, at, MAX_CHUNK_LINE, body)
        match = _CHUNK.fullmatch(line)
        if match is None:
            raise _Partial(body, "refused")
        size = int(match[1], 16)
        if not size:
            break
        piece = data[at : at + size]
        body += piece
        at += len(piece)
        if len(piece) < size:
            raise _Partial(body, "cut short")
        if data[at : at + 2] != b"\r\n":
            raise _Partial(body, "cut short" if data[at:] in {b"", b"\r"} else "refused")
        at += 2
    trailers: Fields = []
    total = 0
    while True:
        line, at = _line(data, at, MAX_TRAILERS, body)
        if not line:
            return body, trailers, at
        total += len(line) + 2
        match = _FIELD.fullmatch(line)
        if match is None or total > MAX_TRAILERS:
            raise _Partial(body, "refused")
        trailers.append((match[1], match[2].strip(b" \t")))


def _line(data: bytes, at: int, limit: int, body: bytes) -> tuple[bytes, int]:
    end = data.find(b"\r\n", at)
    if end < 0 and len(data) - at <= limit + 1:
        raise _Partial(body, "cut short")
    if end < 0 or end - at > limit:
        raise _Partial(body, "refused")
    return data[at:end], end + 2
