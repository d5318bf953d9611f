"""The Host that an upstream is sent: the client's, the server's own, or one that the route names."""

from __future__ import annotations

from typing import Any

import pytest

from iocproxy.testing import Close, ExpectRequest, Origin, RawClient, Send

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET /x HTTP/1.1\r\nHost: Shop.test:81\r\nA: 1\r\n\r\n"


def told(origin: Origin) -> list[tuple[str | None, str | None]]:
    return [(request.header("Host"), request.header("X-Forwarded-Host")) for request in origin.requests]


@pytest.mark.parametrize(
    ("upstream_host", "host"),
    [
        ("keep", "Shop.test:81"),
        ("server", None),
        ("internal.example.com", "internal.example.com"),
        ("Internal.example.com:8080", "internal.example.com:8080"),
        ("[::1]:8080", "[::1]:8080"),
    ],
)
def test_a_route_says_what_the_upstream_is_called(any_front: Any, upstream_host: str, host: str | None) -> None:
    front = any_front(routes=[{"upstream": "origin", "upstream_host": upstream_host}])
    host = host or f"127.0.0.1:{front.origin.address[1]}"
    with front.client() as client:
        for _ in range(2):
            client.send(GET)
            assert client.read_response().status == 200
        # absolute form, HTTP/1.0 without a Host, and a body
        client.send(b"POST http://Shop.test:81/ HTTP/1.1\r\nHost: shop.test:81\r\nContent-Length: 2\r\n\r\nhi")
        assert client.read_response().status == 200
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert client.read_response().status == 200
    unnamed = "" if upstream_host == "keep" else host
    assert told(front.origin) == [*[(host, "Shop.test:81")] * 3, (unnamed, "")]
    # Host stands first, and once, and nothing else has changed
    assert front.origin.requests[0].head.startswith(b"GET /x HTTP/1.1\r\nHost: %b\r\nA: 1\r\n" % host.encode())
    # the log and middleware see the client's
    assert [record.host for record in front.proxy.wait_for_records(4)] == [*["Shop.test:81"] * 3, ""]


def test_each_route_has_its_own(front: Any) -> None:
    started = front(
        routes=[
            {"upstream": "origin"},
            {"path": "/a", "upstream": "origin", "upstream_host": "a.test"},
            {"host": "b.test", "upstream": "origin", "upstream_host": "server"},
        ]
    )
    with started.client() as client:
        for host, path in (("x.test", "/"), ("x.test", "/a/b"), ("b.test", "/a/b")):
            client.request("GET", path, headers=[("Host", host)])
    own = f"127.0.0.1:{started.origin.address[1]}"
    assert told(started.origin) == [("x.test", "x.test"), ("a.test", "x.test"), (own, "b.test")]


def test_an_upgrade_too(front: Any) -> None:
    started = front(routes=[{"upstream": "origin", "upstream_host": "a.test"}])
    started.origin.on("GET", "/ws", b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
    with started.client() as client:
        client.send(b"GET /ws HTTP/1.1\r\nHost: b.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        assert client.read_response().status == 101
    assert told(started.origin) == [("a.test", "b.test")]


def test_a_request_that_is_sent_again_calls_the_other_server_by_its_own_name(
    iocproxy: Any, iocproxy_origin_factory: Any
) -> None:
    first, second = iocproxy_origin_factory(), iocproxy_origin_factory()
    # The first server's connection ends when its second request arrives: a pooled connection gone stale.
    first.script([ExpectRequest(), Send(OK), ExpectRequest(), Close()])
    proxy = iocproxy(upstream=[first, second], routes=[{"upstream": "origin", "upstream_host": "server"}])
    with RawClient(proxy.address) as client:
        for _ in range(3):
            client.send(GET)
            assert client.read_response().status == 200
    assert proxy.stats()["upstream_retries"] == 1
    for origin in (first, second):
        own = f"127.0.0.1:{origin.address[1]}"
        assert told(origin) == [(own, "Shop.test:81")] * 2
    sent_again = second.requests[-1]
    assert sent_again.head.startswith(b"GET /x HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nA: 1\r\n" % second.address[1])


def test_a_server_that_is_not_there_leaves_the_next_one_its_own_name(
    iocproxy: Any, iocproxy_origin_factory: Any
) -> None:
    gone, there = iocproxy_origin_factory(), iocproxy_origin_factory()
    url = gone.url
    gone.stop()
    proxy = iocproxy(upstream=[url, there], routes=[{"upstream": "origin", "upstream_host": "server"}])
    with RawClient(proxy.address) as client:
        client.send(GET)
        assert client.read_response().status == 200
    assert told(there) == [(f"127.0.0.1:{there.address[1]}", "Shop.test:81")]


def test_with_a_body_that_is_sent_again(iocproxy: Any, iocproxy_origin_factory: Any) -> None:
    first, second = iocproxy_origin_factory(), iocproxy_origin_factory()
    first.script([ExpectRequest(), Send(OK), ExpectRequest(), Close()])
    proxy = iocproxy(upstream=[first, second], routes=[{"upstream": "origin", "upstream_host": "server"}])
    with RawClient(proxy.address) as client:
        for _ in range(3):
            assert client.request("PUT", "/", body=b"hello").status == 200
    assert second.requests[-1].body == b"hello"
    assert second.requests[-1].header("Host") == f"127.0.0.1:{second.address[1]}"
