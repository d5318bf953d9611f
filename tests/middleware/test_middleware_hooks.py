"""User classes around real connections and requests: each hook, plain and async, in order, and when it fails."""

from __future__ import annotations

import contextlib
import importlib
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from iocproxy.testing import Origin, ProxyFactory, RawClient, RunningProxy, Send, WaitFor
from iocproxy.testing.patience import PATIENCE

Run = Callable[..., tuple[RunningProxy, ModuleType]]

KINDS = pytest.mark.parametrize("kind", ["def", "async def"])


@pytest.fixture
def run(iocproxy: ProxyFactory, iocproxy_origin: Origin, module: Callable[[str], str]) -> Run:
    """Start a proxy with the classes of `source` named in `uses`; `{d}` in it is ``def`` or ``async def``."""

    def start(
        source: str, *uses: str, kind: str = "def", options: dict[str, Any] | None = None, **sections: Any
    ) -> tuple[RunningProxy, ModuleType]:
        name = module(HEADER + source.replace("{d}", kind))
        middleware = [{"use": f"{name}:{use}", "options": options or {}} for use in uses or ("Mine",)]
        proxy = iocproxy(upstream=iocproxy_origin, middleware=middleware, **sections)
        return proxy, importlib.import_module(name)

    return start


HEADER = """
import asyncio
from iocproxy import Response
seen = []
"""


def ended_without_a_byte(address: tuple[str, int]) -> bool:
    with socket.create_connection(address, PATIENCE) as sock:
        with contextlib.suppress(ConnectionError):
            return sock.recv(1) == b""
        return True


# ── order ────────────────────────────────────────────────────────────────────────────────────────────────────────────

TRACE = """
class Trace:
    name = ""
    {d} on_connect(self, client): seen.append((self.name, "connect", client.address))
    {d} on_request(self, request): seen.append((self.name, "request", request.method))
    {d} on_response(self, request, response): seen.append((self.name, "response", response.status))
    {d} on_complete(self, record): seen.append((self.name, "complete", record.status))
    def on_disconnect(self, client): seen.append((self.name, "disconnect", client.port > 0))
class A(Trace): name = "a"
class B(Trace): name = "b"
"""


@KINDS
def test_every_hook_is_called_in_the_order_of_the_configuration(run: Run, kind: str) -> None:
    proxy, module = run(TRACE, "A", "B", kind=kind)
    with RawClient(proxy.address) as client:
        for _ in range(2):
            assert client.request("GET", "/status/204").status == 204
        proxy.wait_for(lambda _: len(module.seen) == 14)
    proxy.wait_for(lambda _: len(module.seen) == 16)
    request = [("a", "request", "GET"), ("b", "request", "GET"), ("a", "response", 204), ("b", "response", 204)]
    request += [("a", "complete", 204), ("b", "complete", 204)]
    assert module.seen == [
        ("a", "connect", "127.0.0.1"),
        ("b", "connect", "127.0.0.1"),
        *request,
        *request,
        ("b", "disconnect", True),
        ("a", "disconnect", True),
    ]


def test_options_reach_the_class(run: Run) -> None:
    source = """
class Mine:
    def __init__(self, *, name, values): self.name, self.values = name, values
    def on_request(self, request): request.headers[self.name] = ",".join(map(str, self.values))
"""
    proxy, _ = run(source, options={"name": "X-Set", "values": [1, "two"]})
    with RawClient(proxy.address) as client:
        assert ["X-Set", "1,two"] in json.loads(client.request("GET", "/").body)["headers"]


# ── on_request ───────────────────────────────────────────────────────────────────────────────────────────────────────

ANSWER = """
class Mine:
    {d} on_request(self, request):
        seen.append(request)
        if request.path == "/mine":
            return Response(418, [("X-Mine", "1"), ("Content-Length", "999"), ("Connection", "upgrade")], b"teapot")
        if request.path == "/empty":
            return Response(204)
"""


