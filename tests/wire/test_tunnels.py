"""Upgrade: 101 turns the connection into a tunnel; any other answer leaves it HTTP."""

from __future__ import annotations

import os
import ssl
import threading
from typing import Any

import pytest

from iocproxy.testing import Close, ExpectEnd, ExpectUntil, HalfClose, RawClient, Reset, Send, WaitFor
from iocproxy.testing.script import Expect
from iocproxy.testing.websocket import PING, PONG, TEXT, connect

UPGRADE = b"GET /t HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"


def test_a_websocket(any_front: Any) -> None:
    front = any_front()
    with front.client() as client:
        socket = connect(client)
        assert socket.response.header("via") == "1.1 iocproxy"
        for size in (0, 1, 125, 126, 65_535, 65_536, 300_000):
            payload = os.urandom(size)
            socket.send(payload)
            assert socket.receive().payload == payload
        socket.send("grüß")
        assert socket.receive()[:2] == (TEXT, "grüß".encode())
        socket.send(b"?", opcode=PING)
        assert socket.receive().opcode == PONG
        assert socket.close() == 1000
        client.expect_closed()
    request = front.origin.requests[0]
    assert (request.header("connection"), request.header("upgrade")) == ("Upgrade", "websocket")
    record = front.proxy.wait_for_records(1)[0]
    assert (record.status, record.error) == (101, "")
    assert record.bytes_in > 365_000
    assert record.bytes_out > 365_000
    assert front.proxy.stats()["tunnels_open"] == 0


def test_many_websockets_at_once(front: Any) -> None:
    started = front()
    clients = [started.client() for _ in range(20)]
    try:
        sockets = [connect(client) for client in clients]
        for turn in range(3):
            for number, socket in enumerate(sockets):
                socket.send(f"{turn}-{number}")
            for number, socket in enumerate(sockets):
                assert socket.receive().payload == f"{turn}-{number}".encode()
    finally:
        for client in clients:
            client.close()


def test_bytes_together_with_the_request_and_with_the_101(any_front: Any) -> None:
    front = any_front()
    script = front.origin.script([ExpectUntil(b"\r\n\r\n"), Send(SWITCHED + b"hello"), Expect(b"early"), Send(b"done")])
    with front.client() as client:
        client.send(UPGRADE + b"early")
        assert client.read_head()[0].status == 101
        assert client.read_exactly(5) == b"hello"
        assert client.read_exactly(4) == b"done"
        script.wait()


