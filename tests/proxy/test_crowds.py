"""Many clients at once, and some that only do harm."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
from pathlib import Path

import pytest

from iocproxy.testing import Certificates, Origin, ProxyFactory, RawClient
from iocproxy.testing.patience import PATIENCE
from iocproxy.testing.stream import Stream

CLIENTS = 200 if sys.platform == "win32" else 1_000
REQUESTS = 4
AT_ONCE = 100  # connecting at a time


@pytest.fixture
def origin(iocproxy_origin: Origin) -> Origin:
    return iocproxy_origin


def test_resets_in_the_queue_hurt_nobody(
    iocproxy: ProxyFactory, origin: Origin, iocproxy_certificates: Certificates
) -> None:
    """Clients that are gone before they are accepted end asyncio's own server on Windows (gh-93821)."""
    proxy = iocproxy(upstream=origin, tls=True)
    plain = RawClient(proxy.address)
    secure = RawClient(proxy.tls_address, tls=iocproxy_certificates)
    with plain, secure:
        for number in range(200):
            address = proxy.tls_address if number % 2 else proxy.address
            sock = socket.create_connection(address, PATIENCE)
            if number % 3 == 0:
                sock.sendall(b"GET / HT")
            Stream(sock, timeout=PATIENCE).reset()
            if number % 20 == 0:
                assert plain.request("GET", "/status/204").status == 204
                assert secure.request("GET", "/status/204").status == 204
        with RawClient(proxy.address) as after:
            assert after.request("GET", "/status/204").status == 204
        with RawClient(proxy.tls_address, tls=iocproxy_certificates) as after:
            assert after.request("GET", "/status/204").status == 204
        proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 2)
    proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 0)
    assert not proxy.events("accept_paused")


async def test_a_thousand_keep_alive_clients(iocproxy: ProxyFactory, origin: Origin) -> None:
    """Each gets its own answers, in order, while all the others are connected too."""
    origin.on("GET", "/*", lambda exchange: exchange.respond(200, b"<" + exchange.request.target + b">"))
    proxy = iocproxy(upstreams={"app": {"servers": [origin.url], "max_connections": 32}}, timeouts={"connect": "1m"})
    address = proxy.address
    connecting = asyncio.Semaphore(AT_ONCE)
    everybody = asyncio.Barrier(CLIENTS)

    async def visit(number: int) -> None:
        async with connecting:
            reader, writer = await asyncio.open_connection(*address)
        try:
            await everybody.wait()
            for turn in range(REQUESTS):
                target = f"/{number}/{turn}"
                writer.write(f"GET {target} HTTP/1.1\r\nHost: a.test\r\n\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 ")
                wanted = f"<{target}>".encode()
                assert b"Content-Length: %d\r\n" % len(wanted) in head
                assert await reader.readexactly(len(wanted)) == wanted
        finally:
            writer.close()
            await writer.wait_closed()

    async with asyncio.timeout(6 * PATIENCE), asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(visit(number))
    stats = await asyncio.to_thread(proxy.stats)
    assert stats["connections_accepted"] == CLIENTS
    assert stats["requests"] == stats["responses"]["2xx"] == CLIENTS * REQUESTS
    assert origin.connections <= 32
    await asyncio.to_thread(proxy.wait_for, lambda proxy: proxy.stats()["connections_open"] == 0)


# ── the access log ───────────────────────────────────────────────────────────────────────────────────────────────────

KEYS = {
    "timestamp", "level", "event", "client", "method", "host", "path", "status", "bytes_in", "bytes_out",
    "duration_ms", "upstream", "route", "http", "tls", "tls_resumed",
}  # fmt: skip


def test_a_line_for_every_request(
    iocproxy: ProxyFactory, origin: Origin, iocproxy_certificates: Certificates, tmp_path: Path
) -> None:
    file = tmp_path / "access.log"
    proxy = iocproxy(upstream=origin, tls=True, logging={"format": "json", "access_file": str(file)})
    names = {thread.name for thread in threading.enumerate()}
    assert "iocproxy-log" in names
    with RawClient(proxy.tls_address, tls=iocproxy_certificates) as client:
        assert client.request("POST", "/bytes/500?q=1", headers=[("Host", "shop.test")], body=b"12345").status == 200
    with RawClient(proxy.address) as client:
        client.send(b'GET /"quoted"\\ HTTP/1.0\r\nHost: a\r\n\r\n')
        client.read_response()
    with RawClient(proxy.address) as client:
        client.send(b"garbage\r\n\r\n")
        assert client.read_response().status == 400
    proxy.wait_for_records(3)
    proxy.stop()
    assert "iocproxy-log" not in {thread.name for thread in threading.enumerate()}
    secure, old, bad = [json.loads(line) for line in file.read_text(encoding="ascii").splitlines()]
    assert set(secure) == KEYS
    assert secure["duration_ms"] > 0
    expected = {
        "event": "request",
        "client": "127.0.0.1",
        "method": "POST",
        "host": "shop.test",
        "path": "/bytes/500?q=1",
        "status": 200,
        "bytes_in": 5,
        "bytes_out": 500,
        "upstream": f"127.0.0.1:{origin.address[1]}",
        "route": "/",
        "http": "1.1",
        "tls": "TLSv1.3",
        "tls_resumed": False,
    }
    assert {key: secure[key] for key in expected} == expected
    assert (old["http"], old["tls"]) == ("1.0", None)
    assert set(bad) == KEYS | {"error"}
    assert (bad["status"], bad["method"], bad["upstream"], bad["http"]) == (400, "", None, None)
    assert bad["error"].startswith("client")
