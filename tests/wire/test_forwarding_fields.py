"""Who the request is from: what the origin is told, and what of it the client may say."""

from __future__ import annotations

from typing import Any

import pytest

SPOOFED = [
    ("X-Forwarded-For", "6.6.6.6"),
    ("x-forwarded-for", "7.7.7.7"),
    ("X-FORWARDED-PROTO", "gopher"),
    ("X-Forwarded-Host", "evil.test"),
]
NAMES = ("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host")


def test_what_a_stranger_says_is_replaced(any_front: Any) -> None:
    front = any_front()
    with front.client() as client:
        client.request("GET", "/", headers=[("Host", "a.test"), *SPOOFED])
    request = front.origin.requests[0]
    assert [request.header_values(name) for name in NAMES] == [["127.0.0.1"], [front.scheme], ["a.test"]]
    assert front.proxy.wait_for_records(1)[0].client == "127.0.0.1"


@pytest.mark.parametrize("name", ["X-Forwarded-Port", "Forwarded"])
def test_no_other_field_says_for_a_stranger_where_it_came_from(front: Any, name: str) -> None:
    """The reference of `trusted_proxies`: from everybody else those fields are replaced."""
    started = front()
    with started.client() as client:
        client.request("GET", "/", headers=[("Host", "a.test"), (name, "for=6.6.6.6;by=666")])
    assert "666" not in (started.origin.requests[0].header(name) or "")


TRUSTED = {"trusted_proxies": ["127.0.0.0/8", "10.0.0.0/8", "2001:db8::/32"]}


@pytest.mark.parametrize(
    ("said", "address"),
    [
        (["1.2.3.4"], "1.2.3.4"),
        (["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
        (["6.6.6.6, 1.2.3.4, 10.0.0.9"], "1.2.3.4"),
        (["6.6.6.6", "1.2.3.4", "10.0.0.9"], "1.2.3.4"),
        (["6.6.6.6,1.2.3.4 ,\t10.0.0.9,127.0.0.2"], "1.2.3.4"),
        (["10.0.0.7, 10.0.0.8"], "10.0.0.7"),
        (["6.6.6.6, unknown, 10.0.0.9"], "10.0.0.9"),
        (["6.6.6.6, <script>, 10.0.0.9"], "10.0.0.9"),
        (["unknown"], "127.0.0.1"),
        (["6.6.6.6, "], "127.0.0.1"),
        (["1.2.3.4:5678"], "1.2.3.4"),
        (["2001:DB8::1, 2001:0db9::0001"], "2001:db9::1"),
        (["fe80::1%<script>"], "fe80::1"),
        (["[fe80::1%25eth0]:80"], "fe80::1"),
        (["::ffff:1.2.3.4"], "1.2.3.4"),
        (["6.6.6.6, 1.2.3.4, ::ffff:10.0.0.9"], "1.2.3.4"),
        (["1.2.3.4%1"], "1.2.3.4"),
        (["6.6.6.6, [2001:db9::1]:80, 2001:db8::5"], "2001:db9::1"),
        (["6.6.6.6, 1.2.3.4" + ", 10.0.0.9" * 31], "1.2.3.4"),
        ([], "127.0.0.1"),
    ],
)
def test_a_trusted_proxys_word_is_walked_from_right_to_left(front: Any, said: list[str], address: str) -> None:
    started = front(server=TRUSTED)
    with started.client() as client:
        client.request("GET", "/", headers=[("X-Forwarded-For", each) for each in said])
    assert started.proxy.wait_for_records(1)[0].client == address
    passed = started.origin.requests[0].header("X-Forwarded-For")
    assert passed == ", ".join([*(each.strip(" ") for each in said), "127.0.0.1"])


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({}, ("http", "a.test")),
        ({"X-Forwarded-Proto": "https", "X-Forwarded-Host": "b.test:8443"}, ("https", "b.test:8443")),
        ({"X-Forwarded-Proto": "HTTPS"}, ("https", "a.test")),
        ({"X-Forwarded-Proto": "https, http", "X-Forwarded-Host": "b.test, c.test"}, ("http", "a.test")),
        ({"X-Forwarded-Proto": "javascript", "X-Forwarded-Host": "<script>"}, ("http", "a.test")),
        ({"X-Forwarded-Proto": "", "X-Forwarded-Host": ""}, ("http", "a.test")),
    ],
)
def test_a_trusted_proxys_scheme_and_host(front: Any, said: dict[str, str], told: tuple[str, str]) -> None:
    started = front(server=TRUSTED)
    with started.client() as client:
        client.request("GET", "/", headers=[("Host", "a.test"), *said.items()])
    request = started.origin.requests[0]
    assert (request.header("X-Forwarded-Proto"), request.header("X-Forwarded-Host")) == told
    assert request.header("Host") == "a.test"


def test_limits_count_whom_a_trusted_proxy_speaks_for(front: Any, iocproxy_clock: Any) -> None:
    started = front(server=TRUSTED, limits={"requests": {"rate": "1/10s"}}, clock=iocproxy_clock)
    with started.client() as client:
        statuses = [
            client.request("GET", "/", headers=[("X-Forwarded-For", f"6.6.6.{index}, {address}")]).status
            for index, address in enumerate(["1.1.1.1", "1.1.1.2", "1.1.1.1", "1.1.1.2", "1.1.1.3"])
        ]
    assert statuses == [200, 200, 429, 429, 200]


def test_a_stranger_cannot_escape_its_limit(front: Any, iocproxy_clock: Any) -> None:
    started = front(limits={"requests": {"rate": "1/10s"}}, clock=iocproxy_clock)
    with started.client() as client:
        statuses = [
            client.request("GET", "/", headers=[("X-Forwarded-For", f"1.1.1.{index}")]).status for index in range(3)
        ]
    assert statuses == [200, 429, 429]