@KINDS
def test_it_may_answer_by_itself(run: Run, iocproxy_origin: Origin, kind: str) -> None:
    proxy, _ = run(ANSWER, kind=kind)
    with RawClient(proxy.address) as client:
        for _ in range(2):
            answer = client.request("GET", "/mine")
            assert (answer.status, answer.body) == (418, b"teapot")
            assert answer.header("X-Mine") == "1"
            assert answer.header("Content-Length") == "6"  # framing is the proxy's
            assert answer.header("Connection") is None
            assert answer.header("Date")
        head = client.request("HEAD", "/mine")
        assert (head.status, head.body, head.header("Content-Length")) == (418, b"", "6")
        assert client.request("GET", "/empty").status == 204
        assert client.request("POST", "/mine", body=b"complete").status == 418
        assert client.request("GET", "/status/200").status == 200
    assert len(iocproxy_origin.requests) == 1
    assert [record.status for record in proxy.wait_for_records(6)] == [418, 418, 418, 204, 418, 200]
    assert {record.upstream for record in proxy.records[:5]} == {""}


@KINDS
def test_a_pipeline_of_its_answers_stays_in_order(run: Run, kind: str) -> None:
    proxy, _ = run(ANSWER, kind=kind)
    with RawClient(proxy.address) as client:
        paths = ["/mine", "/status/201", "/empty", "/mine", "/status/202", "/mine"] * 5
        client.send(b"".join(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode() for path in paths))
        wanted = [418, 201, 204, 418, 202, 418] * 5
        assert [client.read_response().status for _ in paths] == wanted


@KINDS
def test_it_may_change_what_is_forwarded(run: Run, iocproxy_origin: Origin, kind: str) -> None:
    source = """
class Mine:
    {d} on_request(self, request):
        request.headers["X-Added"] = "yes"
        del request.headers["X-Secret"]
        request.target = b"/rewritten?by=me"
        request.state["n"] = 7
    {d} on_response(self, request, response):
        response.headers["X-State"] = str(request.state["n"])
"""
    proxy, _ = run(source, kind=kind)
    with RawClient(proxy.address) as client:
        answer = client.request("POST", "/old", headers=[("X-Secret", "s"), ("X-Kept", "k")], body=b"the body")
    assert answer.header("X-State") == "7"
    (request,) = iocproxy_origin.requests
    assert request.target == b"/rewritten?by=me"
    assert (request.header("X-Added"), request.header("X-Secret"), request.header("X-Kept")) == ("yes", None, "k")
    assert request.body == b"the body"
    assert proxy.wait_for_records(1)[0].target == "/rewritten?by=me"


@pytest.mark.parametrize("hook", ["on_request(self, request)", "on_response(self, request, response)"])
def test_what_it_changes_is_changed_for_that_request_only(run: Run, iocproxy_origin: Origin, hook: str) -> None:
    """Heads that repeat an earlier one are not parsed again; what came of the earlier one must not show."""
    source = f"""
class Mine:
    def {hook}:
        seen.append(request.headers.get_all("X-Mark"))
        request.headers.add("X-Mark", "mine")
    def on_complete(self, record): ...
"""
    proxy, module = run(source)
    with RawClient(proxy.address) as client:
        for _ in range(3):
            assert client.request("GET", "/", headers=[("X-Mark", "client's")]).status == 200
    assert module.seen == [["client's"]] * 3
    forwarded = 2 if "on_request" in hook else 1
    assert [len(request.header_values("X-Mark")) for request in iocproxy_origin.requests] == [forwarded] * 3


@pytest.mark.parametrize("name", ["Content-Length", "Transfer-Encoding", "Connection", "Host"])
def test_it_cannot_change_the_framing_of_what_is_forwarded(run: Run, iocproxy_origin: Origin, name: str) -> None:
    """A second Content-Length, or one beside Transfer-Encoding, would be a smuggled request (RFC 9112 section 11.2).

    The origin here is strict: what breaks HTTP there fails the test."""
    value = {"Content-Length": "1", "Transfer-Encoding": "chunked", "Connection": "close", "Host": "evil.test"}[name]
    proxy, _ = run(f"class Mine:\n    def on_request(self, request): request.headers.add({name!r}, {value!r})\n")
    with RawClient(proxy.address) as client:
        assert client.request("POST", "/x", body=b"12345").status == 200
        assert client.request("GET", "/y").status == 200
    assert [request.body for request in iocproxy_origin.requests] == [b"12345", b""]
    assert all(len(request.header_values(name)) <= 1 for request in iocproxy_origin.requests)
    assert "evil.test" not in [request.header("Host") for request in iocproxy_origin.requests]


