"""The origin by itself: what it answers, what it keeps, and how it ends."""

from __future__ import annotations

import ctypes
import hashlib
import json
import socket
import sys
import threading
from collections.abc import Iterator

import pytest

from iocproxy.testing import (
    Close,
    Exchange,
    Expect,
    ExpectEnd,
    ExpectRequest,
    ExpectUntil,
    HalfClose,
    Origin,
    RawClient,
    Reset,
    Send,
    WaitFor,
    WireError,
    pattern,
)

wine = sys.platform == "win32" and hasattr(ctypes.windll.ntdll, "wine_get_version")
resets_show = pytest.mark.skipif(wine, reason="Wine shows a reset to a reader as an orderly end")


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as server:
        yield server


@pytest.fixture
def client(origin: Origin) -> Iterator[RawClient]:
    with RawClient(origin.address) as connected:
        yield connected


def test_the_echo_says_what_arrived(origin: Origin, client: RawClient) -> None:
    response = client.request("PUT", "/any/path?q=1", headers=[("X-One", "1")], body=b"\x00\xff")
    host = f"127.0.0.1:{origin.address[1]}"
    assert json.loads(response.body) == {
        "method": "PUT",
        "target": "/any/path?q=1",
        "version": 11,
        "headers": [["Host", host], ["X-One", "1"], ["Content-Length", "2"]],
        "body": "\x00\xff",
    }


@pytest.mark.parametrize("size", [1, 7, 1 << 16])
def test_a_request_is_kept_byte_for_byte(origin: Origin, client: RawClient, size: int) -> None:
    first = b"POST /a?b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;e\r\nabc\r\n0\r\nT: 1\r\n\r\n"
    second = b"GET / HTTP/1.1\r\nHost: y\r\n\r\n"
    client.send_slowly(first + second, size)
    assert [client.read_response().status for _ in range(2)] == [200, 200]
    one, two = origin.wait_for_requests(2)
    assert one.raw == first
    assert one.head == first[: first.index(b"\r\n\r\n") + 4]
    assert (one.method, one.target, one.path, one.query) == (b"POST", b"/a?b", "/a", "b")
    assert (one.body, one.body_length, one.trailers) == (b"abc", 3, [(b"T", b"1")])
    assert two.raw == second
    assert (one.connection, two.connection, origin.connections) == (0, 0, 1)
    assert repr(one) == "<ReceivedRequest POST /a?b on connection 0, body 3>"


@pytest.mark.parametrize("size", [0, 1, 250, 251, 65_511, 65_512, 300_000])
@pytest.mark.parametrize("target", ["/bytes/{}", "/stream/{}", "/stream/{}?chunk=1000"])
def test_bodies_of_any_size(client: RawClient, target: str, size: int) -> None:
    body = client.request("GET", target.format(size)).body
    assert body == bytes(index % 251 for index in range(size)) == pattern(size)


def test_a_body_that_ends_with_the_connection(client: RawClient) -> None:
    assert client.request("GET", "/until-close/70000").body == pattern(70_000)
    client.expect_closed()


@pytest.mark.parametrize(("target", "length"), [("/bytes/9", "9"), ("/stream/9", None), ("/status/404", "0")])
def test_head_has_no_body(client: RawClient, target: str, length: str | None) -> None:
    assert client.request("HEAD", target).header("content-length") == length
    assert client.request("GET", "/status/418").status == 418


@pytest.mark.parametrize("status", [200, 204, 304, 404, 503, 599])
def test_any_status(client: RawClient, status: int) -> None:
    assert client.request("GET", f"/status/{status}").status == status
    assert client.request("GET", "/status/200").status == 200


def test_a_large_upload_is_hashed_but_not_kept() -> None:
    data = pattern(1 << 20)
    with Origin(keep=1000) as origin, RawClient(origin.address) as client:
        answer = json.loads(client.request("POST", "/sink", body=data).body)
        (request,) = origin.wait_for_requests(1)
    assert answer == {"length": 1 << 20, "sha256": hashlib.sha256(data).hexdigest()}
    assert (request.body, request.body_length, request.complete) == (data[:1000], 1 << 20, True)


