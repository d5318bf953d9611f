"""Requests sent without waiting: answered in order, and none is read after an error."""

from __future__ import annotations

from typing import Any

import pytest

GET = b"GET %b HTTP/1.1\r\nHost: a.test\r\n\r\n"
MIXED = b"".join(
    [
        GET % b"/delay/0.2",
        GET % b"/bytes/3",
        b"HEAD /bytes/9 HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\n\r\nGET ",
        b"\r\n" + GET % b"/status/204",
        b"POST /echo HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
        GET % b"/stream/10?chunk=3",
        GET % b"/status/304",
        GET % b"/until-close/5",
        GET % b"/bytes/4",
    ]
)
METHODS = [b"GET", b"GET", b"HEAD", b"POST", b"GET", b"POST", b"GET", b"GET", b"GET", b"GET"]


def _check(front: Any, client: Any) -> None:
    responses = [client.read_response(method) for method in METHODS]
    assert [response.status for response in responses] == [200, 200, 200, 200, 204, 200, 200, 304, 200, 200]
    assert [len(response.body) for response in responses][1:3] == [3, 0]
    assert b'"body": "GET "' in responses[3].body
    assert b'"body": "abc"' in responses[5].body
    assert [len(response.body) for response in responses][6:] == [10, 0, 5, 4]
    assert [request.method for request in front.origin.requests] == METHODS


@pytest.mark.parametrize("size", [len(MIXED), 100, 7, 1])
def test_answers_come_in_order(any_front: Any, size: int) -> None:
    front = any_front()
    with front.client() as client:
        client.send_slowly(MIXED, size)
        _check(front, client)
        assert client.request("GET", "/bytes/2").body == b"\x00\x01"
    assert front.origin.connections <= 4  # one, and a new one after until-close


def test_a_client_that_ends_its_side_gets_every_answer(front: Any) -> None:
    started = front()
    with started.client() as client:
        client.send(MIXED)
        client.half_close()
        _check(started, client)
        client.expect_closed()


def test_a_half_closed_client_gets_its_answer(front: Any) -> None:
    started = front()
    with started.client() as client:
        client.send(GET % b"/delay/0.2")
        client.half_close()
        assert client.read_response().status == 200
        client.expect_closed()


def test_a_client_that_ends_within_the_second_head(front: Any) -> None:
    started = front()
    with started.client() as client:
        client.send(GET % b"/delay/0.1" + b"GET /second HTTP/1.1\r\nHo")
        client.half_close()
        assert client.read_response().status == 200
        assert client.read_response().status == 400
        client.expect_closed()
    assert [request.target for request in started.origin.requests] == [b"/delay/0.1"]


@pytest.mark.parametrize("size", [10_000, 1], ids=["whole", "octet by octet"])
def test_429_in_a_pipeline_lets_it_go_on(front: Any, iocproxy_clock: Any, size: int) -> None:
    started = front(limits={"requests": {"rate": "2/10s"}}, clock=iocproxy_clock)
    with started.client() as client:
        client.send_slowly(b"".join(GET % b"/%d" % index for index in range(6)), size)
        assert [client.read_response().status for _ in range(6)] == [200, 200, 429, 429, 429, 429]
        iocproxy_clock.advance(11)
        assert client.request("GET", "/last").status == 200
    assert [request.target for request in started.origin.requests] == [b"/0", b"/1", b"/last"]


def test_half_a_head_behind_an_answer_on_the_spot(any_front: Any, iocproxy_clock: Any) -> None:
    """Reading goes on for the other half, whatever the read before brought along with it."""
    front = any_front(limits={"requests": {"rate": "1/10s"}}, clock=iocproxy_clock)
    with front.client() as client:
        assert client.request("GET", "/").status == 200
        client.send(GET % b"/refused" + b"GET /also HT")
        assert client.read_response().status == 429
        client.send(b"TP/1.1\r\nHost: a.test\r\n\r\n")
        assert client.read_response().status == 429


def test_many_refused_at_once_are_all_answered(front: Any, iocproxy_clock: Any) -> None:
    """A loop, not a tower of calls: more than the interpreter's stack is deep."""
    started = front(limits={"requests": {"rate": "1/10s"}}, http={"max_requests": False}, clock=iocproxy_clock)
    with started.client() as client:
        client.send(GET % b"/" * 1500)
        assert [client.read_response().status for _ in range(1500)] == [200] + [429] * 1499


@pytest.mark.parametrize("size", [10_000, 1], ids=["whole", "octet by octet"])
def test_nothing_is_read_after_an_error(any_front: Any, size: int) -> None:
    front = any_front()
    with front.client() as client:
        client.send_slowly(GET % b"/0" + GET % b"/1" + b"GET /bad HTTP/1.1\r\nHost : a.test\r\n\r\n", size)
        if size > 1:
            client.send(GET % b"/never")
        assert [client.read_response().status for _ in range(3)] == [200, 200, 400]
        client.expect_closed()
    assert [request.target for request in front.origin.requests] == [b"/0", b"/1"]


@pytest.mark.parametrize(
    "last",
    [
        b"GET /last HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n",
        b"GET /last HTTP/1.0\r\nHost: a.test\r\n\r\n",
    ],
    ids=["Connection: close", "HTTP/1.0"],
)
def test_nothing_is_read_after_the_last_request(any_front: Any, last: bytes) -> None:
    front = any_front()
    with front.client() as client:
        client.send(GET % b"/0" + last + GET % b"/never")
        assert [client.read_response().status for _ in range(2)] == [200, 200]
        client.expect_closed()
    assert [request.target for request in front.origin.requests] == [b"/0", b"/last"]


def test_a_failed_request_does_not_stop_those_behind_it(front: Any) -> None:
    started = front()
    started.origin.on("GET", "/bad", respond=b"nonsense\r\n\r\n")
    with started.client() as client:
        client.send(GET % b"/0" + GET % b"/bad" + GET % b"/1")
        assert [client.read_response().status for _ in range(3)] == [200, 502, 200]
        assert client.request("GET", "/2").status == 200
