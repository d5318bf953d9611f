"""Who the client has proved to be, in fields for the upstream.

The identity is that of the TLS connection between this client and this proxy. Nobody else can know it, a trusted proxy
in front included: it would speak of another connection. So a field of such a name that comes in is always removed,
also where there is no TLS and where the client has shown nothing (`http1.reserved`).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping

from iocproxy.http1.reserved import ReservedFields
from iocproxy.message import ClientCertificate

#: RFC 9440 section 2. The chain is not sent: a session that was taken up has no chain any more.
_CLIENT_CERT = "Client-Cert"
_CLIENT_CERT_CHAIN = "Client-Cert-Chain"

_NOT_IN_NAMES = re.compile(rb"[^\x20-\x7e]")
#: What would end an item of a list, or begin an escape where there are none.
_NOT_IN_LISTS = re.compile(rb"[^\x21-\x7e]|[,%]")
_NOT_IN_URIS = re.compile(rb"[^\x21-\x7e]|,")


def distinguished_name(text: str) -> bytes:
    """A string of RFC 4514 in octets that a field can hold: the others are escaped as its section 2.4 allows."""
    value = _NOT_IN_NAMES.sub(lambda match: b"\\%02X" % match[0][0], text.encode())
    # A blank at the end is escaped as "\ ", and blanks at the end of a field are not part of it (RFC 9110 section 5.5).
    return value[:-1] + b"20" if value.endswith(b"\\ ") else value


def _listed(values: tuple[str, ...], escaped: re.Pattern[bytes] = _NOT_IN_LISTS) -> bytes:
    return b", ".join(escaped.sub(lambda match: b"%%%02X" % match[0][0], value.encode()) for value in values)


#: How each part of an identity is written.
_PARTS: dict[str, Callable[[ClientCertificate], bytes]] = {
    "subject": lambda certificate: distinguished_name(certificate.subject),
    "issuer": lambda certificate: distinguished_name(certificate.issuer),
    "serial": lambda certificate: certificate.serial.encode("ascii"),
    "fingerprint": lambda certificate: certificate.fingerprint.encode("ascii"),
    "dns": lambda certificate: _listed(certificate.dns),
    "email": lambda certificate: _listed(certificate.email),
    "uri": lambda certificate: _listed(certificate.uri, _NOT_IN_URIS),
    "not_after": lambda certificate: f"{certificate.not_after:%Y-%m-%dT%H:%M:%SZ}".encode("ascii"),
}


class IdentityFields:
    """`names` are the fields for the parts of an identity; `reserved` are those names, and whatever passes for them."""

    __slots__ = ("_names", "_rfc9440", "reserved")

    def __init__(self, names: Mapping[str, str], *, rfc9440: bool = False) -> None:
        """Raises KeyError for a part that there is not."""
        self._names = [(name.encode("ascii"), _PARTS[part]) for part, name in names.items()]
        self._rfc9440 = rfc9440
        also = (_CLIENT_CERT, _CLIENT_CERT_CHAIN) if rfc9440 else ()
        self.reserved = ReservedFields([*names.values(), *also])

    def lines(self, certificate: ClientCertificate | None) -> bytes:
        """Complete lines, without those that would be empty; b"" without a certificate."""
        if certificate is None:
            return b""
        fields = [(name, write(certificate)) for name, write in self._names]
        if self._rfc9440:  # a Byte Sequence of RFC 9651 section 4.1.8
            fields.append((_CLIENT_CERT.encode("ascii"), b":%b:" % base64.b64encode(certificate.der)))
        return b"".join(b"%b: %b\r\n" % field for field in fields if field[1])
