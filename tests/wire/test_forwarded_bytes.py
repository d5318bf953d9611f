"""Exactly which bytes reach the origin, and which the client, for every framing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest

from iocproxy.testing import Close, Send

DATE = b"Date: Mon, 01 Jan 2024 00:00:00 GMT\r\n"
VIA = b"Via: 1.1 iocproxy\r\n"


def _from(front: Any, host: bytes = b"a.test", version: bytes = b"1.1") -> bytes:
    return (
        b"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: " + front.scheme.encode() + b"\r\nX-Forwarded-Host: " + host
        + b"\r\nX-Forwarded-Port: %d" % front.address[1] + b"\r\nVia: " + version + b" iocproxy\r\n"
    )  # fmt: skip


class Case(NamedTuple):
    """`FROM` in `arrives` stands for the forwarding fields; `kept` says whether the connections go on."""

    sent: bytes
    arrives: bytes
    answer: bytes
    received: bytes
    kept: bool = True
    closing_origin: bool = False
    method: bytes = b"GET"
    version: bytes = b"1.1"


GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
GOT = b"GET / HTTP/1.1\r\nHost: a.test\r\nFROM\r\n"
OLD = b"GET / HTTP/1.0\r\nHost: a.test\r\n"
OK2 = b"HTTP/1.1 200 OK\r\n" + DATE + b"Content-Length: 2\r\n\r\nok"
OKED = b"HTTP/1.1 200 OK\r\n" + DATE + b"Content-Length: 2\r\n" + VIA + b"\r\nok"

CASES: dict[str, Case] = {
    "GET": Case(GET, GOT, OK2, OKED),
    "fields": Case(
        b"GET /a?b HTTP/1.1\r\nx-a:  1 \r\nHOST: a.test\r\nX-A: \xe9\r\nAccept: */*\r\nX-Empty:\r\n\r\n",
        b"GET /a?b HTTP/1.1\r\nHost: a.test\r\nx-a: 1\r\nX-A: \xe9\r\nAccept: */*\r\nX-Empty: \r\nFROM\r\n",
        b"HTTP/1.1 299 Well \xe9\r\nSet-Cookie: a\r\nset-cookie: b\r\nX:\xff\r\n" + DATE + b"Content-Length: 0\r\n\r\n",
        b"HTTP/1.1 299 Well \xe9\r\nSet-Cookie: a\r\nset-cookie: b\r\nX: \xff\r\n" + DATE + b"Content-Length: 0\r\n"
        + VIA + b"\r\n",
    ),
    "hop-by-hop": Case(
        b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: 5\r\n"
        b"TE: trailers\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: x\r\nUpgrade: x\r\n"
        b"Trailer: a\r\nX-A: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test\r\nX-A: 1\r\nFROM\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: X-Mine\r\nX-Mine: 1\r\nKeep-Alive: 5\r\nUpgrade: h2\r\nTrailer: a\r\n"
        + DATE + b"Content-Length: 2\r\n\r\nok",
        OKED,
    ),
    "Via is added to": Case(
        b"GET / HTTP/1.1\r\nHost: a.test\r\nVia: 1.0 outer\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test\r\nVia: 1.0 outer\r\nFROM\r\n",
        b"HTTP/1.1 200 OK\r\nVia: 1.1 inner\r\n" + DATE + b"Content-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nVia: 1.1 inner\r\n" + DATE + b"Content-Length: 2\r\n" + VIA + b"\r\nok",
    ),
    "absolute form": Case(b"GET http://A.test/x HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: A.test\r\nHEADER\r\n", OK2, OKED),
    "asterisk form": Case(b"OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a.test\r\nFROM\r\n", OK2, OKED),
    "an empty line before": Case(b"\r\n" + GET, GOT, OK2, OKED),
    "POST with a length": Case(
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nHost: a.test\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nFROM\r\nhello", OK2, OKED,
    ),
    "POST without a body": Case(
        b"POST / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\nFROM\r\n", OK2, OKED,
    ),
    "GET with a body": Case(
        b"GET / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\n\r\nx",
        b"GET / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\nFROM\r\nx", OK2, OKED,
    ),
    "POST in chunks": Case(
        b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=y\r\nabc\r\n02\r\nde\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nFROM\r\n5\r\nabcde\r\n0\r\n\r\n", OK2, OKED,
    ),
    "no chunks": Case(
        b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nFROM\r\n0\r\n\r\n", OK2, OKED,
    ),
    "HEAD": Case(
        b"HEAD / HTTP/1.1\r\nHost: a.test\r\n\r\n", b"HEAD / HTTP/1.1\r\nHost: a.test\r\nFROM\r\n",
        b"HTTP/1.1 200 OK\r\n" + DATE + b"Content-Length: 12345\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + DATE + b"Content-Length: 12345\r\n" + VIA + b"\r\n", method=b"HEAD",
    ),
    "HEAD of chunks": Case(
        b"HEAD / HTTP/1.1\r\nHost: a.test\r\n\r\n", b"HEAD / HTTP/1.1\r\nHost: a.test\r\nFROM\r\n",
        b"HTTP/1.1 200 OK\r\n" + DATE + b"Transfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + DATE + VIA + b"\r\n", method=b"HEAD",
    ),
    "204": Case(GET, GOT, b"HTTP/1.1 204 No Content\r\n" + DATE + b"\r\n",
        b"HTTP/1.1 204 No Content\r\n" + DATE + VIA + b"\r\n"),
    # RFC 9110 section 8.6: a 204 has no Content-Length; one that an origin sends is not passed on
    "204 with a length": Case(GET, GOT, b"HTTP/1.1 204 No Content\r\n" + DATE + b"Content-Length: 5\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n" + DATE + VIA + b"\r\n"),
    "304": Case(GET, GOT, b"HTTP/1.1 304 Not Modified\r\n" + DATE + b"ETag: x\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\n" + DATE + b"ETag: x\r\nContent-Length: 5\r\n" + VIA + b"\r\n"),
    "an answer in chunks": Case(
        GET, GOT,
        b"HTTP/1.1 200 OK\r\n" + DATE + b"Transfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + DATE + b"Transfer-Encoding: chunked\r\n" + VIA + b"\r\n5\r\nabcde\r\n0\r\n\r\n",
    ),
    "an answer without any chunk": Case(
        GET, GOT, b"HTTP/1.1 200 OK\r\n" + DATE + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + DATE + b"Transfer-Encoding: chunked\r\n" + VIA + b"\r\n0\r\n\r\n",
    ),
    "an answer until the end, empty": Case(
        GET, GOT, b"HTTP/1.1 200 OK\r\n" + DATE + b"\r\n",
        b"HTTP/1.1 200 OK\r\n" + DATE + b"Transfer-Encoding: chunked\r\n" + VIA + b"\r\n0\r\n\r\n", closing_origin=True,
    ),
    "an HTTP/1.0 origin": Case(
        GET, GOT, b"HTTP/1.0 200 OK\r\n" + DATE + b"Content-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n" + DATE + b"Content-Length: 2\r\nVia: 1.0 iocproxy\r\n\r\nok",
    ),
    "a client that closes": Case(
        b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n", GOT, OK2,
        b"HTTP/1.1 200 OK\r\n" + DATE + b"Connection: close\r\nContent-Length: 2\r\n" + VIA + b"\r\nok", kept=False,
    ),
    "an origin that closes": Case(
        GET, GOT, b"HTTP/1.1 200 OK\r\n" + DATE + b"Connection: close\r\nContent-Length: 2\r\n\r\nok", OKED,
    ),
    "HTTP/1.0": Case(
        OLD + b"\r\n", GOT, OK2,
        b"HTTP/1.1 200 OK\r\n" + DATE + b"Connection: close\r\nContent-Length: 2\r\n" + VIA + b"\r\nok",
        kept=False, version=b"1.0",
    ),
    "HTTP/1.0 with keep-alive": Case(
        OLD + b"Connection: Keep-Alive\r\n\r\n", GOT, OK2,
        b"HTTP/1.1 200 OK\r\n" + DATE + b"Connection: keep-alive\r\nContent-Length: 2\r\n" + VIA + b"\r\nok",
        version=b"1.0",
    ),
    "HTTP/1.0 and chunks": Case(
        OLD + b"Connection: keep-alive\r\n\r\n", GOT,
        b"HTTP/1.1 200 OK\r\n" + DATE + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + DATE + b"Connection: close\r\n" + VIA + b"\r\nabcde", kept=False, version=b"1.0",
    ),
    "HTTP/1.0 and until the end": Case(
        OLD + b"\r\n", GOT, b"HTTP/1.1 200 OK\r\n" + DATE + b"\r\nabcde",
        b"HTTP/1.1 200 OK\r\n" + DATE + b"Connection: close\r\n" + VIA + b"\r\nabcde",
        kept=False, closing_origin=True, version=b"1.0",
    ),
    "HTTP/1.0 POST": Case(
        b"POST / HTTP/1.0\r\nHost: a.test\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nFROM\r\nhello", OK2,
        b"HTTP/1.1 200 OK\r\n" + DATE + b"Connection: keep-alive\r\nContent-Length: 2\r\n" + VIA + b"\r\nok",
        version=b"1.0",
    ),
}  # fmt: skip


def _steps(case: Case, size: int = 0) -> Sequence[Any]:
    return [Send(case.answer, size=size), *([Close()] if case.closing_origin else [])]


def _arrives(case: Case, front: Any) -> bytes:
    return case.arrives.replace(b"FROM\r\n", _from(front, version=case.version) + b"\r\n").replace(
        b"HEADER\r\n", _from(front, b"A.test") + b"\r\n"
    )


def test_every_byte_both_ways(any_front: Any) -> None:
    front = any_front()
    wrong = {}
    for name, case in CASES.items():
        before = len(front.origin.requests)
        front.origin.on("*", "*", respond=_steps(case))
        with front.client() as client:
            client.send(case.sent)
            received = client.read_exactly(len(case.received))
            if case.kept:
                front.origin.on("GET", "/again", respond=OK2)
                client.send(b"GET /again HTTP/1.1\r\nHost: a.test\r\n\r\n")
                received += client.read_exactly(len(OKED))
            else:
                client.expect_closed()
        if received != case.received + (OKED if case.kept else b""):
            wrong[f"{name}, to the client"] = received
        arrived = front.origin.requests[before].raw
        if arrived != _arrives(case, front):
            wrong[f"{name}, to the origin"] = arrived
    assert wrong == {}


def test_octet_by_octet_both_ways(front: Any) -> None:
    """Chunks follow the reads then; everything else is the same."""
    started = front()
    for name, case in CASES.items():
        before = len(started.origin.requests)
        started.origin.on("*", "*", respond=_steps(case, size=1))
        with started.client() as client:
            client.send_slowly(case.sent)
            response = client.read_response(case.method)
            expected_head, _, expected_body = case.received.partition(b"\r\n\r\n")
            assert response.raw.startswith(expected_head + b"\r\n\r\n"), name
            chunked = b"Transfer-Encoding: chunked" in expected_head
            assert response.body == (b"".join(expected_body.split(b"\r\n")[1:-3:2]) if chunked else expected_body), name
            if not case.kept:
                client.expect_closed()
        request = started.origin.requests[before]
        head, _, body = _arrives(case, started).partition(b"\r\n\r\n")
        assert request.head == head + b"\r\n\r\n", name
        chunked = b"Transfer-Encoding: chunked" in head
        assert request.body == (b"".join(body.split(b"\r\n")[1:-3:2]) if chunked else body), name
        assert request.complete


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_an_answer_until_the_end(any_front: Any, version: bytes) -> None:
    front = any_front()
    with front.client() as client:
        client.send(b"GET /until-close/100000 HTTP/%b\r\nHost: a.test\r\n\r\n" % version)
        response = client.read_response()
        assert (response.status, len(response.body)) == (200, 100_000)
        if version == b"1.0":
            client.expect_closed()
        else:
            assert response.header("transfer-encoding") == "chunked"
            assert client.request("GET", "/bytes/3").body == b"\x00\x01\x02"


def test_a_date_is_given_to_a_response_without_one(front: Any) -> None:
    """RFC 9110 section 6.6.1."""
    started = front()
    started.origin.on("GET", "/", respond=b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    with started.client() as client:
        assert (client.request("GET", "/").header("date") or "").endswith(" GMT")


def test_http_1_0_without_a_host(front: Any) -> None:
    """RFC 9112 section 3.2: what is sent on is HTTP/1.1 and has one Host field, even where it is empty."""
    started = front()
    with started.client() as client:
        client.send(b"GET /x HTTP/1.0\r\n\r\n")
        assert client.read_response().status == 200
        client.expect_closed()
    assert started.origin.requests[0].header("host") == ""