@pytest.mark.parametrize("target", [b"/a b", b"/a\r\nX-Evil: 1", b"nothing", b"", b"/\xe4"])
def test_a_target_that_cannot_be_on_the_wire_is_never_sent(run: Run, iocproxy_origin: Origin, target: bytes) -> None:
    proxy, _ = run(f"class Mine:\n    def on_request(self, request): request.target = {target!r}\n")
    with RawClient(proxy.address) as client:
        assert client.request("GET", "/x").status == 500
    assert iocproxy_origin.requests == []


NAMING = """
class Mine:
    {d} on_request(self, request):
        seen.append(request.request_id)
        request.request_id = 7
        if request.path == "/field":
            request.headers["X-Request-ID"] = "field"
"""


@KINDS
def test_it_sees_the_id_of_a_request_and_cannot_change_it(run: Run, iocproxy_origin: Origin, kind: str) -> None:
    proxy, module = run(NAMING, kind=kind, forwarding={"request_id": "keep"})
    with RawClient(proxy.address) as client:
        for path in ("/", "/field"):
            assert client.request("GET", path, headers=[("X-Request-ID", "abc")]).status == 200
    assert module.seen == ["abc", "abc"]
    assert [request.header("X-Request-ID") for request in iocproxy_origin.requests] == ["abc", "abc"]
    assert [record.request_id for record in proxy.wait_for_records(2)] == ["abc", "abc"]


def test_where_requests_have_no_id_the_field_is_like_any_other(run: Run, iocproxy_origin: Origin) -> None:
    proxy, module = run(NAMING)
    with RawClient(proxy.address) as client:
        for path in ("/", "/field"):
            assert client.request("GET", path, headers=[("X-Request-ID", "abc")]).status == 200
    assert module.seen == ["", ""]
    assert [request.header("X-Request-ID") for request in iocproxy_origin.requests] == ["abc", "field"]
    assert [record.request_id for record in proxy.wait_for_records(2)] == ["", ""]


@pytest.mark.parametrize("upstream_host", ["keep", "server", "route.test"])
def test_the_host_it_sets_goes_before_the_routes(run: Run, iocproxy_origin: Origin, upstream_host: str) -> None:
    source = """
class Mine:
    def on_request(self, request):
        if request.path == "/mine":
            request.host = b"mine.test"
"""
    proxy, _ = run(source, routes=[{"upstream": "origin", "upstream_host": upstream_host}])
    with RawClient(proxy.address) as client:
        for path in ("/mine", "/"):
            assert client.request("GET", path, headers=[("Host", "a.test")]).status == 200
    host, port = iocproxy_origin.address
    of_route = {"keep": "a.test", "server": f"{host}:{port}"}.get(upstream_host, upstream_host)
    told = [(request.header("Host"), request.header("X-Forwarded-Host")) for request in iocproxy_origin.requests]
    assert told == [("mine.test", "a.test"), (of_route, "a.test")]


def test_its_own_429_is_not_replaced_by_an_error_page(run: Run, tmp_path: Path) -> None:
    (tmp_path / "429.html").write_bytes(b"page")
    source = "class Mine:\n    def on_request(self, request): return Response(429, body=b'mine')\n"
    proxy, _ = run(source, errors={"pages": {"429": str(tmp_path / "429.html")}})
    with RawClient(proxy.address) as client:
        answer = client.request("GET", "/")
        assert (answer.status, answer.body) == (429, b"mine")


