"""Upstream connections: reused, limited, waited for, expired; and what a stale one does to a request."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from iocproxy import Config, Proxy, Record
from iocproxy.testing import (
    Close,
    ExpectEnd,
    ExpectRequest,
    ExpectUntil,
    Origin,
    OriginFactory,
    ProxyFactory,
    RawClient,
    Reset,
    RunningProxy,
    Send,
    WaitFor,
)
from iocproxy.testing.patience import PATIENCE

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
def origin(iocproxy_origin: Origin) -> Origin:
    return iocproxy_origin


def start(
    iocproxy: ProxyFactory,
    origin: Origin,
    *,
    timeouts: dict[str, str] | None = None,
    http: dict[str, Any] | None = None,
    **pool: int,
) -> RunningProxy:
    upstreams = {"app": {"servers": [origin.url], **pool}}
    return iocproxy(upstreams=upstreams, timeouts=timeouts or {}, http=http or {})


def servers(proxy: RunningProxy) -> dict[str, int]:
    (only,) = proxy.stats()["upstreams"]["app"].values()
    return only


@contextlib.contextmanager
def clients(proxy: RunningProxy, count: int) -> Iterator[list[RawClient]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(RawClient(proxy.address)) for _ in range(count)]


def ask(client: RawClient, target: str = "/held") -> None:
    client.send(f"GET {target} HTTP/1.1\r\nHost: a.test\r\n\r\n".encode())


# ── reuse ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_connection_serves_request_after_request(iocproxy: ProxyFactory, origin: Origin) -> None:
    proxy = start(iocproxy, origin)
    for _ in range(3):
        with RawClient(proxy.address) as client:
            for _ in range(4):
                assert client.request("GET", "/status/204").status == 204
    assert origin.connections == 1
    stats = proxy.stats()
    assert (stats["upstream_connects"], stats["upstream_reused"]) == (1, 11)
    assert servers(proxy) == {"open": 1, "idle": 1, "waiting": 0}


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", id="connection: close"),
        pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", id="HTTP/1.0"),
        pytest.param(OK + b"HTTP/1.1 200 OK\r\n", id="bytes behind the response"),
    ],
)
def test_what_cannot_be_reused_is_not(iocproxy: ProxyFactory, origin: Origin, answer: bytes) -> None:
    origin.on("GET", "/once", answer)
    proxy = start(iocproxy, origin)
    with RawClient(proxy.address) as client:
        for _ in range(2):
            assert client.request("GET", "/once").body == b"ok"
    proxy.wait_for(lambda proxy: servers(proxy)["open"] == 0)
    assert origin.connections == 2
    assert proxy.stats()["upstream_reused"] == 0


def test_bytes_on_an_idle_connection_are_nobodys_response(iocproxy: ProxyFactory, origin: Origin) -> None:
    """A response that nobody asked for must not become the next client's (response queue poisoning)."""
    poison, poisoned = threading.Event(), b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
    origin.script([ExpectRequest(), Send(OK), WaitFor(poison), Send(poisoned)])
    proxy = start(iocproxy, origin)
    with RawClient(proxy.address) as client:
        assert client.request("GET", "/a").body == b"ok"
        poison.set()
        proxy.wait_for(lambda proxy: servers(proxy)["open"] == 0)
        assert b"poison" not in client.request("GET", "/b").body
    assert origin.connections == 2


def test_a_response_to_head_that_announces_no_length_is_its_connections_last(
    iocproxy: ProxyFactory, origin: Origin
) -> None:
    """Servers that send a body of no length to HEAD too would have it taken for the next client's response."""
    script = origin.script([ExpectRequest(b"HEAD"), Send(b"HTTP/1.1 200 OK\r\n\r\n"), ExpectEnd()])
    proxy = start(iocproxy, origin)
    with RawClient(proxy.address) as client:
        assert client.request("HEAD", "/stream").status == 200
        assert client.request("GET", "/bytes/2").body == b"\x00\x01"
    script.wait()
    assert origin.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
    ],
)
def test_after_other_responses_to_head_it_is_used_again(iocproxy: ProxyFactory, origin: Origin, answer: bytes) -> None:
    origin.on("HEAD", "/x", answer)
    proxy = start(iocproxy, origin)
    with RawClient(proxy.address) as client:
        client.request("HEAD", "/x")
        assert client.request("GET", "/bytes/2").body == b"\x00\x01"
    assert origin.connections == 1


