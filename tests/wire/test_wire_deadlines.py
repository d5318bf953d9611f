"""Every state of a client's connection has a deadline, and the answer that fits it."""

from __future__ import annotations

import select
import threading
from typing import Any

import pytest

from iocproxy.testing import RawClient, Send, TruncatedError, WaitFor

SHORT = "300ms"


def trickle(client: RawClient, octet: bytes, most: int) -> int:
    """Send the octet again and again, 50 ms apart, until the proxy has something to say; returns how often."""
    for count in range(most):
        if select.select([client.sock], [], [], 0.05)[0]:
            return count
        client.send(octet)
    return most


@pytest.mark.parametrize("begun", [b"G", b"GET / HTTP/1.1\r\nHost: a.te", b"GET / HTTP/1.1\r\nHost: a.test\r\n"])
def test_a_head_that_stops(any_front: Any, begun: bytes) -> None:
    front = any_front(timeouts={"request_header": SHORT})
    with front.client() as client:
        client.send(begun)
        response = client.read_response()
        assert (response.status, response.header("connection")) == (408, "close")
        client.expect_closed()
    assert front.origin.connections == 0
    front.still_serves()


def test_a_head_that_trickles_has_one_deadline(front: Any) -> None:
    started = front(timeouts={"request_header": SHORT})
    with started.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\nX-A: ")
        assert trickle(client, b"a", 200) < 200
        assert client.read_response().status == 408


def test_a_second_head_has_the_same_deadline(front: Any) -> None:
    started = front(timeouts={"request_header": SHORT})
    with started.client() as client:
        assert client.request("GET", "/").status == 200
        client.send(b"GET / HT")
        assert client.read_response().status == 408
        client.expect_closed()


def test_a_client_that_says_nothing(any_front: Any) -> None:
    with any_front(timeouts={"request_header": SHORT}).client() as client:
        client.expect_closed()


def test_an_idle_connection(any_front: Any) -> None:
    with any_front(timeouts={"keep_alive": SHORT}).client() as client:
        assert client.request("GET", "/").status == 200
        client.expect_closed()


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\n\n",
    ],
    ids=["length", "chunks", "bare LF at the end"],
)
def test_silence_within_a_body(any_front: Any, head: bytes) -> None:
    front = any_front(timeouts={"request_body": SHORT})
    with front.client() as client:
        client.send(head)
        response = client.read_response()
        assert (response.status, response.header("connection")) == (408, "close")
        client.expect_closed()
    front.origin.wait_for(lambda origin: origin.open_connections == 0)
    assert not front.origin.requests[0].complete
    front.still_serves()


def test_a_body_that_trickles_is_no_silence(front: Any) -> None:
    started = front(timeouts={"request_body": "2s"})
    with started.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 8\r\n\r\n")
        assert trickle(client, b"a", 8) == 8
        assert client.read_response().status == 200


def test_an_upstream_that_does_not_answer(any_front: Any) -> None:
    front = any_front(timeouts={"upstream_response": SHORT})
    go = threading.Event()
    front.origin.on("GET", "/x", respond=[WaitFor(go)])
    with front.client() as client:
        response = client.request("GET", "/x")
        assert (response.status, response.header("proxy-status")) == (504, "iocproxy; error=http_response_timeout")
        assert client.request("GET", "/status/200").status == 200  # the request was complete: the client may go on
    go.set()
    assert [record.status for record in front.proxy.wait_for_records(2)] == [504, 200]


def test_an_upstream_that_stops_within_its_body(front: Any) -> None:
    started = front(timeouts={"upstream_body": SHORT})
    go = threading.Event()
    started.origin.on("GET", "/x", respond=[Send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"), WaitFor(go)])
    with started.client() as client:
        client.send(b"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n")
        with pytest.raises((TruncatedError, ConnectionError)):
            client.read_response()
    go.set()
    started.still_serves()
