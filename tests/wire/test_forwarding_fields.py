"""Who the request is from: what the origin is told, and what of it the client may say."""

from __future__ import annotations

from typing import Any

import pytest

from iocproxy import ConfigError
from iocproxy.testing import RawClient

SPOOFED = [
    ("X-Forwarded-For", "6.6.6.6"),
    ("x-forwarded-for", "7.7.7.7"),
    ("X-FORWARDED-PROTO", "gopher"),
    ("X-Forwarded-Host", "evil.test"),
    ("X-Forwarded-Port", "666"),
    ("Forwarded", "for=6.6.6.6"),
]
NAMES = ("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "Forwarded")


def test_what_a_stranger_says_is_replaced(any_front: Any) -> None:
    front = any_front()
    with front.client() as client:
        client.request("GET", "/", headers=[("Host", "a.test"), *SPOOFED])
    request = front.origin.requests[0]
    port = str(front.address[1])
    assert [request.header_values(name) for name in NAMES] == [["127.0.0.1"], [front.scheme], ["a.test"], [port], []]
    assert front.proxy.wait_for_records(1)[0].client == "127.0.0.1"


@pytest.mark.parametrize("name", ["X-Forwarded-Server", "X-Real-IP", "Forwarded"])
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


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ([], None),
        (["443"], "443"),
        (["1"], "1"),
        (["65535"], "65535"),
        (["65536"], None),
        (["0"], None),
        (["080"], None),
        (["+80"], None),
        (["80, 81"], None),
        (["80", "80"], None),
        (["<script>"], None),
        ([""], None),
    ],
)
def test_a_trusted_proxys_port_is_kept_when_it_is_one(front: Any, said: list[str], told: str | None) -> None:
    started = front(server=TRUSTED)
    with started.client() as client:
        client.request("GET", "/", headers=[("Host", "a.test:1"), *(("X-Forwarded-Port", each) for each in said)])
    assert started.origin.requests[0].header("X-Forwarded-Port") == (told or str(started.address[1]))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"X-Forwarded-Proto": "https"}, "443"),
        ({"X-Forwarded-Proto": "HTTP"}, "80"),
        ({"X-Forwarded-Proto": "https", "X-Forwarded-Host": "b.test:8443"}, "8443"),
        ({"X-Forwarded-Proto": "https", "X-Forwarded-Host": "[::1]:8443"}, "8443"),
        ({"X-Forwarded-Proto": "https", "X-Forwarded-Host": "[::1]"}, "443"),
        ({"X-Forwarded-Proto": "https", "X-Forwarded-Host": "b.test:"}, "443"),
        ({"X-Forwarded-Proto": "https", "X-Forwarded-Port": "444"}, "444"),
    ],
)
def test_a_trusted_proxy_that_says_the_scheme_only(front: Any, said: dict[str, str], told: str) -> None:
    """Our port is no part of a URL whose scheme and host are another hop's."""
    started = front(server=TRUSTED)
    with started.client() as client:
        client.request("GET", "/", headers=[("Host", "a.test"), *said.items()])
    assert started.origin.requests[0].header("X-Forwarded-Port") == told


# ── Forwarded, where it is switched on ───────────────────────────────────────────────────────────────────────────────

ON = {"forwarded": True}


def test_an_element_for_a_stranger(any_front: Any) -> None:
    front = any_front(forwarding=ON)
    with front.client() as client:
        client.request("GET", "/", headers=[("Host", "a.test:81"), ("Forwarded", "for=6.6.6.6"), *SPOOFED])
        client.request("GET", "/", headers=[("Host", "b.test")])
    by = f'by="127.0.0.1:{front.address[1]}"'
    assert [request.header("Forwarded") for request in front.origin.requests] == [
        f'for=127.0.0.1;host="a.test:81";proto={front.scheme};{by}',
        f"for=127.0.0.1;host=b.test;proto={front.scheme};{by}",
    ]


def test_an_element_over_ipv6_and_without_a_host(iocproxy: Any, iocproxy_origin: Any) -> None:
    try:
        proxy = iocproxy(upstream=iocproxy_origin, forwarding=ON, listeners=[{"bind": "[::]:0"}])
    except ConfigError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with RawClient(("::1", proxy.address[1])) as client:
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        client.read_response()
    told = f'for="[::1]";proto=http;by="_iocproxy:{proxy.address[1]}"'
    assert iocproxy_origin.requests[0].header("Forwarded") == told


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ([], ""),
        (["for=1.2.3.4"], "for=1.2.3.4, "),
        (['for="[2001:db8::1]:80";proto=https'], 'for="[2001:db8::1]:80";proto=https, '),
        (["for=1.2.3.4, for=10.0.0.9"], "for=1.2.3.4, for=10.0.0.9, "),
        (["for=1.2.3.4", "for=10.0.0.9"], "for=1.2.3.4, for=10.0.0.9, "),
        (["for=1.2.3.4", ""], "for=1.2.3.4, "),
        (["for=1.2.3.4", "for=[::1]"], ""),
        (['for="1.2.3.4'], ""),
        (["for=1.2.3.4;for=5.6.7.8"], ""),
        (["<script>"], ""),
        ([""], ""),
    ],
)
def test_an_element_is_added_to_a_trusted_proxys(front: Any, said: list[str], kept: str) -> None:
    started = front(server=TRUSTED, forwarding=ON)
    with started.client() as client:
        client.request("GET", "/", headers=[("Host", "a.test"), *(("Forwarded", each) for each in said)])
    ours = f'for=127.0.0.1;host=a.test;proto=http;by="127.0.0.1:{started.address[1]}"'
    assert started.origin.requests[0].header("Forwarded") == kept + ours
    # X-Forwarded-For alone says who the client is
    assert started.proxy.wait_for_records(1)[0].client == "127.0.0.1"


def test_switched_off_a_trusted_proxys_forwarded_passes(front: Any) -> None:
    started = front(server=TRUSTED)
    with started.client() as client:
        client.request("GET", "/", headers=[("Forwarded", "for=1.2.3.4"), ("X-Real-IP", "1.2.3.4")])
    assert started.origin.requests[0].header("Forwarded") == "for=1.2.3.4"
    assert started.origin.requests[0].header("X-Real-IP") == "1.2.3.4"


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
