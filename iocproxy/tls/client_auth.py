"""Whose certificates are accepted from clients, and which of them are revoked; read from files and checked.

OpenSSL does the verifying. What it is given is looked at here first, because its own reasons come too late and name no
file: a revocation list that is missing, out of date or signed by somebody else makes it refuse *every* client of that
issuer, once the proxy serves.
"""

from __future__ import annotations

import datetime
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from iocproxy.errors import ConfigError, Fault


@dataclass(frozen=True, slots=True)
class ClientAuth:
    """What is asked of a client's certificate. Equal where the files held the same: a renewed list is another policy.

    `authorities` and `revoked` are PEM texts; `whole_chain` says that the certificates between the client's and the
    authority are looked up in the lists as well.
    """

    required: bool
    authorities: str
    revoked: str = ""
    whole_chain: bool = False

    def apply_to(self, context: ssl.SSLContext) -> None:
        """Make a new server context ask for certificates. Blocking: writes a temporary file where there are lists."""
        context.verify_mode = ssl.CERT_REQUIRED if self.required else ssl.CERT_OPTIONAL
        if not self.whole_chain:
            # Each certificate in the file is an authority by itself: one that issued it need not be trusted as well.
            # (Where the whole chain is looked up, all are there, and OpenSSL could not check the end of a partial one.)
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=self.authorities)
        if self.revoked:
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN if self.whole_chain else ssl.VERIFY_CRL_CHECK_LEAF
            # `cadata` takes no lists. The files themselves may have changed since they were checked.
            with tempfile.TemporaryDirectory(prefix="iocproxy-") as directory:
                file = Path(directory, "revoked.pem")
                file.write_text(self.revoked, "ascii")
                context.load_verify_locations(cafile=file)

    def __repr__(self) -> str:
        revoked = f" revoked={self.revoked.count('BEGIN')}" if self.revoked else ""
        required = "required" if self.required else "optional"
        return f"<ClientAuth {required} authorities={self.authorities.count('BEGIN')}{revoked}>"


