"""What the proxy cuts off looks cut off, and is told as what it was; and whose silence a silence is."""

from __future__ import annotations

import contextlib
import select
import threading
from collections.abc import Callable
from typing import Any

import pytest

from iocproxy.testing import (
    Certificates,
    Close,
    Exchange,
    Expect,
    ExpectUntil,
    Origin,
    ProxyFactory,
    RawClient,
    RunningProxy,
    Send,
    TruncatedError,
    WaitFor,
    WireError,
)

UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\nfirst"
CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n"
FINAL = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
def origin(iocproxy_origin: Origin) -> Origin:
    return iocproxy_origin


def ends_visibly(client: RawClient) -> None:
    """Neither FIN nor close_notify where nothing else tells that the body is incomplete."""

    def read_on() -> None:
        client.read_until_closed()
        client.send(b"x")  # Wine shows a reset to a reader as an end; after a true end this would go through

    with pytest.raises((ConnectionError, WireError)):
        read_on()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("answer", [UNTIL_CLOSE, CHUNKS], ids=["until close", "chunks"])
def test_a_stop_that_does_not_wait(
    iocproxy: ProxyFactory, origin: Origin, iocproxy_certificates: Certificates, answer: bytes, tls: bool
) -> None:
    go = threading.Event()
    origin.on("GET", "/x", respond=[Send(answer), WaitFor(go)])
    proxy = iocproxy(upstream=origin, tls=tls)
    address = proxy.tls_address if tls else proxy.address
    with RawClient(address, tls=iocproxy_certificates if tls else None) as client:
        client.send(b"GET /x HTTP/1.0\r\nHost: a\r\n\r\n")
        client.read_until(b"\r\n\r\nfirst")
        proxy.stop(drain=0)
        ends_visibly(client)
    go.set()
    record = proxy.wait_for_records(1)[0]
    assert (record.status, record.error) == (200, "proxy: cut off before the response was complete")


