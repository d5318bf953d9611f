"""Listeners that want a PROXY header: whom they believe, what becomes of the rest, and by whose address limits go."""

from __future__ import annotations

import contextlib
import gc
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from iocproxy.proxy_protocol import SIGNATURE, Addresses, HeaderReader, header_line
from iocproxy.server.proxy_header import AwaitedHeader
from iocproxy.testing import Certificates, ManualClock, Origin, ProxyFactory, RawClient, RunningProxy
from iocproxy.testing.patience import PATIENCE

REQUEST = b"GET /status/204 HTTP/1.1\r\nHost: a.test\r\n\r\n"
LINE = b"PROXY TCP4 192.0.2.1 198.51.100.7 12345 443\r\n"
BLOCK = SIGNATURE + b"\x21\x11\x00\x0c\xc0\x00\x02\x01\xc6\x33\x64\x07\x30\x39\x01\xbb"
HEADERS = pytest.mark.parametrize("header", [LINE, BLOCK], ids=["v1", "v2"])


def naming(address: str, port: int = 1000) -> bytes:
    return header_line(Addresses(address, port, "198.51.100.7" if "." in address else "2001:db8::7", 443))


@pytest.fixture
def behind(iocproxy: ProxyFactory, iocproxy_origin: Origin, iocproxy_certificates: Certificates) -> Any:
    """Starts a proxy behind 127.0.0.1, its first listener plain and the second with TLS."""

    def start(trusted: tuple[str, ...] = ("127.0.0.1",), plain: Any = None, **settings: Any) -> RunningProxy:
        pair = iocproxy_certificates.pair
        tls = {"certificates": [{"cert": str(pair.cert), "key": str(pair.key)}]}
        listeners = [
            {"bind": "127.0.0.1:0", "proxy_protocol": True, **(plain or {})},
            {"bind": "127.0.0.1:0", "proxy_protocol": True, "tls": tls},
        ]
        server = {"trusted_proxies": list(trusted)}
        settings.setdefault("logging", {"access": False})
        return iocproxy(upstream=iocproxy_origin, listeners=listeners, server=server, **settings)

    return start


def received(sock: socket.socket) -> bytes:
    data = sock.recv(1 << 16)
    assert data, "closed"
    return data


