"""The limits as a client meets them: at accept, before any TLS, and per request, after it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from iocproxy.testing import Certificates, ManualClock, Origin, ProxyFactory, RawClient, RunningProxy, Send, WaitFor
from iocproxy.testing.patience import PATIENCE

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CLIENT_HELLO = bytes.fromhex("16030100")  # the beginning of one: a server that answers this has begun TLS


@pytest.fixture
def origin(iocproxy_origin: Origin) -> Origin:
    return iocproxy_origin


def ended(sock: socket.socket) -> bool:
    """Whether the connection ends without a byte."""
    sock.settimeout(PATIENCE)
    with contextlib.suppress(ConnectionError):
        return sock.recv(1) == b""
    return True


def refused(address: tuple[str, int], source: str = "127.0.0.1") -> bool:
    """Whether a new connection is closed without a byte, whatever the client says."""
    try:
        sock = socket.create_connection(address, PATIENCE, (source, 0))
    except ConnectionError:
        return True
    with sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(CLIENT_HELLO)
        return ended(sock)


@contextlib.contextmanager
def served(proxy: RunningProxy, source: str = "127.0.0.1") -> Iterator[RawClient]:
    """A connection that was let in, as an answered request proves; open until the end of the block."""
    with RawClient(proxy.address, source=(source, 0)) as client:
        assert client.request("GET", "/status/204").status == 204
        yield client


def open_connections(count: int) -> Any:
    return lambda proxy: proxy.stats()["connections_open"] == count


def all_gone(count: int) -> Any:
    """`count` connections came, and none is left."""

    def gone(proxy: RunningProxy) -> bool:
        stats = proxy.stats()
        return stats["connections_accepted"] == count and stats["connections_open"] == 0

    return gone


# ── at accept ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_window_at_accept(iocproxy: ProxyFactory, origin: Origin, iocproxy_clock: ManualClock) -> None:
    proxy = iocproxy(upstream=origin, clock=iocproxy_clock, limits={"connections": {"rate": "3/10s"}})
    for _ in range(3):
        with served(proxy):
            iocproxy_clock.advance(1)
    assert refused(proxy.address)
    assert refused(proxy.address)
    with served(proxy, "127.0.0.2"):  # another client is another matter
        pass
    iocproxy_clock.advance(6.99)
    assert refused(proxy.address)
    iocproxy_clock.advance(0.02)  # the first of the three is now more than ten seconds old
    with served(proxy):
        pass
    assert refused(proxy.address)
    stats = proxy.stats()
    assert stats["connections_refused"] == {
        "rate": 4,
        "concurrent": 0,
        "total": 0,
        "handshakes": 0,
        "denied": 0,
        "middleware": 0,
    }
    assert stats["connections_accepted"] == 5
    said = proxy.events("connection_refused")
    assert [(event["level"], event["client"], event["reason"]) for event in said] == [
        ("debug", "127.0.0.1", "rate")
    ] * 4


def test_nobody_pays_for_the_handshake_of_a_refused_client(
    iocproxy: ProxyFactory, origin: Origin, iocproxy_clock: ManualClock, iocproxy_certificates: Certificates
) -> None:
    proxy = iocproxy(upstream=origin, tls=True, clock=iocproxy_clock, limits={"connections": {"rate": "1/10s"}})
    with RawClient(proxy.tls_address, tls=iocproxy_certificates) as client:
        assert client.request("GET", "/status/204").status == 204
    with pytest.raises(OSError):  # noqa: PT011 - an end without ServerHello, or a reset
        RawClient(proxy.tls_address, tls=iocproxy_certificates)
    assert refused(proxy.tls_address)
    assert refused(proxy.address)  # one client, whichever listener
    stats = proxy.stats()
    assert (stats["handshakes_full"], stats["handshakes_failed"]) == (1, 0)
    assert stats["connections_refused"]["rate"] == 3
    assert not proxy.events("handshake_failed")


def test_so_many_at_once_for_each_client(iocproxy: ProxyFactory, origin: Origin) -> None:
    proxy = iocproxy(upstream=origin, limits={"connections": {"concurrent": 2}})
    with served(proxy), served(proxy) as second:
        assert refused(proxy.address)
        with served(proxy, "127.0.0.2"):
            pass
        second.close()
        proxy.wait_for(open_connections(1))
        with served(proxy):
            assert refused(proxy.address)
    assert proxy.stats()["connections_refused"]["concurrent"] == 2


def test_so_many_at_once_in_all(iocproxy: ProxyFactory, origin: Origin) -> None:
    proxy = iocproxy(upstream=origin, limits={"connections": {"total": 2, "shed": False}})
    with served(proxy), served(proxy, "127.0.0.2") as second:
        assert refused(proxy.address, "127.0.0.3")
        assert refused(proxy.address)
        second.close()
        proxy.wait_for(open_connections(1))
        with served(proxy, "127.0.0.3"):
            pass
    assert proxy.stats()["connections_refused"]["total"] == 2


def _closes(client: RawClient, origin: Origin) -> None:
    client.close()


def _resets(client: RawClient, origin: Origin) -> None:
    client.reset()


def _leaves_in_the_head(client: RawClient, origin: Origin) -> None:
    client.send(b"GET / HTTP/1.1\r\n")
    client.reset()


def _is_refused(client: RawClient, origin: Origin) -> None:
    client.send(b"garbage\r\n\r\n")
    assert client.read_response().status == 400
    client.close()


def _leaves_in_the_middle(client: RawClient, origin: Origin) -> None:
    asked = len(origin.requests)
    client.send(b"GET /delay/60 HTTP/1.1\r\nHost: a.test\r\n\r\n")
    origin.wait_for(lambda origin: len(origin.requests) > asked)
    client.reset()  # a FIN would only say that nothing more is asked (RFC 9112 section 9.6)


@pytest.mark.parametrize("leave", [_closes, _resets, _leaves_in_the_head, _is_refused, _leaves_in_the_middle])
def test_the_place_is_given_back_however_a_client_leaves(iocproxy: ProxyFactory, origin: Origin, leave: Any) -> None:
    proxy = iocproxy(upstream=origin, limits={"connections": {"concurrent": 1}})
    for number in range(3):
        client = RawClient(proxy.address)
        proxy.wait_for(open_connections(1))  # Windows does not accept who resets while still queued
        leave(client, origin)
        proxy.wait_for(all_gone(number + 1))
    with served(proxy):
        assert refused(proxy.address)
    proxy.wait_for(all_gone(4))
    assert proxy.stats()["connections_refused"]["concurrent"] == 1


def test_the_place_is_given_back_after_a_handshake_that_failed(
    iocproxy: ProxyFactory, origin: Origin, iocproxy_certificates: Certificates
) -> None:
    proxy = iocproxy(
        upstream=origin,
        tls=True,
        limits={"connections": {"concurrent": 1}},
        timeouts={"tls_handshake": "200ms"},
    )
    for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b"\x16\x03\x01\x02\x00\x01"):
        with RawClient(proxy.tls_address) as client:
            client.send(data)
            client.sock.settimeout(PATIENCE)
            with contextlib.suppress(ConnectionError):
                while client.sock.recv(4096):
                    pass
        proxy.wait_for(open_connections(0))
    with RawClient(proxy.tls_address, tls=iocproxy_certificates) as client:
        assert client.request("GET", "/status/204").status == 204
        assert refused(proxy.address)
    assert proxy.stats()["handshakes_failed"] == 3


def test_a_refused_connection_does_not_count(iocproxy: ProxyFactory, origin: Origin) -> None:
    proxy = iocproxy(upstream=origin, limits={"connections": {"concurrent": 1}})
    with served(proxy):
        for _ in range(20):
            assert refused(proxy.address)
    proxy.wait_for(open_connections(0))
    with served(proxy):
        pass


def test_dry_run_at_accept_lets_everybody_in_and_says_so(
    iocproxy: ProxyFactory, origin: Origin, iocproxy_clock: ManualClock
) -> None:
    limits = {"connections": {"rate": "1/10s", "concurrent": 2, "dry_run": True}}
    proxy = iocproxy(upstream=origin, clock=iocproxy_clock, limits=limits)
    with served(proxy), served(proxy), served(proxy), served(proxy):
        pass
    said = proxy.events("limit_would_refuse")
    assert [(event["level"], event["limit"], event["client"]) for event in said] == [
        ("info", "connections rate", "127.0.0.1")
    ]
    assert proxy.stats()["limits"]["connections rate"] == {"scope": "connections", "refused": 0, "would_refuse": 3}
    stats = proxy.stats()
    assert stats["connections_refused"] == {
        "rate": 0,
        "concurrent": 0,
        "total": 0,
        "handshakes": 0,
        "denied": 0,
        "middleware": 0,
    }
    assert stats["dry_run"] == {"connections": 3, "requests": 0}
    proxy.wait_for(open_connections(0))


def test_an_exempt_client_meets_no_limit(iocproxy: ProxyFactory, origin: Origin, iocproxy_clock: ManualClock) -> None:
    limits = {
        "exempt": ["127.0.0.2/32"],
        "connections": {"rate": "1/10s", "concurrent": 1},
        "requests": {"rate": "1/10s"},
    }
    proxy = iocproxy(upstream=origin, clock=iocproxy_clock, limits=limits)
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            client = stack.enter_context(served(proxy, "127.0.0.2"))
            assert client.request("GET", "/status/204").status == 204
        other = stack.enter_context(served(proxy))
        assert other.request("GET", "/").status == 429
        assert refused(proxy.address)


# ── per request ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_retry_after_is_true(iocproxy: ProxyFactory, origin: Origin, iocproxy_clock: ManualClock) -> None:
    proxy = iocproxy(upstream=origin, clock=iocproxy_clock, limits={"requests": {"rate": "2/10s"}})
    with RawClient(proxy.address) as client:
        assert client.request("GET", "/status/204").status == 204
        iocproxy_clock.advance(3.5)
        assert client.request("GET", "/status/204").status == 204
        answer = client.request("GET", "/status/204")
        assert answer.status == 429
        assert answer.reason == b"Too Many Requests"
        wait = int(answer.header("Retry-After") or "")
        assert wait == 7  # 6.5 s, rounded up
        iocproxy_clock.advance(wait - 0.51)
        assert client.request("GET", "/status/204").status == 429  # the refused ones did not count, the time is not up
        iocproxy_clock.advance(0.51)
        assert client.request("GET", "/status/204").status == 204
        assert client.request("GET", "/status/204").status == 429
    stats = proxy.stats()
    assert (stats["requests"], stats["requests_limited"]) == (6, 3)
    assert [record.status for record in proxy.wait_for_records(6)] == [204, 204, 429, 429, 204, 429]
    assert len(origin.requests) == 3


def test_a_limited_client_stays_connected_and_its_pipeline_in_order(
    iocproxy: ProxyFactory, origin: Origin, iocproxy_clock: ManualClock
) -> None:
    proxy = iocproxy(upstream=origin, clock=iocproxy_clock, limits={"requests": {"rate": "1/10s"}})
    with RawClient(proxy.address) as client:
        client.send(b"GET /status/204 HTTP/1.1\r\nHost: a\r\n\r\n" * 50)
        assert [client.read_response().status for _ in range(50)] == [204] + [429] * 49
        iocproxy_clock.advance(11)
        assert client.request("GET", "/status/204").status == 204


def test_a_limited_upload_is_answered_and_closed(
    iocproxy: ProxyFactory, origin: Origin, iocproxy_clock: ManualClock
) -> None:
    """The body is not wanted: the answer says close, and what is still on its way does not destroy it."""
    proxy = iocproxy(upstream=origin, clock=iocproxy_clock, limits={"requests": {"rate": "1/10s"}})
    with RawClient(proxy.address) as client:
        assert client.request("GET", "/status/204").status == 204
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n" + bytes(100_000))
        answer = client.read_response()
        assert (answer.status, answer.header("Connection")) == (429, "close")
        client.expect_closed()
    assert len(origin.requests) == 1


def test_the_429_of_a_tls_client_is_encrypted(
    iocproxy: ProxyFactory, origin: Origin, iocproxy_clock: ManualClock, iocproxy_certificates: Certificates
) -> None:
    proxy = iocproxy(upstream=origin, tls=True, clock=iocproxy_clock, limits={"requests": {"rate": "1/10s"}})
    with RawClient(proxy.tls_address, tls=iocproxy_certificates) as client:
        assert client.request("GET", "/status/204").status == 204
        assert client.request("GET", "/status/204").status == 429


def test_a_route_has_its_own_window(iocproxy: ProxyFactory, origin: Origin, iocproxy_clock: ManualClock) -> None:
    proxy = iocproxy(
        upstreams={"app": {"servers": [origin.url]}},
        routes=[
            {"path": "/", "upstream": "app"},
            {"path": "/status/201", "upstream": "app", "limits": {"requests": {"rate": "1/10s"}}},
            {"path": "/status/202", "upstream": "app", "limits": {"requests": {"rate": False}}},
        ],
        limits={"requests": {"rate": "2/10s"}},
        clock=iocproxy_clock,
    )
    with RawClient(proxy.address) as client:

        def statuses(target: str, count: int) -> list[int]:
            return [client.request("GET", target).status for _ in range(count)]

        assert statuses("/status/201", 2) == [201, 429]
        assert statuses("/status/200", 3) == [200, 200, 429]
        assert statuses("/status/202", 5) == [202] * 5
        assert statuses("/status/201", 1) == [429]
        iocproxy_clock.advance(10.5)
        assert statuses("/status/201", 2) == [201, 429]
    assert {record.route for record in proxy.wait_for_records(13)} == {"/", "/status/201", "/status/202"}
    said = proxy.events("limit_refused")
    assert [(event["limit"], event["route"]) for event in said] == [
        ("requests /status/201", "/status/201"),
        ("requests", "/"),
        ("requests /status/201", "/status/201"),
    ]


def test_dry_run_per_request_answers_everybody_and_says_so(
    iocproxy: ProxyFactory, origin: Origin, iocproxy_clock: ManualClock
) -> None:
    proxy = iocproxy(upstream=origin, clock=iocproxy_clock, limits={"requests": {"rate": "1/10s", "dry_run": True}})
    with RawClient(proxy.address) as client:
        assert [client.request("GET", "/status/204").status for _ in range(3)] == [204] * 3
    said = proxy.events("limit_would_refuse")
    assert [(event["level"], event["limit"]) for event in said] == [("info", "requests")]
    assert proxy.stats()["limits"]["requests"] == {"scope": "requests", "refused": 0, "would_refuse": 2}
    stats = proxy.stats()
    assert stats["requests_limited"] == 0
    assert stats["dry_run"] == {"connections": 0, "requests": 2}


# ── who is who ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_behind_a_trusted_proxy_the_real_client_counts(
    iocproxy: ProxyFactory, origin: Origin, iocproxy_clock: ManualClock
) -> None:
    proxy = iocproxy(
        upstream=origin,
        clock=iocproxy_clock,
        server={"trusted_proxies": ["127.0.0.1/32", "10.0.0.0/8"]},
        limits={"requests": {"rate": "1/10s"}},
    )

    def status(client: RawClient, chain: str) -> int:
        return client.request("GET", "/status/204", headers=[("X-Forwarded-For", chain)]).status

    with RawClient(proxy.address) as client:
        assert status(client, "192.0.2.1") == 204
        assert status(client, "192.0.2.2") == 204
        assert status(client, "192.0.2.1, 10.1.2.3") == 429  # through one more of ours
        assert status(client, "198.51.100.9, 192.0.2.2") == 429  # what stands further left may be made up
        assert status(client, "2001:db8::1") == 204
        assert status(client, "2001:db8::2") == 429  # one /64 is one client
        assert status(client, "2001:db8:0:1::1") == 204
    with RawClient(proxy.address, source=("127.0.0.2", 0)) as untrusted:
        assert status(untrusted, "192.0.2.77") == 204
        assert status(untrusted, "192.0.2.78") == 429  # its own word is worth nothing
    clients = [record.client for record in proxy.wait_for_records(9)]
    assert clients[:3] == ["192.0.2.1", "192.0.2.2", "192.0.2.1"]
    assert clients[-2:] == ["127.0.0.2", "127.0.0.2"]


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _has_ipv6(), reason="no IPv6 loopback here")
def test_limits_hold_over_ipv6(iocproxy: ProxyFactory, origin: Origin, iocproxy_clock: ManualClock) -> None:
    proxy = iocproxy(
        upstream=origin,
        listeners=[{"bind": "[::1]:0"}],
        clock=iocproxy_clock,
        limits={"connections": {"concurrent": 1}, "requests": {"rate": "1/10s"}},
    )
    with RawClient(proxy.address) as client:
        assert client.request("GET", "/status/204").status == 204
        assert client.request("GET", "/status/204").status == 429
        with socket.create_connection(proxy.address, PATIENCE) as second:
            assert ended(second)
    assert proxy.wait_for_records(2)[0].client == "::1"


@pytest.mark.skipif(not _has_ipv6(), reason="no IPv6 loopback here")
def test_an_ipv4_client_of_a_dual_stack_listener_is_the_same_client(
    iocproxy: ProxyFactory, origin: Origin, iocproxy_clock: ManualClock
) -> None:
    proxy = iocproxy(
        upstream=origin,
        listeners=[{"bind": "127.0.0.1:0"}, {"bind": "[::]:0"}],
        clock=iocproxy_clock,
        limits={"requests": {"rate": "1/10s"}},
    )
    plain, dual = proxy.addresses
    with RawClient(plain) as client:
        assert client.request("GET", "/status/204").status == 204
    with RawClient(("127.0.0.1", dual[1])) as client:
        assert client.request("GET", "/status/204").status == 429
    assert [record.client for record in proxy.wait_for_records(2)] == ["127.0.0.1", "127.0.0.1"]


def test_a_request_under_way_is_not_touched_by_the_limit(
    iocproxy: ProxyFactory, origin: Origin, iocproxy_clock: ManualClock
) -> None:
    gate = threading.Event()
    origin.on("GET", "/held", [WaitFor(gate), Send(OK)])
    proxy = iocproxy(upstream=origin, clock=iocproxy_clock, limits={"requests": {"rate": "1/10s"}})
    with RawClient(proxy.address) as first, RawClient(proxy.address) as second:
        first.send(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
        origin.wait_for_requests(1)
        assert second.request("GET", "/").status == 429
        gate.set()
        assert first.read_response().body == b"ok"
