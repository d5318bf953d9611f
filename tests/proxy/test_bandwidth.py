"""`[limits.bandwidth]`: what passes in a second, measured; a pause is nobody's fault, and nobody else's matter."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from iocproxy.testing import Certificates, Exchange, Origin, ProxyFactory, RawClient, RunningProxy
from iocproxy.testing.patience import PATIENCE
from iocproxy.testing.websocket import connect

RATE = 1024 * 1024
SIZE = 2 * RATE
BODY = bytes(range(251)) * (SIZE // 251 + 1)
BODY = BODY[:SIZE]
UPGRADE = b"GET /t HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
#: Shorter than any pause here that it must not run down in.
SHORT = "500ms"


class Meter:
    """Takes a stream in and notes when something came after a pause, and what had come until then."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.octets = 0
        self._begun = self._last = 0.0
        self._marks: list[tuple[float, int]] = []

    def __call__(self, data: bytes) -> None:
        now = time.monotonic()
        self._begun = self._begun or now
        if now - self._last > 0.04 and now - self._begun > 0.3:  # the burst is over
            self._marks.append((now, self.octets))
        self._last = now
        self.octets += len(data)
        self.digest.update(data)

    def feed(self, pieces: Iterable[bytes]) -> Meter:
        for data in pieces:
            self(data)
        return self

    def check(self, body: bytes = BODY, rate: int = RATE) -> None:
        assert self.octets == len(body)
        assert self.digest.digest() == hashlib.sha256(body).digest()
        assert len(self._marks) >= 2
        (begin, before), (end, after) = self._marks[0], self._marks[-1]
        assert end - begin > 0.8
        assert 0.8 * rate <= (after - before) / (end - begin) <= 1.1 * rate


class Uploads:
    """POST /up: measured as it comes."""

    def __init__(self, origin: Origin) -> None:
        self.meter = Meter()
        origin.on("POST", "/up", self, read_body=False)

    def __call__(self, exchange: Exchange) -> None:
        self.meter.feed(exchange.iter_body())
        exchange.respond(204)


@pytest.fixture
def origin(iocproxy_origin: Origin) -> Origin:
    iocproxy_origin.on("GET", "/down", lambda exchange: exchange.respond(200, BODY))
    return iocproxy_origin


Start = Callable[..., tuple[RunningProxy, RawClient]]


@pytest.fixture(params=["plain", "tls"])
def start(request: pytest.FixtureRequest, iocproxy: ProxyFactory, iocproxy_certificates: Certificates) -> Any:
    clients = []

    def started(**settings: Any) -> tuple[RunningProxy, RawClient]:
        proxy = iocproxy(tls=True, **settings)
        if request.param == "tls":
            client = RawClient(proxy.tls_address, tls=iocproxy_certificates, timeout=2 * PATIENCE)
        else:
            client = RawClient(proxy.address, timeout=2 * PATIENCE)
        clients.append(client)
        return proxy, client

    yield started
    for client in clients:
        client.close()


def get(client: RawClient, target: bytes, *fields: bytes) -> Iterable[bytes]:
    client.send(b"\r\n".join([b"GET %b HTTP/1.1" % target, b"Host: a", *fields, b"", b""]))
    head, _ = client.read_head()
    return client.read_body(head)


def settled(read: Callable[[], int]) -> int:
    """The value of `read()` once it stands still for half a second."""
    pause, last, still = threading.Event(), read(), 0
    while still < 10:
        pause.wait(0.05)
        now = read()
        still, last = (still + 1, now) if now == last else (0, now)
    return last


