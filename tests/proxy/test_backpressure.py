"""A side that does not read stops the other side from being read; nothing piles up in between."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from iocproxy.testing import Certificates, Exchange, Origin, ProxyFactory, RawClient
from iocproxy.testing.patience import PATIENCE

SIZE = 100_000_000
BLOCK = bytes(range(250)) * 400  # 100,000 octets
DIGEST = hashlib.sha256(BLOCK * (SIZE // len(BLOCK))).hexdigest()


def _kernel() -> int:
    """What the sockets of the proxy may hold at most, in octets: Linux lets them grow as long as they are read from."""
    grown = 0
    for kind, usual in (("rmem", 6 * 1024 * 1024), ("wmem", 4 * 1024 * 1024)):
        try:
            grown += int(Path(f"/proc/sys/net/ipv4/tcp_{kind}").read_text(encoding="ascii").split()[2])
        except OSError:
            grown += usual
    return grown


#: What one side is taken from it while the other does not read: the sockets of the proxy and what it holds itself.
#: The sockets of the tests do not grow (`small`).
BOUND = _kernel() + 8 * 1024 * 1024


def small(sock: socket.socket) -> socket.socket:
    """Keep its buffers from growing (socket(7): who sets the size switches that off)."""
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, 262_144)
    return sock


ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def origin(iocproxy_origin: Origin) -> Origin:
    return iocproxy_origin


class Flood:
    """Sends SIZE octets and says how many the system has taken from it so far."""

    def __init__(self) -> None:
        self.taken = 0
        self.steps = threading.Event()

    def __call__(self, exchange: Exchange) -> None:
        exchange.send_head(200, [("Content-Length", str(SIZE))])
        small(exchange.stream.sock)
        exchange.stream.timeout = 10 * PATIENCE
        while self.taken < SIZE:
            exchange.send(BLOCK)
            self.taken += len(BLOCK)


def settled(read: Any) -> int:
    """The value of `read()` once it stands still for a moment."""
    pause = threading.Event()
    last, still = read(), 0
    while still < 6:
        pause.wait(0.05)
        now = read()
        still, last = (still + 1, now) if now == last else (0, now)
    return last


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_client_that_does_not_read_stops_the_origin(
    iocproxy: ProxyFactory, origin: Origin, iocproxy_certificates: Certificates, tls: bool
) -> None:
    flood = Flood()
    origin.on("GET", "/flood", flood)
    proxy = iocproxy(upstream=origin, tls=tls, timeouts={"response_write": "10m", "upstream_body": "10m"})
    address = proxy.tls_address if tls else proxy.address
    with RawClient(address, tls=iocproxy_certificates if tls else None) as client:
        small(client.sock)
        client.send(b"GET /flood HTTP/1.1\r\nHost: a\r\n\r\n")
        head, _ = client.read_head()
        taken = settled(lambda: flood.taken)
        assert 0 < taken < BOUND
        # what the proxy itself holds is far less than what the sockets do
        digest, got = hashlib.sha256(), 0
        for data in client.read_body(head):
            digest.update(data)
            got += len(data)
        assert (got, digest.hexdigest()) == (SIZE, DIGEST)
        assert client.request("GET", "/status/204").status == 204
    assert proxy.wait_for_records(1)[0].bytes_out == SIZE


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_pipeline_waits_for_a_client_that_does_not_read(
    iocproxy: ProxyFactory, origin: Origin, iocproxy_certificates: Certificates, tls: bool
) -> None:
    """The answers before it fill the client's buffer; the large one must not be fetched on top of them."""
    flood = Flood()
    origin.on("GET", "/flood", flood)
    proxy = iocproxy(upstream=origin, tls=tls, timeouts={"response_write": "10m", "upstream_body": "10m"})
    address = proxy.tls_address if tls else proxy.address
    with RawClient(address, tls=iocproxy_certificates if tls else None, timeout=10 * PATIENCE) as client:
        small(client.sock)
        first = b"GET /bytes/200000 HTTP/1.1\r\nHost: a\r\n\r\n" * 160  # 32 MB, more than all the sockets hold
        client.send(first + b"GET /flood HTTP/1.1\r\nHost: a\r\n\r\n")
        client.half_close() if not tls else None
        asked = settled(lambda: len(origin.requests))
        assert asked < 161
        assert flood.taken == 0
        for _ in range(160):
            assert len(client.read_response().body) == 200_000
        head, _ = client.read_head()
        taken = settled(lambda: flood.taken)
        assert 0 < taken < BOUND
        assert sum(map(len, client.read_body(head))) == SIZE
    assert [record.status for record in proxy.wait_for_records(161)] == [200] * 161