@KINDS
def test_one_that_fails_is_a_500_and_the_connection_lives_on(run: Run, iocproxy_origin: Origin, kind: str) -> None:
    source = """
class Mine:
    {d} on_request(self, request):
        if request.path == "/fail":
            raise LookupError("of mine")
"""
    proxy, _ = run(source, kind=kind)
    with RawClient(proxy.address) as client:
        answer = client.request("GET", "/fail")
        assert answer.status == 500
        assert b"of mine" not in answer.raw
        assert answer.header("Proxy-Status") == "iocproxy; error=proxy_internal_error"
        assert client.request("GET", "/status/204").status == 204
    event = proxy.wait_for_event("middleware_failed")
    assert (event["level"], event["hook"]) == ("error", "on_request")
    assert "LookupError: of mine" in event["exception"]
    assert proxy.wait_for_records(1)[0].status == 500


MISTAKES = {
    "returns something else": "{d} on_request(self, request): return True",
    "answers with a text": "{d} on_request(self, request): return Response(200, body='text')",
    "answers with a field of its own": """{d} on_request(self, request):
        response = Response(200)
        response.fields.append(("x", "y"))
        return response""",
    "answers with another status later": """{d} on_request(self, request):
        response = Response(200)
        response.status = "200"
        return response""",
    "adds a field of texts": "{d} on_request(self, request): request.fields.append(('x', 'y'))",
    "adds a field that is two": "{d} on_request(self, request): request.fields.append((b'x', b'y\\r\\nEvil: 1'))",
    "adds a name that is none": "{d} on_request(self, request): request.fields.append((b'x y', b'1'))",
    "adds what is no field": "{d} on_request(self, request): request.fields.append(b'x: y')",
    "replaces the fields": "{d} on_request(self, request): request.fields = None",
    "makes the target a text": "{d} on_request(self, request): request.target = '/'",
    "makes the host a text": "{d} on_request(self, request): request.host = 'a.test'",
    "is cancelled from within": "{d} on_request(self, request): raise asyncio.CancelledError",
    "adds a field of texts to the response": "{d} on_response(self, request, response): "
    "response.fields.append(('x', 'y'))",
    "adds two fields to the response": "{d} on_response(self, request, response): "
    "response.fields.append((b'x', b'y\\r\\nSet-Cookie: 1'))",
    "makes the status a text": "{d} on_response(self, request, response): response.status = '404'",
    "breaks the request and then raises": """{d} on_request(self, request):
        request.fields = request.target = request.host = None
        raise KeyError""",
    "makes the reason a text": "{d} on_response(self, request, response): response.reason = 'OK'",
    "is cancelled on the response": "{d} on_response(self, request, response): raise asyncio.CancelledError",
}


#: CancelledError is a BaseException, for whoever raises it outside of a coroutine.
MISTAKEN = [
    (kind, name)
    for kind in ("def", "async def")
    for name, source in MISTAKES.items()
    if kind == "async def" or "CancelledError" not in source
]


@pytest.mark.parametrize(("kind", "name"), MISTAKEN)
def test_one_that_is_mistaken_is_a_500_and_nothing_is_left_behind(
    run: Run, iocproxy_origin: Origin, kind: str, name: str
) -> None:
    proxy, _ = run("class Mine:\n    " + MISTAKES[name] + "\n", kind=kind)
    with RawClient(proxy.address) as client:
        for _ in range(3):
            assert client.request("POST", "/", body=b"body").status == 500
    assert [record.status for record in proxy.wait_for_records(3)] == [500] * 3
    proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 0)
    stats = proxy.stats()
    assert stats["requests_open"] == 0
    assert all(server["open"] == server["idle"] for server in stats["upstreams"]["origin"].values())
    assert not any(b"Evil" in request.raw or b"x y" in request.raw for request in iocproxy_origin.requests)


@KINDS
def test_what_it_does_to_the_request_behind_its_back_harms_nobody(run: Run, kind: str) -> None:
    source = (
        "class Mine:\n    {d} on_response(self, request, response): request.host, request.target = None, 'x\u20ac'\n"
    )
    proxy, _ = run(source, kind=kind)
    with RawClient(proxy.address) as client:
        assert client.request("GET", "/").status == 200
    record = proxy.wait_for_records(1)[0]
    assert (record.host, record.target, record.status) == ("None", "x\\u20ac", 200)


