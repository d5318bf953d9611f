"""What a request may be and how slowly it may come, for all routes and for one."""

from __future__ import annotations

import select
import threading
import time
from typing import Any

import pytest

from iocproxy.testing import RawClient, Send, WaitFor

FINAL = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ROUTES = [
    {"path": "/", "upstream": "origin"},
    {
        "path": "/tight",
        "upstream": "origin",
        "http": {"max_request_line": "64B", "max_head": "300B", "max_fields": 3, "max_body": 5, "max_requests": 2},
    },
    {"path": "/wide", "upstream": "origin", "http": {"max_body": False, "max_requests": False, "trace": True}},
]


def post(path: bytes, length: int, *fields: bytes) -> bytes:
    return b"\r\n".join(
        [b"POST %b HTTP/1.1" % path, b"Host: a.test", b"Content-Length: %d" % length, *fields, b"", b""]
    )


def answered(client: RawClient, seconds: float) -> bool:
    """Whether the proxy says anything within that time."""
    return bool(select.select([client.sock], [], [], seconds)[0])


def chunked(path: bytes) -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n" % path


# ── 413 ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("expect", [(), (b"Expect: 100-continue",)])
def test_a_length_that_is_too_large_is_refused_before_anything_of_the_body_is_read(
    any_front: Any, expect: tuple[bytes, ...]
) -> None:
    front = any_front(http={"max_body": 5})
    with front.client() as client:
        client.send(post(b"/", 6, *expect))
        response = client.read_response()
        assert (response.status, response.header("connection")) == (413, "close")
        assert response.header("proxy-status") == "iocproxy; error=http_request_error"
        client.expect_closed()
    assert front.origin.connections == 0
    assert front.proxy.wait_for_records(1)[0].error == "client: a body of more than 5 octets"
    front.still_serves()


def test_the_largest_body(front: Any) -> None:
    started = front(http={"max_body": 5})
    with started.client() as client:
        client.send(post(b"/", 5) + b"hello" + chunked(b"/") + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n" + post(b"/", 0))
        assert [client.read_response().status for _ in range(3)] == [200, 200, 200]
    assert [request.body for request in started.origin.requests] == [b"hello", b"hello", b""]


@pytest.mark.parametrize("with_head", [True, False])
def test_chunks_that_become_too_large(any_front: Any, with_head: bool) -> None:
    front = any_front(http={"max_body": 5})
    with front.client() as client:
        if with_head:
            client.send(chunked(b"/") + b"6\r\nhello!\r\n")
        else:
            client.send(chunked(b"/") + b"2\r\nhe\r\n")
            front.origin.wait_for(lambda origin: len(origin.requests) == 1)
            client.send(b"4\r\nllo!\r\n")
        assert client.read_response().status == 413
        client.expect_closed()
    front.origin.wait_for(lambda origin: origin.open_connections == 0)
    assert not any(request.complete for request in front.origin.requests)
    front.still_serves()


def test_chunks_that_become_too_large_behind_the_answer(front: Any) -> None:
    """The head is out: the response can only be broken off, so that it does not look complete."""
    started = front(http={"max_body": 5})
    go = threading.Event()
    started.origin.on(
        "POST", "/", respond=[Send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfirst"), WaitFor(go)], read_body=False
    )
    with started.client() as client:
        client.send(chunked(b"/") + b"2\r\nhe\r\n")
        client.read_until(b"first")
        client.send(b"4\r\nllo!\r\n")
        client.expect_closed()
    go.set()
    assert started.proxy.wait_for_records(1)[0].error == "client: a body of more than 5 octets"


# ── one route's own ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET /tight/" + b"a" * 44 + b" HTTP/1.1\r\nHost: a.test\r\n\r\n", 200),
        (b"GET /tight/" + b"a" * 45 + b" HTTP/1.1\r\nHost: a.test\r\n\r\n", 414),
        (b"GET /other/" + b"a" * 45 + b" HTTP/1.1\r\nHost: a.test\r\n\r\n", 200),
        (b"GET /tight HTTP/1.1\r\nHost: a.test\r\nX: " + b"a" * 258 + b"\r\n\r\n", 200),
        (b"GET /tight HTTP/1.1\r\nHost: a.test\r\nX: " + b"a" * 259 + b"\r\n\r\n", 431),
        (b"GET /tight HTTP/1.1\r\nHost: a.test\r\nX: 1\r\nX: 2\r\n\r\n", 200),
        (b"GET /tight HTTP/1.1\r\nHost: a.test\r\nX: 1\r\nX: 2\r\nConnection: keep-alive\r\n\r\n", 431),
        (post(b"/tight", 5) + b"hello", 200),
        (post(b"/tight", 6) + b"hello!", 413),
        (post(b"/wide", 11) + b"hello world", 200),
        (post(b"/", 11) + b"hello world", 413),
    ],
)
def test_a_routes_bounds(front: Any, raw: bytes, status: int) -> None:
    started = front(http={"max_body": 10}, routes=ROUTES)
    with started.client() as client:
        for _ in range(2):  # the second time its fields are known
            client.send(raw)
            response = client.read_response()
            assert response.status == status
            if response.header("connection") == "close":
                break


