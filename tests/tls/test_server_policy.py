"""What a policy refuses although OpenSSL would go on: protocols and groups; and what is on by default."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess

import pytest

from iocproxy.tls import CertificateStore, ClientHello, HelloError, HelloFault, ServerPolicy

OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="the openssl command is not on PATH")

X25519, P256, P521, FFDHE2048, FFDHE8192, GREASE, MLKEM = 0x1D, 0x17, 0x19, 0x100, 0x104, 0x5A5A, 0x11EC


def hello(*, alpn=(), groups=(X25519, P256), shares=(X25519,)) -> ClientHello:
    return ClientHello("localhost", alpn, (0x0304, 0x0303), groups, shares)


@pytest.mark.parametrize(
    ("offered", "spoken", "fits"),
    [
        ((), ("http/1.1",), True),
        (("http/1.1",), ("http/1.1",), True),
        (("h2", "http/1.1"), ("http/1.1",), True),
        (("h2",), ("http/1.1",), False),
        (("HTTP/1.1",), ("http/1.1",), False),  # RFC 7301 section 3.1: octets
        (("http/1.0",), ("http/1.1", "http/1.0"), True),
        (("h2",), (), True),  # switched off
    ],
)
def test_protocols(offered, spoken, fits) -> None:
    policy = ServerPolicy(alpn=spoken)
    if fits:
        policy.admit(hello(alpn=offered))
        return
    with pytest.raises(HelloError) as caught:
        policy.admit(hello(alpn=offered))
    assert caught.value.fault is HelloFault.NO_PROTOCOL
    assert caught.value.alert == b"\x15\x03\x01\x00\x02\x02\x78"  # no_application_protocol


def test_what_was_offered_cannot_forge_a_line_of_the_log() -> None:
    with pytest.raises(HelloError) as caught:
        ServerPolicy().admit(hello(alpn=("\n\x1b[31m" + "x" * 200, "h2")))
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 140


@pytest.mark.parametrize(
    ("groups", "shares", "fits"),
    [
        ((X25519, P256), (X25519,), True),
        ((), (), True),  # TLS 1.2 without the extension: OpenSSL's to judge
        ((X25519, FFDHE2048), (X25519,), True),  # as Firefox does
        ((X25519, FFDHE2048), (), True),  # the server chooses, and chooses a curve
        ((FFDHE8192, P521), (), True),
        ((X25519, FFDHE8192), (FFDHE8192,), False),
        ((X25519, FFDHE8192), (X25519, FFDHE8192), False),
        ((FFDHE2048,), (FFDHE2048,), False),
        ((FFDHE8192,), (), False),
        ((GREASE, FFDHE8192), (GREASE,), False),
        ((MLKEM, FFDHE8192), (MLKEM,), False),  # an OpenSSL without the hybrids would choose the other
    ],
)
def test_groups(groups, shares, fits) -> None:
    if fits:
        ServerPolicy().admit(hello(groups=groups, shares=shares))
        return
    with pytest.raises(HelloError) as caught:
        ServerPolicy().admit(hello(groups=groups, shares=shares))
    assert caught.value.fault is HelloFault.FINITE_FIELD
    assert caught.value.alert == b"\x15\x03\x01\x00\x02\x02\x28"  # handshake_failure


def s_client(address, *options: str) -> str:
    assert OPENSSL is not None
    command = [OPENSSL, "s_client", "-connect", f"{address[0]}:{address[1]}", *options]
    done = subprocess.run(command, input="", capture_output=True, text=True, timeout=20, check=False)
    return done.stdout + done.stderr


@needs_openssl
@pytest.mark.parametrize(
    ("group", "named"),
    [
        ("X25519", "X25519"),
        ("P-256", "prime256v1"),
        ("P-384", "secp384r1"),
        ("P-521", "secp521r1"),
        ("P-256:X25519", "prime256v1"),  # the client's key is at hand
        ("X25519:ffdhe2048", "X25519"),
    ],
)
async def test_curves_work(serve, pair, group, named) -> None:
    running = await serve(CertificateStore([pair("localhost")]))
    said = await asyncio.to_thread(s_client, running.address, "-tls1_3", "-groups", group)
    assert f"Temp Key: {named}" in said or f"Temp Key: ECDH, {named}" in said or f"group: {named}" in said
    assert "New, TLSv1.3" in said


@needs_openssl
@pytest.mark.parametrize("group", ["ffdhe2048", "ffdhe3072", "ffdhe8192", "ffdhe8192:X25519"])
async def test_finite_fields_do_not(serve, pair, group) -> None:
    """One hello with ffdhe8192 cost 110 ms of the loop's time (the D(HE)at attack, CVE-2022-40735)."""
    running = await serve(CertificateStore([pair("localhost")]))
    said = await asyncio.to_thread(s_client, running.address, "-tls1_3", "-groups", group)
    assert "alert handshake failure" in said
    made = await running.links.get()
    assert "finite-field" in str(await made.failed)


