"""Thousands of clients that never finish their TLS handshake: closed on time, at little cost, nobody else held up.

How long others wait meanwhile is measured by tests/bench/stalled.py; here the figures would be those of the machine.
"""

from __future__ import annotations

import os
import selectors
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from iocproxy.net.sockets import raise_file_limit
from iocproxy.testing import Certificates, Origin, ProxyFactory, RawClient, RunningProxy
from iocproxy.testing.patience import PATIENCE

EACH = 100  #: of one client, which is what `limits.connections.concurrent` allows by default
TIMEOUT = 10.0
#: The most that one may cost the proxy: the budget of an idle connection, which has its buffers too.
MOST = 40 * 1024
BODY = bytes(number % 251 for number in range(1000))


@pytest.fixture
def hello(iocproxy_certificates: Certificates) -> bytes:
    outgoing = ssl.MemoryBIO()
    client = iocproxy_certificates.client_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def resident() -> int:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Busy(threading.Thread):
    """A client that goes on asking, on one connection and on a new one each time, until told to stop."""

    def __init__(self, proxy: RunningProxy, certificates: Certificates) -> None:
        super().__init__(name="busy client")
        self._proxy, self._certificates = proxy, certificates
        self.stopping = threading.Event()
        self.answers = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            with RawClient(self._proxy.tls_address, tls=self._certificates) as kept:
                while not self.stopping.is_set():
                    assert kept.request("GET", "/bytes/1000").body == BODY
                    with RawClient(self._proxy.tls_address, tls=self._certificates) as new:
                        assert new.request("GET", "/status/204").status == 204
                    self.answers += 2
        except BaseException as error:  # noqa: BLE001 - told by the test
            self.failure = error


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_thousands_that_never_finish(
    iocproxy: ProxyFactory,
    iocproxy_origin: Origin,
    iocproxy_certificates: Certificates,
    hello: bytes,
    stack: ExitStack,
) -> None:
    """A third says nothing, a third half a hello, and a third a hello to whose answer nothing follows."""
    # As many as there may be: each has two files in this process. Sockets are slow under Wine.
    stalled = 200 if sys.platform == "win32" else min(5_000, (raise_file_limit() - 500) // 2)
    proxy = iocproxy(
        upstream=iocproxy_origin,
        tls=True,
        limits={"connections": {"concurrent": EACH}},
        timeouts={"tls_handshake": TIMEOUT},
        http={"max_requests": False},
    )
    busy = Busy(proxy, iocproxy_certificates)
    stack.callback(busy.join)
    stack.callback(busy.stopping.set)
    busy.start()
    proxy.wait_for(lambda _: busy.answers >= 20 or busy.failure)  # what it needs is there
    before = resident() if sys.platform == "linux" else 0

    selector = stack.enter_context(selectors.DefaultSelector())
    opened: dict[socket.socket, float] = {}
    for number in range(stalled):
        source = f"127.0.1.{1 + number // EACH}"
        sock = stack.enter_context(socket.create_connection(proxy.tls_address, PATIENCE, (source, 0)))
        opened[sock] = time.monotonic()
        sock.sendall((b"", hello[: len(hello) // 2], hello)[number % 3])
        sock.setblocking(False)
    proxy.wait_for(lambda proxy: proxy.stats()["connections_accepted"] > stalled)
    answered = busy.answers

    closed: dict[socket.socket, float] = {}
    for sock in opened:
        selector.register(sock, selectors.EVENT_READ)
    grown = 0
    while len(closed) < stalled:
        if not closed and sys.platform == "linux":
            grown = max(grown, resident() - before)
        ready = selector.select(TIMEOUT + PATIENCE)
        assert ready, f"{stalled - len(closed)} are still open"
        for key, _ in ready:
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if not sock.recv(65536):
                closed[sock] = time.monotonic()
                selector.unregister(sock)
    after = busy.answers
    busy.stopping.set()
    busy.join()

    assert busy.failure is None
    assert after > answered  # others were served while these waited
    took = sorted(closed[sock] - opened[sock] for sock in opened)
    assert took[0] >= TIMEOUT - 0.1  # never early, as far as two clocks can tell
    assert took[-1] < TIMEOUT + PATIENCE / 2
    assert grown < stalled * MOST
    proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 0)
    stats = proxy.stats()
    assert {why: count for why, count in stats["handshake_failures"].items() if count} == {"timeout": stalled}
    assert stats["connections_accepted"] == stats["handshakes_failed"] + stats["handshakes_full"]
    events = proxy.events("handshake_failed")
    assert {event["reason"] for event in events} == {f"the TLS handshake was not complete within {TIMEOUT:g} s"}
    assert len(events) == stalled
