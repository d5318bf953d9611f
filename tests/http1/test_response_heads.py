"""An upstream's response heads: what they mean, where the body ends, and what is refused with 502."""

from __future__ import annotations

import runpy
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iocproxy.errors import ProxyError, Side
from iocproxy.http1.framing import CHUNKED, NO_BODY, UNTIL_CLOSE
from iocproxy.http1.heads import BareLineFeed, HeadBuffer, HeadLimits, HeadTooLarge
from iocproxy.http1.response import ResponseHead, ResponseHeadParser
from iocproxy.http1.serialize import response_head

REFUSED: dict[str, bytes] = runpy.run_path(str(Path(__file__).with_name("wire_tables.py")))["REFUSED_RESPONSES"]
LIMITS = HeadLimits()


def read(pieces: Iterable[bytes], method: str = "GET") -> tuple[ResponseHead, bytes]:
    heads = HeadBuffer(LIMITS)
    for piece in pieces:
        taken = heads.take(piece)
        if taken is not None:
            return ResponseHeadParser(LIMITS).parse(taken[0], method), taken[1]
    raise AssertionError(f"no complete head: {heads.kept!r}")


def _response(status: bytes, *lines: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 " + status, *lines, b"", b""])


LENGTH = b"Content-Length: 5"
TE = b"Transfer-Encoding: chunked"

#: RFC 9112 section 6.3: (method, status, fields) -> (body, announced Content-Length)
FRAMING = [
    ("GET", b"200 OK", [LENGTH], 5, 5),
    ("GET", b"200 OK", [b"content-length:5 "], 5, 5),
    ("GET", b"200 OK", [b"Content-Length: 0"], NO_BODY, 0),
    ("GET", b"200 OK", [TE], CHUNKED, None),
    ("GET", b"200 OK", [b"transfer-encoding: CHUNKED"], CHUNKED, None),
    ("GET", b"200 OK", [], UNTIL_CLOSE, None),
    ("POST", b"201 Created", [], UNTIL_CLOSE, None),
    ("GET", b"404 Not Found", [LENGTH], 5, 5),
    ("GET", b"500 No", [], UNTIL_CLOSE, None),
    ("GET", b"599 ", [LENGTH], 5, 5),
    ("GET", b"205 Reset Content", [b"Content-Length: 0"], NO_BODY, 0),
    ("HEAD", b"200 OK", [LENGTH], NO_BODY, 5),
    ("HEAD", b"200 OK", [TE], NO_BODY, None),
    ("HEAD", b"200 OK", [], NO_BODY, None),
    ("HEAD", b"404 Not Found", [LENGTH], NO_BODY, 5),
    ("GET", b"204 No Content", [], NO_BODY, None),
    ("GET", b"204 No Content", [LENGTH], NO_BODY, 5),
    ("GET", b"304 Not Modified", [], NO_BODY, None),
    ("GET", b"304 Not Modified", [LENGTH], NO_BODY, 5),
    ("GET", b"304 Not Modified", [TE], NO_BODY, None),
    ("GET", b"100 Continue", [], NO_BODY, None),
    ("POST", b"103 Early Hints", [b"Link: </a>"], NO_BODY, None),
    ("GET", b"101 Switching Protocols", [b"Connection: Upgrade", b"Upgrade: x"], NO_BODY, None),
]


@pytest.mark.parametrize(("method", "status", "lines", "body", "announced"), FRAMING)
def test_where_the_body_ends(method: str, status: bytes, lines: list[bytes], body: int, announced: int | None) -> None:
    raw = _response(status, *lines)
    pieces: list[list[bytes]] = [[raw], [raw + b"rest"], [raw[at : at + 1] for at in range(len(raw))]]
    pieces += [[raw[:at], raw[at:]] for at in range(1, len(raw))]
    for split in pieces:
        head, rest = read(split, method)
        assert (head.status, head.body, head.announced) == (int(status[:3]), body, announced)
        assert rest == (b"rest" if split[0].endswith(b"rest") else b"")
        assert head.keep_alive is (body != UNTIL_CLOSE and (method, lines) != ("HEAD", []))


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_ambiguous_response_is_a_502(name: str, method: str) -> None:
    raw = REFUSED[name]

    def refused(pieces: Iterable[bytes]) -> None:
        try:
            head, _ = read(pieces, method)
        except HeadTooLarge:
            assert name == "a head that is too large"
            return
        except BareLineFeed:
            assert name.startswith("bare LF")
            return
        except ProxyError as refusal:
            error = refusal
        else:
            raise AssertionError(f"accepted: {head!r}")
        assert (error.status, error.side, error.stage) == (502, Side.UPSTREAM, "response")
        assert not error.retryable
        assert error.proxy_status.startswith("http_")

    refused([raw])
    refused(raw[at : at + 1] for at in range(len(raw)))
    if len(raw) <= 200:
        for at in range(1, len(raw)):
            refused([raw[:at], raw[at:]])


def test_fields_are_kept_and_hop_by_hop_ones_are_not() -> None:
    head, _ = read(
        [
            _response(
                b"200 Fine \xe9",
                b"Set-Cookie: a=b",
                b"set-cookie: c=d",
                b"Keep-Alive: timeout=5",
                b"X-Named: 1",
                b"Connection: x-named, keep-alive, Set-Cookie",
                b"Proxy-Connection: keep-alive",
                b"Trailer: X-T",
                b"Upgrade: h2c",
                b"TE: trailers",
                b"Proxy-Authenticate: Basic",
                b"X-Latin: caf\xe9 ",
                b"Via: 1.0 inner",
                b"X-Latin: 2",
                LENGTH,
            )
        ]
    )
    assert head.reason == b"Fine \xe9"
    assert head.fields == [
        (b"Set-Cookie", b"a=b"),
        (b"set-cookie", b"c=d"),
        (b"Proxy-Authenticate", b"Basic"),
        (b"X-Latin", b"caf\xe9"),
        (b"Via", b"1.0 inner"),
        (b"X-Latin", b"2"),
    ]


@pytest.mark.parametrize(
    ("raw", "keep_alive"),
    [
        (b"HTTP/1.1 204 No\r\n\r\n", True),
        (b"HTTP/1.1 204 No\r\nConnection: close\r\n\r\n", False),
        (b"HTTP/1.1 204 No\r\nConnection: x, CLOSE\r\n\r\n", False),
        (b"HTTP/1.1 204 No\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n", False),
        (b"HTTP/1.0 204 No\r\n\r\n", False),
        (b"HTTP/1.0 204 No\r\nConnection: Keep-Alive\r\n\r\n", True),
        (b"HTTP/1.0 204 No\r\nConnection: keep-alive, close\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n\r\n", False),  # its body ends with the connection
    ],
)
def test_whether_the_connection_may_be_used_again(raw: bytes, keep_alive: bool) -> None:
    assert read([raw])[0].keep_alive is keep_alive


@pytest.mark.parametrize(
    ("raw", "keep_alive"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", True),
        (b"HTTP/1.1 204 No\r\n\r\n", True),
        (b"HTTP/1.1 304 No\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\n\r\n", False),  # its body ends with the connection, where the server sends one to HEAD
        (b"HTTP/1.1 404 No\r\nConnection: keep-alive\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", False),
    ],
)
def test_whether_it_may_after_head(raw: bytes, keep_alive: bool) -> None:
    assert read([raw], "HEAD")[0].keep_alive is keep_alive


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", b"OK"),
        (b"HTTP/1.1 200 \r\n\r\n", b""),
        (b"HTTP/1.1 200 All is well\r\n\r\n", b"All is well"),
        (b"HTTP/1.1 200 \xc3\xa4\r\n\r\n", b"\xc3\xa4"),
    ],
)
def test_the_reason_phrase_is_the_upstreams(raw: bytes, reason: bytes) -> None:
    assert read([raw])[0].reason == reason


