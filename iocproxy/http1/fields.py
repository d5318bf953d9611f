"""What each field means to a proxy, as data.

Hop-by-hop fields are meant for the next hop only and are never passed on (RFC 9110 section 7.6.1). Framing fields are
consumed and written anew from the decision that was taken on them. Everything else is end-to-end: passed on as it
came, in order, with its case and duplicates.
"""

from __future__ import annotations

import re
from functools import lru_cache

from iocproxy.message import Fields

#: Consumed by the connection they came over, whoever names them or not (RFC 9110 section 7.6.1, RFC 9112 section 6.1;
#: Keep-Alive and Proxy-Connection are the historic ones; HTTP2-Settings belongs to h2c, which is not passed on).
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
        b"proxy-authenticate",
        b"proxy-authorization",
    }
)

#: Further fields by which a proxy says where a request came from; from anybody but a trusted proxy they are lies.
FORWARDED = frozenset({b"forwarded", b"x-forwarded-port", b"x-forwarded-server", b"x-real-ip"})

#: What may not come as a trailer: fields that decide framing, routing, authentication, the meaning of the content or
#: how it is to be handled (RFC 9110 section 6.5.1). Stricter than the RFC asks of a proxy, because there are servers
#: that merge trailers into the header section.
_NOT_IN_TRAILERS = re.compile(
    rb"(?:accept|content|if|proxy|sec|x-forwarded)-.+|accept|age|allow|authorization|cache-control|cookie|date|expect"
    rb"|expires|forwarded|from|host|location|max-forwards|origin|pragma|range|referer|retry-after|server|set-cookie"
    rb"|user-agent|vary|via|warning|www-authenticate|x-real-ip|x-request-id|x-http-method-override"
)


def may_be_trailer(name: bytes) -> bool:
    """Whether a field of this lower-case name is passed on when it comes as a trailer."""
    return name not in HOP_BY_HOP and not _NOT_IN_TRAILERS.fullmatch(name)


def announced_trailers(value: bytes) -> bytes:
    """A Trailer field (RFC 9110 section 6.6.2) without the names that are not passed on; b"" when none is left."""
    names = (item.strip(b" \t") for item in value.split(b","))
    return b", ".join(name for name in names if name and may_be_trailer(name.lower()))


#: Nobody may have these removed by naming them in Connection: that would forge a different message for the origin
#: (the "hop-by-hop header abuse" attack).
PROTECTED = frozenset(
    {
        b"host",
        b"date",
        b"content-length",
        b"content-type",
        b"content-encoding",
        b"cookie",
        b"set-cookie",
        b"authorization",
        b"forwarded",
        b"via",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-real-ip",
    }
)


def connection_options(value: bytes) -> frozenset[bytes]:
    """The lower-case members of a Connection field's list (RFC 9110 section 7.6.1)."""
    usual = _USUAL_OPTIONS.get(value)
    if usual is not None:
        return usual
    return frozenset(option for item in value.split(b",") if (option := item.strip(b" \t").lower()))


_USUAL_OPTIONS = {
    value: frozenset({value.lower()})
    for value in (b"keep-alive", b"Keep-Alive", b"close", b"Close", b"upgrade", b"Upgrade")
}


def drop_named(fields: Fields, options: frozenset[bytes]) -> Fields:
    """`fields` without those that Connection names, but for the protected ones."""
    named = options - PROTECTED
    return [field for field in fields if field[0].lower() not in named]


#: RFC 9110 section 5.6.2 (token), section 5.5 (field-value: visible, blanks inside, obs-text).
_VISIBLE = rb"[\x21-\x7e\x80-\xff]"
_FIELD_LINE = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*(" + _VISIBLE + rb"(?:[\x20-\x7e\x80-\xff\t]*" + _VISIBLE + rb")?)?[ \t]*"
)


def field_line(line: bytes) -> tuple[bytes, bytes] | None:
    """One field line without its CRLF as (name, value), or None where it is malformed."""
    match = _FIELD_LINE.fullmatch(line)
    return (match[1], match[2] or b"") if match else None


#: RFC 3986 section 3.2: what a Host field or an authority may look like (no userinfo, RFC 9110 section 4.2.4).
_AUTHORITY = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]{2,45}\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+)(?::[0-9]{0,5})?"
)


#: Octets; a host name has at most 253 (RFC 1035 section 2.3.4).
MAX_AUTHORITY = 255


@lru_cache(maxsize=1024)  # a proxy sees the same few hosts again and again
def is_authority(value: bytes) -> bool:
    """True for ``host`` or ``host:port`` in the grammar of RFC 9110 section 7.2, at most 255 octets."""
    return len(value) <= MAX_AUTHORITY and _AUTHORITY.fullmatch(value) is not None
