"""1xx: 100-continue in the right order, 103 passed on, and never any to HTTP/1.0."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from iocproxy.testing import Send, WaitFor

EXPECT = b"POST /x HTTP/1.%d\r\nHost: a.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
FINAL = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_the_body_is_sent_when_the_origin_says_continue(any_front: Any) -> None:
    front = any_front()
    go = threading.Event()

    def answer(exchange: Any) -> None:
        assert go.wait(60)
        exchange.respond(200, exchange.read_body())  # says 100 before it reads

    front.origin.on("POST", "/x", respond=answer, read_body=False)
    with front.client() as client:
        client.send(EXPECT % 1)
        front.origin.wait_for(lambda origin: len(origin.requests) == 1)
        assert front.origin.requests[0].header("expect") == "100-continue"
        go.set()
        interim = client.read_response()
        assert (interim.status, interim.reason) == (100, b"Continue")
        assert front.origin.requests[0].body_length == 0
        client.send(b"hello")
        assert client.read_response().body == b"hello"
        assert client.request("GET", "/bytes/1").body == b"\x00"


def test_a_client_that_does_not_wait(any_front: Any) -> None:
    front = any_front()
    with front.client() as client:
        client.send(EXPECT % 1 + b"hello")
        assert [client.read_response().status for _ in range(2)] == [100, 200]
        assert client.request("GET", "/bytes/1").body == b"\x00"
    assert front.origin.requests[0].body == b"hello"


@pytest.mark.parametrize("status", [200, 401, 413, 417])
def test_an_origin_that_answers_instead_of_continue(front: Any, status: int) -> None:
    started = front()
    answer = b"HTTP/1.1 %d Final\r\nContent-Length: 2\r\n\r\nno" % status
    started.origin.on("POST", "/x", respond=answer, read_body=False)
    with started.client() as client:
        client.send(EXPECT % 1)
        response = client.read_response()
        assert (response.status, response.body) == (status, b"no")
        # the body may or may not follow: only the end of the connection makes that clear
        assert response.header("connection") == "close"
        client.expect_closed()
    started.origin.wait_for(lambda origin: origin.open_connections == 0)  # nor is the origin's used again


def test_http_1_0_cannot_expect(front: Any) -> None:
    """RFC 9110 section 10.1.1."""
    started = front()
    with started.client() as client:
        client.send(EXPECT % 0 + b"hello")
        assert client.read_response().status == 200
        client.expect_closed()
    assert started.origin.requests[0].header("expect") is None


def test_early_hints_are_passed_on_at_once(any_front: Any) -> None:
    front = any_front()
    go = threading.Event()
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nlink: </b>\r\nX-Hop: 1\r\nConnection: X-Hop\r\n\r\n"
    front.origin.on("GET", "/", respond=[Send(hints), WaitFor(go), Send(hints + FINAL, size=1)])
    with front.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        first = client.read_response()
        go.set()
        assert first.raw == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nlink: </b>\r\nVia: 1.1 iocproxy\r\n\r\n"
        assert client.read_response().raw == first.raw
        final = client.read_response()
        assert (final.status, final.body) == (200, b"ok")
        assert client.request("GET", "/bytes/1").body == b"\x00"


def test_http_1_0_is_given_no_interim_response(front: Any) -> None:
    """RFC 9110 section 15.2."""
    started = front()
    started.origin.on("GET", "/", respond=b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + FINAL)
    with started.client() as client:
        client.send(b"GET / HTTP/1.0\r\nHost: a.test\r\n\r\n")
        assert client.read_response().status == 200
        client.expect_closed()


def test_an_interim_response_has_no_body_whatever_it_says(front: Any) -> None:
    started = front()
    started.origin.on("GET", "/", respond=b"HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\n" + FINAL)
    with started.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        assert [client.read_response().status for _ in range(2)] == [103, 200]