def test_a_stop_before_anything_was_answered(iocproxy: ProxyFactory, origin: Origin) -> None:
    go = threading.Event()
    origin.on("GET", "/x", respond=[WaitFor(go), Send(FINAL)])
    proxy = iocproxy(upstream=origin)
    with RawClient(proxy.address) as client:
        client.send(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
        origin.wait_for_requests(1)
        proxy.stop(drain=0)
        ends_visibly(client)
    go.set()
    record = proxy.wait_for_records(1)[0]
    assert (record.status, record.error) == (503, "proxy: cut off before the response was complete")


def test_a_reader_that_is_given_up(iocproxy: ProxyFactory, origin: Origin) -> None:
    def flood(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            exchange.send(bytes(100_000))

    origin.on("GET", "/x", respond=flood)
    proxy = iocproxy(upstream=origin, timeouts={"response_write": "300ms"})
    with RawClient(proxy.address) as client:
        client.send(b"GET /x HTTP/1.0\r\nHost: a\r\n\r\n")
        record = proxy.wait_for_records(1)[0]
        assert (record.status, record.error) == (200, "client: did not read the response")
        ends_visibly(client)


def read_for_ever(exchange: Exchange) -> None:
    with contextlib.suppress(Exception):  # whatever the end looks like from here
        exchange.read_body()


def test_a_reader_that_is_given_up_although_it_goes_on_sending(iocproxy: ProxyFactory, origin: Origin) -> None:
    """What it sends does not buy it time for what it does not read."""

    def flood(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        threading.Thread(target=read_for_ever, args=(exchange,), daemon=True).start()
        while True:
            exchange.send(bytes(100_000))

    origin.on("POST", "/x", respond=flood, read_body=False)
    proxy = iocproxy(upstream=origin, timeouts={"response_write": "500ms"}, http={"min_body_rate": False})
    with RawClient(proxy.address) as client:
        client.send(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n")
        pause = threading.Event()
        for _ in range(200):
            if proxy.records:
                break
            try:
                client.send(b"a")
            except OSError:
                break
            pause.wait(0.05)
        assert proxy.wait_for_records(1)[0].error == "client: did not read the response"


def answered(client: RawClient, seconds: float) -> bool:
    return bool(select.select([client.sock], [], [], seconds)[0])


@pytest.fixture
def impatient(iocproxy: ProxyFactory, origin: Origin) -> Callable[..., RunningProxy]:
    def start(**http: Any) -> RunningProxy:
        timeouts = {"upstream_response": "300ms", "request_body": "10m"}
        return iocproxy(upstream=origin, timeouts=timeouts, http=http)

    return start


def test_a_client_that_pauses_within_its_body_is_not_a_slow_upstream(
    impatient: Callable[..., RunningProxy], origin: Origin
) -> None:
    proxy = impatient(min_body_rate=False)
    with RawClient(proxy.address) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe")
        origin.wait_for(lambda origin: len(origin.requests) == 1)
        assert not answered(client, 0.8)
        client.send(b"llo")
        assert client.read_response().status == 200
    assert origin.requests[0].body == b"hello"


def test_an_upstream_that_does_not_read_the_body_is(impatient: Callable[..., RunningProxy], origin: Origin) -> None:
    go = threading.Event()
    origin.script([ExpectUntil(b"\r\n\r\n"), WaitFor(go)])
    proxy = impatient(min_body_rate=False)
    size = 64 * 1024 * 1024
    with RawClient(proxy.address) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        sender = threading.Thread(target=_send_what_goes, args=(client, size))
        sender.start()
        assert client.read_response().status == 504
        sender.join()
    go.set()
    assert proxy.wait_for_records(1)[0].error == "upstream: no response in time"


def _send_what_goes(client: RawClient, size: int) -> None:
    try:
        client.sock.sendall(bytes(size))
    except OSError:  # answered, and closed
        pass


def test_an_upstream_that_says_neither_continue_nor_anything_else(
    impatient: Callable[..., RunningProxy], origin: Origin
) -> None:
    go = threading.Event()
    origin.script([ExpectUntil(b"\r\n\r\n"), WaitFor(go)])
    proxy = impatient(min_body_grace=0)
    with RawClient(proxy.address) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert client.read_response().status == 504
    go.set()


def test_the_bodys_time_begins_when_the_client_is_told_to_go_on(iocproxy: ProxyFactory, origin: Origin) -> None:
    go = threading.Event()
    steps = [
        ExpectUntil(b"\r\n\r\n"),
        WaitFor(go),
        Send(b"HTTP/1.1 100 Continue\r\n\r\n"),
        Expect(b"hello"),
        Send(FINAL),
        Close(),
    ]
    script = origin.script(steps)
    proxy = iocproxy(upstream=origin, http={"min_body_grace": "500ms"}, timeouts={"request_body": "500ms"})
    with RawClient(proxy.address) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert not answered(client, 1.2)
        go.set()
        assert client.read_response().status == 100
        client.send(b"hello")
        assert client.read_response().status == 200
        script.wait()
        script = origin.script([ExpectUntil(b"\r\n\r\n"), Send(b"HTTP/1.1 100 Continue\r\n\r\n")])
        proxy.wait_for(lambda proxy: proxy.stats()["upstreams"]["origin"].popitem()[1]["open"] == 0)
    with RawClient(proxy.address) as client:  # and then it does run
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert client.read_response().status == 100
        assert client.read_response().status == 408


def test_whoever_ends_a_head_early_is_not_told_that_it_was_complete(iocproxy: ProxyFactory, origin: Origin) -> None:
    """A response with a length, cut off by a stop, ends short of it."""
    go = threading.Event()
    origin.on("GET", "/x", respond=[Send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfirst"), WaitFor(go)])
    proxy = iocproxy(upstream=origin)
    with RawClient(proxy.address) as client:
        client.send(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
        client.read_until(b"first")
        proxy.stop(drain=0)
        with pytest.raises((TruncatedError, ConnectionError)):
            client.read_exactly(4)
    go.set()
