"""What a request is counted by, from the `key` of a limit.

Whoever may choose the key's value can choose a new one for each request, and so can whoever finds a second spelling of
the same. The first is for a limit by address beside it to bound. The second is seen to here:

* What can be read in two ways is no key: a field or a parameter of the query that stands several times, a path that
  climbs ("..") or whose first segments hold an encoded slash. One server takes the first value and the next one the
  last, so whichever we took, there would be a server at which the other one counts.
* What is read in one way and can be written in several is brought into one form: percent-encoding is taken off, blanks
  are put together, and so on (each function says what). Two values that become one by that share a window. That is the
  harmless side: the other way round one client would have several.

Values are of any length and hostile. A key is a hash of them, 16 octets whatever they were: BLAKE2b without a secret,
so that all processes which share a storage come to the same. Each part goes in with its length, and what stands in for
a missing one is marked, so that no two requests with different parts give the same octets.
"""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Callable
from hashlib import blake2b
from operator import attrgetter
from urllib.parse import unquote_to_bytes

from iocproxy.config.limit_values import Key, KeyPart
from iocproxy.message import Request


class NoKey(enum.Enum):
    """Why a request has no key."""

    SKIPPED = enum.auto()  #: a part is missing, and such requests pass uncounted
    MISSING = enum.auto()  #: a part is missing, and such requests are refused
    AMBIGUOUS = enum.auto()  #: a part is there more than once, or can be read in more than one way


KeyReader = Callable[[Request], "bytes | NoKey"]

#: The octets of a part; b"" where it is missing or empty, None where it is ambiguous.
_PartReader = Callable[[Request], bytes | None]

_EVERYONE = b"*"


def key_reader(key: Key, missing: str) -> KeyReader:
    """How to get the key of a request; `missing` is "address", "skip" or "refuse"."""
    if key == (KeyPart("address"),):
        return attrgetter("key")
    if key == (KeyPart("everyone"),):
        return _everyone
    absent = {"address": None, "skip": NoKey.SKIPPED, "refuse": NoKey.MISSING}[missing]
    return functools.partial(_read, tuple(map(_part_reader, key)), absent)


def _everyone(request: Request) -> bytes:
    del request
    return _EVERYONE


def _read(parts: tuple[_PartReader, ...], absent: NoKey | None, request: Request) -> bytes | NoKey:
    octets = b""
    missing = False
    for part in parts:
        value = part(request)
        if value is None:
            return NoKey.AMBIGUOUS
        if value:
            octets += b"\x01%b%b" % (len(value).to_bytes(4, "big"), value)
        else:
            missing = True
            octets += b"\x00%c%b" % (len(request.key), request.key)
    if missing and absent is not None:
        return absent
    return blake2b(octets, digest_size=16).digest()


def _part_reader(part: KeyPart) -> _PartReader:
    name = part.name.encode("ascii")
    match part.kind:
        case "header":
            return functools.partial(_authorization if name == b"authorization" else _header, name)
        case "cookie":
            return functools.partial(_cookie, name)
        case "query":
            return functools.partial(_parameter, name)
        case "path":
            return functools.partial(_segment, int(name))
        case "certificate":
            return _certificate
        case "host":
            return _host
        case "method":
            return _method
        case "route":
            return _route
    return attrgetter("key")


# ── what is there once and in one form ───────────────────────────────────────────────────────────────────────────────


def _certificate(request: Request) -> bytes:
    """Of the certificate that was shown and verified on this connection; what a field says of one is a field."""
    certificate = request.client.certificate
    return bytes.fromhex(certificate.fingerprint) if certificate is not None else b""


def _host(request: Request) -> bytes:
    """Without the port and the root's dot, in lower case: as it is looked up among the routes."""
    host = request.host.lower()
    if host.startswith(b"["):
        return host.partition(b"]")[0]
    return unquote_to_bytes(host.partition(b":")[0]).lower().rstrip(b".")