def test_a_date_is_noticed() -> None:
    assert read([_response(b"200 OK", b"Date: Mon, 01 Jan 2024 00:00:00 GMT")])[0].dated
    assert not read([_response(b"200 OK")])[0].dated


def test_a_date_that_connection_names_is_not_counted_as_passed_on() -> None:
    """RFC 9110 section 6.6.1: a response without Date is given one, so it must not be taken to have one."""
    head, _ = read([_response(b"200 OK", b"Date: Mon, 01 Jan 2024 00:00:00 GMT", b"Connection: date")])
    assert head.dated is any(name == b"Date" for name, _ in head.fields)


def test_a_101_names_its_protocol() -> None:
    head, rest = read([_response(b"101 Switching Protocols", b"Upgrade: websocket", b"Connection: upgrade") + b"\x81"])
    assert head.upgrade == b"websocket"
    assert rest == b"\x81"


def test_one_parser_reads_one_response_after_the_other() -> None:
    parser = ResponseHeadParser(LIMITS)
    for method, status, lines, body, _ in FRAMING * 2:
        assert parser.parse(_response(status, *lines), method).body == body


def test_the_same_octets_mean_another_framing_to_head() -> None:
    parser = ResponseHeadParser(LIMITS)
    raw = _response(b"200 OK", LENGTH)
    for _ in range(2):
        assert parser.parse(raw, "GET").body == 5
        assert (parser.parse(raw, "HEAD").body, parser.parse(raw, "HEAD").announced) == (NO_BODY, 5)
    assert parser.parse(raw, "GET") is parser.parse(raw, "POST")