def test_early_bytes_wait_for_the_101(front: Any) -> None:
    """Until the upstream has agreed they may as well be the next request: it must not see them."""
    started = front()
    started.origin.on("GET", "/t", respond=b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n")
    with started.client() as client:
        client.send(UPGRADE + b"GET /bytes/2 HTTP/1.1\r\nHost: a.test\r\n\r\n")
        assert client.read_response().status == 426
        assert client.read_response().body == b"\x00\x01"
    assert [request.target for request in started.origin.requests] == [b"/t", b"/bytes/2"]


@pytest.mark.parametrize("status", [200, 400, 426])
def test_a_refused_upgrade_leaves_http(any_front: Any, status: int) -> None:
    front = any_front()
    front.origin.on("GET", "/t", respond=b"HTTP/1.1 %d Final\r\nUpgrade: x\r\nContent-Length: 2\r\n\r\nno" % status)
    with front.client() as client:
        client.send(UPGRADE)
        response = client.read_response()
        assert (response.status, response.body) == (status, b"no")
        assert client.request("GET", "/bytes/1").body == b"\x00"
    assert front.origin.connections == 1


@pytest.mark.parametrize(
    "lines",
    [
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
        b"Connection: Upgrade\r\nUpgrade: H2C\r\n",
        b"Connection: Upgrade\r\nUpgrade: x, h2c\r\n",
        b"Connection: Upgrade\r\nUpgrade: x\r\nUpgrade: h2c\r\n",
        b"Connection: HTTP2-Settings\r\nHTTP2-Settings: AAMA\r\n",
    ],
)
def test_h2c_is_not_passed_on(front: Any, lines: bytes) -> None:
    started = front()
    with started.client() as client:
        client.send(b"GET /t HTTP/1.1\r\nHost: a.test\r\n" + lines + b"\r\n")
        assert client.read_response().status == 200
        assert client.request("GET", "/bytes/1").body == b"\x00"
    raw = started.origin.requests[0].raw.lower()
    assert b"h2c" not in raw
    assert b"http2" not in raw


def test_an_upgrade_from_http_1_0_is_none(front: Any) -> None:
    started = front()
    with started.client() as client:
        client.send(UPGRADE.replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert client.read_response().status == 200
        client.expect_closed()
    assert started.origin.requests[0].header("upgrade") is None


def test_an_interim_response_before_the_101(front: Any) -> None:
    started = front()
    started.origin.script([ExpectUntil(b"\r\n\r\n"), Send(b"HTTP/1.1 103 Early Hints\r\n\r\n" + SWITCHED + b"hi")])
    with started.client() as client:
        client.send(UPGRADE)
        assert [client.read_response().status for _ in range(2)] == [103, 101]
        assert client.read_exactly(2) == b"hi"


def test_the_client_ends_a_tunnel(any_front: Any) -> None:
    front = any_front()
    script = front.origin.script([ExpectUntil(b"\r\n\r\n"), Send(SWITCHED), Expect(b"bye"), ExpectEnd()])
    with front.client() as client:
        client.send(UPGRADE)
        assert client.read_head()[0].status == 101
        client.send(b"bye")
        client.close()
        script.wait()
    assert front.proxy.wait_for_records(1)[0].status == 101


def test_the_upstream_ends_a_tunnel(any_front: Any) -> None:
    front = any_front()
    front.origin.script([ExpectUntil(b"\r\n\r\n"), Send(SWITCHED + b"bye"), Close()])
    with front.client() as client:
        client.send(UPGRADE)
        assert client.read_head()[0].status == 101
        assert client.read_until_closed() == b"bye"
    assert front.proxy.wait_for_records(1)[0].status == 101


def test_a_tunnel_half_closed_by_the_client_still_brings_what_the_upstream_sends(front: Any) -> None:
    started = front()
    script = started.origin.script(
        [ExpectUntil(b"\r\n\r\n"), Send(SWITCHED), Expect(b"bye"), ExpectEnd(), Send(b"and good night"), Close()]
    )
    with started.client() as client:
        client.send(UPGRADE)
        assert client.read_head()[0].status == 101
        client.send(b"bye")
        client.half_close()
        assert client.read_until_closed() == b"and good night"
        script.wait()
    assert started.proxy.wait_for_records(1)[0].error == ""


def test_a_tunnel_half_closed_by_the_upstream_still_brings_what_the_client_sends(any_front: Any) -> None:
    front = any_front()
    script = front.origin.script(
        [ExpectUntil(b"\r\n\r\n"), Send(SWITCHED + b"bye"), HalfClose(), Expect(b"and good night"), ExpectEnd()]
    )
    with front.client() as client:
        client.send(UPGRADE)
        assert client.read_head()[0].status == 101
        assert client.read_until_closed() == b"bye"
        client.send(b"and good night")
        client.close()
        script.wait()
    record = front.proxy.wait_for_records(1)[0]
    assert (record.bytes_in, record.error) == (14, "")


def test_a_tunnel_over_tls_1_2_half_closed_by_the_upstream_ends_both_ways(
    iocproxy: Any, iocproxy_origin: Any, iocproxy_certificates: Any
) -> None:
    """close_notify asks the client to close at once (RFC 5246 section 7.2.1). What one sends nevertheless is not
    passed on, not even in part: the upstream sees the end."""
    proxy = iocproxy(upstream=iocproxy_origin, tls=True)
    context = iocproxy_certificates.client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    script = iocproxy_origin.script([ExpectUntil(b"\r\n\r\n"), Send(SWITCHED + b"bye"), HalfClose(), ExpectEnd()])
    with RawClient(proxy.tls_address, tls=context) as client:
        client.send(UPGRADE)
        assert client.read_head()[0].status == 101
        assert client.read_until_closed() == b"bye"
        client.send(b"too late")
        client.close()
        script.wait()
    assert proxy.wait_for_records(1)[0].bytes_in == 0


def test_a_tunnel_to_an_https_upstream_half_closed_by_the_client(iocproxy: Any, iocproxy_origin_factory: Any) -> None:
    origin = iocproxy_origin_factory(tls=True)
    proxy = iocproxy(upstream=origin)
    script = origin.script(
        [ExpectUntil(b"\r\n\r\n"), Send(SWITCHED), Expect(b"bye"), ExpectEnd(), Send(b"and good night"), Close()]
    )
    with RawClient(proxy.address) as client:
        client.send(UPGRADE)
        assert client.read_head()[0].status == 101
        client.send(b"bye")
        client.half_close()
        assert client.read_until_closed() == b"and good night"
        script.wait()
    assert proxy.wait_for_records(1)[0].error == ""


def test_an_upstream_that_resets_a_tunnel(any_front: Any) -> None:
    front = any_front()
    go = threading.Event()
    front.origin.script([ExpectUntil(b"\r\n\r\n"), Send(SWITCHED), WaitFor(go), Reset()])
    with front.client() as client:
        client.send(UPGRADE)
        assert client.read_head()[0].status == 101
        go.set()
        record = front.proxy.wait_for_records(1)[0]
    assert record.error.startswith("upstream: ")
    front.still_serves()


def test_an_idle_tunnel_is_ended(any_front: Any) -> None:
    front = any_front(timeouts={"tunnel_idle": "300ms"})
    script = front.origin.script([ExpectUntil(b"\r\n\r\n"), Send(SWITCHED), ExpectEnd()])
    with front.client() as client:
        client.send(UPGRADE)
        assert client.read_head()[0].status == 101
        assert client.read_until_closed() == b""
        script.wait()
    assert "idle" in front.proxy.wait_for_records(1)[0].error
    front.still_serves()