def test_a_body_waits_for_it(run: Run, iocproxy_origin: Origin) -> None:
    """The client is held while an async hook decides: what it sends is neither lost nor piled up."""
    source = """
gate = asyncio.Event()
class Mine:
    async def on_request(self, request): await gate.wait()
"""
    proxy, module = run(source)
    body = bytes(range(256)) * 4_000
    with RawClient(proxy.address) as client:
        client.send(b"PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body))
        sender = threading.Thread(target=client.send, args=(body,))
        sender.start()
        proxy.wait_for(lambda proxy: proxy.stats()["requests_open"] == 1)
        proxy._loop.call_soon_threadsafe(module.gate.set)  # type: ignore[union-attr]
        assert client.read_response().status == 200
        sender.join()
    assert iocproxy_origin.requests[0].body == body


def test_a_client_that_leaves_cancels_it(run: Run) -> None:
    source = """
class Mine:
    async def on_request(self, request):
        seen.append("waiting")
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("left")
"""
    proxy, module = run(source)
    with RawClient(proxy.address) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        proxy.wait_for(lambda _: module.seen == ["waiting"])
        client.reset()
    proxy.wait_for(lambda _: module.seen == ["waiting", "left"])
    assert proxy.wait_for_records(1)[0].status == 499


# ── on_response ──────────────────────────────────────────────────────────────────────────────────────────────────────

CHANGE = """
class Mine:
    {d} on_response(self, request, response):
        response.status, response.reason = 203, b"Changed"
        response.headers["X-Added"] = "yes"
        response.headers.pop("Content-Type", None)
        response.headers["Content-Length"] = "1"
        response.headers["Transfer-Encoding"] = "chunked"
"""


def test_a_response_it_changed_is_not_what_the_next_one_is_taken_for(run: Run, iocproxy_origin: Origin) -> None:
    source = """
class Mine:
    def on_response(self, request, response):
        seen.append((response.status, response.reason, response.headers.get("X-Added"), response.headers.get("X-Own")))
        response.status, response.reason = 203, b"Changed"
        response.headers.add("X-Added", "yes")
        del response.headers["X-Own"]
"""
    octets = b"HTTP/1.1 200 OK\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nX-Own: 1\r\nContent-Length: 0\r\n\r\n"
    iocproxy_origin.on("GET", "/same", respond=[Send(octets)])
    proxy, module = run(source)
    with RawClient(proxy.address) as client:
        for _ in range(3):
            answer = client.request("GET", "/same")
            assert (answer.status, answer.header("X-Added"), answer.header("X-Own")) == (203, "yes", None)
    assert module.seen == [(200, b"OK", None, "1")] * 3


@KINDS
@pytest.mark.parametrize("target", ["/bytes/5", "/bytes/700000", "/stream/300000?chunk=999", "/until-close/70000"])
def test_it_may_change_the_head_and_not_the_framing(run: Run, iocproxy_origin: Origin, kind: str, target: str) -> None:
    del iocproxy_origin
    proxy, _ = run(CHANGE, kind=kind)
    size = int(target.split("/")[2].partition("?")[0])
    with RawClient(proxy.address) as client:
        for _ in range(2):
            answer = client.request("GET", target)
            assert (answer.status, answer.reason, len(answer.body)) == (203, b"Changed", size)
            assert (answer.header("X-Added"), answer.header("Content-Type")) == ("yes", None)
    assert [record.status for record in proxy.wait_for_records(2)] == [203, 203]


@KINDS
def test_one_that_fails_on_the_response_is_a_500(run: Run, kind: str) -> None:
    source = """
class Mine:
    {d} on_response(self, request, response):
        if request.path == "/bytes/100000": raise LookupError("of mine")
"""
    proxy, _ = run(source, kind=kind)
    with RawClient(proxy.address) as client:
        assert client.request("GET", "/bytes/100000").status == 500
        assert client.request("GET", "/bytes/10").status == 200
    assert proxy.wait_for_event("middleware_failed")["hook"] == "on_response"
    assert [record.status for record in proxy.wait_for_records(2)] == [500, 200]


def test_the_origin_waits_while_it_decides(run: Run, iocproxy_origin: Origin) -> None:
    source = """
gate = asyncio.Event()
class Mine:
    async def on_response(self, request, response):
        seen.append(response.status)
        await gate.wait()
"""
    proxy, module = run(source)
    with RawClient(proxy.address) as client:
        client.send(b"GET /bytes/20000000 HTTP/1.1\r\nHost: a\r\n\r\n")
        proxy.wait_for(lambda _: module.seen == [200])
        proxy._loop.call_soon_threadsafe(module.gate.set)  # type: ignore[union-attr]
        head, _ = client.read_head()
        assert sum(map(len, client.read_body(head))) == 20_000_000
        assert client.request("GET", "/bytes/3").body == b"\x00\x01\x02"
    assert iocproxy_origin.connections == 1


def test_an_origin_that_breaks_off_meanwhile_is_a_502(run: Run, iocproxy_origin: Origin) -> None:
    source = """
gate = asyncio.Event()
class Mine:
    async def on_response(self, request, response):
        seen.append(response.status)
        await gate.wait()
"""
    ending = threading.Event()
    part = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"
    iocproxy_origin.on(
        "GET", "/broken", lambda exchange: (exchange.send(part), ending.wait(PATIENCE), exchange.reset())[2]
    )
    proxy, module = run(source)
    with RawClient(proxy.address) as client:
        client.send(b"GET /broken HTTP/1.1\r\nHost: a\r\n\r\n")
        proxy.wait_for(lambda _: module.seen == [200])
        ending.set()
        origin_gone = lambda _: iocproxy_origin.open_connections == 0  # noqa: E731
        proxy.wait_for(origin_gone)
        proxy._loop.call_soon_threadsafe(module.gate.set)  # type: ignore[union-attr]
        # nothing was sent yet, or only what was there and then a visible break: never a complete 200
        raw = b""
        client.sock.settimeout(PATIENCE)
        with contextlib.suppress(ConnectionError):
            while data := client.sock.recv(65536):
                raw += data
                if raw.startswith(b"HTTP/1.1 502 "):
                    break
        assert raw == b"" or raw.startswith(b"HTTP/1.1 502 ") or raw.endswith(b"\r\n\r\nhalf")
    assert proxy.wait_for_records(1)[0].error


# ── on_connect ───────────────────────────────────────────────────────────────────────────────────────────────────────


@KINDS
@pytest.mark.parametrize("said", ["False", "'because'"])
def test_it_may_refuse_a_client(run: Run, iocproxy_origin: Origin, kind: str, said: str) -> None:
    source = f"""
class First:
    def on_connect(self, client): seen.append("in")
    def on_disconnect(self, client): seen.append("out")
class Mine:
    {kind} on_connect(self, client):
        if client.address != "127.0.0.2": return {said}
        return True
    def on_disconnect(self, client): seen.append("never for the refused")
"""
    proxy, module = run(source, "First", "Mine")
    assert ended_without_a_byte(proxy.address)
    proxy.wait_for(lambda _: module.seen == ["in", "out"])
    with RawClient(proxy.address, source=("127.0.0.2", 0)) as client:
        assert client.request("GET", "/status/204").status == 204
    stats = proxy.stats()
    assert stats["connections_refused"]["middleware"] == 1
    assert stats["connections_accepted"] == 1
    assert proxy.wait_for_event("connection_refused")["reason"] == said.strip("'")
    proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 0)
    assert iocproxy_origin.connections == 1


