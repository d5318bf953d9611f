"""Heads as they go out, to the octet, and the readers of a body by its framing."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iocproxy.errors import ProxyError
from iocproxy.http1.body import ChunkedBody, CloseBody, LengthBody, body_reader
from iocproxy.http1.chunked import ChunkError
from iocproxy.http1.framing import CHUNKED, NO_BODY, UNTIL_CLOSE, request_body, response_body
from iocproxy.http1.serialize import request_head, request_lines, response_head


@pytest.mark.parametrize(
    ("method", "body", "framing"),
    [
        ("GET", 0, b""),
        ("HEAD", 0, b""),
        ("DELETE", 0, b""),
        ("OPTIONS", 0, b""),
        ("POST", 0, b"Content-Length: 0\r\n"),
        ("PUT", 0, b"Content-Length: 0\r\n"),
        ("PATCH", 0, b"Content-Length: 0\r\n"),
        ("GET", 7, b"Content-Length: 7\r\n"),
        ("POST", 10**18 - 1, b"Content-Length: 999999999999999999\r\n"),
        ("POST", CHUNKED, b"Transfer-Encoding: chunked\r\n"),
        ("GET", CHUNKED, b"Transfer-Encoding: chunked\r\n"),
    ],
)
def test_a_request_head(method: str, body: int, framing: bytes) -> None:
    fields = [(b"a", b"1"), (b"A", b"\xff"), (b"B", b"")]
    assert request_head(
        method, b"/x?y", request_lines(b"a.test:80", fields, body), body, b"Via: 1.1 p\r\n"
    ) == (
        method.encode() + b" /x?y HTTP/1.1\r\nHost: a.test:80\r\na: 1\r\nA: \xff\r\nB: \r\n"
        + framing
        + b"Via: 1.1 p\r\n\r\n"
    )  # fmt: skip


def test_a_request_head_without_anything() -> None:
    assert (
        request_head("GET", b"/", request_lines(b"a.test", [], 0), 0, b"") == b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
    )


def test_a_response_head() -> None:
    fields = [(b"Set-Cookie", b"a=b"), (b"set-cookie", b"c=d")]
    assert response_head(200, b"OK", fields, b"Content-Length: 1\r\n") == (
        b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nset-cookie: c=d\r\nContent-Length: 1\r\n\r\n"
    )
    assert response_head(299, b"", [], b"") == b"HTTP/1.1 299 \r\n\r\n"


# ── the decision ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("version", "lengths", "codings", "body"),
    [
        (11, [], [], NO_BODY),
        (11, [b"0"], [], NO_BODY),
        (11, [b"12"], [], 12),
        (10, [b"12"], [], 12),
        (11, [], [b"chunked"], CHUNKED),
        (11, [], [b"Chunked"], CHUNKED),
    ],
)
def test_a_requests_body(version: int, lengths: list[bytes], codings: list[bytes], body: int) -> None:
    assert request_body(version, lengths, codings) == body


@pytest.mark.parametrize(
    ("version", "lengths", "codings", "status"),
    [
        (10, [], [b"chunked"], 400),
        (11, [b"1"], [b"chunked"], 400),
        (11, [b"1", b"1"], [], 400),
        (11, [], [b"chunked", b"chunked"], 400),
        (11, [], [b"gzip"], 501),
        (11, [], [b"chunked "], 501),
        (11, [], [b""], 501),
        *[(11, [value], [], 400) for value in (b"", b"-1", b"+1", b"1,1", b"0x1", b"1_0", b"1 ", b"\xb2", b"9" * 19)],
    ],
)
def test_a_requests_body_that_is_refused(version: int, lengths: list[bytes], codings: list[bytes], status: int) -> None:
    with pytest.raises(ProxyError) as caught:
        request_body(version, lengths, codings)
    assert caught.value.status == status


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("status", [100, 101, 103, 200, 204, 304, 404])
@pytest.mark.parametrize(
    ("version", "lengths", "codings"),
    [(11, [b"1"], [b"chunked"]), (11, [b"1", b"1"], []), (11, [], [b"gzip"]), (10, [], [b"chunked"]), (11, [b"x"], [])],
)
def test_ambiguous_framing_is_refused_even_where_no_body_follows(
    method: str, status: int, version: int, lengths: list[bytes], codings: list[bytes]
) -> None:
    with pytest.raises(ProxyError) as caught:
        response_body(version, status, method, lengths, codings)
    assert caught.value.status == 502


# ── the readers ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_reader_of_each_framing() -> None:
    assert isinstance(body_reader(5), LengthBody)
    assert isinstance(body_reader(CHUNKED), ChunkedBody)
    assert isinstance(body_reader(UNTIL_CLOSE), CloseBody)


@given(st.binary(min_size=1, max_size=40), st.binary(max_size=5), st.lists(st.integers(0, 100), max_size=5))
def test_a_counted_body(content: bytes, rest: bytes, cuts: list[int]) -> None:
    reader = body_reader(len(content))
    raw = content + rest
    edges = [0, *sorted(cut % len(content) for cut in cuts), len(raw)]
    got = b""
    for start, end in itertools.pairwise(edges):
        assert not reader.done
        assert not reader.close()
        got += reader.feed(raw[start:end])
    assert (got, reader.rest, reader.done, reader.close()) == (content, rest, True, True)


def test_a_chunked_body() -> None:
    reader = ChunkedBody()
    assert reader.feed(b"3\r\nab") == b"ab"
    assert not reader.close()
    assert reader.feed(b"c\r\n0\r\nX: 1\r\n\r\nrest") == b"c"
    assert (reader.done, reader.rest, reader.trailers, reader.close()) == (True, b"rest", [(b"X", b"1")], True)
    with pytest.raises(ChunkError):
        ChunkedBody().feed(b"x\r\n")


def test_a_body_until_the_end() -> None:
    reader = body_reader(UNTIL_CLOSE)
    assert reader.feed(b"abc") == b"abc"
    assert not reader.done
    assert reader.close()
    assert reader.done


def test_a_counted_body_shows_itself() -> None:
    reader = LengthBody(5)
    reader.feed(b"ab")
    assert repr(reader) == "<LengthBody left=3>"
