"""What a client must not send: refused with its status, the connection closed, and nothing of it at the origin."""

from __future__ import annotations

import contextlib
import runpy
import ssl
from pathlib import Path
from typing import Any

import pytest

from iocproxy.testing import RawClient

_TABLES = runpy.run_path(str(Path(__file__).parents[1] / "http1" / "wire_tables.py"))
REFUSED: dict[str, tuple[bytes, int]] = _TABLES["REFUSED_REQUESTS"]
NOT_HTTP: dict[str, bytes] = _TABLES["NOT_HTTP"]
NOT_CHUNKED: dict[str, bytes] = _TABLES["NOT_CHUNKED"]

SMUGGLED = b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n"


def outcome(client: RawClient) -> int | str:
    """The status of the one answer before the connection ends, or what was wrong with it."""
    try:
        response = client.read_response()
        client.expect_closed()
    except (AssertionError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    if response.header("connection") != "close" or not (response.header("proxy-status") or "").startswith("iocproxy;"):
        return repr(response.raw)
    return response.status


@pytest.mark.parametrize("behind", [b"", SMUGGLED], ids=["alone", "with more behind"])
def test_a_refused_request_reaches_nobody(any_front: Any, behind: bytes) -> None:
    front = any_front()
    outcomes = {}
    for name, (raw, _) in REFUSED.items():
        with front.client() as client:
            client.send(raw + behind)
            outcomes[name] = outcome(client)
    assert outcomes == {name: status for name, (_, status) in REFUSED.items()}
    assert front.origin.connections == 0
    records = front.proxy.wait_for_records(len(REFUSED))
    assert [record.status for record in records] == [status for _, status in REFUSED.values()]
    assert all(record.error.startswith("client: ") and record.upstream == "" for record in records)
    front.still_serves()


def test_a_refused_request_octet_by_octet(front: Any) -> None:
    started = front()
    small = {name: (raw, status) for name, (raw, status) in REFUSED.items() if len(raw) < 200}
    outcomes = {}
    for name, (raw, _) in small.items():
        with started.client() as client:
            with contextlib.suppress(ConnectionError):  # some are refused at their first octet
                client.send_slowly(raw)
            outcomes[name] = outcome(client)
    assert outcomes == {name: status for name, (_, status) in small.items()}
    assert started.origin.connections == 0


def test_a_refused_request_on_a_connection_that_was_used(front: Any) -> None:
    started = front()
    outcomes = {}
    for name, (raw, _) in REFUSED.items():
        with started.client() as client:
            assert client.request("GET", "/good").status == 200
            client.send(raw + SMUGGLED)
            outcomes[name] = outcome(client)
    assert outcomes == {name: status for name, (_, status) in REFUSED.items()}
    assert {request.target for request in started.origin.requests} == {b"/good"}
    assert len(started.origin.requests) == len(REFUSED)


def test_another_protocol_is_answered_at_once(front: Any) -> None:
    started = front()
    outcomes = {}
    for name, raw in NOT_HTTP.items():
        with started.client() as client:
            client.send(raw)
            outcomes[name] = outcome(client)
    assert outcomes == dict.fromkeys(NOT_HTTP, 400)
    assert started.origin.connections == 0
    started.still_serves()


def test_tls_to_a_plain_port(front: Any, iocproxy_certificates: Any) -> None:
    started = front()
    with pytest.raises((ssl.SSLError, ConnectionError)):
        RawClient(started.address, tls=iocproxy_certificates)
    record = started.proxy.wait_for_records(1)[0]
    assert (record.status, record.error) == (400, "client: a TLS handshake on a plain HTTP port")
    started.still_serves()


def test_a_body_that_is_not_chunked_reaches_nobody_when_it_comes_with_its_head(any_front: Any) -> None:
    front = any_front()
    outcomes = {}
    for name, body in NOT_CHUNKED.items():
        with front.client() as client:
            client.send(b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
            outcomes[name] = outcome(client)
    assert outcomes == dict.fromkeys(NOT_CHUNKED, 400)
    assert front.origin.connections == 0
    front.still_serves()


def test_a_body_that_stops_being_chunked_never_looks_complete(any_front: Any) -> None:
    front = any_front()
    # On TLS the proxy lingers before it ends the connection (TLS knows no half-close here): a few will do.
    tried = dict(list(NOT_CHUNKED.items())[:: 1 if front.scheme == "http" else 24])
    outcomes = {}
    for index, (name, body) in enumerate(tried.items()):
        with front.client() as client:
            client.send(b"POST /%d HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n" % index)
            client.send(b"4\r\ngood\r\n")
            front.origin.wait_for(lambda origin, count=index + 1: len(origin.requests) == count)
            client.send(body)
            outcomes[name] = outcome(client)
    assert outcomes == dict.fromkeys(tried, 400)
    front.origin.wait_for(lambda origin: origin.open_connections == 0)
    assert not any(request.complete for request in front.origin.requests)
    front.still_serves()


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: a.test\r\nX-A: " + b"a" * (1 << 20), 431),
        (b"GET / HTTP/1.1\r\nHost: a.test\r\n" + b"X-A: 1\r\n" * (1 << 17), 431),
        (b"GET /" + b"a" * (1 << 20), 414),
        (b"\r\n" * 1000, 431),
    ],
    ids=["one field", "many fields", "the request line", "empty lines"],
)
def test_an_endless_head_is_answered_although_the_client_still_sends(front: Any, raw: bytes, status: int) -> None:
    """Closing on what is unread would reset the connection and destroy the answer (RFC 9112 section 9.6)."""
    started = front()
    with started.client() as client:
        client.send(raw)
        assert client.read_response().status == status
        client.expect_closed()
    assert started.origin.connections == 0


def test_a_refused_head_request_is_answered_without_content(front: Any) -> None:
    """RFC 9110 section 9.3.2, also where the refusal comes before the request is understood."""
    with front().client() as client:
        client.send(b"HEAD / HTTP/1.1\r\n\r\n")
        response = client.read_response(b"HEAD")
        assert response.status == 400
        client.expect_closed()


def test_a_head_request_whose_body_is_refused_is_answered_without_content(front: Any) -> None:
    with front().client() as client:
        client.send(b"HEAD / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n")
        response = client.read_response(b"HEAD")
        assert response.status == 400
        client.expect_closed()


def test_a_client_that_ends_within_the_head(front: Any) -> None:
    started = front()
    with started.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a.t")
        client.half_close()
        assert client.read_response().status == 400
        client.expect_closed()
    assert started.origin.connections == 0


def test_a_client_that_resets_within_the_head(front: Any) -> None:
    started = front()
    client = started.client()
    client.send(b"GET / HTTP/1.1\r\nHost: a.t")
    client.reset()
    started.still_serves()
    assert len(started.origin.requests) == 1


def test_fields_that_a_client_may_not_have_removed(front: Any) -> None:
    """The hop-by-hop field attack: naming a field in Connection to take it from the origin."""
    started = front()
    named = ["Host", "Content-Length", "Cookie", "Authorization", "X-Forwarded-For", "X-Forwarded-Proto", "Via"]
    with started.client() as client:
        client.request(
            "POST",
            "/",
            headers=[
                ("Connection", ", ".join(named)),
                ("Host", "a.test"),
                ("Cookie", "a=b"),
                ("Authorization", "x"),
            ],
            body=b"body",
        )
    request = started.origin.requests[0]
    assert [request.header(name) for name in named] == [
        "a.test", "4", "a=b", "x", "127.0.0.1", "http", "1.1 iocproxy",
    ]  # fmt: skip
    assert request.body == b"body"
