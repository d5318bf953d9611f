"""The Forwarded field (RFC 7239): writing our element of it, and judging what a trusted proxy sent.

An element says of one hop who asked (`for`), for which host, over which scheme, and who received it (`by`)::

    Forwarded: for=192.0.2.43, for="[2001:db8:cafe::17]";host="example.com:8443";proto=https;by="192.0.2.7:8443"
"""

from __future__ import annotations

import re

from iocproxy.exchange.answers import PSEUDONYM

# RFC 7239 section 4; token and quoted-string are those of RFC 9110 sections 5.6.2 and 5.6.4. Everything is possessive:
# what a pattern has taken it never gives back, so that judging a value takes time in proportion to its length.
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*+"'
_PAIR = rb"(?:" + _TOKEN + rb"=(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?+"
_ELEMENT = _PAIR + rb"(?:;" + _PAIR + rb")*+"
_FORWARDED = re.compile(rb"[ \t]*+" + _ELEMENT + rb"[ \t]*+(?:,[ \t]*+" + _ELEMENT + rb"[ \t]*+)*+")

_A_TOKEN = re.compile(_TOKEN)
_A_QUOTED = re.compile(_QUOTED)

#: Addresses that a listener is bound to and nobody connects to.
_WILDCARDS = frozenset({"0.0.0.0", "[::]"})  # noqa: S104 - compared, not bound


def element(address: str, host: bytes, scheme: bytes, by: bytes) -> bytes:
    """Our element, for a request from the IP address `address`; `by` is from `receiver`.

    `host` is an authority, or empty where the request named none; then there is no `host` parameter.
    """
    node = address.encode("ascii")
    if b":" in node:
        node = b'"[%b]"' % node  # RFC 7239 section 6: IPv6 in brackets, and those only within quotes
    named = b"host=%b;" % _value(host) if host else b""
    return b"for=%b;%bproto=%b;by=%b" % (node, named, scheme, by)


def receiver(listener: str) -> bytes:
    """The `by` of a listener, ``host:port``. One that listens everywhere has no address to tell: it is given a name
    of our own (RFC 7239 section 6.3)."""
    host, _, port = listener.rpartition(":")
    return _value(f"{f'_{PSEUDONYM}' if host in _WILDCARDS else host}:{port}".encode("ascii"))


def is_forwarded(value: bytes) -> bool:
    """Whether a whole field value (several fields joined by commas) is a list of elements, and has at least one.

    RFC 7239 section 4 allows each parameter once in an element: which of two counts could be read either way.
    """
    if b"=" not in value or _FORWARDED.fullmatch(value) is None:
        return False
    for each in _A_QUOTED.sub(b"", value).split(b","):
        names = [pair.partition(b"=")[0].strip(b" \t").lower() for pair in each.split(b";") if b"=" in pair]
        if len(names) != len(set(names)):
            return False
    return True


def _value(text: bytes) -> bytes:
    """`text` as the value of a parameter. An authority has no quotes or backslashes, so there is nothing to escape."""
    return text if _A_TOKEN.fullmatch(text) else b'"%b"' % text
