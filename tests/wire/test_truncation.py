"""A message that was cut short never looks complete, on either side."""

from __future__ import annotations

import socket
import ssl
import threading
from typing import Any

import pytest

from iocproxy.testing import Close, Reset, Send, TruncatedError, WaitFor

ANSWERS = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n",
    "within a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nfirst",
    "within the last chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n0\r\n",
    "until the end": b"HTTP/1.1 200 OK\r\n\r\nfirst",
}
ENDS = [(name, end) for name in ANSWERS for end in ("close", "reset") if (name, end) != ("until the end", "close")]


@pytest.mark.parametrize(("framing", "end"), ENDS)
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_an_upstream_that_ends_early(any_front: Any, framing: str, end: str, version: bytes) -> None:
    front = any_front()
    go = threading.Event()
    last = Close() if end == "close" else Reset()
    front.origin.on("GET", "/x", respond=[Send(ANSWERS[framing]), WaitFor(go), last])
    with front.client() as client:
        client.send(b"GET /x HTTP/%b\r\nHost: a.test\r\n\r\n" % version)
        head, _ = client.read_head()
        body = client.read_body(head)
        assert next(body) == b"first"
        go.set()
        # the length is short, the last chunk missing, or the end a broken one

        def read_on() -> None:
            b"".join(body)
            client.send(b"x")  # Wine shows a reset to a reader as an end; after a true end this would go through

        with pytest.raises((TruncatedError, ConnectionError, ssl.SSLError)):
            read_on()
    record = front.proxy.wait_for_records(1)[0]
    assert (record.status, record.bytes_out) == (200, 5)
    assert record.error.startswith("upstream: ")
    front.still_serves()


def test_over_tls_no_close_notify_pretends_completeness(
    iocproxy: Any, iocproxy_origin: Any, iocproxy_certificates: Any
) -> None:
    """An HTTP/1.0 client over TLS has nothing but close_notify to know the end by (RFC 9112 section 9.8)."""
    from iocproxy.testing import RawClient

    proxy = iocproxy(upstream=iocproxy_origin, tls=True)
    go = threading.Event()
    iocproxy_origin.on("GET", "/x", respond=[Send(b"HTTP/1.1 200 OK\r\n\r\nfirst"), WaitFor(go), Reset()])
    with RawClient(proxy.tls_address, tls=iocproxy_certificates) as client:
        client.send(b"GET /x HTTP/1.0\r\nHost: a.test\r\n\r\n")
        client.read_until(b"\r\n\r\nfirst")
        go.set()
        with pytest.raises((ssl.SSLEOFError, ConnectionError)):
            client.sock.recv(100)


def test_a_fin_without_close_notify_is_not_answered_with_one(
    iocproxy: Any, iocproxy_origin: Any, iocproxy_certificates: Any
) -> None:
    """Anybody on the way can send a FIN in the client's name. The half that the client has got must not look whole."""
    from iocproxy.testing import RawClient

    proxy = iocproxy(upstream=iocproxy_origin, tls=True)
    go = threading.Event()
    iocproxy_origin.on(
        "GET", "/x", respond=[Send(b"HTTP/1.1 200 OK\r\n\r\nfirst"), WaitFor(go), Send(b"last"), Close()]
    )
    try:
        with RawClient(proxy.tls_address, tls=iocproxy_certificates) as client:
            client.send(b"GET /x HTTP/1.0\r\nHost: a.test\r\n\r\n")
            client.read_until(b"\r\n\r\nfirst")
            socket.socket.shutdown(client.sock, socket.SHUT_WR)  # beneath TLS
            with pytest.raises((ssl.SSLEOFError, ConnectionError)):
                client.sock.recv(100)
    finally:
        go.set()
    assert proxy.wait_for_records(1)[0].error.startswith("client: ")


def test_a_tls_upstream_whose_end_is_not_authentic(iocproxy: Any, iocproxy_origin_factory: Any) -> None:
    """A FIN without close_notify could be an attacker's: a body until the end is not complete then."""
    from iocproxy.testing import RawClient

    origin = iocproxy_origin_factory(tls=True)
    proxy = iocproxy(upstream=origin)

    def answer(exchange: Any) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\n\r\nfirst")
        exchange.stream.wake()  # shuts the socket down beneath TLS
        exchange.ended = True

    origin.on("GET", "/x", respond=answer)
    with RawClient(proxy.address) as client:
        client.send(b"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n")
        try:
            response = client.read_response()
        except TruncatedError:
            return
        assert response.status == 502


REQUESTS = {
    "length": b"POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\nfirst",
    "chunks": b"POST /x HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n",
    "within a chunk": b"POST /x HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\na\r\nfirst",
    "no last line": b"POST /x HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n0\r\n",
}


@pytest.mark.parametrize("end", ["close", "reset", "half_close"])
@pytest.mark.parametrize("framing", REQUESTS)
def test_a_client_that_ends_within_its_body(front: Any, framing: str, end: str) -> None:
    started = front()
    with started.client() as client:
        client.send(REQUESTS[framing])
        started.origin.wait_for(lambda origin: len(origin.requests) == 1)
        getattr(client, end)()
        if end == "half_close":
            assert client.read_response().status == 400
            client.expect_closed()
    started.origin.wait_for(lambda origin: origin.open_connections == 0)
    request = started.origin.requests[0]
    assert not request.complete
    assert len(started.origin.requests) == 1
    assert started.proxy.wait_for_records(1)[0].error.startswith("client: ")
    started.still_serves()


@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_client_that_leaves_before_its_answer(any_front: Any, end: str) -> None:
    front = any_front()
    go = threading.Event()
    front.origin.on("GET", "/x", respond=[WaitFor(go), Send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")])
    client = front.client()
    try:
        client.send(b"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n")
        front.origin.wait_for(lambda origin: len(origin.requests) == 1)
        getattr(client, end)()
        if end == "reset":  # the end alone may be a half-close: then the answer is still owed
            record = front.proxy.wait_for_records(1)[0]
            assert (record.status, record.error.startswith("client: ")) == (499, True)
    finally:
        go.set()
        client.close()
    front.proxy.wait_for_records(1)
    front.still_serves()
