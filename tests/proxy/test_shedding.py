"""Idle connections make room for those that have something to do: at the total, without files, without memory."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from iocproxy.testing import (
    Certificates,
    Exchange,
    ManualClock,
    Origin,
    ProxyFactory,
    RawClient,
    RunningProxy,
    Send,
    WaitFor,
)
from iocproxy.testing.patience import PATIENCE
from iocproxy.testing.wire import WireError

ROOT = Path(__file__).parents[2]
FULL = {"connections": {"total": 3, "rate": False}}


def opened(proxy: RunningProxy, tls: Certificates | None = None, **options: Any) -> RawClient:
    """A connection that had an answer and is idle now."""
    client = RawClient(proxy.address if tls is None else proxy.tls_address, tls=tls, **options)
    assert client.request("GET", "/status/204").status == 204
    return client


def shed(proxy: RunningProxy) -> dict[str, int]:
    found: dict[str, int] = proxy.stats()["connections_shed"]
    return found


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_the_longest_idle_makes_room(
    iocproxy: ProxyFactory, iocproxy_origin: Origin, iocproxy_certificates: Certificates, tls: bool
) -> None:
    proxy = iocproxy(upstream=iocproxy_origin, tls=tls, limits=FULL)
    certificates = iocproxy_certificates if tls else None
    with contextlib.ExitStack() as stack:
        first, second, third = (stack.enter_context(opened(proxy, certificates)) for _ in range(3))
        assert first.request("GET", "/status/204").status == 204  # now it is the second that has been idle longest
        fourth = stack.enter_context(opened(proxy, certificates))
        second.expect_closed()  # with FIN and close_notify, as its timeout would have done
        for client in (first, third, fourth):
            assert client.request("GET", "/status/204").status == 204
    stats = proxy.stats()
    assert stats["connections_refused"]["total"] == 0
    assert stats["connections_shed"] == {"total": 1, "files": 0, "memory": 0}
    assert stats["limits"]["connections total"]["refused"] == 0
    (said,) = proxy.events("connections_shed")
    assert (said["level"], said["reason"], said["connections"]) == ("warning", "total", 1)


def test_nobody_goes_for_a_client_that_is_over_its_rate(
    iocproxy: ProxyFactory, iocproxy_origin: Origin, iocproxy_clock: ManualClock
) -> None:
    limits = {"connections": {"total": 3, "rate": "2/10s"}}
    proxy = iocproxy(upstream=iocproxy_origin, clock=iocproxy_clock, limits=limits)
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            with opened(proxy, source=("127.0.0.2", 0)):
                pass
            proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 0)
        others = [stack.enter_context(opened(proxy, source=(f"127.0.0.{3 + number}", 0))) for number in range(3)]
        with socket.create_connection(proxy.address, PATIENCE, ("127.0.0.2", 0)) as sock:
            sock.settimeout(PATIENCE)
            with contextlib.suppress(ConnectionError):
                assert sock.recv(1) == b""
        assert shed(proxy)["total"] == 0
        assert proxy.stats()["connections_refused"]["rate"] == 1
        for client in others:
            assert client.request("GET", "/status/204").status == 204
        iocproxy_clock.advance(10)
        stack.enter_context(opened(proxy, source=("127.0.0.2", 0)))  # within its rate it is worth one
        assert shed(proxy)["total"] == 1


def test_who_is_made_to_wait_for_its_bandwidth_is_not_idle(iocproxy: ProxyFactory, iocproxy_origin: Origin) -> None:
    """Its next request may be here, unread: closing on top of that would reset the connection."""
    limits = {"connections": {"total": 1}, "bandwidth": {"receive": "16KiB"}}
    proxy = iocproxy(upstream=iocproxy_origin, limits=limits)
    with RawClient(proxy.address) as client:
        client.send(b"POST /echo HTTP/1.1\r\nHost: a.test\r\nContent-Length: 60000\r\n\r\n" + b"x" * 60_000)
        assert client.read_response().status == 200
        client.send(b"GET /status/204 HTTP/1.1\r\nHost: a.test\r\n\r\n")
        with socket.create_connection(proxy.address, PATIENCE) as sock:
            sock.settimeout(PATIENCE)
            with contextlib.suppress(ConnectionError):
                assert sock.recv(1) == b""
        assert client.read_response().status == 204
    assert shed(proxy)["total"] == 0


def test_who_is_exempt_holds_no_place_that_others_could_have(iocproxy: ProxyFactory, iocproxy_origin: Origin) -> None:
    go = threading.Event()
    iocproxy_origin.on("GET", "/slow", respond=[WaitFor(go), Send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")])
    proxy = iocproxy(upstream=iocproxy_origin, limits={**FULL, "exempt": ["127.0.0.5"]})
    with contextlib.ExitStack() as stack:
        exempt = [stack.enter_context(opened(proxy, source=("127.0.0.5", 0))) for _ in range(4)]
        busy = [stack.enter_context(RawClient(proxy.address)) for _ in range(3)]
        for client in busy:
            client.send(b"GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n")
        iocproxy_origin.wait_for(lambda origin: len(origin.requests) == 7)
        with socket.create_connection(proxy.address, PATIENCE) as sock:
            sock.settimeout(PATIENCE)
            with contextlib.suppress(ConnectionError):
                assert sock.recv(1) == b""
        assert shed(proxy)["total"] == 0
        assert proxy.stats()["connections_refused"]["total"] == 1
        for client in exempt:
            assert client.request("GET", "/status/204").status == 204
        go.set()
        for client in busy:
            assert client.read_response().body == b"ok"


def test_a_crowd_of_newcomers_is_let_in_one_for_one(iocproxy: ProxyFactory, iocproxy_origin: Origin) -> None:
    proxy = iocproxy(
        upstream=iocproxy_origin, limits={"connections": {"total": 20, "rate": False, "concurrent": False}}
    )
    with contextlib.ExitStack() as stack:
        old = [stack.enter_context(opened(proxy)) for _ in range(20)]
        new = [stack.enter_context(RawClient(proxy.address)) for _ in range(20)]
        for client in new:
            client.send(b"GET /status/204 HTTP/1.1\r\nHost: a\r\n\r\n")
        for client in new:
            assert client.read_response().status == 204
        for client in old:
            client.expect_closed()
        assert proxy.stats()["connections_open"] == 20
    assert shed(proxy)["total"] == 20
    assert proxy.stats()["connections_refused"]["total"] == 0


def test_who_is_at_work_stays_and_newcomers_are_refused(iocproxy: ProxyFactory, iocproxy_origin: Origin) -> None:
    go = threading.Event()

    def slow(exchange: Exchange) -> None:
        go.wait(PATIENCE)
        exchange.respond(200, b"done")

    def switch(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        exchange.send(exchange.stream.receive())

    iocproxy_origin.on("GET", "/slow", slow)
    iocproxy_origin.on("GET", "/tunnel", switch)
    iocproxy_origin.on("POST", "/slow", slow)
    proxy = iocproxy(upstream=iocproxy_origin, limits=FULL)
    try:
        with RawClient(proxy.address) as waiting, RawClient(proxy.address) as tunnel, RawClient(proxy.address) as body:
            waiting.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
            tunnel.send(b"GET /tunnel HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
            assert tunnel.read_head()[0].status == 101
            body.send(b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab")
            proxy.wait_for(lambda proxy: proxy.stats()["requests_open"] == 3)
            with RawClient(proxy.address) as newcomer:
                newcomer.expect_closed()
            go.set()
            body.send(b"cd")
            tunnel.send(b"ping")
            assert waiting.read_response().body == b"done"
            assert body.read_response().body == b"done"
            assert tunnel.read_exactly(4) == b"ping"
    finally:
        go.set()
    assert proxy.stats()["connections_refused"]["total"] == 1
    assert shed(proxy)["total"] == 0
    assert proxy.events("connections_shed") == []


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_who_reads_next_to_nothing_makes_room_in_the_end(
    iocproxy: ProxyFactory, iocproxy_origin: Origin, iocproxy_certificates: Certificates, tls: bool
) -> None:
    """The last of all to go, after five seconds of it; `response_write` would have given it many times that."""
    certificates = iocproxy_certificates if tls else None
    proxy = iocproxy(
        upstream=iocproxy_origin,
        tls=tls,
        limits={"connections": {"total": 1, "rate": False}},
        timeouts={"response_write": "5m"},
    )
    address = proxy.tls_address if tls else proxy.address
    with RawClient(address, tls=certificates) as reader:
        reader.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        reader.send(b"GET /bytes/20000000 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert reader.read_head()[0].status == 200

        def let_in() -> bool:
            with contextlib.suppress(OSError, WireError), RawClient(address, tls=certificates) as newcomer:
                return newcomer.request("GET", "/status/204").status == 204
            return False

        tries = 1
        pause = threading.Event()
        while not let_in():
            tries += 1
            assert tries < 200
            pause.wait(0.1)
        assert tries > 10
    assert shed(proxy)["total"] == 1
    (record,) = (record for record in proxy.wait_for_records(2) if record.target == "/bytes/20000000")
    assert (record.status, record.error) == (200, "client: did not read the response")


@pytest.mark.parametrize("settings", [{"shed": False}, {"dry_run": True}])
def test_it_can_be_switched_off(iocproxy: ProxyFactory, iocproxy_origin: Origin, settings: dict[str, Any]) -> None:
    proxy = iocproxy(upstream=iocproxy_origin, limits={"connections": {"total": 1, **settings}})
    with opened(proxy) as first:
        with RawClient(proxy.address) as second:
            if "shed" in settings:
                second.expect_closed()
            else:
                assert second.request("GET", "/status/204").status == 204
        assert first.request("GET", "/status/204").status == 204
    assert shed(proxy) == {"total": 0, "files": 0, "memory": 0}


def test_behind_the_proxy_protocol(iocproxy: ProxyFactory, iocproxy_origin: Origin) -> None:
    proxy = iocproxy(
        upstream=iocproxy_origin,
        listeners=[{"bind": "127.0.0.1:0", "proxy_protocol": True}],
        server={"trusted_proxies": ["127.0.0.1/32"]},
        limits={"connections": {"total": 2}},
    )

    def come(number: int) -> RawClient:
        client = RawClient(proxy.address)
        client.send(b"PROXY TCP4 192.0.2.%d 192.0.2.99 1 2\r\n" % number)
        assert client.request("GET", "/status/204").status == 204
        return client

    with come(1) as first, come(2) as second, come(3):
        first.expect_closed()
        assert second.request("GET", "/status/204").status == 204
    assert shed(proxy)["total"] == 1


def test_without_memory_the_idle_go_and_the_busy_stay(iocproxy: ProxyFactory, iocproxy_origin: Origin) -> None:
    """No machine has that much: it is short for good."""
    go = threading.Event()

    def slow(exchange: Exchange) -> None:
        go.wait(PATIENCE)
        exchange.respond(200, b"done")

    iocproxy_origin.on("GET", "/slow", slow)
    proxy = iocproxy(upstream=iocproxy_origin, limits={"connections": {"free_memory": "1024GiB"}})
    try:
        with RawClient(proxy.address) as busy, opened(proxy) as idle:
            busy.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
            idle.expect_closed()
            proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 1)
            go.set()
            assert busy.read_response().body == b"done"
    finally:
        go.set()
    assert shed(proxy)["memory"] >= 1
    assert proxy.events("connections_shed")[0]["reason"] == "memory"


def test_with_memory_enough_nobody_goes(iocproxy: ProxyFactory, iocproxy_origin: Origin) -> None:
    proxy = iocproxy(upstream=iocproxy_origin, limits={"connections": {"free_memory": "1MiB"}})
    with opened(proxy) as client:
        loop = proxy._loop
        assert loop is not None
        passed = threading.Event()
        loop.call_soon_threadsafe(loop.call_later, 1.2, passed.set)  # longer than between two looks
        assert passed.wait(PATIENCE)
        assert client.request("GET", "/status/204").status == 204
    assert shed(proxy)["memory"] == 0


def test_those_that_wait_for_a_place_are_closed_at_the_stop(iocproxy: ProxyFactory, iocproxy_origin: Origin) -> None:
    proxy = iocproxy(upstream=iocproxy_origin, limits={"connections": {"total": 1}})
    with opened(proxy):
        proxy_ = proxy._proxy
        assert proxy_ is not None
        admission = proxy_._assembly.admission  # type: ignore[union-attr]
        done = threading.Event()

        def wait_in_line() -> None:
            """As an accept would have it: nobody leaves between this and the stop."""
            ours, theirs = socket.socketpair()
            admission._line.append((theirs, proxy_.addresses[0], "x", None))
            newcomer_pair.append(ours)
            done.set()

        newcomer_pair: list[socket.socket] = []
        assert proxy._loop is not None
        proxy._loop.call_soon_threadsafe(wait_in_line)
        assert done.wait(PATIENCE)
        proxy.stop()
        newcomer_pair[0].settimeout(PATIENCE)
        with newcomer_pair[0] as ours:
            assert ours.recv(1) == b""


OUT_OF_FILES = """
    import contextlib, os, resource, socket
    from iocproxy.testing import Origin, RawClient, RunningProxy
    from iocproxy import Config

    with contextlib.ExitStack() as stack:
        origin = stack.enter_context(Origin())
        config = Config(listeners=[{"bind": "127.0.0.1:0"}], upstreams={"app": {"servers": [origin.url]}})
        proxy = stack.enter_context(RunningProxy(config))
        first = stack.enter_context(RawClient(proxy.address))
        second = stack.enter_context(RawClient(proxy.address))
        for each in (first, second):
            assert each.request("GET", "/status/204").status == 204
        sock = socket.socket()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.open(os.devnull, os.O_RDONLY)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        sock.settimeout(20)
        sock.connect(proxy.address)
        sock.sendall(b"GET /status/204 HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 204")
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        first.expect_closed()
        assert second.request("GET", "/status/204").status == 204
        assert proxy.stats()["connections_shed"] == {"total": 0, "files": 1, "memory": 0}, proxy.stats()
        sock.close()
    print("served")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on open files to reach")
def test_without_files_the_idle_make_room() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(OUT_OF_FILES)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE * 2,
        check=False,
    )
    assert done.stdout == "served\n", done.stderr
