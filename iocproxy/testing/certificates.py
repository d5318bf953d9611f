"""Certificates that a test's clients trust, made on the spot."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import trustme

#: What the first certificate is valid for.
NAMES = ("localhost", "127.0.0.1", "::1", "*.example.test")


class CertificatePair(NamedTuple):
    """Two PEM files: the certificate with its chain, and its private key."""

    cert: Path
    key: Path


class Certificates:
    """A certificate authority and a first certificate (ECDSA P-256, valid for `NAMES`), as files in `directory`.

    `ca` is the authority's certificate, `cert` and `key` are the first pair.
    """

    def __init__(self, directory: Path) -> None:
        """Raises ModuleNotFoundError where trustme, of the extra ``iocproxy[test]``, is not installed."""
        try:
            import trustme  # noqa: PLC0415  an optional dependency, and a slow import
        except ModuleNotFoundError as error:
            said = f"{error}; certificates for tests are made with trustme: pip install 'iocproxy[test]'"
            raise ModuleNotFoundError(said, name=error.name) from error

        self._directory = directory
        self._kinds = trustme.KeyType
        self._authority = trustme.CA()
        self._issued = 0
        self.ca = directory / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.ca))
        self.pair = self.issue(*NAMES)

    @property
    def cert(self) -> Path:
        return self.pair.cert

    @property
    def key(self) -> Path:
        return self.pair.key

    def issue(self, *names: str, rsa: bool = False) -> CertificatePair:
        """A further pair of the same authority for these names (`NAMES` without any); RSA-2048 on request."""
        kind = self._kinds.RSA if rsa else self._kinds.ECDSA
        return self._write(self._authority.issue_cert(*(names or NAMES), key_type=kind))

    def _write(self, leaf: trustme.LeafCert) -> CertificatePair:
        self._issued += 1
        pair = CertificatePair(
            self._directory / f"{self._issued}-cert.pem", self._directory / f"{self._issued}-key.pem"
        )
        pair.cert.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        pair.key.write_bytes(leaf.private_key_pem.bytes())
        return pair

    def client_certificate(self, common_name: str, *names: str) -> CertificatePair:
        """A pair for a client whose subject is ``CN=common_name,OU=clients,O=iocproxy``.

        `names` are host names and mail addresses for its subjectAltName.
        """
        leaf = self._authority.issue_cert(
            *names,
            common_name=common_name,
            organization_name="iocproxy",
            organization_unit_name="clients",
            key_type=self._kinds.ECDSA,
        )
        return self._write(leaf)

    def revocation_list(self, *revoked: CertificatePair, days: float = 1) -> Path:
        """A certificate revocation list (PEM) of this authority that names these, valid for `days` from now on.

        Negative `days` make one that has expired.
        """
        from cryptography import x509  # noqa: PLC0415  takes its time, as trustme does
        from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415

        authority = x509.load_pem_x509_certificate(self._authority.cert_pem.bytes())
        key = serialization.load_pem_private_key(self._authority.private_key_pem.bytes(), None)
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
        builder = x509.CertificateRevocationListBuilder(
            authority.subject, until - datetime.timedelta(days=abs(days) + 1), until
        )
        for pair in revoked:
            serial = x509.load_pem_x509_certificate(pair.cert.read_bytes()).serial_number
            entry = x509.RevokedCertificateBuilder(serial, until - datetime.timedelta(days=abs(days) + 1))
            builder = builder.add_revoked_certificate(entry.build())
        made = builder.sign(key, hashes.SHA256())  # type: ignore[arg-type]  # trustme's are EC keys
        self._issued += 1
        file = self._directory / f"{self._issued}-crl.pem"
        file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        return file

    def client_context(self, *, alpn: Sequence[str] = (), certificate: CertificatePair | None = None) -> ssl.SSLContext:
        """A new client's context that trusts this authority and nobody else, and shows `certificate` when asked."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.ca)
        if certificate is not None:
            context.load_cert_chain(*certificate)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    def server_context(self, pair: CertificatePair | None = None) -> ssl.SSLContext:
        """A new server's context with that pair, or the first."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*(pair or self.pair))
        return context

    def __repr__(self) -> str:
        return f"<Certificates {self._issued} issued in {self._directory}>"
