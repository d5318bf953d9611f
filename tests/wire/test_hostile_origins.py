"""What an upstream must not answer: a 502 with Proxy-Status, a connection not used again, other clients unharmed."""

from __future__ import annotations

import contextlib
import runpy
import threading
from pathlib import Path
from typing import Any

import pytest

from iocproxy.testing import Close, ExpectEnd, ExpectRequest, RawClient, Reset, Send, WaitFor

_TABLES = runpy.run_path(str(Path(__file__).parents[1] / "http1" / "wire_tables.py"))
REFUSED: dict[str, bytes] = _TABLES["REFUSED_RESPONSES"]
NOT_CHUNKED: dict[str, bytes] = _TABLES["NOT_CHUNKED"]

POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"


def answer(client: RawClient, target: str) -> tuple[int, str]:
    response = client.request("GET", target, headers=[("Host", "a.test")])
    return response.status, response.header("proxy-status") or ""


@pytest.mark.parametrize("size", [0, 1], ids=["whole", "octet by octet"])
def test_an_ambiguous_response_is_a_502_and_its_connection_is_not_used_again(any_front: Any, size: int) -> None:
    front = any_front()
    tried = {name: raw for name, raw in REFUSED.items() if not size or len(raw) < 200}
    for index, raw in enumerate(tried.values()):

        def send(exchange: Any, raw: bytes = raw) -> None:
            with contextlib.suppress(OSError):  # the proxy hangs up as soon as it knows
                for at in range(0, len(raw), size or len(raw)):
                    exchange.send(raw[at : at + (size or len(raw))])

        front.origin.on("GET", f"/{index}", respond=send)
    outcomes = {}
    with front.client() as client:  # the client's connection outlives them all
        for index, name in enumerate(tried):
            status, why = answer(client, f"/{index}")
            outcomes[name] = (status, why.startswith("iocproxy; error=http_"))
        assert answer(client, "/status/200") == (200, "")
    assert outcomes == dict.fromkeys(tried, (502, True))
    requests = front.origin.requests
    assert len({request.connection for request in requests}) == len(requests) == len(tried) + 1
    assert all(record.error.startswith("upstream: ") for record in front.proxy.wait_for_records(len(tried))[:-1])


def test_a_response_body_that_is_not_chunked_never_looks_complete(any_front: Any) -> None:
    front = any_front()
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n"
    outcomes = {}
    for index, (name, body) in enumerate(NOT_CHUNKED.items()):
        go = threading.Event()
        front.origin.on("GET", f"/{index}", respond=[Send(head), WaitFor(go), Send(body)])
        with front.client() as client:
            client.send(b"GET /%d HTTP/1.1\r\nHost: a.test\r\n\r\n" % index)
            response, _ = client.read_head()
            pieces = client.read_body(response)
            assert next(pieces) == b"good"
            go.set()
            try:
                b"".join(pieces)
                outcomes[name] = "complete"
            except (AssertionError, OSError):
                outcomes[name] = "cut"
    assert outcomes == dict.fromkeys(NOT_CHUNKED, "cut")
    front.still_serves()


def test_what_follows_a_response_is_given_to_nobody(any_front: Any) -> None:
    front = any_front()
    answers = {
        "/length": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "/chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "/nothing": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "/204": b"HTTP/1.1 204 No Content\r\n\r\n",
        "/304": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\n",
    }
    for target, raw in answers.items():
        front.origin.on("GET", target, respond=raw + POISON)
    with front.client() as client:
        for target in answers:
            response = client.request("GET", target)
            assert response.body == (b"ok" if target in {"/length", "/chunked"} else b"")
            assert client.request("GET", "/bytes/3").body == b"\x00\x01\x02"
    requests = front.origin.requests
    assert all(
        after.connection != request.connection for request, after in zip(requests[::2], requests[1::2], strict=True)
    )


