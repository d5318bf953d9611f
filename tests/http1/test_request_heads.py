"""Legal request heads, however they arrive: the parts they are taken apart into, and nothing else."""

from __future__ import annotations

import runpy
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iocproxy.errors import ProxyError
from iocproxy.http1.framing import CHUNKED
from iocproxy.http1.heads import MAX_EMPTY_LINES, HeadBuffer, HeadLimits
from iocproxy.http1.memo import MAX_KEPT, MAX_OCTETS
from iocproxy.http1.request import RequestHead, RequestHeadParser
from iocproxy.http1.serialize import request_head, request_lines
from iocproxy.message import Fields

REFUSED: dict[str, tuple[bytes, int]] = runpy.run_path(str(Path(__file__).with_name("wire_tables.py")))[
    "REFUSED_REQUESTS"
]
LIMITS = HeadLimits()


@dataclass
class Parts:
    """What a head is expected to mean; the defaults are those of ``GET / HTTP/1.1`` with ``Host: a.test``."""

    fields: Fields = field(default_factory=list)
    method: str = "GET"
    target: bytes = b"/"
    host: bytes = b"a.test"
    version: int = 11
    body: int = 0
    keep_alive: bool = True
    expects_continue: bool = False
    upgrade: bytes = b""
    forwarded_for: list[bytes] = field(default_factory=list)
    forwarded_proto: bytes = b""
    forwarded_host: bytes = b""


def parts(head: RequestHead) -> Parts:
    return Parts(
        **{
            name: getattr(head.section if name.startswith("forwarded") else head, name)
            for name in Parts.__dataclass_fields__
        }
    )


def _get(*lines: bytes) -> bytes:
    return b"\r\n".join([b"GET / HTTP/1.1", b"Host: a.test", *lines, b"", b""])


def _post(*lines: bytes) -> bytes:
    return b"\r\n".join([b"POST / HTTP/1.1", b"Host: a.test", *lines, b"", b""])


def _old(*lines: bytes) -> bytes:
    return b"\r\n".join([b"GET / HTTP/1.0", *lines, b"", b""])


