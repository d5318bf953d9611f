"""The strict reader that the origin and the raw client stand on: every message whole and byte by byte."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from iocproxy.testing.messages import (
    Body,
    ByteReader,
    TruncatedError,
    WireError,
    parse_request_head,
    parse_response_head,
)


def reader(data: bytes, size: int) -> ByteReader:
    pieces: Iterator[bytes] = (data[start : start + size] for start in range(0, len(data), size))
    return ByteReader(lambda: next(pieces, b""))


def read_response(data: bytes, size: int, method: bytes = b"GET") -> tuple[int, bytes, bytes, bytes]:
    """(status, content, bytes of the message, bytes after it)"""
    source = reader(data, size)
    raw = source.until(b"\r\n\r\n")
    head = parse_response_head(raw)
    pairs = list(Body.of_response(head, source, method))
    rest = b"" if source.at_end() else source.buffered
    return head.status, b"".join(each[1] for each in pairs), raw + b"".join(each[0] for each in pairs), rest


WELL_FORMED = [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", b"GET", b"abc"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", b"HEAD", b""),
    (b"HTTP/1.1 204 No Content\r\n\r\n", b"GET", b""),
    (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", b"GET", b""),
    (b"HTTP/1.1 100 Continue\r\n\r\n", b"POST", b""),
    (b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", b"GET", b""),
    (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0A\r\n0123456789\r\n0\r\n\r\n",
        b"GET",
        b"abc0123456789",
    ),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n", b"GET", b"a"),
]


@pytest.mark.parametrize("trailing", [b"", b"HTTP/1.1 2"])
@pytest.mark.parametrize("size", [1, 2, 1 << 16])
@pytest.mark.parametrize(("data", "method", "content"), WELL_FORMED)
def test_a_response_is_cut_where_it_ends(
    data: bytes, method: bytes, content: bytes, size: int, trailing: bytes
) -> None:
    status, got, raw, rest = read_response(data + trailing, size, method)
    assert status == int(data[9:12])
    assert got == content
    assert raw == data
    assert trailing.startswith(rest)
    assert bool(rest) is bool(trailing)


def test_a_body_without_framing_ends_with_the_stream() -> None:
    assert read_response(b"HTTP/1.1 200 OK\r\n\r\nabc", 1)[1] == b"abc"


def test_trailers_are_read() -> None:
    body = Body(reader(b"0\r\nX-Sum: 1\r\nX-Sum: 2\r\n\r\n", 1), chunked=True)
    assert b"".join(raw for raw, _ in body) == b"0\r\nX-Sum: 1\r\nX-Sum: 2\r\n\r\n"
    assert body.trailers == [(b"X-Sum", b"1"), (b"X-Sum", b"2")]


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nName : value\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nName: a\r\n b\r\n\r\n",
        b"HTTP/1.1 200 OK\nName: a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nName: a\x00\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 099 Odd\r\n\r\n",
        b"HTTP/1.1 2000 Odd\r\n\r\n",
    ],
)
def test_what_a_sender_must_not_send_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        read_response(data, 1 << 16)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
    ],
)
def test_an_end_in_the_middle_is_told(data: bytes) -> None:
    with pytest.raises(TruncatedError):
        read_response(data, 1)


@pytest.mark.parametrize(
    "line",
    [b"GET  / HTTP/1.1", b"GET / HTTP/1.1 ", b"GET /", b"GET / HTTP/1.2", b"G T / HTTP/1.1", b"GET /a b HTTP/1.1"],
)
def test_a_bad_request_line_is_refused(line: bytes) -> None:
    with pytest.raises(WireError, match="not a request line"):
        parse_request_head(line + b"\r\n\r\n")


def test_a_request_head_keeps_names_values_and_order() -> None:
    head = parse_request_head(b"PUT /a?b HTTP/1.0\r\nB:  2 \r\na: \r\nb: 3\xff\r\n\r\n")
    assert head == (b"PUT", b"/a?b", 10, [(b"B", b"2"), (b"a", b""), (b"b", b"3\xff")])


def test_a_marker_that_never_comes_is_bounded() -> None:
    with pytest.raises(WireError, match="within 10 bytes"):
        reader(b"x" * 100, 7).until(b"\r\n", 10)
