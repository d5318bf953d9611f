"""In which form a client wants to read the proxy's own errors, by its Accept (RFC 9110 section 12.5.1).

Three forms are on offer: a page for people, JSON, and problem details (RFC 9457). The one with the highest quality is
taken. Among equals one that the client names goes before one that only a wildcard covers, a page before JSON, and
problem details are for those that name them. Without an Accept, and where nothing fits, it is a page.

What cannot be read is stepped over. Only the beginning of a long field is looked at.
"""

from __future__ import annotations

import enum
import re

from iocproxy.message import Fields


class Form(enum.Enum):
    """The values are media types."""

    HTML = b"text/html; charset=utf-8"
    JSON = b"application/json"
    PROBLEM = b"application/problem+json"


#: Octets of Accept that are looked at; browsers send less than 200.
_LOOKED_AT = 2048

_KIND = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+/[!#$%&'*+\-.^_`|~0-9a-z]+")
#: RFC 9110 section 12.4.2.
_WEIGHT = re.compile(rb"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")


def accepted(fields: Fields) -> bytes:
    """The value of Accept, of all fields of that name together (RFC 9110 section 5.3)."""
    found = b""
    for name, value in fields:
        if name.lower() == b"accept":
            found = found + b", " + value if found else value
    return found


def wanted_form(accept: bytes) -> Form:
    """The form for a client that says so. Never raises, whatever the octets are."""
    if not accept:
        return Form.HTML
    ranges: dict[bytes, float] = {}
    for part in accept[:_LOOKED_AT].lower().split(b","):
        kind, *parameters = part.split(b";")
        kind = kind.strip(b" \t")
        weight = _weight(parameters)
        if weight is None or not _KIND.fullmatch(kind):
            continue
        if kind.endswith(b"+json") and kind != Form.PROBLEM.value:
            kind = Form.JSON.value  # a client of some interface in JSON can read JSON
        ranges[kind] = max(weight, ranges.get(kind, 0.0))
    best = Form.HTML
    highest = (0.0, False)
    for form, names, wildcards in _OFFERED:
        offered = _quality(ranges, names, wildcards)
        if offered[0] and offered > highest:
            best, highest = form, offered
    return best


#: In order of preference: each with the names it goes by, and the wildcards that cover it.
_OFFERED = (
    (Form.HTML, (b"text/html", b"application/xhtml+xml"), (b"text/*", b"*/*")),
    (Form.PROBLEM, (Form.PROBLEM.value,), ()),
    (Form.JSON, (Form.JSON.value, b"text/json"), (b"application/*", b"*/*")),
)


def _weight(parameters: list[bytes]) -> float | None:
    """The `q` among the parameters of a media range, None where it cannot be read."""
    for parameter in parameters:
        name, _, value = parameter.strip(b" \t").partition(b"=")
        if name == b"q":
            return float(value) if _WEIGHT.fullmatch(value) else None
    return 1.0


def _quality(ranges: dict[bytes, float], names: tuple[bytes, ...], wildcards: tuple[bytes, ...]) -> tuple[float, bool]:
    """The weight that the client gives it, by the most specific range, and whether that is its name."""
    named = [ranges[name] for name in names if name in ranges]
    if named:
        return max(named), True
    return next((ranges[name] for name in wildcards if name in ranges), 0.0), False
