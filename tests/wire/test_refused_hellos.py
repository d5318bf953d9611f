"""ClientHellos that OpenSSL would take and the policy does not: the alert, and nothing else, then the end."""

from __future__ import annotations

import ssl

import pytest

from iocproxy.testing import Certificates, Origin, ProxyFactory, RawClient

RANDOM = b"0123456789abcdef0123456789abcdef"

#: TLS 1.3 and 1.2, TLS_AES_128_GCM_SHA256 and ECDHE-ECDSA-AES128-GCM-SHA256; in ALPN nothing but h2.
OTHER_PROTOCOL = (
    b"\x16\x03\x01\x00\x3a\x01\x00\x00\x36\x03\x03" + RANDOM + b"\x00\x00\x04\x13\x01\xc0\x2b\x01\x00"
    b"\x00\x09\x00\x10\x00\x05\x00\x03\x02h2"
)
#: The same without ALPN and with a key of ffdhe8192, one octet of it.
FINITE_FIELD = (
    b"\x16\x03\x01\x00\x3c\x01\x00\x00\x38\x03\x03" + RANDOM + b"\x00\x00\x04\x13\x01\xc0\x2b\x01\x00"
    b"\x00\x0b\x00\x33\x00\x07\x00\x05\x01\x04\x00\x01x"
)
#: Groups: ffdhe2048 and ffdhe8192 alone, and no key: the server would have to ask for one of them.
FINITE_FIELDS_ONLY = (
    b"\x16\x03\x01\x00\x3b\x01\x00\x00\x37\x03\x03" + RANDOM + b"\x00\x00\x04\x13\x01\xc0\x2b\x01\x00"
    b"\x00\x0a\x00\x0a\x00\x06\x00\x04\x01\x00\x01\x04"
)


@pytest.mark.parametrize("way", ["whole", "byte by byte", "with more behind it"])
@pytest.mark.parametrize(
    ("hello", "alert", "reason"),
    [
        (OTHER_PROTOCOL, b"\x78", "no application protocol in common: offered 'h2'"),
        (FINITE_FIELD, b"\x28", "a finite-field group for the key exchange"),
        (FINITE_FIELDS_ONLY, b"\x28", "a finite-field group for the key exchange"),
    ],
    ids=["another protocol", "a key of a finite field", "finite fields only"],
)
def test_refused(
    iocproxy: ProxyFactory,
    iocproxy_origin: Origin,
    iocproxy_certificates: Certificates,
    hello: bytes,
    alert: bytes,
    reason: str,
    way: str,
) -> None:
    proxy = iocproxy(upstream=iocproxy_origin, tls=True)
    with RawClient(proxy.tls_address) as client:
        if way == "byte by byte":
            client.send_slowly(hello)
        else:
            client.send(hello + b"\x14\x03\x03\x00\x01\x01" * (way != "whole"))
        assert client.read_until_closed() == b"\x15\x03\x01\x00\x02\x02" + alert
    event = proxy.wait_for_event("handshake_failed")
    assert (event["client"], event["reason"]) == ("127.0.0.1", f"TLS handshake failed: {reason}")
    assert proxy.stats()["handshakes_failed"] == 1
    with RawClient(proxy.tls_address, tls=iocproxy_certificates) as client:
        assert client.request("GET", "/bytes/1").status == 200


def test_protocols_are_not_looked_at_where_they_are_switched_off(
    iocproxy: ProxyFactory, iocproxy_origin: Origin, iocproxy_certificates: Certificates
) -> None:
    pair = {"cert": str(iocproxy_certificates.cert), "key": str(iocproxy_certificates.key)}
    proxy = iocproxy(upstream=iocproxy_origin, tls={"certificates": [pair], "alpn": []})
    with RawClient(proxy.tls_address, tls=iocproxy_certificates.client_context(alpn=("h2",))) as client:
        assert client.tls.selected_alpn_protocol() is None
        assert client.request("GET", "/bytes/1").status == 200


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [(("http/1.0",), "http/1.0"), (("http/1.0", "http/1.1"), "http/1.1"), (("h2", "http/1.0"), "http/1.0"), ((), None)],
)
def test_protocols_that_are_spoken(
    iocproxy: ProxyFactory,
    iocproxy_origin: Origin,
    iocproxy_certificates: Certificates,
    offered: tuple[str, ...],
    agreed: str | None,
) -> None:
    proxy = iocproxy(upstream=iocproxy_origin, tls=True)
    with RawClient(proxy.tls_address, tls=iocproxy_certificates.client_context(alpn=offered)) as client:
        assert client.tls.selected_alpn_protocol() == agreed
        assert client.request("GET", "/bytes/1").status == 200


def test_the_ciphers_of_the_configuration_are_used(
    iocproxy: ProxyFactory, iocproxy_origin: Origin, iocproxy_certificates: Certificates
) -> None:
    pair = {"cert": str(iocproxy_certificates.cert), "key": str(iocproxy_certificates.key)}
    proxy = iocproxy(upstream=iocproxy_origin, tls={"certificates": [pair], "ciphers": "ECDHE+CHACHA20:ECDHE+AES256"})
    context = iocproxy_certificates.client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with RawClient(proxy.tls_address, tls=context) as client:
        assert (client.tls.cipher() or ("",))[0] == "ECDHE-ECDSA-CHACHA20-POLY1305"
        assert client.request("GET", "/bytes/1").status == 200
    context.set_ciphers("ECDHE+AES128")
    with pytest.raises(OSError, match=r"(?i)handshake.failure"):
        RawClient(proxy.tls_address, tls=context)
