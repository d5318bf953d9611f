"""The PROXY protocol towards upstreams: what each connection begins with, and for whom it is used again."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import pytest

from iocproxy.proxy_protocol import SIGNATURE
from iocproxy.testing import Certificates, Close, Expect, ExpectRequest, Origin, ProxyFactory, RawClient, Send, WaitFor

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
VERSIONS = pytest.mark.parametrize("version", ["v1", "v2"])


def upstream(origin: Origin, version: str, **more: Any) -> dict[str, Any]:
    return {"app": {"servers": [origin.url], "proxy_protocol": version, **more}}


def expected(version: str, client: tuple[str, int], listener: tuple[str, int]) -> bytes:
    if version == "v1":
        return b"PROXY TCP4 %b %b %d %d\r\n" % (client[0].encode(), listener[0].encode(), client[1], listener[1])
    packed = bytes(map(int, (client[0] + "." + listener[0]).split(".")))
    return SIGNATURE + b"\x21\x11\x00\x0c" + packed + client[1].to_bytes(2, "big") + listener[1].to_bytes(2, "big")


def source(client: RawClient) -> tuple[str, int]:
    host, port = client.sock.getsockname()
    return host, port


@VERSIONS
def test_a_connection_begins_with_the_client(iocproxy: ProxyFactory, iocproxy_origin: Origin, version: str) -> None:
    proxy = iocproxy(upstreams=upstream(iocproxy_origin, version))
    with RawClient(proxy.address) as client:
        script = iocproxy_origin.script(
            [
                Expect(expected(version, source(client), proxy.address)),
                *(ExpectRequest(), Send(ANSWER), ExpectRequest(), Send(ANSWER)),
            ]
        )
        for _ in range(2):
            assert client.request().body == b"ok"
        script.wait()
    assert iocproxy_origin.connections == 1


@VERSIONS
def test_the_header_comes_before_tls(
    iocproxy: ProxyFactory, iocproxy_origin_factory: Any, iocproxy_certificates: Certificates, version: str
) -> None:
    """The origin is a proxy that takes the header, and TLS after it."""
    origin, pair = iocproxy_origin_factory(), iocproxy_certificates.pair
    behind = iocproxy(
        upstream=origin,
        listeners=[
            {
                "bind": "127.0.0.1:0",
                "proxy_protocol": True,
                "tls": {"certificates": [{"cert": str(pair.cert), "key": str(pair.key)}]},
            }
        ],
        server={"trusted_proxies": ["127.0.0.1"]},
    )
    port = behind.tls_address[1]
    app = {"servers": [f"https://127.0.0.1:{port}"], "ca": str(iocproxy_certificates.ca), "proxy_protocol": version}
    front = iocproxy(upstreams={"app": {**app, "server_name": "localhost"}})
    with RawClient(front.address, source=("127.0.0.5", 0)) as client:
        for _ in range(3):
            assert client.request("GET", "/status/204").status == 204
    assert [record.client for record in behind.wait_for_records(3)] == ["127.0.0.5"] * 3
    assert behind.stats()["connections_accepted"] == 1


def test_a_connection_serves_one_client_only(iocproxy: ProxyFactory, iocproxy_origin: Origin) -> None:
    proxy = iocproxy(upstreams=upstream(iocproxy_origin, "v1"))
    with RawClient(proxy.address) as first, RawClient(proxy.address) as second:
        scripts = [
            iocproxy_origin.script(
                [
                    Expect(expected("v1", source(client), proxy.address)),
                    *(ExpectRequest(b"GET", path), Send(ANSWER), ExpectRequest(b"GET", path), Send(ANSWER)),
                ]
            )
            for client, path in ((first, b"/1"), (second, b"/2"))
        ]
        for client, path in ((first, "/1"), (second, "/2"), (first, "/1"), (second, "/2")):
            assert client.request("GET", path).body == b"ok"
        for script in scripts:
            script.wait()
        (stats,) = proxy.stats()["upstreams"]["app"].values()
        assert (stats["open"], stats["idle"]) == (2, 2)
    assert iocproxy_origin.connections == 2
    assert proxy.stats()["upstream_reused"] == 2


def test_whom_a_trusted_proxy_names_has_no_port(iocproxy: ProxyFactory, iocproxy_origin: Origin) -> None:
    proxy = iocproxy(upstreams=upstream(iocproxy_origin, "v1"), server={"trusted_proxies": ["127.0.0.1"]})
    listener = proxy.address[1]
    heads = [
        b"PROXY TCP4 192.0.2.1 127.0.0.1 0 %d\r\n" % listener,
        b"PROXY TCP6 2001:db8::1 ::ffff:127.0.0.1 0 %d\r\n" % listener,
    ]
    with contextlib.ExitStack() as stack:
        scripts = [
            iocproxy_origin.script([Expect(head), ExpectRequest(), Send(ANSWER), ExpectRequest(), Send(ANSWER)])
            for head in heads
        ]
        for _ in range(2):  # of other connections, but with the same header
            client = stack.enter_context(RawClient(proxy.address))
            for address in ("192.0.2.1", "2001:db8::1"):
                assert client.request(headers=[("X-Forwarded-For", address)]).body == b"ok"
        for script in scripts:
            script.wait()
    assert iocproxy_origin.connections == 2


def test_whom_another_proxy_has_named(iocproxy: ProxyFactory, iocproxy_origin: Origin) -> None:
    """Passed through: the address and the port are those of the header that came in."""
    proxy = iocproxy(
        listeners=[{"bind": "127.0.0.1:0", "proxy_protocol": True}],
        server={"trusted_proxies": ["127.0.0.1"]},
        upstreams=upstream(iocproxy_origin, "v1"),
    )
    head = expected("v1", ("192.0.2.1", 12345), proxy.address)
    script = iocproxy_origin.script([Expect(head), ExpectRequest(), Send(ANSWER)])
    with RawClient(proxy.address) as client:
        client.send(b"PROXY TCP4 192.0.2.1 198.51.100.7 12345 443\r\n")
        assert client.request().body == b"ok"
    script.wait()


def test_a_stale_connection_is_replaced_by_one_with_the_same_header(
    iocproxy: ProxyFactory, iocproxy_origin: Origin
) -> None:
    proxy = iocproxy(upstreams=upstream(iocproxy_origin, "v2"))
    asked = threading.Event()
    with RawClient(proxy.address) as client:
        head = expected("v2", source(client), proxy.address)
        iocproxy_origin.script([Expect(head), ExpectRequest(), Send(ANSWER), ExpectRequest(), WaitFor(asked), Close()])
        second = iocproxy_origin.script([Expect(head), ExpectRequest(), Send(ANSWER)])
        assert client.request().body == b"ok"
        asked.set()
        assert client.request().body == b"ok"
        second.wait()
    assert proxy.stats()["upstream_retries"] == 1


def test_the_oldest_idle_connection_makes_place(iocproxy: ProxyFactory, iocproxy_origin: Origin) -> None:
    """What nobody may use any more neither fills the pool nor blocks the way to the server."""
    proxy = iocproxy(upstreams=upstream(iocproxy_origin, "v1", max_connections=2, max_idle=2))
    with contextlib.ExitStack() as stack:
        for number in range(6):
            client = stack.enter_context(RawClient(proxy.address))
            script = iocproxy_origin.script(
                [Expect(expected("v1", source(client), proxy.address)), ExpectRequest(), Send(ANSWER)]
            )
            assert client.request().body == b"ok"
            script.wait()
            (stats,) = proxy.stats()["upstreams"]["app"].values()
            assert (stats["open"], stats["idle"]) == (min(number + 1, 2),) * 2
        iocproxy_origin.wait_for(lambda origin: origin.open_connections == 2)


def test_no_more_are_kept_than_allowed(iocproxy: ProxyFactory, iocproxy_origin: Origin) -> None:
    proxy = iocproxy(upstreams=upstream(iocproxy_origin, "v1", max_idle=1))
    with RawClient(proxy.address) as first, RawClient(proxy.address) as second:
        for client, times in ((first, 1), (second, 2), (first, 1)):
            iocproxy_origin.script(
                [
                    Expect(expected("v1", source(client), proxy.address)),
                    *(ExpectRequest(), Send(ANSWER)) * times,
                ]
            )
            for _ in range(times):
                assert client.request().body == b"ok"
            (stats,) = proxy.stats()["upstreams"]["app"].values()
            assert stats["idle"] == 1
    assert iocproxy_origin.connections == 3
    assert iocproxy_origin.failures == []


def test_who_waits_for_a_place_gets_one_that_another_client_has_given_back(
    iocproxy: ProxyFactory, iocproxy_origin: Origin
) -> None:
    proxy = iocproxy(upstreams=upstream(iocproxy_origin, "v1", max_connections=1))
    answer = threading.Event()
    with RawClient(proxy.address) as first, RawClient(proxy.address) as second:
        iocproxy_origin.script(
            [Expect(expected("v1", source(first), proxy.address)), ExpectRequest(), WaitFor(answer), Send(ANSWER)]
        )
        script = iocproxy_origin.script(
            [Expect(expected("v1", source(second), proxy.address)), ExpectRequest(), Send(ANSWER)]
        )
        first.send(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        iocproxy_origin.wait_for_requests(1)
        second.send(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        proxy.wait_for(lambda proxy: next(iter(proxy.stats()["upstreams"]["app"].values()))["waiting"] == 1)
        answer.set()
        assert first.read_response().body == b"ok"
        assert second.read_response().body == b"ok"
        script.wait()


def test_connections_that_broke_are_forgotten(iocproxy: ProxyFactory, iocproxy_origin: Origin) -> None:
    proxy = iocproxy(upstreams=upstream(iocproxy_origin, "v1"))
    with RawClient(proxy.address) as client:
        for _ in range(3):
            head = expected("v1", source(client), proxy.address)
            iocproxy_origin.script([Expect(head), ExpectRequest(), Send(ANSWER), Close()])
            assert client.request().body == b"ok"
            proxy.wait_for(lambda proxy: next(iter(proxy.stats()["upstreams"]["app"].values()))["open"] == 0)
    assert iocproxy_origin.connections == 3