ACCEPTED: dict[str, tuple[bytes, Parts]] = {
    "the least": (_get(), Parts()),
    # RFC 9112 section 3.2: the forms of a target
    "path and query": (b"GET /a/b?c=d&e HTTP/1.1\r\nHost: a.test\r\n\r\n", Parts(target=b"/a/b?c=d&e")),
    "an empty query": (b"GET /? HTTP/1.1\r\nHost: a.test\r\n\r\n", Parts(target=b"/?")),
    "two slashes": (b"GET //b.test/x HTTP/1.1\r\nHost: a.test\r\n\r\n", Parts(target=b"//b.test/x")),
    "dots and escapes": (
        b"GET /a/../%2e%2E/%00?%0d%0a HTTP/1.1\r\nHost: a.test\r\n\r\n",
        Parts(target=b"/a/../%2e%2E/%00?%0d%0a"),
    ),
    "a URL in a path": (b"GET /http://b.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", Parts(target=b"/http://b.test/")),
    "absolute": (b"GET http://a.test/x?y HTTP/1.1\r\nHost: a.test\r\n\r\n", Parts(target=b"/x?y")),
    "absolute without a path": (b"GET http://a.test HTTP/1.1\r\nHost: a.test\r\n\r\n", Parts()),
    "absolute with a query only": (b"GET http://a.test?y HTTP/1.1\r\nHost: a.test\r\n\r\n", Parts(target=b"/?y")),
    "absolute in other case": (
        b"GET HTTP://A.test/X HTTP/1.1\r\nHost: a.TEST\r\n\r\n",
        Parts(target=b"/X", host=b"A.test"),
    ),
    "absolute with https": (b"GET https://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", Parts()),
    "absolute on HTTP/1.0": (
        b"GET http://a.test/x HTTP/1.0\r\n\r\n",
        Parts(target=b"/x", version=10, keep_alive=False),
    ),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n", Parts(method="OPTIONS", target=b"*")),
    # RFC 9112 section 3.2.4: the last proxy turns the absolute form without path and query into the asterisk
    "absolute asterisk": (
        b"OPTIONS http://a.test HTTP/1.1\r\nHost: a.test\r\n\r\n",
        Parts(method="OPTIONS", target=b"*"),
    ),
    "OPTIONS for a path": (b"OPTIONS /x HTTP/1.1\r\nHost: a.test\r\n\r\n", Parts(method="OPTIONS", target=b"/x")),
    # RFC 9110 section 7.2: forms of a host
    "a port": (b"GET / HTTP/1.1\r\nHost: a.test:8080\r\n\r\n", Parts(host=b"a.test:8080")),
    "an empty port": (b"GET / HTTP/1.1\r\nHost: a.test:\r\n\r\n", Parts(host=b"a.test:")),
    "IPv4": (b"GET / HTTP/1.1\r\nHost: 127.0.0.1:80\r\n\r\n", Parts(host=b"127.0.0.1:80")),
    "IPv6": (b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", Parts(host=b"[::1]:80")),
    "an underscore": (b"GET / HTTP/1.1\r\nHost: a_b.test\r\n\r\n", Parts(host=b"a_b.test")),
    "an escape": (b"GET / HTTP/1.1\r\nHost: %c3%a4.test\r\n\r\n", Parts(host=b"%c3%a4.test")),
    "Host in other case": (b"GET / HTTP/1.1\r\nhOST:a.test\r\n\r\n", Parts()),
    "no Host on HTTP/1.0": (_old(), Parts(version=10, host=b"", keep_alive=False)),
    # RFC 9112 section 5 and RFC 9110 section 5: fields
    "order, case and duplicates": (
        _get(b"b: 2", b"A: 1", b"B: 3", b"a: 1"),
        Parts([(b"b", b"2"), (b"A", b"1"), (b"B", b"3"), (b"a", b"1")]),
    ),
    "obs-text": (_get(b"X-A: \x80\xff caf\xe9"), Parts([(b"X-A", b"\x80\xff caf\xe9")])),
    "blanks around a value": (_get(b"X-A: \t 1 \t2\t "), Parts([(b"X-A", b"1 \t2")])),
    "no blank": (_get(b"X-A:1"), Parts([(b"X-A", b"1")])),
    "an empty value": (_get(b"X-A:", b"X-B: \t"), Parts([(b"X-A", b""), (b"X-B", b"")])),
    "a colon in a value": (_get(b"X-A: :1:"), Parts([(b"X-A", b":1:")])),
    "every token character": (_get(b"!#$%&'*+-.^_`|~09azAZ: 1"), Parts([(b"!#$%&'*+-.^_`|~09azAZ", b"1")])),
    "cookies": (_get(b"Cookie: a=b", b"Cookie: c=d"), Parts([(b"Cookie", b"a=b"), (b"Cookie", b"c=d")])),
    "Via stays": (_get(b"Via: 1.1 x"), Parts([(b"Via", b"1.1 x")])),
    # section 6: framing
    "Content-Length": (_post(b"Content-Length: 5"), Parts(method="POST", body=5)),
    "a length with blanks": (_post(b"Content-Length:  5 \t"), Parts(method="POST", body=5)),
    "a length of nothing": (_post(b"Content-Length: 0"), Parts(method="POST")),
    "a padded length": (_post(b"Content-Length: 0000000005"), Parts(method="POST", body=5)),
    "the longest length": (_post(b"Content-Length: 999999999999999999"), Parts(method="POST", body=10**18 - 1)),
    "no length": (_post(), Parts(method="POST")),
    "chunked": (_post(b"Transfer-Encoding: chunked"), Parts(method="POST", body=CHUNKED)),
    "Chunked": (_post(b"transfer-ENCODING:\tChunKED "), Parts(method="POST", body=CHUNKED)),
    "GET with a body": (_get(b"Content-Length: 3"), Parts(body=3)),
    "a length on HTTP/1.0": (_old(b"Content-Length: 3"), Parts(version=10, host=b"", keep_alive=False, body=3)),
    # section 9.3: persistence
    "close": (_get(b"Connection: close"), Parts(keep_alive=False)),
    "Close among others": (_get(b"Connection: x, CLOSE ,y"), Parts(keep_alive=False)),
    "close in a second field": (_get(b"Connection: x", b"Connection: close"), Parts(keep_alive=False)),
    "close wins": (_get(b"Connection: keep-alive, close"), Parts(keep_alive=False)),
    "keep-alive on HTTP/1.0": (_old(b"Connection: Keep-Alive"), Parts(version=10, host=b"")),
    "closed is not close": (_get(b"Connection: closed"), Parts()),
    # RFC 9110 section 7.6.1: hop-by-hop fields
    "hop-by-hop fields": (
        _get(
            b"Keep-Alive: timeout=5",
            b"Proxy-Connection: keep-alive",
            b"TE: trailers",
            b"Trailer: x",
            b"X-A: 1",
            b"Upgrade: x",
            b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
            b"Proxy-Authorization: Basic eDp5",
        ),
        Parts([(b"X-A", b"1")]),
    ),
    "named in Connection": (
        _get(b"X-A: 1", b"Connection: x-a,, X-C ", b"X-B: 2", b"x-c: 3", b"X-A: 4"),
        Parts([(b"X-B", b"2")]),
    ),
    "named in the second Connection": (
        _get(b"Connection: X-A", b"X-A: 1", b"X-B: 2", b"X-C: 3", b"Connection: X-C"),
        Parts([(b"X-B", b"2")]),
    ),
    "named but protected": (
        _post(
            b"Connection: Host, Content-Length, Cookie, Authorization, Via, Content-Type, Content-Encoding, Forwarded",
            b"Cookie: a=b",
            b"Authorization: x",
            b"Content-Type: text/plain",
            b"Content-Encoding: br",
            b"Via: 1.1 x",
            b"Content-Length: 2",
        ),
        Parts(
            [
                (b"Cookie", b"a=b"),
                (b"Authorization", b"x"),
                (b"Content-Type", b"text/plain"),
                (b"Content-Encoding", b"br"),
                (b"Via", b"1.1 x"),
            ],
            method="POST",
            body=2,
        ),
    ),
    "Transfer-Encoding named": (
        _post(b"Connection: Transfer-Encoding", b"Transfer-Encoding: chunked"),
        Parts(method="POST", body=CHUNKED),
    ),
    # section 10.1.1
    "expect": (
        _post(b"Expect: 100-Continue", b"Content-Length: 5"),
        Parts(method="POST", body=5, expects_continue=True),
    ),
    "expect on HTTP/1.0": (
        _old(b"Expect: 100-continue", b"Content-Length: 5"),
        Parts(version=10, host=b"", keep_alive=False, body=5),
    ),
    # section 7.8
    "upgrade": (_get(b"Connection: Upgrade", b"Upgrade: websocket"), Parts(upgrade=b"websocket")),
    "upgrade among others": (
        _get(b"Upgrade: websocket", b"Connection: keep-alive, upgrade"),
        Parts(upgrade=b"websocket"),
    ),
    "upgrade announced only": (_get(b"Upgrade: websocket"), Parts()),
    "upgrade named only": (_get(b"Connection: upgrade"), Parts()),
    "upgrade on HTTP/1.0": (
        _old(b"Connection: upgrade", b"Upgrade: websocket"),
        Parts(version=10, host=b"", keep_alive=False),
    ),
    "upgrade with a body": (
        _post(b"Connection: upgrade", b"Upgrade: websocket", b"Content-Length: 5"),
        Parts(method="POST", body=5),
    ),
    "h2c": (_get(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMA"), Parts()),
    "H2C in other case": (_get(b"Connection: Upgrade", b"Upgrade: H2C"), Parts()),
    "h2c behind another": (
        _get(b"Connection: Upgrade", b"Upgrade: websocket, h2c"),
        Parts(upgrade=b"websocket"),
    ),
    "h2c in a second field": (
        _get(b"Connection: Upgrade", b"Upgrade: websocket", b"Upgrade: h2c"),
        Parts(upgrade=b"websocket"),
    ),
    # what the client claims about whom it speaks for
    "forwarding fields": (
        _get(
            b"X-Forwarded-For: 10.0.0.1",
            b"x-forwarded-for: 10.0.0.2, 10.0.0.3",
            b"X-Forwarded-Proto: https",
            b"X-Forwarded-Host: b.test",
        ),
        Parts(forwarded_for=[b"10.0.0.1", b"10.0.0.2, 10.0.0.3"], forwarded_proto=b"https", forwarded_host=b"b.test"),
    ),
    # RFC 9112 section 2.2: empty lines before a request
    "an empty line before": (b"\r\n" + _get(), Parts()),
    "four empty lines before": (b"\r\n" * MAX_EMPTY_LINES + _get(), Parts()),
    **{
        f"the method {method}": (b"%b / HTTP/1.1\r\nHost: a.test\r\n\r\n" % method, Parts(method=method.decode()))
        for method in (b"HEAD", b"PUT", b"DELETE", b"PATCH", b"TRACE", b"PROPFIND", b"REPORT", b"M-SEARCH")
    },
}


def read(pieces: Iterable[bytes]) -> tuple[RequestHead, bytes]:
    """(the head, what follows it): pieces that came after it are not looked at."""
    heads = HeadBuffer(LIMITS, empty_lines=MAX_EMPTY_LINES)
    for piece in pieces:
        taken = heads.take(piece)
        if taken is not None:
            return RequestHeadParser(LIMITS).parse(taken[0]), taken[1]
    raise AssertionError(f"no complete head: {heads.kept!r}")


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_legal_head_however_it_is_split(name: str) -> None:
    raw, expected = ACCEPTED[name]
    head, rest = read([raw])
    assert parts(head) == expected
    assert rest == b""
    for trailing in (b"x", b"\r\n", b"\r\n\r\n", raw, b"\x00"):
        head, rest = read([raw + trailing])
        assert parts(head) == expected
        assert rest == trailing
    assert parts(read(raw[at : at + 1] for at in range(len(raw)))[0]) == expected
    for at in range(1, len(raw)):
        head, rest = read([raw[:at], raw[at:] + b"rest"])
        assert parts(head) == expected, at
        assert rest == b"rest"


def test_one_parser_reads_them_all() -> None:
    """A parser is kept for a connection's life; what one head said must not colour the next."""
    parser = RequestHeadParser(LIMITS)
    for _ in range(2):
        for name, (raw, expected) in ACCEPTED.items():
            if expected.keep_alive:  # after any other nothing more is read
                assert parts(parser.parse(raw.lstrip(b"\r\n"))) == expected, name


def outcome(parser: RequestHeadParser, raw: bytes) -> Parts | int:
    """What the head means, or the status it is refused with."""
    try:
        return parts(parser.parse(raw))
    except ProxyError as refusal:
        return refusal.status


#: Legal field sections, without their first line, and every kind of first line, the refused ones too.
_SECTIONS = sorted({raw.lstrip(b"\r\n").partition(b"\r\n")[2] for raw, _ in ACCEPTED.values()})
_LINES = sorted(
    {raw.lstrip(b"\r\n").partition(b"\r\n")[0] for raw, _ in [*ACCEPTED.values(), *REFUSED.values()] if len(raw) < 400}
)


@given(st.sampled_from(_SECTIONS), st.sampled_from(_LINES), st.integers(0, 60), st.binary(max_size=2))
def test_a_section_that_is_known_already_makes_no_difference(
    section: bytes, line: bytes, place: int, inserted: bytes
) -> None:
    """Whatever first line it comes behind, that of a mutated request included."""
    raw = line[:place] + inserted + line[place:] + b"\r\n" + section
    if b"\r\n\r\n" in raw[:-4]:
        return
    parser = RequestHeadParser(LIMITS)
    for primer in (b"GET / HTTP/1.1\r\n", b"POST /x?y HTTP/1.1\r\n", b"GET http://A.test/ HTTP/1.1\r\n"):
        outcome(parser, primer + section)
    assert outcome(parser, raw) == outcome(RequestHeadParser(LIMITS), raw)


def test_a_known_section_is_shared_and_never_that_of_another_authority() -> None:
    parser = RequestHeadParser(LIMITS)
    one, other = parser.parse(_get(b"X: 1")), parser.parse(_get(b"X: 1").replace(b"GET /", b"PUT /b"))
    assert one.section is other.section
    assert (other.method, other.target) == ("PUT", b"/b")
    absolute = parser.parse(_get(b"Y: 1").replace(b"GET /", b"GET http://A.TEST/"))
    assert absolute.host == b"A.TEST"
    assert parser.parse(_get(b"Y: 1")).host == b"a.test"


@pytest.mark.parametrize(
    ("lines", "request_id"),
    [
        ([], None),
        ([b"X-Request-ID: abc"], b"abc"),
        ([b"x-REQUEST-id:"], b""),
        ([b"X-Request-ID: abc", b"X-Request-ID: def"], b"abc, def"),
        ([b"X-Request-ID:", b"X-Request-ID: abc"], b", abc"),  # a list, and no id either
    ],
)
def test_a_request_id_is_noticed_and_left_in_its_place(lines: list[bytes], request_id: bytes | None) -> None:
    parser = RequestHeadParser(LIMITS)
    for _ in range(2):  # parsed, and known
        section = parser.parse(_get(b"A: 1", *lines, b"B: 2")).section
        assert section.request_id == request_id
        assert [name for name, _ in section.fields] == [b"A", *(line.partition(b":")[0] for line in lines), b"B"]


def test_lines_for_another_host() -> None:
    section = RequestHeadParser(LIMITS).parse(_post(b"A: 1", b"Content-Length: 5")).section
    assert section.written_for(b"b.test:80") == b"Host: b.test:80\r\nA: 1\r\nContent-Length: 5\r\n"
    assert section.written() == b"Host: a.test\r\nA: 1\r\nContent-Length: 5\r\n"
    unnamed = RequestHeadParser(LIMITS).parse(_old(b"A: 1")).section
    assert unnamed.written_for(b"b.test") == b"Host: b.test\r\nA: 1\r\n"


def test_what_is_remembered_of_heads_is_bounded() -> None:
    parser = RequestHeadParser(LIMITS)
    first = parser.parse(_get(b"X: first")).section
    long = _get(b"X: " + b"a" * MAX_OCTETS)
    assert parser.parse(long).section is not parser.parse(long).section
    for number in range(MAX_KEPT):
        parser.parse(_get(b"X: %d" % number))
    assert len(parser._memo) <= MAX_KEPT
    assert parser.parse(_get(b"X: first")).section is not first


def test_a_head_shows_itself() -> None:
    assert repr(read([_post(b"Content-Length: 5")])[0]) == "<RequestHead POST b'/' body=5>"


# ── whatever is accepted means the same to the next reader ───────────────────────────────────────────────────────────


def written(head: RequestHead) -> bytes:
    """The head as it goes to an upstream, with what the exchange adds for it."""
    tail = b"Expect: 100-continue\r\n" if head.expects_continue else b""
    if head.upgrade:
        tail += b"Connection: Upgrade\r\nUpgrade: %b\r\n" % head.upgrade
    lines = request_lines(head.host, head.fields, head.body)
    return request_head(head.method, head.target, lines, head.body, tail)


def same_again(raw: bytes) -> None:
    head = RequestHeadParser(LIMITS).parse(raw)
    again = RequestHeadParser(LIMITS).parse(written(head))
    for name in ("method", "target", "host", "fields", "body", "expects_continue", "upgrade"):
        assert getattr(again, name) == getattr(head, name), name
    assert again.version == 11
    assert not again.section.forwarded_for


@pytest.mark.parametrize("name", [name for name, (_, expected) in ACCEPTED.items() if expected.host])
def test_a_head_written_anew_means_the_same(name: str) -> None:
    same_again(ACCEPTED[name][0].lstrip(b"\r\n"))


_OCTETS = st.sampled_from([bytes([octet]) for octet in b'\x00\x09\x0a\x0b\x0d\x20:,;=#*%/?@[]"-+_0159aA~\x7f\x80\xff'])
_SEEDS = [raw.lstrip(b"\r\n") for raw, _ in ACCEPTED.values()] + [raw for raw, _ in REFUSED.values() if len(raw) < 400]


@given(
    st.sampled_from(_SEEDS),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 3), st.lists(_OCTETS, max_size=3)), max_size=3),
)
def test_a_mutated_head_is_refused_or_means_the_same_when_written_anew(
    raw: bytes, edits: list[tuple[int, int, list[bytes]]]
) -> None:
    for place, cut, inserted in edits:
        at = place % (len(raw) or 1)
        raw = raw[:at] + b"".join(inserted) + raw[at + cut :]
    end = raw.find(b"\r\n\r\n")
    if end < 0 or raw.startswith(b"\r\n"):
        return
    raw = raw[: end + 4]
    try:
        head = RequestHeadParser(LIMITS).parse(raw)
    except ProxyError as refusal:
        status = refusal.status
    else:
        status = 0
    if status:
        assert status in {400, 405, 414, 417, 431, 501, 505}
        return
    if head.host:
        same_again(raw)
    again = written(head)
    # nothing but what was parsed: one line for each field, one empty line, no octet that could start another
    assert again.count(b"\r\n\r\n") == 1
    assert again.endswith(b"\r\n\r\n")
    assert again.count(b"\r") == again.count(b"\n") == again.count(b"\r\n")
    assert b"\x00" not in again


_NAMES = st.from_regex(rb"\A[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}\Z")
_VALUES = st.from_regex(rb"\A([\x21-\x7e\x80-\xff]([\t\x20-\x7e\x80-\xff]{0,20}[\x21-\x7e\x80-\xff])?)?\Z")


@given(st.lists(st.tuples(_NAMES, _VALUES), max_size=8))
def test_any_end_to_end_fields_pass_untouched(fields: Fields) -> None:
    special = {
        b"host", b"content-length", b"connection", b"transfer-encoding", b"upgrade", b"expect", b"te", b"trailer",
        b"keep-alive",
    }  # fmt: skip
    fields = [each for each in fields if each[0].lower() not in special]
    raw = request_head("GET", b"/", request_lines(b"a.test", fields, 0), 0, b"")
    assert RequestHeadParser(LIMITS).parse(raw).fields == fields


@given(st.binary(max_size=300))
def test_any_octets_end_in_a_head_or_a_named_error(data: bytes) -> None:
    try:
        RequestHeadParser(LIMITS).parse(data + b"\r\n\r\n")
    except ProxyError as error:
        assert error.status in {400, 405, 414, 417, 501, 505}  # noqa: PT017
