"""Everything that two parsers could read differently is refused, with its status, however it arrives."""

from __future__ import annotations

import runpy
from collections.abc import Iterable
from pathlib import Path

import pytest

from iocproxy.errors import ProxyError, Side
from iocproxy.http1.heads import MAX_EMPTY_LINES, BareLineFeed, HeadBuffer, HeadLimits, HeadTooLarge
from iocproxy.http1.request import RequestHead, RequestHeadParser, why_not_a_request

_TABLES = runpy.run_path(str(Path(__file__).with_name("wire_tables.py")))
REFUSED: dict[str, tuple[bytes, int]] = _TABLES["REFUSED_REQUESTS"]
NOT_HTTP: dict[str, bytes] = _TABLES["NOT_HTTP"]
LIMITS = HeadLimits()


def read(pieces: Iterable[bytes]) -> RequestHead:
    heads = HeadBuffer(LIMITS, empty_lines=MAX_EMPTY_LINES)
    for piece in pieces:
        taken = heads.take(piece)
        if taken is not None:
            return RequestHeadParser(LIMITS).parse(taken[0])
    raise AssertionError(f"no complete head: {heads.kept!r}")


def status_of(pieces: Iterable[bytes]) -> int:
    try:
        head = read(pieces)
    except HeadTooLarge:
        return 431  # the connection says 414 instead where not even the first line has ended
    except BareLineFeed:
        return 400  # noticed before the head is complete, which it might never be
    except ProxyError as refusal:
        error = refusal
    else:
        raise AssertionError(f"accepted: {head!r}, {head.fields}")
    assert error.side is Side.CLIENT
    assert error.stage == "head"
    assert not error.retryable
    assert error.proxy_status == "http_request_error"
    return error.status


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_head_however_it_is_split(name: str) -> None:
    raw, status = REFUSED[name]
    assert status_of([raw]) == status
    assert status_of([raw + b"GET /next HTTP/1.1\r\nHost: a.test\r\n\r\n"]) == status
    assert status_of(raw[at : at + 1] for at in range(len(raw))) == status
    if len(raw) <= 200:
        for at in range(1, len(raw)):
            assert status_of([raw[:at], raw[at:]]) == status, at


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_head_behind_an_accepted_one(name: str) -> None:
    """The parser is kept for a connection's life: what it has read before does not soften it."""
    raw, status = REFUSED[name]
    if status == 431:
        return  # not the parser's
    parser = RequestHeadParser(LIMITS)
    for before in (
        b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 7\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    ):
        parser.parse(before)
    with pytest.raises(ProxyError) as caught:
        parser.parse(raw)
    assert caught.value.status == status


@pytest.mark.parametrize("name", NOT_HTTP)
def test_another_protocol_is_told_by_its_first_octet(name: str) -> None:
    assert why_not_a_request(NOT_HTTP[name][:1])
    assert why_not_a_request(NOT_HTTP[name])


def test_tls_on_a_plain_port_is_named() -> None:
    assert "TLS" in why_not_a_request(b"\x16\x03\x01")


@pytest.mark.parametrize("start", [b"G", b"GET / HT", b"M-SEARCH", b"\r", b"\r\nGET", b"foo"])
def test_what_may_still_become_a_request(start: bytes) -> None:
    assert not why_not_a_request(start)


@pytest.mark.parametrize(("length", "status"), [(64, 0), (65, 414)])
def test_the_edge_of_the_request_line(length: int, status: int) -> None:
    line = b"GET /" + b"a" * (length - len(b"GET / HTTP/1.1")) + b" HTTP/1.1"
    assert len(line) == length
    parser = RequestHeadParser(HeadLimits(max_request_line=64))
    raw = line + b"\r\nHost: a.test\r\n\r\n"
    if status:
        with pytest.raises(ProxyError) as caught:
            parser.parse(raw)
        assert caught.value.status == status
    else:
        assert parser.parse(raw).method == "GET"


@pytest.mark.parametrize(("count", "status"), [(5, 0), (6, 431)])
def test_the_edge_of_the_number_of_fields(count: int, status: int) -> None:
    raw = b"GET / HTTP/1.1\r\nHost: a.test\r\n" + b"X: 1\r\n" * (count - 1) + b"\r\n"
    parser = RequestHeadParser(HeadLimits(max_fields=5))
    if status:
        with pytest.raises(ProxyError) as caught:
            parser.parse(raw)
        assert caught.value.status == status
    else:
        assert len(parser.parse(raw).fields) == count - 1  # Host is not among them