def test_the_connection_used_last_is_used_first(iocproxy: ProxyFactory, origin: Origin) -> None:
    proxy = start(iocproxy, origin)
    gates = [threading.Event() for _ in range(3)]
    for number, gate in enumerate(gates):
        origin.on("GET", f"/held{number}", [WaitFor(gate), Send(OK)])
    with clients(proxy, 3) as three:
        for number, client in enumerate(three):
            ask(client, f"/held{number}")
            origin.wait_for_requests(number + 1)
        for number in (1, 0, 2):
            gates[number].set()
            assert three[number].read_response().status == 200
        proxy.wait_for(lambda proxy: servers(proxy)["idle"] == 3)
        for _ in range(3):
            assert three[0].request("GET", "/status/204").status == 204
    assert [request.connection for request in origin.requests[3:]] == [2, 2, 2]


# ── limits ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_more_connections_than_allowed_and_the_others_wait_in_line(iocproxy: ProxyFactory, origin: Origin) -> None:
    gate = threading.Event()
    origin.on("GET", "/held", [WaitFor(gate), Send(OK)])
    proxy = start(iocproxy, origin, max_connections=2)
    with clients(proxy, 6) as six:
        for number, client in enumerate(six):
            ask(client)
            if number < 2:
                origin.wait_for_requests(number + 1)
            else:
                proxy.wait_for(lambda proxy, number=number: servers(proxy)["waiting"] == number - 1)
        assert servers(proxy) == {"open": 2, "idle": 0, "waiting": 4}
        gate.set()
        assert [client.read_response().status for client in six] == [200] * 6
    assert origin.connections == 2
    assert len(origin.requests) == 6
    assert proxy.stats()["upstream_reused"] == 4


def test_whoever_waited_longest_is_served_first(iocproxy: ProxyFactory, origin: Origin) -> None:
    gate = threading.Event()
    origin.on("GET", "/held", [WaitFor(gate), Send(OK)])
    proxy = start(iocproxy, origin, max_connections=1)
    with clients(proxy, 6) as six:
        ask(six[0])
        origin.wait_for_requests(1)
        for number, client in enumerate(six[1:], 1):
            ask(client, f"/{number}")
            proxy.wait_for(lambda proxy, number=number: servers(proxy)["waiting"] == number)
        gate.set()
        for client in six:
            assert client.read_response().status == 200
    assert [request.path for request in origin.requests[1:]] == [f"/{number}" for number in range(1, 6)]


def test_waiting_for_a_place_ends_in_503(iocproxy: ProxyFactory, origin: Origin) -> None:
    gate = threading.Event()
    origin.on("GET", "/held", [WaitFor(gate), Send(OK)])
    proxy = start(iocproxy, origin, max_connections=1, timeouts={"connect": "300ms"})
    with clients(proxy, 2) as (first, second):
        ask(first)
        origin.wait_for_requests(1)
        ask(second)
        refused = second.read_response()
        assert refused.status == 503
        assert refused.header("Proxy-Status") == "iocproxy; error=connection_limit_reached"
        gate.set()
        assert first.read_response().body == b"ok"
        assert second.request("GET", "/status/204").status == 204  # the connection lives on
    record = proxy.wait_for_records(3)[0]
    assert (record.status, record.upstream) == (503, "")
    assert "in use" in record.error
    assert proxy.stats()["upstream_connect_failures"] == 0


