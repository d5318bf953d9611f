"""A client's certificate, read for those who act on it: middleware, and upstreams that are told who the client is."""

from __future__ import annotations

import re
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from iocproxy.message import ClientCertificate

#: Certificates remembered: a client comes again and again, and reading one takes 30 to 50 µs.
_REMEMBERED = 1024

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@lru_cache(maxsize=_REMEMBERED)
def read_client_certificate(der: bytes) -> ClientCertificate:
    """Raises ValueError for one that OpenSSL accepted and that cannot be read all the same."""
    try:
        return _read(der)
    except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType, x509.InvalidVersion) as error:
        raise ValueError(str(error)) from error


def _read(der: bytes) -> ClientCertificate:
    certificate = x509.load_der_x509_certificate(der)
    serial = f"{certificate.serial_number:x}"
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    return ClientCertificate(
        subject=_name(certificate.subject),
        issuer=_name(certificate.issuer),
        serial=serial if len(serial) % 2 == 0 else f"0{serial}",
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        dns=tuple(names.get_values_for_type(x509.DNSName)),
        email=tuple(names.get_values_for_type(x509.RFC822Name)),
        uri=tuple(names.get_values_for_type(x509.UniformResourceIdentifier)),
        not_after=certificate.not_valid_after_utc,
        der=der,
    )


def _name(name: x509.Name) -> str:
    """RFC 4514 section 2.4 lets any octet be written as a backslash and two digits. A name must not break a line."""
    return _CONTROLS.sub(_escaped, name.rfc4514_string())


def _escaped(match: re.Match[str]) -> str:
    return "".join(f"\\{octet:02X}" for octet in match[0].encode())