@contextlib.contextmanager
def over_tls(
    proxy: RunningProxy, header: bytes, certificates: Certificates, *, joined: bool
) -> Iterator[ssl.SSLSocket]:
    """A TLS connection whose ClientHello comes right behind the header, in one segment with it or octet by octet."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = certificates.client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with socket.create_connection(proxy.tls_address, PATIENCE) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        first = header
        while True:
            try:
                client.do_handshake()
            except ssl.SSLWantReadError:
                pass
            else:
                break
            data = first + outgoing.read()
            if first and not joined:
                for at in range(len(data)):
                    sock.sendall(data[at : at + 1])
            else:
                sock.sendall(data)
            first = b""
            incoming.write(received(sock))
        client.write(REQUEST)
        sock.sendall(outgoing.read())
        answer = b""
        while b"\r\n\r\n" not in answer:
            try:
                answer += client.read()
            except ssl.SSLWantReadError:
                incoming.write(received(sock))
        assert answer.startswith(b"HTTP/1.1 204 ")
        yield client  # type: ignore[misc]


@HEADERS
@pytest.mark.parametrize("size", [1, 7, 1000], ids=["octet by octet", "in pieces", "whole"])
def test_the_client_is_the_one_in_the_header(behind: Any, iocproxy_origin: Origin, header: bytes, size: int) -> None:
    proxy = behind()
    with RawClient(proxy.address) as client:
        client.send_slowly(header + REQUEST, size)
        assert client.read_response().status == 204
        client.send(REQUEST)
        assert client.read_response().status == 204
    for request in iocproxy_origin.requests:
        assert request.header_values("X-Forwarded-For") == ["192.0.2.1"]
        # ours: what the proxy in front says of its own listener is not for us
        assert request.header_values("X-Forwarded-Port") == [str(proxy.address[1])]
    assert [record.client for record in proxy.wait_for_records(2)] == ["192.0.2.1"] * 2
    assert sum(proxy.stats()["proxy_protocol_failures"].values()) == 0


@HEADERS
@pytest.mark.parametrize("joined", [True, False], ids=["one segment", "octet by octet"])
def test_tls_begins_behind_the_header(
    behind: Any, iocproxy_certificates: Certificates, iocproxy_origin: Origin, header: bytes, joined: bool
) -> None:
    proxy = behind()
    with over_tls(proxy, header, iocproxy_certificates, joined=joined):
        pass
    (request,) = iocproxy_origin.requests
    assert request.header("X-Forwarded-For") == "192.0.2.1"
    assert request.header("X-Forwarded-Proto") == "https"
    (record,) = proxy.wait_for_records(1)
    assert (record.client, record.tls_version != "") == ("192.0.2.1", True)


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY UNKNOWN\r\n",
        SIGNATURE + b"\x20\x00\x00\x00",
        SIGNATURE + b"\x21\x00\x00\x00",
        SIGNATURE + b"\x21\x31\x00\xd8" + bytes(216),
    ],
    ids=["UNKNOWN", "LOCAL", "UNSPEC", "UNIX"],
)
def test_who_is_not_named_is_the_socket(behind: Any, iocproxy_origin: Origin, header: bytes) -> None:
    proxy = behind()
    with RawClient(proxy.address) as client:
        client.send(header + REQUEST)
        assert client.read_response().status == 204
    assert iocproxy_origin.requests[0].header("X-Forwarded-For") == "127.0.0.1"


def test_ipv4_mapped_into_ipv6_is_ipv4(behind: Any, iocproxy_origin: Origin) -> None:
    with RawClient(behind().address) as client:
        client.send(b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.7 1 2\r\n" + REQUEST)
        assert client.read_response().status == 204
    assert iocproxy_origin.requests[0].header("X-Forwarded-For") == "192.0.2.1"


HOSTILE = {
    "no header": (REQUEST, "not_proxy"),
    "a ClientHello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "not_proxy"),
    "a header behind a request": (REQUEST + LINE, "not_proxy"),
    "a malformed line": (b"PROXY TCP4 192.0.2.1 198.51.100.7 01 443\r\n" + REQUEST, "malformed"),
    "a datagram": (SIGNATURE + b"\x21\x12\x00\x0c" + bytes(12) + REQUEST, "unsupported"),
    "a line without an end": (b"PROXY UNKNOWN " + b"x" * 5000, "too_long"),
    "too long a block": (SIGNATURE + b"\x21\x11\xff\xff" + bytes(100), "too_long"),
    "a wrong checksum": (BLOCK[:15] + b"\x13" + BLOCK[16:] + b"\x03\x00\x04\0\0\0\0" + REQUEST, "checksum"),
}


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize(("sent", "failure"), HOSTILE.values(), ids=HOSTILE)
def test_a_bad_header_closes_and_is_counted(
    behind: Any, iocproxy_origin: Origin, sent: bytes, failure: str, tls: bool
) -> None:
    proxy = behind()
    with socket.create_connection(proxy.tls_address if tls else proxy.address, PATIENCE) as sock:
        sock.sendall(sent)
        with contextlib.suppress(ConnectionResetError, ConnectionAbortedError):
            assert sock.recv(100) == b""  # not a word
    assert {why: count for why, count in proxy.stats()["proxy_protocol_failures"].items() if count} == {failure: 1}
    event = proxy.wait_for_event("proxy_protocol_failed")
    assert (event["level"], event["client"], event["failure"]) == ("info", "127.0.0.1", failure)
    assert event["reason"]
    assert iocproxy_origin.requests == []
    proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 0)
    with RawClient(proxy.address) as client:  # the next one is unharmed
        client.send(LINE + REQUEST)
        assert client.read_response().status == 204


@pytest.mark.parametrize(
    ("sent", "failure", "level"),
    [(b"", "silent", "debug"), (LINE[:20], "broken_off", "info"), (BLOCK[:15], "broken_off", "info")],
)
def test_who_leaves_before_the_end_is_counted(behind: Any, sent: bytes, failure: str, level: str) -> None:
    proxy = behind()
    with socket.create_connection(proxy.address, PATIENCE) as sock:
        sock.sendall(sent)
    event = proxy.wait_for_event("proxy_protocol_failed")
    assert (event["failure"], event["level"]) == (failure, level)
    proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 0)


@pytest.mark.parametrize(("tls", "timeout"), [(False, "request_header"), (True, "tls_handshake")])
@pytest.mark.parametrize("sent", [b"", LINE[:-1]])
def test_the_header_has_a_deadline(behind: Any, tls: bool, timeout: str, sent: bytes) -> None:
    proxy = behind(timeouts={timeout: "200ms"})
    with socket.create_connection(proxy.tls_address if tls else proxy.address, PATIENCE) as sock:
        sock.sendall(sent)
        with contextlib.suppress(ConnectionResetError, ConnectionAbortedError):
            assert sock.recv(100) == b""
    assert proxy.wait_for_event("proxy_protocol_failed")["failure"] == "timeout"


def test_a_header_from_anybody_else_is_worth_nothing(behind: Any, iocproxy_origin: Origin) -> None:
    """Closed at accept: a spoofed header never becomes a key, and who does it is the one who is counted."""
    proxy = behind(trusted=("192.0.2.0/24", "127.0.0.2"))
    for _ in range(3):
        with RawClient(proxy.address) as client, contextlib.suppress(OSError):
            client.send(LINE + REQUEST)
            assert client.sock.recv(100) == b""
    stats = proxy.wait_for(lambda proxy: (s := proxy.stats())["proxy_protocol_failures"]["untrusted"] == 3 and s)
    assert iocproxy_origin.requests == []
    assert stats["connections_open"] == stats["connections_accepted"] == 0
    assert [offender["client"] for offender in stats["offenders"]] == ["127.0.0.1"]
    assert stats["limits"]["proxy_protocol"] == {"scope": "connections", "refused": 3, "would_refuse": 0}
    (event,) = proxy.events("limit_refused")  # once, however often
    assert (event["client"], event["limit"], event["reason"]) == ("127.0.0.1", "proxy_protocol", "untrusted")
    with RawClient(proxy.address, source=("127.0.0.2", 0)) as client:
        client.send(LINE + REQUEST)
        assert client.read_response().status == 204


def test_x_forwarded_for_is_believed_of_the_client_in_the_header_or_not_at_all(
    behind: Any, iocproxy_origin: Origin
) -> None:
    """Who passes the connection on is trusted for its header only; fields are the client's."""
    proxy = behind(trusted=("127.0.0.1", "192.0.2.0/24"))
    for source in ("198.51.100.1", "192.0.2.1"):
        with RawClient(proxy.address) as client:
            client.send(naming(source))
            assert client.request("GET", "/", headers=[("X-Forwarded-For", "203.0.113.9")]).status == 200
    assert [request.header("X-Forwarded-For") for request in iocproxy_origin.requests] == [
        "198.51.100.1",
        "203.0.113.9, 192.0.2.1",
    ]
    assert [record.client for record in proxy.wait_for_records(2)] == ["198.51.100.1", "203.0.113.9"]