def test_answers_of_its_own_wait_for_a_client_that_does_not_read(iocproxy: ProxyFactory, origin: Origin) -> None:
    """A flood of requests that are answered on the spot, by a client that never reads: bounded, and cut off."""
    proxy = iocproxy(
        upstream=origin,
        routes=[{"host": "other.test", "upstream": "origin"}],
        http={"max_requests": False},
        timeouts={"response_write": "1s"},
    )
    flood = b"GET / HTTP/1.1\r\nHost: a.test\r\nUser-Agent: flood\r\n\r\n" * 1000

    def send_for_ever(client: RawClient) -> None:
        while True:  # each piece ends within a head
            client.sock.sendall(flood[:-7])
            client.sock.sendall(flood[-7:])

    with RawClient(proxy.address) as client:
        client.sock.settimeout(PATIENCE)
        with pytest.raises(ConnectionError):
            send_for_ever(client)
    proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 0)
    assert proxy.stats()["requests"] * 400 < BOUND


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_an_origin_that_does_not_read_stops_the_client(iocproxy: ProxyFactory, origin: Origin, chunked: bool) -> None:
    go = threading.Event()
    digest = hashlib.sha256()

    def late(exchange: Exchange) -> None:
        small(exchange.stream.sock)
        exchange.stream.timeout = 10 * PATIENCE
        go.wait(10 * PATIENCE)
        for data in exchange.iter_body():
            digest.update(data)
        exchange.respond_json({"length": exchange.request.body_length})

    origin.on("POST", "/late", late, read_body=False)
    proxy = iocproxy(upstream=origin, timeouts={"request_body": "10m", "upstream_response": "10m"})
    sent = 0
    with RawClient(proxy.address, timeout=10 * PATIENCE) as client:
        small(client.sock)
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % SIZE
        client.send(b"POST /late HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n")
        piece = b"%x\r\n%b\r\n" % (len(BLOCK), BLOCK) if chunked else BLOCK

        def upload() -> None:
            nonlocal sent
            while sent < SIZE:
                client.send(piece)
                sent += len(BLOCK)
            if chunked:
                client.send(b"0\r\n\r\n")

        uploading = threading.Thread(target=upload)
        uploading.start()
        taken = settled(lambda: sent)
        go.set()  # before the assertion, which would otherwise leave the thread behind
        uploading.join()
        assert 0 < taken < BOUND
        answer = client.read_response()
        assert (answer.status, json.loads(answer.body)) == (200, {"length": SIZE})
    assert digest.hexdigest() == DIGEST
    assert proxy.wait_for_records(1)[0].bytes_in == SIZE


SERVER = """
import asyncio, sys
from iocproxy import Config, Proxy

async def main():
    config = Config(
        listeners=[{"bind": "127.0.0.1:0"}],
        upstreams={"app": {"servers": [sys.argv[1]]}},
        logging={"access": False},
    )
    async with Proxy(config) as proxy:
        print(proxy.addresses[0].port, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc, which only Linux has")
def test_a_hundred_megabytes_each_way_do_not_grow_the_process(origin: Origin) -> None:
    flood = Flood()
    origin.on("GET", "/flood", flood)
    command = [sys.executable, "-c", SERVER, origin.url]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline())

            def peak() -> int:
                """The largest the process has been, in octets."""
                status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
                return int(status.partition("VmHWM:")[2].split()[0]) * 1024

            with RawClient(("127.0.0.1", port), timeout=10 * PATIENCE) as client:
                # everything that is imported and allocated once is there after a first small exchange of each kind
                assert client.request("GET", "/bytes/100000").status == 200
                assert client.request("POST", "/sink", body=bytes(100_000)).status == 200
                before = peak()
                client.send(b"GET /flood HTTP/1.1\r\nHost: a\r\n\r\n")
                head, _ = client.read_head()
                settled(lambda: flood.taken)  # stalled at first: all there is room for is full
                assert sum(map(len, client.read_body(head))) == SIZE
                down = peak()
                client.send(b"POST /sink HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % SIZE)
                for _ in range(SIZE // len(BLOCK)):
                    client.send(BLOCK)
                assert json.loads(client.read_response().body)["sha256"] == DIGEST
                up = peak()
            assert down - before < 8 * 1024 * 1024
            assert up - before < 8 * 1024 * 1024
        finally:
            process.stdin.close()
            process.wait(PATIENCE)
    assert process.returncode == 0


def test_a_tunnel_is_coupled_too(iocproxy: ProxyFactory, origin: Origin) -> None:
    """An origin that floods a tunnel whose client does not read is stopped as well."""
    flood = Flood()

    def switch(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: flood\r\n\r\n")
        small(exchange.stream.sock)
        exchange.stream.timeout = 10 * PATIENCE
        while flood.taken < SIZE:
            exchange.send(BLOCK)
            flood.taken += len(BLOCK)
        exchange.close()

    origin.on("GET", "/tunnel", switch)
    proxy = iocproxy(upstream=origin, timeouts={"response_write": "10m"})
    with RawClient(proxy.address, timeout=10 * PATIENCE) as client:
        small(client.sock)
        client.send(b"GET /tunnel HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: flood\r\n\r\n")
        assert client.read_head()[0].status == 101
        assert 0 < settled(lambda: flood.taken) < BOUND
        digest = hashlib.sha256()
        for _ in range(SIZE // len(BLOCK)):
            digest.update(client.read_exactly(len(BLOCK)))
        assert digest.hexdigest() == DIGEST
    proxy.wait_for_records(1)