@pytest.mark.parametrize("word", ["rate", "client", "total"])
def test_the_words_of_the_builtin_limits_are_theirs_alone(run: Run, word: str) -> None:
    """A user's refusal is counted as a middleware's, whatever word it gives."""
    proxy, _ = run(f"class Mine:\n    def on_connect(self, client): return {word!r}\n")
    assert ended_without_a_byte(proxy.address)
    proxy.wait_for(lambda proxy: sum(proxy.stats()["connections_refused"].values()) == 1)
    assert proxy.stats()["connections_refused"]["middleware"] == 1


@KINDS
def test_one_that_fails_at_the_door_refuses_and_the_listener_lives_on(run: Run, kind: str) -> None:
    source = """
class Mine:
    {d} on_connect(self, client):
        if client.address == "127.0.0.1": raise LookupError("of mine")
"""
    proxy, _ = run(source, kind=kind)
    for _ in range(3):
        assert ended_without_a_byte(proxy.address)
    with RawClient(proxy.address, source=("127.0.0.2", 0)) as client:
        assert client.request("GET", "/status/204").status == 204
    events = proxy.events("middleware_failed")
    assert [(event["hook"], event["client"]) for event in events] == [("on_connect", "127.0.0.1")] * 3
    proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 0)


def test_what_the_client_sends_meanwhile_waits_in_the_kernel(run: Run) -> None:
    source = """
gate = asyncio.Event()
class Mine:
    async def on_connect(self, client):
        seen.append(client.address)
        await gate.wait()
"""
    proxy, module = run(source)
    with RawClient(proxy.address) as client:
        client.send(b"GET /status/204 HTTP/1.1\r\nHost: a\r\n\r\n")
        proxy.wait_for(lambda _: module.seen)
        assert proxy.stats()["requests"] == 0
        proxy._loop.call_soon_threadsafe(module.gate.set)  # type: ignore[union-attr]
        assert client.read_response().status == 204


