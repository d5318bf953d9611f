"""Floods from many addresses, for real: 127.0.0.0/8 is all ours."""

from __future__ import annotations

import contextlib
import socket
import sys

from iocproxy.testing import ManualClock, Origin, ProxyFactory, RawClient, RunningProxy
from iocproxy.testing.patience import PATIENCE

ADDRESSES = 40 if sys.platform == "win32" else 250
GET = b"GET /status/204 HTTP/1.1\r\nHost: a\r\n\r\n"


def address(number: int) -> str:
    return f"127.3.{number // 200}.{number % 200 + 1}"


def let_in(proxy: RunningProxy, source: str) -> bool:
    """Whether a connection from there is served one request."""
    try:
        with socket.create_connection(proxy.address, PATIENCE, (source, 0)) as sock:
            sock.sendall(GET)
            return sock.recv(100).startswith(b"HTTP/1.1 204")
    except ConnectionError:
        return False


def test_every_address_gets_its_due_at_accept_and_no_more(
    iocproxy: ProxyFactory, iocproxy_origin: Origin, iocproxy_clock: ManualClock
) -> None:
    limits = {"connections": {"rate": "2/10s"}, "requests": {"rate": False}}
    proxy = iocproxy(upstream=iocproxy_origin, clock=iocproxy_clock, limits=limits)
    for _ in range(2):
        assert all(let_in(proxy, address(number)) for number in range(ADDRESSES))
    assert not any(let_in(proxy, address(number)) for number in range(ADDRESSES))
    iocproxy_clock.advance(9.999)
    assert not let_in(proxy, address(7))
    iocproxy_clock.advance(0.001)
    assert let_in(proxy, address(7))
    stats = proxy.stats()
    assert stats["connections_refused"]["rate"] == ADDRESSES + 1
    assert stats["limits"]["connections rate"]["refused"] == ADDRESSES + 1
    assert (stats["offenders"][0]["client"], stats["offenders"][0]["refused"]) == (address(7), 2)
    # once for each client in its window, and from twenty a second on their number only
    assert len(proxy.events("limit_refused")) == 20


def test_a_flood_of_newcomers_washes_no_offender_out(
    iocproxy: ProxyFactory, iocproxy_origin: Origin, iocproxy_clock: ManualClock
) -> None:
    """Fewer places than addresses: who is over its limit stays so, and the table stays as large as it may be."""
    limits = {"max_clients": 20, "connections": {"rate": False}, "requests": {"rate": "10/10s"}}
    proxy = iocproxy(upstream=iocproxy_origin, clock=iocproxy_clock, limits=limits)
    with contextlib.ExitStack() as stack:
        offender = stack.enter_context(RawClient(proxy.address, source=(address(0), 0)))
        assert [offender.request("GET", "/status/204").status for _ in range(11)] == [204] * 10 + [429]
        for number in range(1, ADDRESSES):
            assert let_in(proxy, address(number))
            if number % 10 == 0:
                assert offender.request("GET", "/status/204").status == 429
        iocproxy_clock.advance(9.5)
        refused = offender.request("GET", "/status/204")
        assert (refused.status, refused.header("Retry-After")) == (429, "1")
        iocproxy_clock.advance(1.0)
        assert offender.request("GET", "/status/204").status == 204
    assert proxy.stats()["offenders"][0]["client"] == address(0)


def test_a_flood_hurts_nobody_else(
    iocproxy: ProxyFactory, iocproxy_origin: Origin, iocproxy_clock: ManualClock
) -> None:
    """Connections and requests beyond every limit from all sides, and one client among them that keeps to its own."""
    limits = {"connections": {"rate": "3/10s", "concurrent": 2}, "requests": {"rate": "2/10s"}}
    proxy = iocproxy(upstream=iocproxy_origin, clock=iocproxy_clock, limits=limits)
    with RawClient(proxy.address, source=("127.9.9.9", 0)) as good, contextlib.ExitStack() as stack:
        for number in range(ADDRESSES // 5):
            held = [
                stack.enter_context(socket.create_connection(proxy.address, PATIENCE, (address(number), 0)))
                for _ in range(4)
            ]
            for sock in held:
                with contextlib.suppress(ConnectionError):
                    sock.sendall(GET * 3)
            if number % 25 == 0:
                assert good.request("GET", "/status/204").status == 204
        proxy.wait_for(lambda proxy: proxy.stats()["requests_limited"] >= ADDRESSES // 5 * 4)
        iocproxy_clock.advance(10.0)
        assert good.request("GET", "/status/204").status == 204
    stats = proxy.stats()
    assert stats["connections_refused"]["concurrent"] == ADDRESSES // 5 * 2
    assert stats["responses"]["4xx"] == stats["requests_limited"] == ADDRESSES // 5 * 4
    assert all(not offender["client"].startswith("127.9") for offender in stats["offenders"])