@pytest.mark.parametrize(
    ("paths", "statuses"),
    [
        ([b"/tight", b"/tight", b"/tight"], [200, 200]),
        ([b"/", b"/", b"/tight", b"/"], [200, 200, 200]),
        ([b"/", b"/", b"/", b"/"], [200, 200, 200]),
        ([b"/wide"] * 5, [200] * 5),
        ([b"/wide"] * 3 + [b"/"] * 2, [200] * 4),
    ],
)
def test_the_last_request_of_a_connection(front: Any, paths: list[bytes], statuses: list[int]) -> None:
    started = front(http={"max_requests": 3}, routes=ROUTES)
    with started.client() as client:
        client.send(b"".join(b"GET %b HTTP/1.1\r\nHost: a.test\r\n\r\n" % path for path in paths))
        answers = [client.read_response() for _ in statuses]
        assert [answer.status for answer in answers] == statuses
        ends = len(statuses) < len(paths)
        assert [answer.header("connection") for answer in answers] == [None] * (len(answers) - 1) + (
            ["close"] if ends else [None]
        )
        if ends:
            client.expect_closed()
    assert len(started.origin.requests) == len(statuses)


def test_a_request_sent_before_it_was_known_that_none_may_follow_does_not_destroy_the_answer(any_front: Any) -> None:
    """The end is ours, so the client may have sent more by then: closing on top of it would reset the connection."""
    front = any_front(http={"max_requests": 1})
    front.origin.on("GET", "/x", respond=b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + bytes(300_000))
    for _ in range(20):
        with front.client() as client:
            client.send(b"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n")
            head, _ = client.read_head()
            client.send(b"GET /y HTTP/1.1\r\nHost: a.test\r\n\r\n" * 100)
            assert sum(map(len, client.read_body(head))) == 300_000
    assert {request.path for request in front.origin.requests} == {"/x"}


def test_a_routes_timeouts(front: Any) -> None:
    go = threading.Event()
    started = front(
        timeouts={"upstream_response": "150ms"},
        routes=[
            {"path": "/", "upstream": "origin"},
            {"path": "/slow", "upstream": "origin", "timeouts": {"upstream_response": "60s"}},
            {"path": "/body", "upstream": "origin", "timeouts": {"request_body": "150ms", "upstream_response": "60s"}},
        ],
    )
    for path in ("/fast", "/slow"):
        started.origin.on("GET", path, respond=[WaitFor(go), Send(FINAL)])
    with started.client() as slow, started.client() as fast, started.client() as body:
        slow.send(b"GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n")
        started.origin.wait_for(lambda origin: len(origin.requests) == 1)
        fast.send(b"GET /fast HTTP/1.1\r\nHost: a.test\r\n\r\n")
        assert fast.read_response().status == 504
        body.send(post(b"/body", 5) + b"hel")
        assert body.read_response().status == 408
        go.set()
        assert slow.read_response().status == 200


# ── rates ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_body_that_keeps_coming_but_too_slowly(any_front: Any) -> None:
    """Never silent for as long as `request_body`, and still cut off."""
    front = any_front(http={"min_body_rate": 1000, "min_body_grace": "200ms"}, timeouts={"request_body": "30s"})
    with front.client() as client:
        client.send(post(b"/", 100_000))
        begun = time.monotonic()
        sent = 0
        while not answered(client, 0.02):
            client.send(b"a")
            sent += 1
            assert sent < 1000
        assert client.read_response().status == 408
        client.expect_closed()
    assert time.monotonic() - begun < 20
    assert front.proxy.wait_for_records(1)[0].error == "client: the request's body came too slowly"
    front.still_serves()