def test_a_refused_client_gives_its_place_in_the_limits_back(run: Run) -> None:
    source = "class Mine:\n    def on_connect(self, client): return bool(seen)\n"
    proxy, module = run(source, limits={"connections": {"concurrent": 1}})
    for _ in range(3):
        assert ended_without_a_byte(proxy.address)
    module.seen.append("come in")
    with RawClient(proxy.address) as client:
        assert client.request("GET", "/status/204").status == 204
    assert proxy.stats()["connections_refused"] == {
        "rate": 0,
        "concurrent": 0,
        "total": 0,
        "handshakes": 0,
        "denied": 0,
        "middleware": 3,
    }


# ── on_complete, on_disconnect ───────────────────────────────────────────────────────────────────────────────────────


@KINDS
def test_one_that_fails_at_the_end_hurts_nobody(run: Run, kind: str) -> None:
    source = """
class Mine:
    {d} on_complete(self, record): raise LookupError("of mine")
class After:
    {d} on_complete(self, record): seen.append(record.status)
"""
    proxy, module = run(source, "Mine", "After", kind=kind)
    with RawClient(proxy.address) as client:
        assert [client.request("GET", "/status/204").status for _ in range(2)] == [204, 204]
    proxy.wait_for(lambda _: module.seen == [204, 204])
    proxy.wait_for(
        lambda proxy: [event for event in proxy.log if "LookupError: of mine" in str(event.get("exception", event))]
    )
    assert len(proxy.wait_for_records(2)) == 2


def test_one_that_fails_on_disconnect_hurts_nobody(run: Run) -> None:
    source = """
class Mine:
    def on_disconnect(self, client): raise LookupError("of mine")
class First:
    def on_disconnect(self, client): seen.append("first")
"""
    proxy, module = run(source, "First", "Mine", limits={"connections": {"concurrent": 1}})
    for _ in range(2):
        with RawClient(proxy.address) as client:
            assert client.request("GET", "/status/204").status == 204
        proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 0)
    proxy.wait_for(lambda _: module.seen == ["first", "first"])
    assert proxy.wait_for_event("middleware_failed")["hook"] == "on_disconnect"


def test_a_stop_cancels_what_still_waits(run: Run, iocproxy_origin: Origin) -> None:
    source = """
class Mine:
    async def on_complete(self, record):
        seen.append("begun")
        try: await asyncio.Event().wait()
        finally: seen.append("over")
"""
    gate = threading.Event()
    iocproxy_origin.on("GET", "/held", [WaitFor(gate), Send(b"")])
    proxy, module = run(source)
    with RawClient(proxy.address) as client:
        assert client.request("GET", "/status/204").status == 204
        proxy.wait_for(lambda _: module.seen == ["begun"])
        proxy.stop()
    assert module.seen == ["begun", "over"]
    gate.set()
