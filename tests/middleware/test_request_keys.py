"""What requests are counted by: which of them are one client, and which have no key."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iocproxy.config.limit_values import read_key
from iocproxy.limits import ClientKeys
from iocproxy.message import Client, ClientCertificate, Fields, Request, TlsInfo
from iocproxy.middleware.request_keys import NoKey, key_reader

KEYS = ClientKeys()


def request(
    target: bytes = b"/",
    *fields: tuple[bytes, bytes],
    method: str = "GET",
    host: bytes = b"a.example",
    address: str = "192.0.2.1",
    certificate: str = "",
    route: str = "/",
) -> Request:
    client = Client(address, 1, KEYS.key(address), "127.0.0.1:80")
    if certificate:
        shown = ClientCertificate("CN=a", "CN=b", "01", certificate, (), (), (), datetime.now(UTC), b"")
        client.tls = TlsInfo("TLSv1.3", "x", False, "", "", shown)
    made = Request(method, target, 11, list(fields), host, client, "http")
    made.route = route
    return made


def key(of: str | list[str], asked: Request, missing: str = "address") -> Any:
    return key_reader(read_key(of), missing)(asked)


COOKIE = b"Cookie"

SAME: list[tuple[str | list[str], Request, Request]] = [
    ("address", request(), request(b"/x", method="POST")),
    ("address", request(address="2001:db8::1"), request(address="2001:db8::ffff:1")),
    ("everyone", request(), request(b"/x", address="198.51.100.1")),
    ("host", request(host=b"a.example"), request(host=b"A.Example:8080")),
    ("host", request(host=b"a.example"), request(host=b"a.example.")),
    ("host", request(host=b"a.example"), request(host=b"%61.example")),
    ("host", request(host=b"[2001:db8::1]"), request(host=b"[2001:DB8::1]:443")),
    ("method", request(), request(b"/x", address="198.51.100.1")),
    ("route", request(b"/a"), request(b"/b")),
    ("certificate", request(certificate="ab" * 32), request(certificate="ab" * 32, address="198.51.100.1")),
    ("header:X-Key", request(b"/", (b"X-Key", b"k")), request(b"/x", (b"x-KEY", b"k"), address="198.51.100.1")),
    ("header:X-Key", request(b"/", (b"X-Key", b"a b")), request(b"/", (b"X-Key", b"a \t  b"))),
    (
        "header:Authorization",
        request(b"/", (b"Authorization", b"Bearer Kk")),
        request(b"/", (b"Authorization", b"bEARER   Kk")),
    ),
    ("cookie:sid", request(b"/", (COOKIE, b"sid=k")), request(b"/", (COOKIE, b"a=b; sid=k; c=d"))),
    ("cookie:sid", request(b"/", (COOKIE, b"sid=k")), request(b"/", (COOKIE, b"a=b"), (COOKIE, b"sid=k"))),
    ("cookie:sid", request(b"/", (COOKIE, b"sid=k")), request(b"/", (COOKIE, b"sid=k; sid=other"))),
    ("cookie:sid", request(b"/", (COOKIE, b"sid=k")), request(b"/", (COOKIE, b'sid="k"'))),
    ("cookie:sid", request(b"/", (COOKIE, b"sid=k")), request(b"/", (COOKIE, b"sid=%6B"))),
    ("cookie:sid", request(b"/", (COOKIE, b"sid=k")), request(b"/", (COOKIE, b'sid="\\153"'))),
    ("cookie:sid", request(b"/", (COOKIE, b'sid=k"')), request(b"/", (COOKIE, b'sid="k\\""'))),
    ("query:k", request(b"/?k=v"), request(b"/x?a=b&k=v&c")),
    ("query:k", request(b"/?k=v"), request(b"/?%6b=%76")),
    ("query:k", request(b"/?k=a+b"), request(b"/?k=a%20b")),
    ("path:1", request(b"/a"), request(b"/a/b?c")),
    ("path:1", request(b"/a"), request(b"/%61")),
    ("path:1", request(b"/a"), request(b"/A")),
    ("path:1", request(b"/%c3%a9"), request(b"/%C3%89")),
    ("path:1", request(b"/a"), request(b"//a")),
    ("path:1", request(b"/a"), request(b"/;x/a")),
    ("path:1", request(b"/a"), request(b"/a;jsessionid=1")),
    ("path:1", request(b"/a"), request(b"/a%3bx")),
    ("path:2", request(b"/x/%E2%82%AC"), request(b"/y/%e2%82%ac/")),
    (["path:1", "header:X-Key"], request(b"/a", (b"X-Key", b"k")), request(b"/a/b", (b"x-key", b"k"))),
]


@pytest.mark.parametrize(("of", "one", "other"), SAME)
def test_one_key(of: str | list[str], one: Request, other: Request) -> None:
    assert isinstance(key(of, one), bytes)
    assert key(of, one, "refuse") == key(of, other, "refuse")


DIFFERENT: list[tuple[str | list[str], Request, Request]] = [
    ("address", request(), request(address="192.0.2.2")),
    ("address", request(address="2001:db8::1"), request(address="2001:db8:0:1::1")),
    ("host", request(), request(host=b"b.example")),
    ("method", request(), request(method="POST")),
    ("route", request(), request(route="/x")),
    ("certificate", request(certificate="ab" * 32), request(certificate="ac" * 32)),
    ("header:X-Key", request(b"/", (b"X-Key", b"k")), request(b"/", (b"X-Key", b"K"))),
    ("header:X-Key", request(b"/", (b"X-Key", b"ab")), request(b"/", (b"X-Key", b"a b"))),
    ("cookie:sid", request(b"/", (COOKIE, b"sid=a")), request(b"/", (COOKIE, b"sid=b"))),
    ("query:k", request(b"/?k=a"), request(b"/?k=b")),
    ("path:1", request(b"/a"), request(b"/b")),
    ("path:1", request(b"/%ff"), request(b"/%fe")),
    (["header:A", "header:B"], request(b"/", (b"A", b"ab"), (b"B", b"c")), request(b"/", (b"A", b"a"), (b"B", b"bc"))),
    (["header:A", "address"], request(b"/", (b"A", b"a")), request(b"/", (b"A", b"a"), address="192.0.2.2")),
    # what stands in for a missing part is nobody's value
    ("header:A", request(b"/"), request(b"/", (b"A", KEYS.key("192.0.2.1")))),
    (["header:A", "header:B"], request(b"/", (b"A", b"a")), request(b"/", (b"B", b"a"))),
]


@pytest.mark.parametrize(("of", "one", "other"), DIFFERENT)
def test_two_keys(of: str | list[str], one: Request, other: Request) -> None:
    assert isinstance(key(of, one), bytes)
    assert key(of, one) != key(of, other)


@pytest.mark.parametrize(
    ("of", "asked"),
    [
        ("certificate", request()),
        ("host", request(host=b"")),  # HTTP/1.0
        ("header:X-Key", request()),
        ("header:X-Key", request(b"/", (b"X-Key", b""))),
        ("header:X-Key", request(b"/", (b"X-Key-2", b"a"))),
        ("cookie:sid", request()),
        ("cookie:sid", request(b"/", (COOKIE, b"sid"))),
        ("cookie:sid", request(b"/", (COOKIE, b"sid="))),
        ("cookie:sid", request(b"/", (COOKIE, b'sid=""'))),
        ("cookie:sid", request(b"/", (COOKIE, b"SID=k; xsid=k; sid2=k"))),
        ("query:k", request(b"/k")),
        ("query:k", request(b"/?K=v&kk=v")),
        ("query:k", request(b"/?k")),
        ("query:k", request(b"/?k=")),
        ("path:1", request()),
        ("path:2", request(b"/a")),
        ("path:2", request(b"/a/?b")),
        ("path:1", request(b"*", method="OPTIONS")),
        (["method", "header:X-Key"], request()),
    ],
)
def test_a_missing_part(of: str | list[str], asked: Request) -> None:
    assert key(of, asked, "skip") is NoKey.SKIPPED
    assert key(of, asked, "refuse") is NoKey.MISSING
    by_address = key(of, asked)
    assert isinstance(by_address, bytes)
    asked.key = KEYS.key("198.51.100.9")  # the address stands in its place
    assert key(of, asked) != by_address


@pytest.mark.parametrize(
    ("of", "asked"),
    [
        ("header:X-Key", request(b"/", (b"X-Key", b"a"), (b"x-key", b"a"))),
        ("header:X-Key", request(b"/", (b"X-Key", b""), (b"X-Key", b"a"))),
        ("query:k", request(b"/?k=a&k=b")),
        ("query:k", request(b"/?k=a&%6b=b")),
        ("query:k", request(b"/?k&k=b")),
        ("path:1", request(b"/a/../b")),
        ("path:1", request(b"/a/.")),
        ("path:1", request(b"/a/%2e%2E/b")),
        ("path:1", request(b"/a/..;x/b")),
        ("path:1", request(b"/a/..%2fb")),
        ("path:1", request(b"/a/..%5cb")),
        ("path:1", request(b"/a%2fb")),
        ("path:1", request(b"/a\\b")),
        ("path:1", request(b"/a%5Cb")),
        ("path:2", request(b"/%2f/b")),
        (["method", "path:1"], request(b"/..")),
    ],
)
def test_an_ambiguous_part(of: str | list[str], asked: Request) -> None:
    for missing in ("address", "skip", "refuse"):
        assert key(of, asked, missing) is NoKey.AMBIGUOUS


def test_what_stands_behind_the_segment_is_free() -> None:
    assert (
        key("path:1", request(b"/a/b%2fc"))
        == key("path:1", request(b"/a/..b/c.d/..."))
        == key("path:1", request(b"/a"))
    )


ALL = [
    "certificate",
    "host",
    "method",
    "route",
    "header:A",
    "header:Authorization",
    "cookie:k",
    "query:k",
    "path:1",
    "path:3",
]

_HOSTILE = st.text(alphabet='a/.;%2fFeEcC39+"=\\& 15\x00\xff', max_size=40).map(lambda text: text.encode("latin-1"))


@pytest.mark.parametrize("of", ALL)
@given(target=_HOSTILE, value=_HOSTILE, host=_HOSTILE, cookie=_HOSTILE)
def test_whatever_it_is_nothing_is_raised_and_a_key_is_short(
    of: str, target: bytes, value: bytes, host: bytes, cookie: bytes
) -> None:
    fields: Fields = [(b"A", value), (b"Authorization", value), (b"Cookie", cookie)]
    found = key(of, request(b"/" + target, *fields, host=host))
    assert found is NoKey.AMBIGUOUS or len(found) == 16


def test_a_key_is_as_short_when_its_values_are_long() -> None:
    long = request(b"/" + b"a" * 8000 + b"?k=" + b"b" * 8000, (b"A", b"c" * 30_000))
    assert len(key(["header:A", "query:k", "path:1", "address"], long)) == 16


def test_the_key_is_the_same_in_every_process() -> None:
    """Proxies that share a storage tell clients apart in the same way: the value is pinned."""
    assert key("header:X-Key", request(b"/", (b"X-Key", b"k"))).hex() == "6e6ef8659047c5e87e06a2b404ea1ea7"


@given(
    st.lists(st.binary(min_size=1, max_size=6), min_size=2, max_size=4),
    st.lists(st.binary(min_size=1, max_size=6), min_size=2, max_size=4),
)
def test_parts_never_run_into_each_other(one: list[bytes], other: list[bytes]) -> None:
    def several(values: list[bytes]) -> Any:
        fields = [(b"H%d" % index, value) for index, value in enumerate(values)]
        return key([f"header:H{index}" for index in range(4)], request(b"/", *fields))

    def plain(values: list[bytes]) -> list[bytes]:
        return [re.sub(rb"[ \t]+", b" ", value).strip(b" ") for value in values]

    padded = [[*plain(values), b"", b"", b"", b""][:4] for values in (one, other)]
    assert (several(one) == several(other)) is (padded[0] == padded[1])


def test_two_to_the_64_addresses_are_one_client() -> None:
    """The first and the last of a /64, and some in between."""
    network = 0x20010DB8_00000000 << 64
    found = set()
    for low in [0, 1, 2**32, 2**63, 2**64 - 1, *(3**n % 2**64 for n in range(200))]:
        whole = f"{network | low:032x}"
        address = ":".join(whole[at : at + 4] for at in range(0, 32, 4))
        found.add(key("address", request(address=address)))
    assert len(found) == 1
