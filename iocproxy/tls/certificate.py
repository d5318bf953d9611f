"""One certificate with its key, read from files and checked before anything is served with it.

Everything that can be wrong is found here, by reading the files with `cryptography`, so that the person who has to
put it right is told which file and what: OpenSSL's own message for most of it is one word, and for an encrypted key
it would ask on the terminal.
"""

from __future__ import annotations

import datetime
import hashlib
import ssl
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from iocproxy.errors import ConfigError, Fault
from iocproxy.tls.chain import about_chain


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate chain and its key that belong together and that OpenSSL accepts.

    `names` are the DNS names (lower case, wildcards as written) and IP addresses of subjectAltName; the common name
    is not consulted (RFC 9110 section 4.3.4). `warnings` are phrases about what is served nevertheless. `octets` are
    what the two files held, and `digest` is of both.
    """

    cert: Path
    key: Path
    password: str | None
    names: tuple[str, ...]
    key_type: str  #: "rsa-2048", "ecdsa-secp256r1", "ed25519", "ed448"
    not_before: datetime.datetime
    not_after: datetime.datetime
    warnings: tuple[str, ...]
    octets: tuple[bytes, bytes]
    digest: bytes

    @property
    def is_rsa(self) -> bool:
        return self.key_type.startswith("rsa")

    def load_into(self, context: ssl.SSLContext) -> None:
        """Give a new context this certificate, whatever the files hold by now.

        Blocking. Raises OSError (ssl.SSLError is one) as `load_cert_chain` does, and where the files change just now.
        """

        def password() -> str:  # even where there is none: OpenSSL must never ask on the terminal
            return self.password or ""

        if self._is_in_its_files():
            context.load_cert_chain(self.cert, self.key, password=password)
            if not self._is_in_its_files():
                raise OSError(None, f"{self.cert} or {self.key} changed while they were read")
        else:
            # The new files are no good, and the old certificate comes under a new policy. OpenSSL reads files only.
            with tempfile.TemporaryDirectory(prefix="iocproxy-") as directory:
                cert, key = Path(directory, "cert.pem"), Path(directory, "key.pem")
                for file, octets in zip((cert, key), self.octets, strict=True):
                    file.write_bytes(octets)
                context.load_cert_chain(cert, key, password=password)

    def _is_in_its_files(self) -> bool:
        try:
            return (self.cert.read_bytes(), self.key.read_bytes()) == self.octets
        except OSError:
            return False

    def days_left(self, now: datetime.datetime) -> float:
        """Until it expires; negative when it has."""
        return (self.not_after - now) / datetime.timedelta(days=1)

    def __repr__(self) -> str:
        return f"<Certificate {self.cert} {self.key_type} for {', '.join(self.names) or 'no name'}>"


def load_certificate(
    cert: Path | str,
    key: Path | str,
    password: str | None = None,
    *,
    path: str = "",
    now: datetime.datetime | None = None,
    for_client: bool = False,
) -> Certificate:
    """Read and check a PEM certificate chain (the server's own first) and its PEM key; both may be one file.

    `path` is the configuration's key path for messages, `now` the time that validity is judged by; `for_client` says
    that it is shown to servers, which look for no host's name in it. Blocking: reads both files.
    Raises ConfigError with everything that is wrong. An expired certificate is a warning, not a fault:
    a proxy that refuses to start helps nobody whose clients would have gone on.
    """
    cert, key = Path(cert), Path(key)
    faults: list[Fault] = []
    cert_path, key_path = (f"{path}.cert", f"{path}.key") if path else ("cert", "key")
    cert_octets, key_octets = _read(cert, cert_path, faults), _read(key, key_path, faults)
    chain = _chain(cert_octets, cert, cert_path, faults)
    private = _private(key_octets, key, password, key_path, faults)
    if chain and private:
        _check_pair(chain, private, cert, key, path, faults)
    if faults or not chain or private is None or cert_octets is None or key_octets is None:
        raise ConfigError(faults)

    leaf = chain[0]
    certificate = Certificate(
        cert=cert,
        key=key,
        password=password,
        names=_names(leaf),
        key_type=_key_type(private),
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
        warnings=(),
        octets=(cert_octets, key_octets),
        digest=digest(cert_octets, key_octets),
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        certificate.load_into(context)
    except OSError as error:  # ssl.SSLError included: what OpenSSL's security level refuses, for example
        reason = getattr(error, "reason", None) or error.strerror or str(error)
        found = f"{cert} with {key} is refused by OpenSSL ({reason})"
        raise ConfigError([Fault(path, found, "a certificate and key that OpenSSL accepts")]) from error
    now = now or datetime.datetime.now(datetime.UTC)
    warnings = _warnings(leaf, cert, now, for_client=for_client)
    # Whom servers trust to issue certificates for clients has nothing to do with this system's authorities.
    warnings += about_chain(chain, cert, None if for_client else context, now)
    return replace(certificate, warnings=tuple(warnings))


def digest(cert: bytes, key: bytes) -> bytes:
    """Tells certificates apart whose files are the same and held something else."""
    return hashlib.sha256(b"%d %b%b" % (len(cert), cert, key)).digest()


def _read(file: Path, path: str, faults: list[Fault]) -> bytes | None:
    try:
        return file.read_bytes()
    except OSError as error:
        faults.append(Fault(path, f"{file} cannot be read ({error.strerror or error})", "a readable PEM file"))
        return None


def _chain(data: bytes | None, file: Path, path: str, faults: list[Fault]) -> list[x509.Certificate]:
    if data is None:
        return []
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError:
        found = f"{file} holds no PEM certificate"
        if b"-----BEGIN CERTIFICATE-----" in data:
            found = f"{file} holds a damaged PEM certificate"
        faults.append(Fault(path, found, "-----BEGIN CERTIFICATE-----, the server's own first"))
        return []


def _private(
    data: bytes | None, file: Path, password: str | None, path: str, faults: list[Fault]
) -> PrivateKeyTypes | None:
    if data is None:
        return None
    encrypted = b"ENCRYPTED" in data
    if encrypted and not password:
        faults.append(Fault(path, f"{file} is encrypted and no password is given", "give its password"))
        return None
    try:
        return load_pem_private_key(data, password.encode() if password and encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        if b"PRIVATE KEY-----" not in data:
            faults.append(Fault(path, f"{file} holds no PEM private key", "-----BEGIN PRIVATE KEY-----"))
        elif encrypted:
            faults.append(Fault(path, f"{file} cannot be decrypted with the password given", "the key's password"))
        else:
            faults.append(Fault(path, f"{file} holds a damaged PEM private key", "-----BEGIN PRIVATE KEY-----"))
        return None


def _check_pair(
    chain: list[x509.Certificate],
    private: PrivateKeyTypes,
    cert: Path,
    key: Path,
    path: str,
    faults: list[Fault],
) -> None:
    if not _key_type(private):
        kind = type(private).__name__.strip("_").removesuffix("PrivateKey")
        faults.append(Fault(path, f"{key} holds a {kind} key", "an RSA, ECDSA, Ed25519 or Ed448 key"))
        return
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    wanted = private.public_key().public_bytes(*form)
    if chain[0].public_key().public_bytes(*form) != wanted:
        found = f"{key} is not the key of the first certificate in {cert}"
        for number, other in enumerate(chain[1:], 2):
            if other.public_key().public_bytes(*form) == wanted:
                found += f" but of number {number}"
        faults.append(Fault(path, found, "a certificate and key that belong together, the server's own first"))


def _key_type(private: PrivateKeyTypes) -> str:
    match private:
        case rsa.RSAPrivateKey():
            return f"rsa-{private.key_size}"
        case ec.EllipticCurvePrivateKey():
            return f"ecdsa-{private.curve.name}"
        case ed25519.Ed25519PrivateKey():
            return "ed25519"
        case ed448.Ed448PrivateKey():
            return "ed448"
        case _:
            return ""


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    dns = [name.lower() for name in names.get_values_for_type(x509.DNSName)]
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return tuple(dict.fromkeys(dns + addresses))


def _fit_for_clients(leaf: x509.Certificate) -> bool:
    try:
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        return True  # RFC 5280 section 4.2.1.12: without the extension it is for everything
    fit = (x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH, x509.oid.ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)
    return any(each in fit for each in usage)


def _warnings(leaf: x509.Certificate, cert: Path, now: datetime.datetime, *, for_client: bool) -> list[str]:
    found = []
    if now > leaf.not_valid_after_utc:
        found.append(f"{cert} expired on {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    if now < leaf.not_valid_before_utc:
        found.append(f"{cert} is not valid before {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")
    if for_client:
        if not _fit_for_clients(leaf):
            found.append(f"{cert} is not meant for clients (extendedKeyUsage), so servers may refuse it")
    elif not _names(leaf):
        found.append(f"{cert} names no host in subjectAltName, so no client will accept it")
    return found