def load_client_auth(
    ca: Path,
    crl: Path | None = None,
    *,
    required: bool,
    ca_path: str = "",
    crl_path: str = "",
    now: datetime.datetime | None = None,
) -> tuple[ClientAuth, list[tuple[str, str]]]:
    """Read and check the authorities (PEM) and the revocation lists (PEM, or one in DER).

    `ca_path` and `crl_path` are the configuration's key paths for messages, `now` the time that validity is judged by.
    Returns warnings as (key path, text) too. Blocking: reads both files. Raises ConfigError with everything that is
    wrong. Lists and authorities out of date are warnings: they let nobody in, and a proxy that refuses to start would
    serve nobody else either.
    """
    now = now or datetime.datetime.now(datetime.UTC)
    faults: list[Fault] = []
    warnings: list[tuple[str, str]] = []
    authorities = _authorities(ca, ca_path, faults)
    for authority in authorities:
        warnings.extend((ca_path, text) for text in _validity(authority, ca, now))
    lists = _lists(crl, crl_path, faults) if crl is not None else []
    if crl is not None and authorities and lists:
        _check_signatures(lists, authorities, crl, ca, crl_path, faults)
        warnings.extend((crl_path, text) for text in _about_lists(lists, authorities, crl, ca, now))
    if faults:
        raise ConfigError(faults)
    auth = ClientAuth(
        required,
        "".join(each.public_bytes(Encoding.PEM).decode("ascii") for each in authorities),
        "".join(each.public_bytes(Encoding.PEM).decode("ascii") for each in lists),
        _covers_the_chain(lists, authorities),
    )
    try:
        auth.apply_to(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    except ssl.SSLError as error:  # what OpenSSL reads otherwise than `cryptography`
        fault = Fault(ca_path, f"{ca} is refused by OpenSSL ({error.reason})", "authorities that OpenSSL accepts")
        raise ConfigError([fault]) from error
    except OSError as error:
        found = f"no temporary file can be written for {crl} ({error.strerror or error})"
        raise ConfigError([Fault(crl_path, found, "a directory for temporary files (TMPDIR)")]) from error
    return auth, warnings


def _read(file: Path, path: str, kind: str, faults: list[Fault]) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        faults.append(Fault(path, f"{file} cannot be read ({error.strerror or error})", f"a readable {kind} file"))
        return b""


def _authorities(file: Path, path: str, faults: list[Fault]) -> list[x509.Certificate]:
    known = len(faults)
    data = _read(file, path, "PEM", faults)
    if len(faults) > known:
        return []
    try:
        found = x509.load_pem_x509_certificates(data)
    except ValueError:
        said = "a damaged PEM certificate" if b"-----BEGIN CERTIFICATE-----" in data else "no PEM certificate"
        faults.append(Fault(path, f"{file} holds {said}", "a PEM file of certificate authorities"))
        return []
    for certificate in found:
        if not _is_authority(certificate):
            said = f"{file} holds {_called(certificate.subject)}, which is no authority"
            faults.append(Fault(path, said, "certificates that may issue others (basicConstraints with CA true)"))
    return list(dict.fromkeys(found))


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        # A root of version 1 has no extensions, and OpenSSL takes it for an authority where it is self-signed.
        return certificate.version is x509.Version.v1 and certificate.subject == certificate.issuer
    except ValueError:
        return False


def _lists(file: Path, path: str, faults: list[Fault]) -> list[x509.CertificateRevocationList]:
    known = len(faults)
    data = _read(file, path, "PEM or DER", faults)
    if len(faults) > known:
        return []
    begin, end = b"-----BEGIN X509 CRL-----", b"-----END X509 CRL-----"
    try:
        if begin not in data:
            return [x509.load_der_x509_crl(data)]
        pieces = [piece.partition(end) for piece in data.split(begin)[1:]]
        return [x509.load_pem_x509_crl(begin + text + mark + b"\n") for text, mark, _ in pieces]
    except ValueError:
        said = "a damaged revocation list" if begin in data else "no certificate revocation list"
        faults.append(
            Fault(path, f"{file} holds {said}", "revocation lists, each -----BEGIN X509 CRL-----, or one DER")
        )
        return []


def _check_signatures(
    lists: list[x509.CertificateRevocationList],
    authorities: list[x509.Certificate],
    crl: Path,
    ca: Path,
    path: str,
    faults: list[Fault],
) -> None:
    """A list by an authority's name and not of its key: OpenSSL would refuse every client of that authority."""
    for each in lists:
        signers = [authority for authority in authorities if authority.subject == each.issuer]
        if signers and not any(_signed(each, authority) for authority in signers):
            said = f"{crl} holds a list that {_called(each.issuer)} in {ca} has not signed"
            faults.append(Fault(path, said, "revocation lists of the authorities in `client_ca`"))


def _signed(each: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    try:
        return each.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
    except (InvalidSignature, UnsupportedAlgorithm, TypeError, ValueError):
        return False


def _about_lists(
    lists: list[x509.CertificateRevocationList],
    authorities: list[x509.Certificate],
    crl: Path,
    ca: Path,
    now: datetime.datetime,
) -> list[str]:
    found = []
    for each in lists:
        whose = f"{crl}: the list of {_called(each.issuer)}"
        refused = "until there is a new one, every client of this issuer is refused"
        if each.next_update_utc is not None and now > each.next_update_utc:
            found.append(f"{whose} expired on {each.next_update_utc:%Y-%m-%d %H:%M} UTC; {refused}")
        if now < each.last_update_utc:
            found.append(f"{whose} is not valid before {each.last_update_utc:%Y-%m-%d %H:%M} UTC; {refused}")
        if all(authority.subject != each.issuer for authority in authorities):
            # Not a fault: it may be an intermediate that clients send along.
            found.append(f"{whose} is of nobody in {ca}; it serves only for an intermediate that clients send along")
    issuers = {each.issuer for each in lists}
    parents = {each.issuer for each in authorities if each.issuer != each.subject}
    found.extend(
        f"{crl} has no list of {_called(each.subject)}: clients whose certificate it issued are refused"
        for each in authorities
        if each.subject not in issuers | parents
    )
    return found


def _covers_the_chain(lists: list[x509.CertificateRevocationList], authorities: list[x509.Certificate]) -> bool:
    """Whether each certificate up to the root can be looked up: whoever issued the authorities is one of them and has a
    list. Where that is not so, OpenSSL would refuse everybody."""
    can_be_asked = {each.issuer for each in lists} & {each.subject for each in authorities}
    return all(each.issuer in can_be_asked for each in authorities)


def _validity(certificate: x509.Certificate, file: Path, now: datetime.datetime) -> list[str]:
    called = f"{file}: {_called(certificate.subject)}"
    if now > certificate.not_valid_after_utc:
        return [f"{called} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"]
    if now < certificate.not_valid_before_utc:
        return [f"{called} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"]
    return []


def _called(name: x509.Name) -> str:
    return name.rfc4514_string() or "an authority without a name"