def chunked(body: bytes, size: int = 50_000) -> bytes:
    pieces = [body[begin : begin + size] for begin in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def test_a_download(start: Start, origin: Origin) -> None:
    proxy, client = start(
        upstream=origin,
        limits={"bandwidth": {"send": "1MiB"}},
        timeouts={"upstream_body": "1s", "response_write": "1s", "keep_alive": SHORT},
    )
    Meter().feed(get(client, b"/down")).check()
    assert client.request("GET", "/status/204").status == 204  # after the last pause, which no keep_alive ran down in
    assert proxy.stats()["paced"] > 2


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_upload(start: Start, origin: Origin, framing: str) -> None:
    uploads = Uploads(origin)
    proxy, client = start(
        upstream=origin,
        limits={"bandwidth": {"receive": "1MiB"}},
        timeouts={"upstream_response": SHORT, "keep_alive": SHORT},
    )
    if framing == "length":
        client.send(b"POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % SIZE + BODY)
    else:
        client.send(b"POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(BODY))
    assert client.read_response().status == 204
    uploads.meter.check()
    assert client.request("GET", "/status/204").status == 204
    assert proxy.stats()["paced"] > 2


def test_a_tunnel_in_both_directions(start: Start, origin: Origin) -> None:
    """One after the other: each has an allowance of its own. It is not idle while it is paused."""
    meter = Meter()

    def tunnel(exchange: Exchange) -> None:
        exchange.stream.timeout = 2 * PATIENCE
        exchange.send(SWITCHED)
        while meter.octets < SIZE:
            meter(exchange.stream.receive())
        exchange.send(BODY)
        exchange.close()

    origin.on("GET", "/t", tunnel)
    proxy, client = start(
        upstream=origin, limits={"bandwidth": {"receive": "1MiB", "send": "1MiB"}}, timeouts={"tunnel_idle": "1s"}
    )
    client.send(UPGRADE + BODY)
    client.read_head()
    down = Meter()
    while down.octets < SIZE:
        down(client.read_exactly(min(8192, SIZE - down.octets)))
    meter.check()
    down.check()
    client.close()
    assert proxy.wait_for_records(1)[0].error == ""


def test_a_tunnel_is_not_idle_while_it_is_paused(iocproxy: ProxyFactory, origin: Origin) -> None:
    proxy = iocproxy(
        upstream=origin, limits={"bandwidth": {"receive": "50KiB", "send": "50KiB"}}, timeouts={"tunnel_idle": "1s"}
    )
    with RawClient(proxy.address, timeout=2 * PATIENCE) as client:
        socket = connect(client)
        socket.send(bytes(100_000))  # a second and a half for the first of them
        socket.send(b"on")
        assert len(socket.receive().payload) == 100_000
        assert socket.receive().payload == b"on"
    assert proxy.stats()["paced"] >= 2


def test_pipelined_requests_for_small_responses(start: Start, origin: Origin) -> None:
    """Each response comes in one read, so that there is nothing to hold; the next request waits instead."""
    proxy, client = start(
        upstream=origin,
        limits={"bandwidth": {"send": "1MiB"}},
        http={"max_requests": False},
        timeouts={"keep_alive": SHORT},
    )
    count, size = 48, 50_000
    client.send(b"GET /bytes/50000 HTTP/1.1\r\nHost: a\r\n\r\n" * count)
    meter = Meter()
    for _ in range(count):
        meter(client.read_response().body)
    meter.check(client.request("GET", f"/bytes/{size}").body * count)
    assert proxy.stats()["paced"] > 2


def test_what_is_within_the_burst_is_not_paused(start: Start, origin: Origin) -> None:
    proxy, client = start(upstream=origin, limits={"bandwidth": {"receive": "1KiB", "send": "1KiB"}})
    for _ in range(10):
        assert client.request("POST", "/sink", body=bytes(100)).status == 200
    assert proxy.stats()["paced"] == 0


def test_other_connections_go_on(iocproxy: ProxyFactory, origin: Origin) -> None:
    proxy = iocproxy(upstream=origin, limits={"bandwidth": {"send": "1KiB"}})
    with RawClient(proxy.address) as paused, RawClient(proxy.address) as other:
        paused.send(b"GET /bytes/100000 HTTP/1.1\r\nHost: a\r\n\r\n")
        proxy.wait_for(lambda proxy: proxy.stats()["paced"] == 1)
        for _ in range(20):
            assert other.request("GET", "/bytes/100").body == bytes(range(100))
        assert proxy.stats()["paced"] == 1


def test_the_rate_of_a_route_holds_for_its_requests_only(iocproxy: ProxyFactory, origin: Origin) -> None:
    uploads = Uploads(origin)
    proxy = iocproxy(
        upstream=origin,
        routes=[
            {"path": "/", "upstream": "origin"},
            {"path": "/down", "upstream": "origin", "limits": {"bandwidth": {"send": "1MiB"}}},
            {"path": "/up", "upstream": "origin", "limits": {"bandwidth": {"receive": "1MiB"}}},
        ],
    )
    with RawClient(proxy.address, timeout=2 * PATIENCE) as client:
        for _ in range(2):
            assert len(client.request("GET", f"/bytes/{SIZE}").body) == SIZE
            assert client.request("POST", "/sink", body=BODY).status == 200
            assert proxy.stats()["paced"] == 0
        Meter().feed(get(client, b"/down")).check()
        assert client.request("POST", "/up", body=BODY).status == 204
        uploads.meter.check()
        assert client.request("GET", "/status/204").status == 204
        paced = proxy.stats()["paced"]
        assert paced > 4
        assert len(client.request("GET", f"/bytes/{SIZE}").body) == SIZE
        assert client.request("POST", "/sink", body=BODY).status == 200
        assert proxy.stats()["paced"] == paced


def test_a_route_without_a_rate_among_others(iocproxy: ProxyFactory, origin: Origin) -> None:
    proxy = iocproxy(
        upstream=origin,
        limits={"bandwidth": {"send": "1MiB"}},
        routes=[
            {"path": "/", "upstream": "origin"},
            {"path": "/bytes", "upstream": "origin", "limits": {"bandwidth": {"send": False}}},
        ],
    )
    with RawClient(proxy.address, timeout=2 * PATIENCE) as client:
        assert len(client.request("GET", f"/bytes/{SIZE}").body) == SIZE
        assert proxy.stats()["paced"] == 0
        Meter().feed(get(client, b"/down")).check()


def test_who_is_exempt_by_the_real_address(iocproxy: ProxyFactory, origin: Origin) -> None:
    proxy = iocproxy(
        upstream=origin,
        server={"trusted_proxies": ["127.0.0.1"]},
        limits={"exempt": ["192.0.2.0/24"], "bandwidth": {"receive": "1MiB", "send": "1MiB"}},
    )
    with RawClient(proxy.address, timeout=2 * PATIENCE) as client:
        for _ in range(2):
            body = b"".join(get(client, b"/down", b"X-Forwarded-For: 192.0.2.7"))
            assert body == BODY
        assert proxy.stats()["paced"] == 0
        Meter().feed(get(client, b"/down", b"X-Forwarded-For: 198.51.100.7")).check()


def test_who_is_exempt_by_the_connection(iocproxy: ProxyFactory, origin: Origin) -> None:
    proxy = iocproxy(
        upstream=origin, limits={"exempt": ["127.0.0.0/8"], "bandwidth": {"receive": "1MiB", "send": "1MiB"}}
    )
    with RawClient(proxy.address) as client:
        assert b"".join(get(client, b"/down")) == BODY
        assert client.request("POST", "/sink", body=BODY).status == 200
    assert proxy.stats()["paced"] == 0


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_paced_upload_is_not_a_slow_one(iocproxy: ProxyFactory, origin: Origin, framing: str) -> None:
    """Paused for longer than any of these deadlines, and at a quarter of the least rate."""
    uploads = Uploads(origin)
    proxy = iocproxy(
        upstream=origin,
        limits={"bandwidth": {"receive": "128KiB"}},
        http={"min_body_rate": "512KiB", "min_body_grace": SHORT},
        timeouts={"request_body": SHORT, "upstream_response": SHORT, "keep_alive": SHORT, "request_header": SHORT},
    )
    body = BODY[: 512 * 1024]
    with RawClient(proxy.address, timeout=2 * PATIENCE) as client:
        if framing == "length":
            client.send(b"POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        else:
            client.send(b"POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(body))
        assert client.read_response().status == 204
        assert client.request("GET", "/status/204").status == 204
    assert uploads.meter.octets == len(body)
    assert proxy.stats()["paced"] >= 1


def test_a_client_that_is_really_slow_is_still_cut_off(iocproxy: ProxyFactory, origin: Origin) -> None:
    proxy = iocproxy(upstream=origin, limits={"bandwidth": {"receive": "128KiB"}}, timeouts={"request_body": SHORT})
    with RawClient(proxy.address) as client:
        client.send(b"POST /sink HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n" + bytes(100_000))
        assert client.read_response().status == 408
    assert proxy.stats()["paced"] >= 1


def test_a_body_of_the_upstream_is_not_silent_while_it_is_held(iocproxy: ProxyFactory, origin: Origin) -> None:
    proxy = iocproxy(
        upstream=origin,
        limits={"bandwidth": {"send": "128KiB"}},
        timeouts={"upstream_body": SHORT, "response_write": SHORT, "keep_alive": SHORT},
    )
    with RawClient(proxy.address, timeout=2 * PATIENCE) as client:
        assert len(client.request("GET", "/bytes/500000").body) == 500_000
        assert client.request("GET", "/status/204").status == 204
    assert [record.error for record in proxy.wait_for_records(2)] == ["", ""]


def test_heads_are_paced_and_given_their_time(iocproxy: ProxyFactory, origin: Origin) -> None:
    """The pause that the first requests make falls into the head that follows them, which is sent in two pieces."""
    proxy = iocproxy(
        upstream=origin,
        limits={"bandwidth": {"receive": "8KiB"}},
        timeouts={"request_header": SHORT, "keep_alive": SHORT},
    )
    request = b"GET /status/204 HTTP/1.1\r\nHost: a\r\nX-Long: %b\r\n\r\n" % bytes(b"x" * 12_000)
    with RawClient(proxy.address, timeout=2 * PATIENCE) as client:
        client.send(request * 2 + b"GET /status/204 HTTP/1.1\r\n")
        assert client.read_response().status == 204
        assert client.read_response().status == 204
        proxy.wait_for(lambda proxy: proxy.stats()["paced"] == 1)
        client.send(b"Host: a\r\n\r\n")
        assert client.read_response().status == 204
        # and then the connection is idle, like any other
        client.expect_closed()


def test_a_client_that_does_not_read_for_a_while(start: Start, origin: Origin) -> None:
    """Pauses begin and end while its buffer is full, and it fills in pauses."""
    size = 3_000_000
    proxy, client = start(
        upstream=origin,
        limits={"bandwidth": {"send": "1MiB"}},
        timeouts={"response_write": "10m", "upstream_body": "10m"},
    )
    client.send(b"GET /bytes/%d HTTP/1.1\r\nHost: a\r\n\r\n" % size)
    head, _ = client.read_head()
    assert settled(lambda: proxy.stats()["paced"]) > 0
    assert sum(map(len, client.read_body(head))) == size
    assert client.request("GET", "/status/204").status == 204


def test_a_client_that_leaves_in_a_pause_is_let_go(iocproxy: ProxyFactory, origin: Origin) -> None:
    proxy = iocproxy(upstream=origin, limits={"bandwidth": {"receive": "1KiB", "send": "1KiB"}})
    with RawClient(proxy.address) as client:
        client.send(b"GET /bytes/3000000 HTTP/1.1\r\nHost: a\r\n\r\n")
        proxy.wait_for(lambda proxy: proxy.stats()["paced"] == 1)
        client.reset()
    proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 0)
    assert proxy.wait_for_records(1)[0].status == 200


def test_an_answer_of_its_own_and_the_end_of_the_connection_do_not_wait(iocproxy: ProxyFactory, origin: Origin) -> None:
    """What lies in front of the last response is read and thrown away at once, or it would be lost in a reset."""
    proxy = iocproxy(upstream=origin, limits={"bandwidth": {"receive": "1KiB"}}, http={"max_body": "100KiB"})
    with RawClient(proxy.address) as client:
        client.send(b"POST /sink HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(bytes(400_000)))
        assert client.read_response().status == 413
        client.expect_closed()
