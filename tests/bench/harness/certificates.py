"""One throw-away authority and two server certificates for localhost: ECDSA P-256 and RSA-2048."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme

NAMES = ("localhost", "127.0.0.1")


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate chain and its key, as two PEM files."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Certificates:
    """What the TLS listeners show and what a client needs to believe them."""

    ecdsa: Pair
    rsa: Pair
    authority: Path

    def client_context(self) -> ssl.SSLContext:
        """A client that speaks TLS 1.3 only and verifies the chain and the name."""
        context = ssl.create_default_context(cafile=str(self.authority))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.set_alpn_protocols(["http/1.1"])
        return context


def issue(directory: Path) -> Certificates:
    """Write authority, certificates and keys below ``directory``."""
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    authority_file = directory / "authority.pem"
    authority.cert_pem.write_to_path(str(authority_file))
    pairs = {}
    for name, kind in (("ecdsa", trustme.KeyType.ECDSA), ("rsa", trustme.KeyType.RSA)):
        issued = authority.issue_cert(*NAMES, key_type=kind)
        pair = Pair(directory / f"{name}.pem", directory / f"{name}.key")
        issued.private_key_pem.write_to_path(str(pair.key))
        for index, blob in enumerate(issued.cert_chain_pems):
            blob.write_to_path(str(pair.certificate), append=index > 0)
        # HAProxy takes chain and key from one file
        joined = pair.certificate.read_bytes() + pair.key.read_bytes()
        directory.joinpath(f"{name}.both.pem").write_bytes(joined)
        pairs[name] = pair
    return Certificates(pairs["ecdsa"], pairs["rsa"], authority_file)
