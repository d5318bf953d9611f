"""Forwarded (RFC 7239): how an element is written, and what of a trusted proxy's passes for a list of them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iocproxy.exchange.rfc7239 import element, is_forwarded, receiver


@pytest.mark.parametrize(
    ("address", "host", "listener", "written"),
    [
        ("192.0.2.1", b"a.test", "192.0.2.7:80", b'for=192.0.2.1;host=a.test;proto=http;by="192.0.2.7:80"'),
        ("192.0.2.1", b"a.test:8080", "[::1]:80", b'for=192.0.2.1;host="a.test:8080";proto=http;by="[::1]:80"'),
        ("2001:db8::1", b"[::1]:80", "0.0.0.0:80", b'for="[2001:db8::1]";host="[::1]:80";proto=http;by="_iocproxy:80"'),
        ("192.0.2.1", b"a,b;c=(d)", "[::]:80", b'for=192.0.2.1;host="a,b;c=(d)";proto=http;by="_iocproxy:80"'),
        ("192.0.2.1", b"", "[::]:80", b'for=192.0.2.1;proto=http;by="_iocproxy:80"'),
    ],
)
def test_an_element(address: str, host: bytes, listener: str, written: bytes) -> None:
    assert element(address, host, b"http", receiver(listener)) == written
    assert is_forwarded(written)


@pytest.mark.parametrize(
    "value",
    [
        b"for=192.0.2.43",
        b'for="[2001:db8:cafe::17]:4711"',  # RFC 7239 section 4, the examples
        b'For="[2001:db8:cafe::17]:4711"',
        b"for=192.0.2.60;proto=http;by=203.0.113.43",
        b"for=192.0.2.43, for=198.51.100.17",
        b"for=192.0.2.43,for=198.51.100.17;by=203.0.113.60;proto=http;host=example.com",
        b'for="_gazonk"',
        b"for=unknown",
        b"for=_a;ext=x",
        b"for=a;;by=b;",
        b",, for=a ,\t,for=b,",
        b'for=a;x="a,b;for=c\\"d\\\\"',
        b'for=a;x=""',
        b'for=a;x="\xe4\t"',
    ],
)
def test_a_list_of_elements(value: bytes) -> None:
    assert is_forwarded(value)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b",",
        b";",
        b" ",
        b"for",
        b"for=",
        b"=a",
        b"for=a b",
        b"for =a",
        b"for= a",
        b"for=a; by=b",  # RFC 7239 section 4 has no blanks around the semicolon
        b"for=a ;by=b",
        b"for=[::1]",  # IPv6 only within quotes
        b"for=192.0.2.1:80",
        b"host=a.test:80",
        b'for="a',
        b'for=a"',
        b'for="a"b',
        b'for="a\\"',
        b'for="a\x00"',
        b"for=\xe4",
        b"for=a;for=b",  # two parsers could take either
        b"for=a;FOR=b",
        b"for=a, host=b;proto=http;host=c",
        b"<script>",
    ],
)
def test_not_a_list_of_elements(value: bytes) -> None:
    assert not is_forwarded(value)


@pytest.mark.parametrize("value", [b" " * 30_000 + b"=", b"a=b" + b";" * 30_000 + b"\x00", b'a="' + b"\\a" * 15_000])
def test_judging_takes_no_longer_than_reading(value: bytes) -> None:
    begun = time.perf_counter()
    assert not is_forwarded(value)
    assert time.perf_counter() - begun < 1.0


@given(st.text(alphabet=list('for=;,"\\ a\t[]:.é\x00'), max_size=40))
def test_what_is_added_behind_a_list_is_read_as_an_element_of_its_own(text: str) -> None:
    before = text.encode("latin-1")
    ours = element("192.0.2.1", b"a.test", b"http", receiver("[::]:80"))
    assert is_forwarded(b"%b, %b" % (before, ours)) or not is_forwarded(before)
