"""Trailer fields: passed on in both directions, to whoever wants them, and only those that cannot do harm."""

from __future__ import annotations

from typing import Any

import pytest

CHUNKED = b"POST /x HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n"
ANSWER = (
    b"HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, Set-Cookie\r\n\r\n"
    b"5\r\nhello\r\n0\r\nX-Sum: 7\r\nx-sum:8 \r\nSet-Cookie: a=b\r\n\r\n"
)
TE = b"GET /x HTTP/1.1\r\nHost: a.test\r\nConnection: TE\r\nTE: trailers\r\n\r\n"

#: Fields that a server might merge into the header section, and would then believe.
HARMFUL = [
    "Authorization", "Connection", "Content-Encoding", "Content-Length", "Content-Type", "Cookie", "Expect",
    "Forwarded", "Host", "If-Match", "Max-Forwards", "Proxy-Authorization", "Range", "Sec-WebSocket-Key", "Set-Cookie",
    "TE", "Trailer", "Transfer-Encoding", "Upgrade", "Via", "X-Forwarded-For", "X-Forwarded-Proto", "X-Real-IP",
    "X-Request-ID",
]  # fmt: skip


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_those_of_a_request(any_front: Any, size: int) -> None:
    front = any_front()
    raw = CHUNKED + b"Trailer: X-Sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 7\r\nx-other:\t\xff \r\n\r\n"
    with front.client() as client:
        for at in range(0, len(raw), size):
            client.send(raw[at : at + size])
        assert client.read_response().status == 200
        assert client.request("GET", "/bytes/1").body == b"\x00"
    request = front.origin.requests[0]
    assert (request.body, request.trailers) == (b"hello", [(b"X-Sum", b"7"), (b"x-other", b"\xff")])
    assert request.header("Trailer") == "X-Sum"


@pytest.mark.parametrize("name", HARMFUL)
def test_what_may_not_come_as_a_trailer_is_dropped(front: Any, name: str) -> None:
    started = front()
    field = b"%b: 1\r\n" % name.encode()
    with started.client() as client:
        announced = b"Trailer: X-A, %b\r\n\r\n" % name.lower().encode()
        client.send(CHUNKED + announced + b"0\r\n" + field + b"X-A: 1\r\n" + field + b"\r\n")
        assert client.read_response().status == 200
    request = started.origin.requests[0]
    assert (request.trailers, request.header("Trailer")) == ([(b"X-A", b"1")], "X-A")


def test_a_trailer_field_of_a_message_that_can_have_none_is_dropped(front: Any) -> None:
    started = front()
    with started.client() as client:
        assert client.request("POST", "/x", headers=[("Trailer", "X-Sum")], body=b"hello").status == 200
    assert started.origin.requests[0].header("Trailer") is None


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_those_of_a_response_for_a_client_that_wants_them(any_front: Any, size: int) -> None:
    front = any_front()

    def answer(exchange: Any) -> None:
        for at in range(0, len(ANSWER), size):
            exchange.send(ANSWER[at : at + size])

    front.origin.on("GET", "/x", respond=answer)
    with front.client() as client:
        for _ in range(2):
            client.send(TE)
            response = client.read_response()
            assert (response.body, response.trailers) == (b"hello", [(b"X-Sum", b"7"), (b"x-sum", b"8")])
            assert response.header("Trailer") == "X-Sum"
    # that they are wanted is said on this hop too (RFC 9110 section 10.1.4)
    assert (front.origin.requests[0].header("TE"), front.origin.requests[0].header("Connection")) == ("trailers", "TE")


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: a.test\r\nTE: trailers\r\n\r\n",  # somebody else's: Connection does not name it
        b"GET /x HTTP/1.1\r\nHost: a.test\r\nConnection: TE\r\nTE: gzip\r\n\r\n",
        b"GET /x HTTP/1.0\r\nHost: a.test\r\nConnection: TE\r\nTE: trailers\r\n\r\n",
    ],
)
def test_those_of_a_response_for_a_client_that_did_not_ask(front: Any, request_head: bytes) -> None:
    started = front()
    started.origin.on("GET", "/x", respond=ANSWER)
    with started.client() as client:
        client.send(request_head)
        if b"HTTP/1.0" in request_head:
            assert client.read_until_closed().endswith(b"\r\n\r\nhello")
        else:
            response = client.read_response()
            assert (response.body, response.trailers, response.header("Trailer")) == (b"hello", [], None)
    request = started.origin.requests[0]
    assert (request.header("TE"), request.header("Connection")) == (None, None)


def test_a_client_that_wants_them_and_one_that_does_not_get_the_same_octets_their_way(front: Any) -> None:
    """The response is recognised as the same (http1/memo.py); how it is written depends on the request."""
    started = front()
    started.origin.on("GET", "/x", respond=ANSWER)
    with started.client() as client:
        for wanted in (False, True, False, True):
            client.send(TE if wanted else b"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n")
            assert bool(client.read_response().trailers) is wanted


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_they_pass_a_middleware_that_takes_its_time(
    iocproxy: Any, iocproxy_origin: Any, tmp_path: Any, monkeypatch: Any, kind: str
) -> None:
    from iocproxy.testing import RawClient

    (tmp_path / "iocproxy_test_trailers.py").write_text(
        f"class Mine:\n    {kind} on_response(self, request, response): pass\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    proxy = iocproxy(upstream=iocproxy_origin, middleware=[{"use": "iocproxy_test_trailers:Mine"}])
    iocproxy_origin.on("GET", "/x", respond=ANSWER)
    with RawClient(proxy.address) as client:
        client.send(TE)
        assert client.read_response().trailers == [(b"X-Sum", b"7"), (b"x-sum", b"8")]
