"""The certificates behind a server's own in its file: order, gaps, strangers, dates, and a missing issuer."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from iocproxy.errors import ConfigError
from iocproxy.tls import load_certificate

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


class Issued(NamedTuple):
    cert: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.cert.public_bytes(Encoding.PEM)


def issue(name: str, issuer: Issued | None = None, *, ca: bool = True, first: int = -1, last: int = 30) -> Issued:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.cert.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + first * DAY)
        .not_valid_after(NOW + last * DAY)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if not ca:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return Issued(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


ROOT = issue("root")
UPPER = issue("upper", ROOT)
LOWER = issue("lower", UPPER)
LEAF = issue("site.example", LOWER, ca=False)
STRANGER = issue("stranger", issue("other root"))
NAMESAKE = issue("lower", issue("upper", issue("root")))  # the names are right, the signatures are not


@pytest.fixture
def warnings(tmp_path: Path):
    """Of a file with these certificates, without the file's name in front."""

    def load(*chain: Issued, now: datetime.datetime = NOW) -> list[str]:
        cert, key = tmp_path / "site.pem", tmp_path / "site.key"
        cert.write_bytes(b"".join(each.pem for each in chain))
        key.write_bytes(chain[0].key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        said = load_certificate(cert, key, now=now).warnings
        assert all(each.startswith(str(cert)) for each in said)
        return [each.removeprefix(str(cert)).lstrip(" :") for each in said]

    return load


MISSING = (
    "holds no certificate of its issuer, CN=lower: clients that do not have that refuse it; no matter where the issuer "
    "is a root that they all trust"
)


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        ([LEAF, LOWER, UPPER], []),
        ([LEAF, LOWER, UPPER, ROOT], []),  # the root is needless, and harmless
        ([LEAF, LOWER], []),  # what is above may be known to clients
        ([ROOT], ["names no host in subjectAltName, so no client will accept it"]),
        ([LEAF, UPPER, LOWER], ["has its chain out of order: behind each certificate comes that of its issuer"]),
        ([LEAF, LOWER, STRANGER], ["holds CN=stranger, which does not belong behind its first certificate"]),
        ([LEAF, LOWER, LOWER], ["holds CN=lower, which does not belong behind its first certificate"]),
        ([LEAF, LOWER, LEAF], ["holds CN=site.example, which does not belong behind its first certificate"]),
        ([LEAF], [MISSING]),
        ([LEAF, UPPER], ["holds CN=upper, which does not belong behind its first certificate", MISSING]),
        ([LEAF, NAMESAKE], ["holds CN=lower, which does not belong behind its first certificate", MISSING]),
    ],
)
def test_what_a_file_holds(warnings, chain, expected) -> None:
    assert warnings(*chain) == expected


def test_dates_within_the_chain(warnings) -> None:
    lower = issue("lower", UPPER, first=-1, last=5)
    leaf = issue("site.example", lower, ca=False)
    assert warnings(leaf, lower) == []
    (said,) = warnings(leaf, lower, now=NOW + 6 * DAY)
    assert said == f"CN=lower in its chain expired on {NOW + 5 * DAY:%Y-%m-%d %H:%M} UTC"
    late = issue("lower", UPPER, first=2)
    (said,) = warnings(issue("site.example", late, ca=False), late)
    assert said == f"CN=lower in its chain is not valid before {NOW + 2 * DAY:%Y-%m-%d %H:%M} UTC"


DIRECT = issue("direct root")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps its authorities where no test should put any")
@pytest.mark.parametrize(
    ("known", "leaf", "expected"),
    [
        (DIRECT, issue("site.example", DIRECT, ca=False), []),
        (ROOT, LEAF, [MISSING]),  # two steps above
        (issue("lower"), LEAF, []),  # of that name, with another key: no good to anybody, but nothing is missing
    ],
    ids=["known", "unknown", "namesake"],
)
def test_an_issuer_that_the_system_trusts(warnings, monkeypatch, tmp_path, known, leaf, expected) -> None:
    file = tmp_path / "system.pem"
    file.write_bytes(known.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    assert warnings(leaf) == expected


def test_the_key_of_another_certificate_in_the_file(tmp_path) -> None:
    cert, key = tmp_path / "site.pem", tmp_path / "site.key"
    cert.write_bytes(LOWER.pem + LEAF.pem)
    key.write_bytes(LEAF.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(ConfigError, match=r"site\.key is not the key of the first certificate in .* but of number 2; "):
        load_certificate(cert, key)


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL], ids=["PKCS8", "traditional"])
def test_encrypted_keys(tmp_path, form) -> None:
    cert, key = tmp_path / "site.pem", tmp_path / "site.key"
    cert.write_bytes(LEAF.pem + LOWER.pem)
    key.write_bytes(LEAF.key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"sesame")))
    assert load_certificate(cert, key, "sesame").names == ("site.example",)
    for password, said in [
        (None, "is encrypted and no password is given; give its password"),
        ("open", "cannot be decrypted with the password given; the key's password"),
    ]:
        with pytest.raises(ConfigError) as caught:
            load_certificate(cert, key, password, path="listeners[0].tls.certificates[1]")
        assert [str(fault) for fault in caught.value.faults] == [f"listeners[0].tls.certificates[1].key: {key} {said}"]