def test_delay_answers_later(client: RawClient) -> None:
    assert json.loads(client.request("GET", "/delay/0.01").body)["target"] == "/delay/0.01"


def test_continue_is_said_when_expected(client: RawClient) -> None:
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n")
    assert client.read_response().raw == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"x")
    assert client.read_response().status == 200


def test_connection_close_and_http_1_0_end_the_connection(origin: Origin, client: RawClient) -> None:
    client.request("GET", "/", headers=[("Connection", "close")])
    client.expect_closed()
    with RawClient(origin.address) as old:
        old.send(b"GET / HTTP/1.0\r\n\r\n")
        assert old.read_response().status == 200
        old.expect_closed()


def test_raw_bytes_are_sent_as_they_are(origin: Origin, client: RawClient) -> None:
    raw = b"HTTP/1.1 200 fine\r\ncontent-length:1\r\n\r\nx"
    origin.on(b"GET", b"/raw", respond=raw)
    assert client.request("GET", "/raw?x").raw == raw
    assert client.request("POST", "/raw").raw != raw


def test_the_latest_answer_wins_and_a_star_matches(origin: Origin, client: RawClient) -> None:
    origin.on("*", "/a*", respond=lambda exchange: exchange.respond(201))
    origin.on("GET", "/a/b", respond=lambda _: b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
    assert [client.request(*what).status for what in (("GET", "/a/b"), ("PUT", "/a/b"), ("GET", "/ab"))] == [
        202,
        201,
        201,
    ]


def test_an_answer_before_the_body(origin: Origin, client: RawClient) -> None:
    def early(exchange: Exchange) -> None:
        assert not exchange.request.complete
        exchange.respond(413, b"no")

    origin.on("POST", "/early", respond=early, read_body=False)
    client.send(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n")
    assert client.read_response().status == 413
    client.send(b"abcGET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert client.read_response().status == 200
    assert [request.body for request in origin.wait_for_requests(2)] == [b"abc", b""]
    assert origin.failures == []


def test_steps_answer_one_request(origin: Origin, client: RawClient) -> None:
    origin.on("GET", "/half", respond=[Send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", size=1), Close()])
    client.send(b"GET /half HTTP/1.1\r\nHost: x\r\n\r\n")
    assert client.read_until_closed().endswith(b"\r\n\r\nabc")


def test_a_script_takes_a_whole_connection_and_only_one(origin: Origin) -> None:
    script = origin.script([Expect(b"PING\r\n"), Send(b"PONG\r\n"), ExpectUntil(b"\r\n"), HalfClose(), ExpectEnd()])
    with RawClient(origin.address) as first, RawClient(origin.address) as second:
        first.send(b"PING\r\n")
        assert first.read_exactly(6) == b"PONG\r\n"
        first.send_slowly(b"BYE\r\n")
        first.expect_closed()
        assert second.request("GET", "/status/200").status == 200
    script.wait()
    assert script.done
    assert origin.failures == []


def test_a_script_reads_and_records_requests(origin: Origin, client: RawClient) -> None:
    origin.on("GET", "/", respond=b"unused")
    assert client.request("GET", "/status/200").status == 200
    script = origin.script([ExpectRequest(b"POST", b"/x"), Send(b"HTTP/1.1 200 OK\r\n\r\nrest"), Close()])
    with RawClient(origin.address) as other:
        assert other.request("POST", "/x", body=b"abc").body == b"rest"
    script.wait()
    assert [request.body for request in origin.requests] == [b"", b"abc"]


def test_a_script_waits_for_the_test(origin: Origin) -> None:
    go = threading.Event()
    script = origin.script([Send(b"a"), WaitFor(go), Send(b"b"), Close()])
    with RawClient(origin.address) as client:
        assert client.read_exactly(1) == b"a"
        assert not script.done
        go.set()
        assert client.read_until_closed() == b"b"
    script.wait()


@resets_show
def test_a_reset_is_a_reset(origin: Origin) -> None:
    origin.script([Expect(b"x"), Reset()])
    origin.script([Expect(b"x"), Close()])
    with RawClient(origin.address) as first, RawClient(origin.address) as second:
        first.send(b"x")
        first.expect_reset()
        second.send(b"x")
        second.expect_closed()


@pytest.mark.parametrize("step", [Expect(b"abcd"), ExpectUntil(b"\r\n"), ExpectRequest(b"POST"), ExpectEnd()])
def test_a_script_that_does_not_get_its_way_is_a_failure(origin: Origin, step: Expect) -> None:
    script = origin.script([step])
    with RawClient(origin.address) as client:
        client.send(b"GET / HTTP/1.1 \r\n"[:3] if isinstance(step, ExpectUntil) else b"GET / HTTP/1.1\r\n\r\n")
        client.half_close()
        client.expect_closed()
    with pytest.raises(WireError):
        script.wait()
    (failure,) = origin.failures
    assert repr(step) in failure


def test_a_request_that_breaks_http_is_a_failure(origin: Origin, client: RawClient) -> None:
    client.send(b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n")
    client.expect_closed()
    assert "Transfer-Encoding and Content-Length" in origin.failures[0]


def test_a_handler_that_raises_is_a_failure(origin: Origin, client: RawClient) -> None:
    origin.on("GET", "/", respond=lambda _: bytes(1 // 0))
    client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    client.expect_closed()
    assert origin.failures == ["connection 0: ZeroDivisionError: integer division or modulo by zero"]


def test_a_client_that_leaves_is_none(origin: Origin) -> None:
    with RawClient(origin.address) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
    with RawClient(origin.address) as client:
        origin.wait_for_connections(2)  # Windows does not accept who resets while still queued
        client.reset()
    origin.wait_for(lambda server: server.connections == 2 and server.open_connections == 0)
    (request,) = origin.requests
    assert (request.body, request.complete) == (b"abc", False)
    assert origin.failures == []


def test_waiting_ends(origin: Origin) -> None:
    with pytest.raises(TimeoutError, match=r"did not hold within 0\.01 s"):
        origin.wait_for_requests(1, timeout=0.01)
    with pytest.raises(TimeoutError):
        origin.wait_for_connections(1, timeout=0.01)
    with pytest.raises(TimeoutError):
        origin.script([]).wait(timeout=0.01)


def test_stop_joins_every_thread_whatever_it_does() -> None:
    before = set(threading.enumerate())
    origin = Origin().start()
    origin.script([WaitFor(threading.Event())])
    origin.script([Expect(b"never")])
    origin.script([])
    clients = [RawClient(origin.address) for _ in range(5)]
    clients[3].send(b"GET /delay/100 HTTP/1.1\r\nHost: x\r\n\r\n")
    origin.wait_for_connections(5)
    origin.wait_for_requests(1)
    origin.stop()
    origin.stop()
    assert set(threading.enumerate()) == before
    with pytest.raises(OSError):  # noqa: PT011  which one depends on the platform
        socket.create_connection(origin.address, timeout=2)
    for client in clients:
        client.close()


def test_connections_can_be_ended_while_it_goes_on(origin: Origin, client: RawClient) -> None:
    assert client.request("GET", "/status/200").status == 200
    origin.close_connections()
    client.expect_closed()
    with RawClient(origin.address) as again:
        assert again.request("GET", "/status/200").status == 200


def test_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    with Origin(host="::1") as origin, RawClient(origin.address) as client:
        assert origin.url == f"http://[::1]:{origin.address[1]}"
        assert client.request("GET", "/status/200").status == 200


def test_it_starts_once(origin: Origin) -> None:
    with pytest.raises(RuntimeError, match="started already"):
        origin.start()