def _method(request: Request) -> bytes:
    return request.method.encode()


def _route(request: Request) -> bytes:
    """At a listener that sends everybody on to https there are no routes; that is a route like any other."""
    return request.route.encode() or b"https"


# ── what a client may write as it likes ──────────────────────────────────────────────────────────────────────────────

_BLANKS = re.compile(rb"[ \t]+")


def _header(name: bytes, request: Request) -> bytes | None:
    """The field's value, runs of blanks as one. Of several fields of that name none counts."""
    found = b""
    seen = False
    for field, value in request.fields:
        if field.lower() == name:
            if seen:
                return None
            seen = True
            found = value
    return _BLANKS.sub(b" ", found).strip(b" ")


def _authorization(name: bytes, request: Request) -> bytes | None:
    """As `_header`; the scheme in front may be in either case (RFC 9110 section 11.1)."""
    found = _header(name, request)
    if not found:
        return found
    scheme, blank, rest = found.partition(b" ")
    return scheme.lower() + blank + rest


#: RFC 6265 section 4.1.1. In a quoted value some servers undo what `http.cookies` of Python makes: "\101" and "\"".
_ESCAPED = re.compile(rb"\\(?:([0-3][0-7][0-7])|(.))", re.DOTALL)


def _cookie(name: bytes, request: Request) -> bytes:
    """The value without quotes and with its percent-encoding taken off, "+" being a blank. Of several cookies of that
    name the first, which is the one for the longest path (RFC 6265 section 5.4): browsers do send several."""
    for field, value in request.fields:
        if field.lower() != b"cookie":
            continue
        for pair in value.split(b";"):
            found, equals, text = pair.partition(b"=")
            if equals and found.strip(b" \t") == name:
                return _plain(_unquoted(text.strip(b" \t")))
    return b""


def _unquoted(text: bytes) -> bytes:
    if len(text) < 2 or not (text.startswith(b'"') and text.endswith(b'"')):
        return text
    return _ESCAPED.sub(lambda found: bytes((int(found[1], 8),)) if found[1] else found[2], text[1:-1])


def _parameter(name: bytes, request: Request) -> bytes | None:
    """The value with its percent-encoding taken off, "+" being a blank. Names are compared in the same form; of several
    parameters of that name none counts."""
    found = b""
    seen = False
    for pair in request.target.partition(b"?")[2].split(b"&"):
        key, _, value = pair.partition(b"=")
        if _plain(key) == name:
            if seen:
                return None
            seen = True
            found = value
    return _plain(found)


def _plain(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" ")) if b"%" in text or b"+" in text else text


_SEPARATORS = re.compile(rb"[/\\]")
_CLIMBS = frozenset({b".", b".."})


def _segment(number: int, request: Request) -> bytes | None:
    """Segment `number` of the path, from 1, with its percent-encoding taken off, without parameters (";v=1") and in
    lower case; segments that are empty then are stepped over. Servers differ on each of these.

    Ambiguous: a path with "." or ".." for a segment, encoded or not, and one with an encoded slash, or a backslash, up
    to this segment.
    """
    path = request.target.partition(b"?")[0]
    if b"%" in path or b"." in path:
        for segment in _SEPARATORS.split(unquote_to_bytes(path)):
            if segment.partition(b";")[0] in _CLIMBS:
                return None
    if path == b"*":
        return b""  # of OPTIONS; no path
    for segment in path.split(b"/"):
        plain = unquote_to_bytes(segment)
        if _SEPARATORS.search(plain):
            return None
        plain = plain.partition(b";")[0]
        if plain:
            number -= 1
            if not number:
                return plain.lower() if plain.isascii() else _folded(plain)
    return b""


def _folded(octets: bytes) -> bytes:
    """Without regard to case, as UTF-8; what is none stays as it is."""
    return octets.decode("utf-8", "surrogateescape").casefold().encode("utf-8", "surrogateescape")
