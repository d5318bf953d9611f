"""What an upstream is told about a client's certificate: octets that a field can hold, whatever stands in the names."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iocproxy.exchange.identity import IdentityFields, distinguished_name
from iocproxy.message import ClientCertificate


def certificate(**parts: object) -> ClientCertificate:
    usual: dict[str, object] = {
        "subject": "CN=ali,O=Example",
        "issuer": "CN=root",
        "serial": "0a1b",
        "fingerprint": "00" * 32,
        "dns": (),
        "email": (),
        "uri": (),
        "not_after": datetime(2027, 1, 31, 12, 0, 5, tzinfo=UTC),
        "der": b"\x30\x00\xff",
    }
    return ClientCertificate(**{**usual, **parts})  # type: ignore[arg-type]


ALL = {part: f"X-{part}" for part in ("subject", "issuer", "serial", "fingerprint", "dns", "email", "uri", "not_after")}


def test_all_of_it() -> None:
    fields = IdentityFields(ALL, rfc9440=True)
    made = certificate(dns=("a.test", "b.test"), email=("ali@a.test",), uri=("spiffe://a.test/x",))
    assert fields.lines(made) == (
        b"X-subject: CN=ali,O=Example\r\n"
        b"X-issuer: CN=root\r\n"
        b"X-serial: 0a1b\r\n"
        b"X-fingerprint: " + b"00" * 32 + b"\r\n"
        b"X-dns: a.test, b.test\r\n"
        b"X-email: ali@a.test\r\n"
        b"X-uri: spiffe://a.test/x\r\n"
        b"X-not_after: 2027-01-31T12:00:05Z\r\n"
        b"Client-Cert: :" + base64.b64encode(b"\x30\x00\xff") + b":\r\n"
    )


def test_what_is_not_there_is_not_sent() -> None:
    fields = IdentityFields({"subject": "X-S", "dns": "X-D"})
    assert fields.lines(None) == b""
    assert fields.lines(certificate(subject="")) == b""
    assert fields.lines(certificate()) == b"X-S: CN=ali,O=Example\r\n"


def test_what_is_reserved() -> None:
    assert b"x_s" in IdentityFields({"subject": "X-S"}).reserved
    assert b"client-cert" not in IdentityFields({"subject": "X-S"}).reserved
    assert b"CLIENT_CERT" in IdentityFields({}, rfc9440=True).reserved
    assert b"Client-Cert-Chain" in IdentityFields({}, rfc9440=True).reserved


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("CN=ali", b"CN=ali"),
        ("CN=a\\,b\\+c", b"CN=a\\,b\\+c"),
        ("CN=Jürgen", b"CN=J\\C3\\BCrgen"),
        ("CN=\u202eevil", b"CN=\\E2\\80\\AEevil"),
        ("CN=a\r\nX: y", b"CN=a\\0D\\0AX: y"),
        ("CN=a\\ ", b"CN=a\\20"),
        ("CN=\\ a", b"CN=\\ a"),
        ("", b""),
    ],
)
def test_a_name(text: str, octets: bytes) -> None:
    assert distinguished_name(text) == octets


@pytest.mark.parametrize(
    ("part", "values", "octets"),
    [
        ("email", ("a,b@x.test", "c@x.test"), b"a%2Cb@x.test, c@x.test"),
        ("email", ("a%2Cb@x.test",), b"a%252Cb@x.test"),
        ("email", ("a\r\nb@x.test",), b"a%0D%0Ab@x.test"),
        ("dns", ("a.test, root.test",), b"a.test%2C%20root.test"),
        ("dns", ("\xfc.test",), b"%C3%BC.test"),
        ("uri", ("spiffe://a.test/x,spiffe://b.test", "urn:y"), b"spiffe://a.test/x%2Cspiffe://b.test, urn:y"),
        ("uri", ("https://a.test/%20?q=a b",), b"https://a.test/%20?q=a%20b"),
    ],
)
def test_an_item_of_a_list_is_one_item(part: str, values: tuple[str, ...], octets: bytes) -> None:
    assert IdentityFields({part: "X-A"}).lines(certificate(**{part: values})) == b"X-A: %b\r\n" % octets


@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=20), max_size=3))
def test_nothing_in_a_certificate_breaks_a_line(name: str, values: list[str]) -> None:
    made = certificate(subject=name, issuer=name, dns=tuple(values), email=tuple(values), uri=tuple(values))
    for line in IdentityFields(ALL).lines(made).split(b"\r\n")[:-1]:
        assert re.fullmatch(rb"X-[a-z_]+: [\x20-\x7e]+", line)
    (listed,) = (line for line in IdentityFields({"dns": "X"}).lines(made).split(b"\r\n")[:1])
    assert len(listed.removeprefix(b"X: ").split(b", ")) == max(1, len(values))