# ── limits ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def closed(client: RawClient) -> bool:
    try:
        return client.sock.recv(1) == b""
    except (ConnectionResetError, ConnectionAbortedError):
        return True


def test_connections_count_by_the_header(behind: Any, iocproxy_clock: ManualClock) -> None:
    proxy = behind(clock=iocproxy_clock, limits={"connections": {"concurrent": 2}})
    with contextlib.ExitStack() as stack:

        def connect(source: str) -> RawClient:
            client: RawClient = stack.enter_context(RawClient(proxy.address))
            client.send(naming(source) + REQUEST)
            return client

        for source in ("192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.2"):
            assert connect(source).read_response().status == 204
        assert closed(connect("192.0.2.1"))
        assert closed(connect("192.0.2.2"))
        assert connect("192.0.2.3").read_response().status == 204
        stats = proxy.stats()
        assert stats["connections_refused"]["concurrent"] == 2
        assert sorted(each["client"] for each in stats["offenders"]) == ["192.0.2.1", "192.0.2.2"]
    proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 0)


def test_the_rate_counts_by_the_header_and_not_by_who_passes_it_on(behind: Any, iocproxy_clock: ManualClock) -> None:
    proxy = behind(clock=iocproxy_clock, limits={"connections": {"rate": "2/10s"}})
    for source, served in (("192.0.2.1", True), ("192.0.2.1", True), ("192.0.2.1", False), ("192.0.2.2", True)):
        with RawClient(proxy.address) as client:
            client.send(naming(source) + REQUEST)
            assert (client.read_response().status == 204) if served else closed(client)