def test_a_body_behind_a_head_response_is_given_to_nobody(front: Any) -> None:
    started = front()
    started.origin.on("HEAD", "/", respond=b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
    with started.client() as client:
        assert client.request("HEAD", "/").header("content-length") == "6"
        assert client.request("GET", "/bytes/3").body == b"\x00\x01\x02"
    assert [request.connection for request in started.origin.requests] == [0, 1]


@pytest.mark.parametrize(
    "unasked",
    [POISON, b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", b"\r\n", b"\x00"],
    ids=["a response", "a 408", "an empty line", "garbage"],
)
def test_a_response_on_an_idle_connection_is_given_to_nobody(front: Any, unasked: bytes) -> None:
    started = front()
    go = threading.Event()
    script = started.origin.script(
        [
            ExpectRequest(b"GET", b"/first"),
            Send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst"),
            WaitFor(go),
            Send(unasked),
            ExpectEnd(),
        ]
    )
    with started.client() as client:
        assert client.request("GET", "/first").body == b"first"
        go.set()
        script.wait()
        assert client.request("GET", "/bytes/3").body == b"\x00\x01\x02"
    assert [request.connection for request in started.origin.requests] == [0, 1]


def test_a_101_that_nobody_asked_for(any_front: Any) -> None:
    front = any_front()
    front.origin.on(
        "GET",
        "/",
        respond=b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n" + POISON,
    )
    with front.client() as client:
        assert answer(client, "/") == (502, "iocproxy; error=http_upgrade_failed")
        assert answer(client, "/status/200") == (200, "")
    front.origin.wait_for(lambda origin: origin.open_connections <= 1)


@pytest.mark.parametrize("upgrade", [b"Upgrade: other\r\n", b"Upgrade: h2c\r\n", b""], ids=["other", "h2c", "none"])
def test_a_101_to_something_that_was_not_offered(front: Any, upgrade: bytes) -> None:
    """RFC 9110 section 7.8: a server switches to a protocol that the request named."""
    started = front()
    started.origin.on(
        "GET", "/", respond=b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n" + upgrade + b"\r\n"
    )
    with started.client() as client:
        response = client.request("GET", "/", headers=[("Connection", "Upgrade"), ("Upgrade", "websocket")])
        assert response.status == 502
        assert answer(client, "/status/200") == (200, "")


@pytest.mark.parametrize("count", [16, 17])
def test_interim_responses_in_a_row(front: Any, count: int) -> None:
    started = front()
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    started.origin.on("GET", "/", respond=interim * count + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    with started.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        statuses = [client.read_response().status for _ in range(17)]
        assert statuses == [103] * 16 + [200 if count == 16 else 502]
        assert answer(client, "/status/200") == (200, "")


@pytest.mark.parametrize("line", [b"X-A: " + b"a" * 1000 + b"\r\n", b"a" * 1000], ids=["fields", "one line"])
def test_a_head_that_does_not_end(any_front: Any, line: bytes) -> None:
    front = any_front()
    sent = 0

    def pour(exchange: Any) -> None:
        nonlocal sent
        exchange.ended = True
        with contextlib.suppress(OSError):
            exchange.send(b"HTTP/1.1 200 OK\r\n")
            while sent < 64 << 20:
                exchange.send(line)
                sent += len(line)

    front.origin.on("GET", "/", respond=pour)
    with front.client() as client:
        assert answer(client, "/") == (502, "iocproxy; error=http_response_header_section_size")
    front.origin.wait_for(lambda origin: origin.open_connections == 0)
    assert sent < 64 << 20
    front.still_serves()


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("end", [Close(), Reset()], ids=["close", "reset"])
@pytest.mark.parametrize(
    "begun",
    [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"],
    ids=["nothing", "half a line", "half a head", "an interim response"],
)
def test_an_end_before_the_head_is_complete(front: Any, method: str, end: Any, begun: bytes) -> None:
    started = front()
    started.origin.on("*", "/", respond=[Send(begun), end])
    with started.client() as client:
        response = client.request(method, "/", body=b"x" if method == "POST" else b"")
        assert response.status == 502
        assert (response.header("proxy-status") or "").startswith("iocproxy; error=")
        assert answer(client, "/status/200") == (200, "")
    assert [request.target for request in started.origin.requests] == [b"/", b"/status/200"]  # and no retry


def test_answers_mix_with_no_other_clients(front: Any) -> None:
    """Several clients over few upstream connections, some of which misbehave: each gets its own answer."""
    started = front()
    started.origin.on("GET", "/bad", respond=b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno" + POISON)
    clients = [started.client() for _ in range(4)]
    try:
        for turn in range(5):
            for number, client in enumerate(clients):
                if number == turn % 4:
                    assert client.request("GET", "/bad").body == b"no"
                else:
                    size = turn * 4 + number
                    assert client.request("GET", f"/bytes/{size}").body == bytes(range(size))
    finally:
        for client in clients:
            client.close()
