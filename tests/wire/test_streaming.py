"""Nothing waits for a whole message: bodies pass as they come, in both directions at once."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from iocproxy.testing import Send, WaitFor

HEADS = {
    "length": b"POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\n",
    "chunks": b"POST /x HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n",
}
PIECES = {"length": [b"first", b"-last"], "chunks": [b"5\r\nfirst\r\n", b"5\r\n-last\r\n0\r\n\r\n"]}


@pytest.mark.parametrize("framing", HEADS)
def test_the_origin_sees_the_first_of_a_body_before_the_last_is_sent(any_front: Any, framing: str) -> None:
    front = any_front()
    seen = threading.Event()

    def answer(exchange: Any) -> None:
        for piece in exchange.iter_body():
            if piece == b"first":
                seen.set()
        exchange.respond(200, exchange.request.body)

    front.origin.on("POST", "/x", respond=answer, read_body=False)
    with front.client() as client:
        client.send(HEADS[framing])
        client.send(PIECES[framing][0])
        assert seen.wait(60)
        client.send(PIECES[framing][1])
        assert client.read_response().body == b"first-last"
        assert client.request("GET", "/bytes/1").body == b"\x00"


@pytest.mark.parametrize(
    ("head", "pieces"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", PIECES["length"]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", PIECES["chunks"]),
    ],
    ids=["length", "chunks"],
)
def test_the_client_sees_the_first_of_a_body_before_the_last_is_sent(
    any_front: Any, head: bytes, pieces: list[bytes]
) -> None:
    front = any_front()
    go, begin = threading.Event(), threading.Event()
    front.origin.on("GET", "/x", respond=[Send(head), WaitFor(begin), Send(pieces[0]), WaitFor(go), Send(pieces[1])])
    with front.client() as client:
        client.send(b"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n")
        response, _ = client.read_head()
        begin.set()  # not even the first octet of the body is waited for
        body = client.read_body(response)
        assert next(body) == b"first"
        go.set()
        assert b"".join(body) == b"-last"


def test_both_directions_at_once(any_front: Any) -> None:
    front = any_front()

    def echo(exchange: Any) -> None:
        exchange.send_head(200, [("Transfer-Encoding", "chunked")])
        for piece in exchange.iter_body():
            exchange.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        exchange.send(b"0\r\n\r\n")

    front.origin.on("POST", "/x", respond=echo, read_body=False)
    with front.client() as client:
        client.send(HEADS["chunks"])
        response, _ = client.read_head()
        body = client.read_body(response)
        for turn in range(20):
            client.send(b"2\r\n%02d\r\n" % turn)
            assert next(body) == b"%02d" % turn
        client.send(b"0\r\n\r\n")
        assert list(body) == []
        assert client.request("GET", "/bytes/1").body == b"\x00"


@pytest.mark.parametrize("framing", HEADS)
def test_an_answer_before_the_request_has_ended(any_front: Any, framing: str) -> None:
    """The client gets it, and both connections end: where the next message begins is not known any more."""
    front = any_front()
    front.origin.on("POST", "/x", respond=b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno", read_body=False)
    with front.client() as client:
        client.send(HEADS[framing])
        client.send(PIECES[framing][0])
        response = client.read_response()
        assert (response.status, response.body) == (403, b"no")
        client.expect_closed()
    front.origin.wait_for(lambda origin: origin.open_connections == 0)
    assert not front.origin.requests[0].complete
    front.still_serves()


def test_an_early_answer_survives_a_client_that_goes_on_sending(front: Any) -> None:
    """RFC 9112 section 9.6: closing on unread octets would reset the connection and destroy the answer."""
    started = front()
    started.origin.on("POST", "/x", respond=b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno", read_body=False)
    with started.client() as client:
        client.send(b"POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 900000\r\n\r\n")
        client.send(b"x" * 500_000)
        assert client.read_response().status == 403
        client.expect_closed()


def test_large_bodies_both_ways(any_front: Any) -> None:
    front = any_front()
    size = 3_000_000
    with front.client() as client:
        assert len(client.request("GET", f"/bytes/{size}").body) == size
        assert len(client.request("GET", f"/stream/{size}?chunk=7777").body) == size
        response = client.request("POST", "/sink", body=bytes(size))
        assert b'"length": %d' % size in response.body
