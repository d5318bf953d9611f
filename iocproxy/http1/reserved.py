"""Fields that are the proxy's alone to send: no client's field of such a name gets through, in whatever spelling.

Servers that hand fields to programs as variables (CGI, WSGI, PHP) write names in capitals and put an underscore for
what is no letter and no digit (RFC 3875 section 4.1.18 says so of the hyphen; some do it with every such character). So
`X_Client_Subject` and `X.Client.Subject` are X-Client-Subject to them, and must be so here.
"""

from __future__ import annotations

from collections.abc import Iterable

from iocproxy.message import Fields

_FOLDED = bytes(ord(chr(octet).lower()) if octet < 0x80 and chr(octet).isalnum() else ord("_") for octet in range(256))


class ReservedFields:
    """Immutable; asked when a field section is new, not for every request."""

    __slots__ = ("_names",)

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(name.encode("ascii").translate(_FOLDED) for name in names)

    def __contains__(self, name: bytes) -> bool:
        return name.translate(_FOLDED) in self._names

    def without(self, fields: Fields) -> Fields:
        """`fields` without those of these names."""
        return [field for field in fields if field[0].translate(_FOLDED) not in self._names]

    def without_names(self, names: bytes) -> bytes:
        """The same of a list of names, as the field Trailer holds it."""
        return b", ".join(name for item in names.split(b",") if (name := item.strip(b" \t")) and name not in self)

    def __repr__(self) -> str:
        return f"<ReservedFields {b', '.join(sorted(self._names)).decode('ascii')}>"