def test_a_copy_is_the_owners_to_change() -> None:
    parser = ResponseHeadParser(LIMITS)
    raw = _response(b"203 Other", b"Date: x", b"A: 1", b"Connection: close", LENGTH)
    copy = parser.parse(raw, "GET").copy()
    copy.fields.append((b"B", b"2"))
    copy.status = 500
    head = parser.parse(raw, "GET")
    assert (head.status, head.fields) == (203, [(b"Date", b"x"), (b"A", b"1")])
    assert all(getattr(copy, name) == getattr(head, name) for name in ("reason", "version", "body", "announced"))
    assert (copy.dated, copy.keep_alive, copy.upgrade) == (head.dated, head.keep_alive, head.upgrade)


@pytest.mark.parametrize(("count", "accepted"), [(5, True), (6, False)])
def test_the_edge_of_the_number_of_fields(count: int, accepted: bool) -> None:
    raw = b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * count + b"\r\n"
    parser = ResponseHeadParser(HeadLimits(max_fields=5))
    if accepted:
        assert len(parser.parse(raw, "GET").fields) == count
    else:
        with pytest.raises(ProxyError) as caught:
            parser.parse(raw, "GET")
        assert caught.value.proxy_status == "http_response_header_section_size"


_OCTETS = st.sampled_from([bytes([octet]) for octet in b'\x00\x09\x0a\x0b\x0d\x20:,;=/?@"-+_0159aA~\x7f\x80\xff'])
_SEEDS = [_response(status, *lines) for _, status, lines, _, _ in FRAMING] + [
    raw for raw in REFUSED.values() if len(raw) < 400
]


@given(
    st.sampled_from(_SEEDS),
    st.sampled_from(["GET", "HEAD"]),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 3), st.lists(_OCTETS, max_size=3)), max_size=3),
)
def test_a_mutated_response_is_refused_or_means_the_same_when_written_anew(
    raw: bytes, method: str, edits: list[tuple[int, int, list[bytes]]]
) -> None:
    for place, cut, inserted in edits:
        at = place % (len(raw) or 1)
        raw = raw[:at] + b"".join(inserted) + raw[at + cut :]
    end = raw.find(b"\r\n\r\n")
    if end < 0:
        return
    parser = ResponseHeadParser(LIMITS)
    head: ResponseHead | None = None
    status = 0
    try:
        head = parser.parse(raw[: end + 4], method)
    except ProxyError as refusal:
        status = refusal.status
    if head is None:
        assert status == 502
        return
    tail = b""
    if head.announced is not None:
        tail = b"Content-Length: %d\r\n" % head.announced
    elif head.body == CHUNKED:
        tail = b"Transfer-Encoding: chunked\r\n"
    if head.status == 101:  # as a tunnel is answered; without these it is no 101
        if not head.upgrade:
            return  # names no protocol, so it is none that was asked for
        tail = b"Connection: Upgrade\r\nUpgrade: %b\r\n" % head.upgrade
    written = response_head(head.status, head.reason, head.fields, tail)
    again = parser.parse(written, method)
    for name in ("status", "reason", "fields", "body", "announced", "upgrade"):
        assert getattr(again, name) == getattr(head, name), name
    assert written.count(b"\r\n\r\n") == 1
    assert written.count(b"\r") == written.count(b"\n") == written.count(b"\r\n")