@needs_openssl
@pytest.mark.parametrize("curve", ["secp224r1", "secp256k1", "brainpoolP256r1", "sect283r1"])
async def test_weak_and_exotic_curves_do_not(serve, pair, curve) -> None:
    running = await serve(CertificateStore([pair("localhost", rsa=True)]))
    said = await asyncio.to_thread(s_client, running.address, "-tls1_2", "-groups", curve)
    if "Error with command" in said or "unsupported" in said.lower():
        pytest.skip("this openssl cannot offer the curve")
    assert "alert handshake failure" in said
    made = await running.links.get()
    assert "no shared cipher" in str(await made.failed)


@needs_openssl
@pytest.mark.parametrize("rsa", [False, True], ids=["ecdsa", "rsa"])
@pytest.mark.parametrize(
    ("ciphers", "good"),
    [
        ("AESGCM", True),
        ("CHACHA20", True),
        ("AES:!AESGCM:!AESCCM", False),  # CBC
        ("kRSA", False),
        ("kDHE", False),
        ("aNULL:@SECLEVEL=0", False),
        ("eNULL:@SECLEVEL=0", False),
    ],
)
async def test_ciphers_of_tls_1_2(serve, pair, rsa, ciphers, good) -> None:
    running = await serve(CertificateStore([pair("localhost", rsa=rsa)]))
    said = await asyncio.to_thread(s_client, running.address, "-tls1_2", "-cipher", ciphers)
    assert ("New, TLSv1.2, Cipher is ECDHE-" in said) is good
    if not good:
        assert "alert handshake failure" in said


async def test_the_server_chooses(serve, pair, trusting) -> None:
    running = await serve(CertificateStore([pair("localhost")]))
    context = trusting("TLSv1_2")
    context.set_ciphers("ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256")
    assert await agreed(running, context) == "ECDHE-ECDSA-AES128-GCM-SHA256"


async def test_the_servers_own_order(serve, pair, trusting) -> None:
    policy = ServerPolicy(ciphers="ECDHE+CHACHA20:ECDHE+AES256")
    running = await serve(CertificateStore([pair("localhost")], policy))
    assert await agreed(running, trusting("TLSv1_2")) == "ECDHE-ECDSA-CHACHA20-POLY1305"


async def agreed(running, context: ssl.SSLContext) -> str:
    _, writer = await asyncio.open_connection(*running.address, ssl=context, server_hostname="localhost")
    cipher = writer.get_extra_info("cipher")[0]
    writer.close()
    await writer.wait_closed()
    return cipher


async def test_a_client_with_other_protocols_only_is_told_so(serve, pair, trusting) -> None:
    running = await serve(CertificateStore([pair("localhost")]))
    context = trusting()
    context.set_alpn_protocols(["h2", "acme-tls/1"])
    with pytest.raises(ssl.SSLError):  # not every OpenSSL has a name for it
        await agreed(running, context)
    made = await running.links.get()
    error = await made.failed
    assert str(error) == "TLS handshake failed: no application protocol in common: offered 'h2, acme-tls/1'"


async def test_without_alpn_nothing_is_agreed_on(serve, pair, trusting) -> None:
    running = await serve(CertificateStore([pair("localhost")], ServerPolicy(alpn=())))
    context = trusting()
    context.set_alpn_protocols(["h2", "http/1.1"])
    await agreed(running, context)
    made = await running.links.get()
    await made.inner.lost
    assert made.link.info.alpn == ""
