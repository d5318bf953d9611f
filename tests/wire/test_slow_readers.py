"""A client that is slow to read the last response of its connection gets it whole, and has as long as for any other."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from iocproxy.client import connection
from iocproxy.testing import Exchange, RawClient
from iocproxy.testing.patience import PATIENCE

LAST = b"GET /last HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"
BLOCK = bytes(range(256)) * 64  # 16 KiB


class Now(NamedTuple):
    """Of the only connection: what waits to be written, whether that holds the upstream, and the state."""

    waiting: int
    blocked: bool
    state: str


def now(front: Any) -> Now:
    def look(proxy: Any) -> Now:
        (each,) = proxy._assembly.admission._open
        return Now(each._link.get_write_buffer_size(), each.blocked, each._state.name)

    found: Now = front.proxy._on_loop(look)
    return found


class Endless:
    """Sends until more than `waiting` octets of it wait in the proxy for the client, then `last` octets and the end,
    which the proxy finds in one piece."""

    def __init__(self, front: Any, *, waiting: int = 0, last: int = 0) -> None:
        self._front = front
        self._waiting = waiting
        self._last = last
        self.length = 0
        self.over = threading.Event()

    def __call__(self, exchange: Exchange) -> None:
        pause = threading.Event()
        exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        still = 0
        while still < 3:  # not for a moment only
            if now(self._front).waiting > self._waiting:
                still += 1
                pause.wait(0.02)
                continue
            still = 0
            exchange.send(b"%x\r\n%b\r\n" % (len(BLOCK), BLOCK))
            self.length += len(BLOCK)
            pause.wait(0.001)
        end = b"0\r\n\r\n"
        if self._last:
            end = b"%x\r\n%b\r\n" % (self._last, bytes(self._last)) + end
            self.length += self._last
        with self._standing_still():
            exchange.send(end)
        self.over.set()

    @contextlib.contextmanager
    def _standing_still(self) -> Iterator[None]:
        """The proxy reads nothing meanwhile."""
        stands, go = threading.Event(), threading.Event()

        def stand(_: Any) -> None:
            stands.set()
            go.wait(PATIENCE)

        thread = threading.Thread(target=self._front.proxy._on_loop, args=(stand,))
        thread.start()
        assert stands.wait(PATIENCE)
        try:
            yield
        finally:
            go.set()
            thread.join()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a closing connection without a reader is given, so that what has a reader is seen to be given more."""
    monkeypatch.setattr(connection, "_CLOSING", 0.2)
    monkeypatch.setattr(connection, "_LINGER_TIME", 0.2)


@pytest.mark.parametrize("ends", ["the client's wish", "max_requests", "keep_alive"])
def test_a_pause_before_the_end_of_the_last_response(any_front: Any, ends: str) -> None:
    settings = {"max_requests": {"http": {"max_requests": 1}}, "keep_alive": {"timeouts": {"keep_alive": "200ms"}}}
    whole(any_front(**settings.get(ends, {})), last_of_all=ends == "the client's wish")


def test_a_client_that_has_ended_its_side(front: Any) -> None:
    whole(front(), half_close=True)


def whole(front: Any, *, last_of_all: bool = False, half_close: bool = False) -> None:
    flood = Endless(front)
    front.origin.on("GET", "/last", flood)
    with front.client(timeout=5 * PATIENCE) as client:
        client.send(LAST if last_of_all else LAST.replace(b"Connection: close\r\n", b""))
        if half_close:
            client.half_close()
        assert flood.over.wait(5 * PATIENCE)
        front.proxy.wait_for(lambda _: now(front).state == "CLOSED")
        read_late(client, flood)
    assert front.proxy.records[0].error == ""


def read_late(client: RawClient, flood: Endless) -> None:
    threading.Event().wait(0.6)  # three times what would have been the end of it
    head, _ = client.read_head()
    assert sum(map(len, client.read_body(head))) == flood.length
    client.expect_closed()


def test_a_buffer_that_is_full_when_the_response_is_complete(any_front: Any) -> None:
    """Lingering has a deadline for what the client may still send, and this is not about that."""
    front = any_front(http={"max_requests": 1})
    flood = Endless(front, waiting=24_000, last=240_000)
    front.origin.on("GET", "/last", flood)
    with front.client(timeout=5 * PATIENCE) as client:
        client.send(LAST.replace(b"Connection: close\r\n", b""))
        assert flood.over.wait(5 * PATIENCE)
        front.proxy.wait_for(lambda _: now(front).state == "LINGER")
        if sys.platform == "linux":  # elsewhere it is not known how much one read brings
            assert now(front).blocked
        read_late(client, flood)
    assert front.proxy.records[0].error == ""


def test_who_never_reads_it_is_cut_off(any_front: Any) -> None:
    front = any_front(timeouts={"response_write": "1s"})
    flood = Endless(front)
    front.origin.on("GET", "/last", flood)
    with front.client(timeout=5 * PATIENCE) as client:
        client.send(LAST)
        assert flood.over.wait(5 * PATIENCE)
        begun = time.monotonic()
        front.proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 0)
        assert time.monotonic() - begun > 0.5
        with pytest.raises((AssertionError, OSError)):  # cut short, and not made to look complete
            sum(map(len, client.read_body(client.read_head()[0])))