def test_requests_count_by_the_header(behind: Any, iocproxy_clock: ManualClock) -> None:
    proxy = behind(clock=iocproxy_clock, limits={"requests": {"rate": "2/10s"}})
    answers = []
    for source in ("192.0.2.1", "192.0.2.1", "192.0.2.1", "2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:1::"):
        with RawClient(proxy.address) as client:
            client.send(naming(source) + REQUEST)
            answers.append(client.read_response().status)
    assert answers == [204, 204, 429, 204, 204, 429, 204]


def test_handshakes_count_by_the_header(
    behind: Any, iocproxy_clock: ManualClock, iocproxy_certificates: Certificates
) -> None:
    proxy = behind(clock=iocproxy_clock, limits={"handshakes": {"rate": "2/1m"}})
    for number in range(2):
        with socket.create_connection(proxy.tls_address, PATIENCE) as sock:
            sock.sendall(naming("192.0.2.1") + b"\x00garbage")
            with contextlib.suppress(ConnectionResetError, ConnectionAbortedError):
                assert sock.recv(100) == b""
        proxy.wait_for(lambda proxy, number=number: proxy.stats()["handshakes_failed"] == number + 1)
    assert {event["client"] for event in proxy.events("handshake_failed")} == {"192.0.2.1"}
    with over_tls(proxy, naming("192.0.2.2"), iocproxy_certificates, joined=True):
        pass
    with RawClient(proxy.tls_address) as client:
        client.send(naming("192.0.2.1"))
        assert closed(client)
    assert proxy.stats()["connections_refused"]["handshakes"] == 1


def test_access_lists_go_by_the_header(behind: Any) -> None:
    """The proxy that passes connections on needs no entry of its own, and has none to lend."""
    proxy = behind(limits={"access": {"allow": ["192.0.2.0/24"], "deny": ["192.0.2.66/32"]}})
    for source, served in (("192.0.2.1", True), ("192.0.2.66", False), ("198.51.100.1", False)):
        with RawClient(proxy.address) as client:
            client.send(naming(source) + REQUEST)
            assert (client.read_response().status == 204) if served else closed(client)
    assert proxy.stats()["connections_refused"]["denied"] == 2


def test_headers_that_are_awaited_count_against_the_total(behind: Any) -> None:
    proxy = behind(limits={"connections": {"total": 3}})
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(RawClient(proxy.address)) for _ in range(3)]
        proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 3)
        assert closed(stack.enter_context(RawClient(proxy.address)))
        stats = proxy.stats()
        assert (stats["connections_refused"]["total"], stats["connections_accepted"]) == (1, 0)
        for client in waiting:  # they come to their right all the same
            client.send(LINE + REQUEST)
            assert client.read_response().status == 204
        assert proxy.stats()["connections_accepted"] == 3
        waiting[0].close()
        proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 2)
        with RawClient(proxy.address) as client:
            client.send(LINE + REQUEST)
            assert client.read_response().status == 204


# ── everything else of a listener ────────────────────────────────────────────────────────────────────────────────────


def test_https_redirect_works_behind_it(behind: Any) -> None:
    proxy = behind(plain={"https_redirect": True})
    with RawClient(proxy.address) as client:
        client.send(LINE + b"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n")
        response = client.read_response()
    assert (response.status, response.header("Location")) == (308, "https://a.test/x")
    assert proxy.wait_for_records(1)[0].client == "192.0.2.1"


def test_an_asynchronous_on_connect_is_asked_about_the_client(behind: Any, iocproxy_origin: Origin) -> None:
    proxy = behind(middleware=[{"use": f"{__name__}:Slow"}])
    with RawClient(proxy.address) as client:
        client.send(LINE + REQUEST)
        assert client.read_response().status == 204
        client.send(REQUEST)
        assert client.read_response().status == 204
    with RawClient(proxy.address) as client:
        client.send(naming("192.0.2.66") + REQUEST)
        assert closed(client)
    assert len(iocproxy_origin.requests) == 2
    proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 0)
    assert proxy.stats()["connections_refused"]["middleware"] == 1