def test_a_body_that_comes_too_slowly_behind_another_request(any_front: Any) -> None:
    """The pause in which the second request waited for its turn is no time of its body's."""
    front = any_front(http={"min_body_rate": 1000, "min_body_grace": "200ms"}, timeouts={"request_body": "30s"})
    with front.client() as client:
        client.send(b"GET /status/204 HTTP/1.1\r\nHost: a.test\r\n\r\n" + post(b"/", 100_000))
        assert client.read_response().status == 204
        sent = 0
        while not answered(client, 0.02):
            client.send(b"a")
            sent += 1
            assert sent < 1000
        assert client.read_response().status == 408
        client.expect_closed()


def test_what_came_quickly_buys_time(front: Any) -> None:
    started = front(http={"min_body_rate": 1000, "min_body_grace": 0})
    with started.client() as client:
        client.send(post(b"/", 60_001) + b"a" * 60_000)  # a minute's worth
        assert not answered(client, 0.5)
        client.send(b"a")
        assert client.read_response().status == 200


def test_the_time_in_which_the_proxy_does_not_read_does_not_count(front: Any) -> None:
    """An upstream that does not read holds the client; that is not the client's slowness."""
    go = threading.Event()
    size = 8_000_000
    started = front(http={"min_body_rate": size, "min_body_grace": "1s"}, timeouts={"request_body": "60s"})

    def answer(exchange: Any) -> None:
        assert go.wait(60)
        exchange.respond(200, str(len(exchange.read_body())).encode())

    started.origin.on("POST", "/", respond=answer, read_body=False)
    with started.client() as client:
        client.send(post(b"/", size))
        sender = threading.Thread(target=client.send, args=(b"a" * size,))
        sender.start()
        started.origin.wait_for(lambda origin: len(origin.requests) == 1)
        assert not answered(client, 2.5)
        go.set()
        assert client.read_response().body == b"%d" % size
        sender.join()


# ── TRACE and Max-Forwards ───────────────────────────────────────────────────────────────────────────────────────────


def test_trace_is_refused(front: Any) -> None:
    started = front(routes=ROUTES)
    with started.client() as client:
        response = client.request("TRACE", "/")
        assert response.status == 405
        assert response.header("Allow") == "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
        assert response.header("Proxy-Status") == "iocproxy; error=http_request_denied"
        assert client.request("GET", "/").status == 200  # nothing was ambiguous: the connection lives on
    assert [request.method for request in started.origin.requests] == [b"GET"]


def test_trace_where_it_is_wanted(front: Any) -> None:
    started = front(routes=ROUTES)
    with started.client() as client:
        assert client.request("TRACE", "/wide").status == 200
        client.send(b"TRACE /wide HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\n\r\nx")
        assert client.read_response().status == 400
    assert [request.method for request in started.origin.requests] == [b"TRACE"]


@pytest.mark.parametrize(
    ("method", "said", "status", "told"),
    [
        ("OPTIONS", "0", 200, None),
        ("OPTIONS", "1", 200, "0"),
        ("OPTIONS", "10", 200, "9"),
        ("TRACE", "0", 405, None),
        ("TRACE", "3", 200, "2"),
        ("OPTIONS", "-1", 400, None),
        ("OPTIONS", "1 2", 400, None),
        ("OPTIONS", "9999999999", 400, None),
        ("GET", "0", 200, "0"),  # RFC 9110 section 7.6.2: other methods are none of its business
        ("GET", "x", 200, "x"),
    ],
)
def test_max_forwards(front: Any, method: str, said: str, status: int, told: str | None) -> None:
    started = front(routes=ROUTES)
    with started.client() as client:
        for _ in range(2):
            response = client.request(method, "/wide", headers=[("Max-Forwards", said)])
            assert response.status == status
            if (method, said) == ("OPTIONS", "0"):
                assert (response.body, response.header("Allow")) == (
                    b"",
                    "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
                )
            if response.header("connection") == "close":
                break
    wanted = [told] * 2 if told else []
    assert [request.header("Max-Forwards") for request in started.origin.requests] == wanted


def test_max_forwards_twice(front: Any) -> None:
    started = front()
    with started.client() as client:
        client.send(b"OPTIONS * HTTP/1.1\r\nHost: a.test\r\nMax-Forwards: 1\r\nMax-Forwards: 1\r\n\r\n")
        assert client.read_response().status == 400
    assert started.origin.connections == 0
