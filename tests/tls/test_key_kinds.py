"""Certificates of several kinds of key for one name, and the clients that get each of them."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from iocproxy.tls import CertificateStore, ClientHello, ServerPolicy, server_context
from iocproxy.tls.client_hello import signature_schemes
from iocproxy.tls.key_kinds import can_verify, passed_over, suites_for_ecdsa

OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="the openssl command is not on PATH")

# RFC 8446 section 4.2.3: length, then two octets each
ANY = b"\x00\x08\x04\x03\x05\x03\x08\x04\x04\x01"
ONLY_P256 = b"\x00\x02\x04\x03"
ONLY_RSA = b"\x00\x06\x08\x04\x04\x01\x06\x01"
SHA1 = b"\x00\x04\x02\x03\x02\x01"

BOTH_SUITES = b"\x5a\x5a\xc0\x2f\xc0\x2b"
RSA_SUITES = b"\xc0\x2f\xc0\x30"
OTHER_ECDSA = b"\xc0\x23\xc0\x2f"  # ECDHE-ECDSA-AES128-SHA256, which is not in our list
NEW, OLD = (0x0304, 0x0303), (0x0303,)
P256, P384 = "ecdsa-secp256r1", "ecdsa-secp384r1"


@pytest.mark.parametrize(
    ("key_type", "versions", "schemes", "suites", "groups", "expected"),
    [
        (P256, NEW, ANY, RSA_SUITES, (), True),  # TLS 1.3 suites say nothing about keys
        (P256, NEW, ONLY_P256, RSA_SUITES, (), True),
        (P256, NEW, ONLY_RSA, BOTH_SUITES, (), False),
        (P256, NEW, SHA1, BOTH_SUITES, (), False),
        (P256, NEW, b"", BOTH_SUITES, (), False),
        (P384, NEW, ANY, BOTH_SUITES, (), True),
        (P384, NEW, ONLY_P256, BOTH_SUITES, (), False),  # a scheme is one curve in TLS 1.3
        ("ed25519", NEW, ANY, BOTH_SUITES, (), False),
        ("ed25519", NEW, b"\x00\x02\x08\x07", BOTH_SUITES, (), True),
        ("ecdsa-brainpoolP256r1", NEW, ANY, BOTH_SUITES, (), False),
        (P256, OLD, ANY, BOTH_SUITES, (), True),
        (P256, OLD, ANY, BOTH_SUITES, (0x001D, 0x0017), True),
        (P256, OLD, ANY, BOTH_SUITES, (0x001D,), False),
        (P384, OLD, ONLY_P256, BOTH_SUITES, (), True),  # ECDSA with SHA-256, on any curve
        (P384, OLD, ANY, BOTH_SUITES, (0x001D, 0x0017), False),
        (P256, OLD, ANY, RSA_SUITES, (), False),
        (P256, OLD, ANY, OTHER_ECDSA, (), False),
        (P256, OLD, ONLY_RSA, BOTH_SUITES, (), False),
        (P256, OLD, SHA1, BOTH_SUITES, (), False),
        (P256, OLD, b"", BOTH_SUITES, (), False),
        ("ed25519", OLD, ANY, BOTH_SUITES, (), False),
        ("ed25519", OLD, b"\x00\x02\x08\x07", BOTH_SUITES, (), True),
    ],
)
def test_what_a_hello_says(pair, key_type, versions, schemes, suites, groups, expected) -> None:
    ours = suites_for_ecdsa(server_context(pair("localhost")))
    assert b"\xc0\x2b" in ours
    assert not {b"\xc0\x2f", b"\x13\x01"} & ours
    hello = ClientHello("a", (), versions, groups, cipher_suites=suites, signature_algorithms=schemes)
    assert can_verify(hello, key_type, ours) is expected


@pytest.mark.parametrize(
    "content", [b"\x00", b"\x00\x01\x04", b"\x00\x04\x04\x03", b"\x00\x02\x04\x03\x00", b"\x00\x00"]
)
def test_a_damaged_list_of_schemes_offers_nothing(content) -> None:
    assert signature_schemes(content) == frozenset()


# --- Which of them a name gets


def offering(name: str, schemes: bytes = ANY) -> ClientHello:
    return ClientHello(name, (), NEW, cipher_suites=BOTH_SUITES, signature_algorithms=schemes)


@pytest.mark.parametrize("rsa_first", [False, True], ids=["ecdsa-first", "rsa-first"])
def test_one_name_two_kinds(pair, rsa_first) -> None:
    strong, old = pair("www.example", "*.a.example"), pair("www.example", "*.a.example", rsa=True)
    store = CertificateStore([old, strong] if rsa_first else [strong, old])
    for name in ("www.example", "x.a.example", "", "unknown.example"):
        assert store.choose(offering(name)).certificate is strong, name
        assert store.choose(offering(name, ONLY_RSA)).certificate is old, name


def test_a_name_that_only_one_of_them_has(pair) -> None:
    rsa, ecdsa, other = pair("a.example", "b.example", rsa=True), pair("b.example"), pair("c.example")
    store = CertificateStore([rsa, ecdsa, other])
    for name, schemes, expected in [
        ("a.example", ANY, rsa),
        ("b.example", ANY, ecdsa),
        ("b.example", ONLY_RSA, rsa),
        ("c.example", ANY, other),
        ("c.example", ONLY_RSA, other),  # there is nothing else; OpenSSL says so to the client
        ("", ANY, rsa),  # the default is for all names of the first
    ]:
        assert store.choose(offering(name, schemes)).certificate is expected, (name, schemes)


def test_an_exact_name_goes_before_a_better_wildcard(pair) -> None:
    exact, wild = pair("www.example", rsa=True), pair("*.example")
    assert CertificateStore([exact, wild]).choose(offering("www.example")).certificate is exact


def test_each_policy_goes_by_its_own_ciphers(pair) -> None:
    strong, old = pair("www.example", "two.example"), pair("www.example", "two.example", rsa=True)
    hosts = {"two.example": ServerPolicy(ciphers="ECDHE-RSA-AES128-GCM-SHA256")}
    store = CertificateStore([strong, old], hosts=hosts)
    for name, expected in [("www.example", strong), ("two.example", old)]:
        hello = offering(name)._replace(versions=OLD)
        assert store.choose(hello).certificate is expected


def test_which_are_passed_over(pair) -> None:
    first, rsa, second = pair("a.example"), pair("a.example", rsa=True), pair("a.example", "b.example")
    assert passed_over([first, rsa]) == []
    assert passed_over([first, rsa, second]) == [
        (2, f"{second.cert} is not used for a.example: {first.cert} stands before it with the same kind of key")
    ]
    assert passed_over([second, first, rsa]) == [
        (1, f"{first.cert} is never used: {second.cert} stands before it with the same kind of key")
    ]
    assert CertificateStore([second, first]).choose(offering("a.example")).certificate is second


# --- On sockets


@pytest.fixture
def both(pair):
    return CertificateStore([pair("localhost", rsa=True), pair("localhost")])


def shown(address, context: ssl.SSLContext) -> str:
    with (
        socket.create_connection(address) as sock,
        context.wrap_socket(sock, server_hostname="localhost") as tls,
    ):
        tls.sendall(b"ping")
        assert tls.recv(10) == b"ping"
        der = tls.getpeercert(binary_form=True)
    assert der is not None
    key = x509.load_der_x509_certificate(der).public_key()
    return "ecdsa" if isinstance(key, ec.EllipticCurvePublicKey) else "rsa"


@pytest.mark.parametrize(
    ("version", "ciphers", "expected"),
    [
        ("TLSv1_3", None, "ecdsa"),
        ("TLSv1_2", None, "ecdsa"),
        ("TLSv1_2", "ECDHE-RSA-AES128-GCM-SHA256", "rsa"),
        ("TLSv1_2", "ECDHE-ECDSA-AES128-GCM-SHA256", "ecdsa"),
        # the client's order is not asked for
        ("TLSv1_2", "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256", "ecdsa"),
        # its ECDSA suite is none of ours
        ("TLSv1_2", "ECDHE-ECDSA-AES128-SHA256:ECDHE-RSA-AES128-GCM-SHA256", "rsa"),
    ],
)
async def test_pythons_client(serve, both, trusting, version, ciphers, expected) -> None:
    running = await serve(both)
    context = trusting(version)
    if ciphers:
        context.set_ciphers(ciphers)
    assert await asyncio.to_thread(shown, running.address, context) == expected


@needs_openssl
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["-tls1_3"], "ECDSA"),
        (["-tls1_3", "-sigalgs", "RSA-PSS+SHA256:RSA+SHA256"], "RSA-PSS"),
        (["-tls1_3", "-sigalgs", "ECDSA+SHA256"], "ECDSA"),
        (["-tls1_3", "-sigalgs", "ECDSA+SHA384:RSA-PSS+SHA256"], "RSA-PSS"),  # another curve's
        (["-tls1_2"], "ECDSA"),
        (["-tls1_2", "-sigalgs", "RSA-PSS+SHA256:RSA+SHA256"], "RSA-PSS"),
        (["-tls1_2", "-sigalgs", "RSA+SHA256"], "RSA"),
        (["-tls1_2", "-sigalgs", "ECDSA+SHA384:RSA+SHA256"], "ECDSA"),
        (["-tls1_2", "-cipher", "ECDHE-RSA-AES256-GCM-SHA384"], "RSA-PSS"),
        (["-tls1_2", "-curves", "X25519:P-384"], "RSA-PSS"),
        (["-tls1_3", "-curves", "X25519:P-384"], "ECDSA"),  # in TLS 1.3 groups are for the key exchange only
        ([], "ECDSA"),
        (["-noservername"], "ECDSA"),
    ],
    ids=" ".join,
)
async def test_s_client(serve, both, options, expected) -> None:
    running = await serve(both)
    host, port = running.address
    assert OPENSSL is not None
    command = [OPENSSL, "s_client", "-connect", f"{host}:{port}", *options]
    if "-noservername" not in options:
        command += ["-servername", "localhost"]
    done = await asyncio.to_thread(subprocess.run, command, input=b"", capture_output=True, timeout=20, check=False)
    assert f"Peer signature type: {expected}\n" in done.stdout.decode("latin-1"), done.stderr