class Slow:
    async def on_connect(self, client: Any) -> bool:
        import asyncio

        for _ in range(5):
            await asyncio.sleep(0)
        return bool(client.address != "192.0.2.66")


class Gate:
    """An on_connect that says nothing until `open` is set; `asked` counts."""

    open = threading.Event()
    asked = threading.Semaphore(0)

    async def on_connect(self, client: Any) -> None:
        import asyncio

        self.asked.release()
        while not self.open.is_set():  # noqa: ASYNC110 - another thread sets it
            await asyncio.sleep(0.01)


@pytest.fixture
def gate() -> type[Gate]:
    Gate.open, Gate.asked = threading.Event(), threading.Semaphore(0)
    return Gate


def test_who_leaves_while_an_on_connect_is_asked_is_gone(
    behind: Any, iocproxy_origin: Origin, gate: type[Gate]
) -> None:
    proxy = behind(middleware=[{"use": f"{__name__}:Gate"}])
    with RawClient(proxy.address) as client:
        client.send(LINE + b"GET /")
        assert gate.asked.acquire(timeout=PATIENCE)
        client.reset()
    gate.open.set()
    proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 0)
    assert iocproxy_origin.requests == []


def test_the_bytes_behind_the_header_wait_for_an_on_connect(
    behind: Any, iocproxy_origin: Origin, gate: type[Gate]
) -> None:
    proxy = behind(middleware=[{"use": f"{__name__}:Gate"}])
    with RawClient(proxy.address) as client:
        client.send(LINE + REQUEST[:10])
        assert gate.asked.acquire(timeout=PATIENCE)
        client.send(REQUEST[10:])
        client.half_close()
        assert proxy.stats()["connections_open"] == 1
        assert iocproxy_origin.requests == []
        gate.open.set()
        assert client.read_response().status == 204
        client.expect_closed()


def test_a_stop_does_not_wait_for_an_on_connect(behind: Any, gate: type[Gate]) -> None:
    proxy = behind(middleware=[{"use": f"{__name__}:Gate"}])
    with RawClient(proxy.address) as client:
        client.send(LINE + REQUEST)
        assert gate.asked.acquire(timeout=PATIENCE)
        proxy.stop(drain=0)
        assert closed(client)
    assert proxy.stats()["connections_open"] == 0


@pytest.mark.parametrize("sent", [b"", LINE[:10], REQUEST, LINE + REQUEST], ids=["silent", "half", "bad", "good"])
def test_nothing_is_left_to_the_garbage_collector(behind: Any, sent: bytes) -> None:
    def kept() -> list[object]:
        return [each for each in gc.get_objects() if isinstance(each, AwaitedHeader | HeaderReader)]

    proxy = behind()
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            with RawClient(proxy.address) as client, contextlib.suppress(OSError):
                client.send(sent)
                if sent.startswith(LINE):
                    assert client.read_response().status == 204
        proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 0 and not kept())
    finally:
        gc.enable()


@pytest.mark.parametrize("drain", [0.0, 60.0], ids=["at once", "drained"])
def test_a_stop_does_not_wait_for_headers(behind: Any, drain: float) -> None:
    proxy = behind()
    with RawClient(proxy.address) as plain, RawClient(proxy.tls_address) as tls:
        plain.send(LINE[:-1])
        proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 2)
        proxy.stop(drain=drain)
        assert closed(plain)
        assert closed(tls)
    stats = proxy.stats()
    assert (stats["connections_open"], stats["proxy_protocol_failures"]["stopped"]) == (0, 2)


def test_a_listener_without_it_takes_no_header(iocproxy: ProxyFactory, iocproxy_origin: Origin) -> None:
    proxy = iocproxy(upstream=iocproxy_origin, server={"trusted_proxies": ["127.0.0.1"]})
    with RawClient(proxy.address) as client:
        client.send(LINE + REQUEST)
        assert client.read_response().status == 400