def test_no_more_wait_than_there_is_room_for(
    iocproxy: ProxyFactory, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iocproxy.upstream.server.MAX_WAITING", 2)
    gate = threading.Event()
    origin.on("GET", "/held", [WaitFor(gate), Send(OK)])
    proxy = start(iocproxy, origin, max_connections=1)
    with clients(proxy, 4) as (first, second, third, fourth):
        ask(first)
        origin.wait_for_requests(1)
        for number, client in enumerate((second, third), 1):
            ask(client)
            proxy.wait_for(lambda proxy, number=number: servers(proxy)["waiting"] == number)
        refused = fourth.request("GET", "/x")
        assert refused.status == 503
        assert refused.header("Proxy-Status") == "iocproxy; error=connection_limit_reached"
        gate.set()
        assert [client.read_response().status for client in (first, second, third)] == [200] * 3


def test_a_client_that_leaves_the_line_leaves_its_place_to_the_next(iocproxy: ProxyFactory, origin: Origin) -> None:
    gate = threading.Event()
    origin.on("GET", "/held", [WaitFor(gate), Send(OK)])
    proxy = start(iocproxy, origin, max_connections=1)
    with clients(proxy, 3) as (first, leaver, third):
        ask(first)
        origin.wait_for_requests(1)
        ask(leaver, "/never")
        proxy.wait_for(lambda proxy: servers(proxy)["waiting"] == 1)
        ask(third, "/third")
        proxy.wait_for(lambda proxy: servers(proxy)["waiting"] == 2)
        leaver.reset()
        proxy.wait_for(lambda proxy: servers(proxy)["waiting"] == 1)
        gate.set()
        assert first.read_response().status == 200
        assert third.read_response().status == 200
    assert [request.path for request in origin.requests] == ["/held", "/third"]
    assert 499 in {record.status for record in proxy.wait_for_records(3)}


def test_a_client_that_leaves_while_its_answer_is_awaited_frees_the_connections_place(
    iocproxy: ProxyFactory, origin: Origin
) -> None:
    gate = threading.Event()
    origin.on("GET", "/held", [WaitFor(gate), Send(OK)])
    proxy = start(iocproxy, origin, max_connections=1)
    with clients(proxy, 2) as (first, second):
        ask(first)
        origin.wait_for_requests(1)
        ask(second, "/second")
        proxy.wait_for(lambda proxy: servers(proxy)["waiting"] == 1)
        first.reset()
        assert second.read_response().status == 200
        gate.set()
    assert origin.connections == 2


async def test_a_connection_given_back_before_the_one_who_needs_it_begins_to_wait_is_found() -> None:
    """The request and the response that frees the only connection arrive in one turn of the loop, in that order: the
    request finds none idle, and its task starts to wait only after the connection was given back."""
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config = Config(
        listeners=[{"bind": "127.0.0.1:0"}],
        upstreams={"app": {"servers": [url], "max_connections": 1}},
        timeouts={"connect": "2s"},
        logging={"access": False},
    )
    head = b"GET /%d HTTP/1.1\r\nHost: a.test\r\n\r\n"
    records: list[Record] = []
    async with Proxy(config, on_record=records.append) as proxy, asyncio.timeout(PATIENCE):
        with contextlib.ExitStack() as stack:
            stack.enter_context(listener)
            socks = []
            for _ in range(2):
                sock = stack.enter_context(socket.socket())
                sock.setblocking(False)
                await loop.sock_connect(sock, proxy.addresses[0][:2])
                socks.append(sock)
            first, second = socks
            await loop.sock_sendall(first, head % 1)
            upstream, _ = await loop.sock_accept(listener)
            stack.enter_context(upstream)
            upstream.setblocking(False)
            assert (await loop.sock_recv(upstream, 65536)).startswith(b"GET /1 ")
            # no turn of the loop between these two
            second.send(head % 2)
            upstream.send(OK)
            assert (await loop.sock_recv(upstream, 65536)).startswith(b"GET /2 ")
            upstream.send(OK)
            assert (await loop.sock_recv(first, 65536)).endswith(b"ok")
            assert (await loop.sock_recv(second, 65536)).endswith(b"ok")
    assert [record.status for record in records] == [200, 200]


@pytest.mark.parametrize(("max_idle", "kept"), [(0, 0), (1, 1), (2, 2)])
def test_no_more_are_kept_than_max_idle(iocproxy: ProxyFactory, origin: Origin, max_idle: int, kept: int) -> None:
    gate = threading.Event()
    origin.on("GET", "/held", [WaitFor(gate), Send(OK)])
    proxy = start(iocproxy, origin, max_idle=max_idle)
    with clients(proxy, 3) as three:
        for number, client in enumerate(three, 1):
            ask(client)
            origin.wait_for_requests(number)
        gate.set()
        for client in three:
            assert client.read_response().status == 200
        proxy.wait_for(lambda proxy: servers(proxy) == {"open": kept, "idle": kept, "waiting": 0})
        origin.wait_for(lambda origin: origin.open_connections == kept)


def test_an_idle_connection_expires(iocproxy: ProxyFactory, origin: Origin) -> None:
    proxy = start(iocproxy, origin, timeouts={"upstream_idle": "200ms"})
    with RawClient(proxy.address) as client:
        assert client.request("GET", "/status/204").status == 204
        origin.wait_for(lambda origin: origin.open_connections == 0)
        proxy.wait_for(lambda proxy: servers(proxy) == {"open": 0, "idle": 0, "waiting": 0})
        assert client.request("GET", "/status/204").status == 204
    assert origin.connections == 2
    assert proxy.stats()["upstream_retries"] == 0


def test_an_origin_that_closes_an_idle_connection_costs_nothing(iocproxy: ProxyFactory, origin: Origin) -> None:
    proxy = start(iocproxy, origin)
    with RawClient(proxy.address) as client:
        assert client.request("GET", "/status/204").status == 204
        origin.close_connections()
        proxy.wait_for(lambda proxy: servers(proxy)["open"] == 0)
        assert client.request("POST", "/status/204", body=b"x").status == 204
    assert proxy.stats()["upstream_retries"] == 0


# ── stale connections: the origin closes as the request arrives (RFC 9112 section 9.3.1) ─────────────────────────────

PUT_BODY = bytes(range(256)) * 64  # 16 KiB, within what is kept for a retry


def stale(origin: Origin, end: object = None) -> None:
    """A first connection that answers once and then ends upon the next request, without a byte of response."""
    origin.script([ExpectRequest(), Send(OK), ExpectRequest(), end or Close()])


#: IANA's registry of methods says so of these.
IDEMPOTENT = [
    "GET",
    "HEAD",
    "OPTIONS",
    "PUT",
    "DELETE",
    "TRACE",
    "ACL",
    "BIND",
    "CHECKOUT",
    "COPY",
    "LINK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MOVE",
    "PROPFIND",
    "PROPPATCH",
    "QUERY",
    "REBIND",
    "REPORT",
    "SEARCH",
    "UNBIND",
    "UNLINK",
    "UNLOCK",
]


@pytest.mark.parametrize("method", IDEMPOTENT)
@pytest.mark.parametrize("end", [Close(), Reset()], ids=["fin", "reset"])
def test_a_request_that_can_be_repeated_is(iocproxy: ProxyFactory, origin: Origin, method: str, end: object) -> None:
    stale(origin, end)
    proxy = start(iocproxy, origin, http={"trace": True})
    body = PUT_BODY if method == "PUT" else b""
    with RawClient(proxy.address) as client:
        assert client.request("GET", "/first").body == b"ok"
        assert client.request(method, "/again", body=body).status == 200
        assert client.request("GET", "/third").status == 200
    again = [request for request in origin.requests if request.path == "/again"]
    assert [request.connection for request in again] == [0, 1]
    assert [request.body for request in again] == [body, body]
    assert again[0].raw == again[1].raw
    stats = proxy.stats()
    assert (stats["upstream_retries"], stats["requests"]) == (1, 3)
    assert [record.status for record in proxy.wait_for_records(3)] == [200, 200, 200]


def test_a_chunked_put_is_repeated_whole(iocproxy: ProxyFactory, origin: Origin) -> None:
    stale(origin)
    proxy = start(iocproxy, origin)
    with RawClient(proxy.address) as client:
        assert client.request("GET", "/first").body == b"ok"
        client.send(b"PUT /again HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        origin.wait_for(lambda origin: len(origin.requests) == 2)
        client.send(b"4\r\ndefg\r\n0\r\n\r\n")
        assert client.read_response().status == 200
    assert [request.body for request in origin.requests[1:]] == [b"abcdefg", b"abcdefg"]


@pytest.mark.parametrize("method", [method for method in IDEMPOTENT if method != "TRACE"])  # which has no body
@pytest.mark.parametrize(
    "point",
    [
        pytest.param([], id="nothing read"),
        pytest.param([ExpectUntil(b"/ag")], id="within the first line"),
        pytest.param([ExpectUntil(b"Via: ")], id="within the head"),
        pytest.param([ExpectUntil(b"\r\n\r\n")], id="behind the head"),
        pytest.param([ExpectUntil(PUT_BODY[:300])], id="within the body"),
    ],
)
def test_wherever_the_origin_was_when_it_closed(
    iocproxy: ProxyFactory, origin: Origin, method: str, point: list[Any]
) -> None:
    go = threading.Event()
    origin.script([ExpectRequest(), Send(OK), WaitFor(go), *point, Close()])
    proxy = start(iocproxy, origin)
    with RawClient(proxy.address) as client:
        assert client.request("GET", "/first").body == b"ok"
        framing = b"Content-Length: %d\r\n" % len(PUT_BODY)
        client.send(b"%b /again HTTP/1.1\r\nHost: a\r\n%b\r\n%b" % (method.encode(), framing, PUT_BODY))
        go.set()
        assert client.read_response(method.encode()).status == 200
        assert client.request("GET", "/third").status == 200
    (again,) = [request for request in origin.requests if request.path == "/again"]  # the other one was never whole
    assert (again.connection, again.body) == (1, PUT_BODY)


@pytest.mark.parametrize("method", ["POST", "PATCH", "LOCK"])
def test_a_request_that_must_not_be_repeated_is_a_502(iocproxy: ProxyFactory, origin: Origin, method: str) -> None:
    stale(origin)
    proxy = start(iocproxy, origin)
    with RawClient(proxy.address) as client:
        assert client.request("GET", "/first").body == b"ok"
        refused = client.request(method, "/once", body=b"pay 10")
        assert refused.status == 502
        assert refused.header("Proxy-Status") == "iocproxy; error=connection_terminated"
        assert client.request("GET", "/third").status == 200
    assert len([request for request in origin.requests if request.path == "/once"]) == 1
    assert proxy.stats()["upstream_retries"] == 0


@pytest.mark.parametrize("begun", [b"H", b"HTTP/1.1 200 OK\r\nContent-", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_nothing_is_repeated_once_a_byte_of_the_response_came(
    iocproxy: ProxyFactory, origin: Origin, begun: bytes
) -> None:
    origin.script([ExpectRequest(), Send(OK), ExpectRequest(), Send(begun), Close()])
    proxy = start(iocproxy, origin)
    with RawClient(proxy.address) as client:
        assert client.request("GET", "/first").body == b"ok"
        assert client.request("GET", "/once").status == 502
    assert len(origin.requests) == 2
    assert proxy.stats()["upstream_retries"] == 0


def test_a_body_too_large_to_keep_is_not_repeated(iocproxy: ProxyFactory, origin: Origin) -> None:
    stale(origin)
    proxy = start(iocproxy, origin)
    with RawClient(proxy.address) as client:
        assert client.request("GET", "/first").body == b"ok"
        assert client.request("PUT", "/once", body=bytes(200_000)).status == 502
    assert proxy.stats()["upstream_retries"] == 0
    assert len(origin.requests) == 2


def test_a_new_connection_that_closes_is_not_stale(iocproxy: ProxyFactory, origin: Origin) -> None:
    origin.script([ExpectRequest(), Close()])
    proxy = start(iocproxy, origin)
    with RawClient(proxy.address) as client:
        assert client.request("GET", "/x").status == 502
        assert client.request("GET", "/y").status == 200
    assert [request.path for request in origin.requests] == ["/x", "/y"]


def test_it_is_repeated_once_only_and_on_a_fresh_connection(
    iocproxy: ProxyFactory, iocproxy_origin_factory: OriginFactory
) -> None:
    """The connection used last turns out stale. The other one in the pool, which never answers again, is no place for
    the retry: it is as old, and there is only one retry."""
    origin = iocproxy_origin_factory()
    gates = threading.Event(), threading.Event()
    origin.script([ExpectRequest(), WaitFor(gates[0]), Send(OK)])
    origin.script([ExpectRequest(), WaitFor(gates[1]), Send(OK), ExpectRequest(), Close()])
    proxy = start(iocproxy, origin)
    with clients(proxy, 2) as both:
        for number, client in enumerate(both, 1):
            ask(client)
            origin.wait_for_requests(number)
        for number, client in enumerate(both, 1):
            gates[number - 1].set()
            assert client.read_response().status == 200
            proxy.wait_for(lambda proxy, number=number: servers(proxy)["idle"] == number)
        assert both[0].request("GET", "/again").status == 200
    assert [request.connection for request in origin.requests if request.path == "/again"] == [1, 2]
    assert proxy.stats()["upstream_retries"] == 1


def test_a_retry_that_fails_too_is_a_502(iocproxy: ProxyFactory, origin: Origin) -> None:
    stale(origin)
    origin.script([ExpectRequest(), Close()])
    proxy = start(iocproxy, origin)
    with RawClient(proxy.address) as client:
        assert client.request("GET", "/first").body == b"ok"
        assert client.request("GET", "/again").status == 502
        assert client.request("GET", "/third").status == 200
    assert [request.path for request in origin.requests] == ["/first", "/again", "/again", "/third"]
