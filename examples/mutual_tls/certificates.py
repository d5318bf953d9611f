"""Make an authority, a certificate for the site and one for a client, each good for 30 days. README.md says what for.

python certificates.py [DIRECTORY]      this file's own by default
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


def named(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


class Authority:
    """Issues certificates; its own is `cert`. Its key is forgotten when the program ends."""

    def __init__(self, name: str) -> None:
        self.name = named(name)
        self.key = ec.generate_private_key(ec.SECP256R1())
        usage = x509.KeyUsage(
            key_cert_sign=True,
            crl_sign=True,
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        self.cert = self.sign(self.name, self.key, x509.BasicConstraints(ca=True, path_length=0), usage)

    def sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *extensions: x509.ExtensionType
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=30))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        for extension in extensions:
            critical = isinstance(extension, x509.BasicConstraints | x509.KeyUsage)
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key, hashes.SHA256())

    def issue(self, stem: Path, subject: str, usage: x509.ObjectIdentifier, *names: x509.GeneralName) -> None:
        """Write STEM.pem and STEM.key."""
        key = ec.generate_private_key(ec.SECP256R1())
        purpose = x509.ExtendedKeyUsage([usage])
        cert = self.sign(named(subject), key, purpose, x509.SubjectAlternativeName(names))
        stem.with_suffix(".pem").write_bytes(cert.public_bytes(Encoding.PEM))
        private = stem.with_suffix(".key")
        private.touch(mode=0o600)
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def main(directory: Path) -> None:
    authority = Authority("Example authority")
    (directory / "ca.pem").write_bytes(authority.cert.public_bytes(Encoding.PEM))
    hosts = (x509.DNSName("localhost"), x509.DNSName("admin.localhost"))
    authority.issue(directory / "site", "localhost", ExtendedKeyUsageOID.SERVER_AUTH, *hosts)
    authority.issue(directory / "ali", "ali", ExtendedKeyUsageOID.CLIENT_AUTH, x509.RFC822Name("ali@example.com"))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
