"""Cutting a head out of the stream: where it ends, and its limits at each edge."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iocproxy.http1.heads import MAX_EMPTY_LINES, BareLineFeed, HeadBuffer, HeadLimits, HeadTooLarge

LIMITS = HeadLimits(max_head=256)


def _head(size: int) -> bytes:
    return b"a" * (size - 4) + b"\r\n\r\n"


def take_none(heads: HeadBuffer, pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        assert heads.take(piece) is None


@pytest.mark.parametrize("rest", [b"", b"x", b"\r\n", b"\r\n\r\n", b"b" * 1000])
def test_a_head_and_what_follows(rest: bytes) -> None:
    raw = b"GET / HTTP/1.1\r\nA: 1\r\n\r\n"
    assert HeadBuffer(LIMITS).take(raw + rest) == (raw, rest)
    for at in range(1, len(raw)):
        heads = HeadBuffer(LIMITS)
        assert heads.take(raw[:at]) is None
        assert heads.kept == raw[:at]
        assert heads.take(raw[at:] + rest) == (raw, rest)
        assert heads.kept == b""


def test_one_buffer_cuts_one_head_after_the_other() -> None:
    heads = HeadBuffer(LIMITS, empty_lines=MAX_EMPTY_LINES)
    for _ in range(3):
        for octet in b"\r\n" * MAX_EMPTY_LINES + _head(256)[:-1]:
            assert heads.take(bytes([octet])) is None
        assert heads.take(b"\nrest") == (_head(256), b"rest")


@pytest.mark.parametrize("size", [1, 7, 255, 1000])
def test_a_head_of_exactly_the_limit(size: int) -> None:
    heads = HeadBuffer(LIMITS)
    raw = _head(256) + b"rest"
    taken = None
    fed = 0
    while taken is None:
        taken = heads.take(raw[fed : fed + size])
        fed += size
    assert taken[0] == _head(256)


@pytest.mark.parametrize("size", [1, 7, 255, 1000])
def test_a_head_of_one_octet_more(size: int) -> None:
    heads = HeadBuffer(LIMITS)
    raw = _head(257)
    with pytest.raises(HeadTooLarge):
        take_none(heads, (raw[at : at + size] for at in range(0, len(raw), size)))


@pytest.mark.parametrize("raw", [b"\n", b"A\n", b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\r\nA: 1\n", b"A: 1\r\n\n"])
def test_a_bare_line_feed_is_noticed_at_once(raw: bytes) -> None:
    """Whoever sends no CR may never send the end that is waited for."""
    for size in (1, 2, len(raw)):
        with pytest.raises(BareLineFeed):
            take_none(HeadBuffer(LIMITS), (raw[at : at + size] for at in range(0, len(raw), size)))


def test_an_endless_head_is_given_up_with_the_first_octet_too_many() -> None:
    heads = HeadBuffer(LIMITS)
    assert heads.take(b"a" * 256) is None
    with pytest.raises(HeadTooLarge):
        heads.take(b"a")
    assert len(heads.kept) <= 256


def test_a_body_does_not_count() -> None:
    assert HeadBuffer(LIMITS).take(_head(256) + b"x" * 100_000) == (_head(256), b"x" * 100_000)


@pytest.mark.parametrize("count", range(MAX_EMPTY_LINES + 1))
def test_empty_lines_before_a_head(count: int) -> None:
    raw = b"\r\n" * count + _head(20)
    assert HeadBuffer(LIMITS, empty_lines=MAX_EMPTY_LINES).take(raw + b"rest") == (_head(20), b"rest")
    for at in range(1, len(raw)):
        heads = HeadBuffer(LIMITS, empty_lines=MAX_EMPTY_LINES)
        assert heads.take(raw[:at]) is None
        assert heads.take(raw[at:]) == (_head(20), b"")


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_too_many_empty_lines(size: int) -> None:
    heads = HeadBuffer(LIMITS, empty_lines=MAX_EMPTY_LINES)
    raw = b"\r\n" * (MAX_EMPTY_LINES + 1)
    with pytest.raises(HeadTooLarge, match="empty lines"):
        take_none(heads, (raw[at : at + size] for at in range(0, len(raw), size)))


def test_empty_lines_count_for_each_head_anew() -> None:
    heads = HeadBuffer(LIMITS, empty_lines=MAX_EMPTY_LINES)
    for _ in range(3):
        assert heads.take(b"\r\n" * MAX_EMPTY_LINES + _head(20)) == (_head(20), b"")


def test_a_response_has_no_empty_lines_before_it() -> None:
    """They are left for the parser to refuse: an upstream's stream is out of step (RFC 9112 section 2.2)."""
    assert HeadBuffer(LIMITS).take(b"\r\n\r\nHTTP/1.1") == (b"\r\n\r\n", b"HTTP/1.1")


def test_it_shows_itself() -> None:
    heads = HeadBuffer(LIMITS)
    heads.take(b"GET")
    assert repr(heads) == "<HeadBuffer 3/256>"


@given(
    st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b"a", b"\r\n\r\n"]), max_size=30).map(b"".join),
    st.lists(st.integers(0, 100), max_size=6),
)
def test_any_split_gives_the_same(raw: bytes, cuts: list[int]) -> None:
    def heads_in(pieces: list[bytes]) -> object:
        heads = HeadBuffer(HeadLimits(max_head=24), empty_lines=2)
        found: list[bytes] = []
        for piece in pieces:
            data = piece
            try:
                while data and (taken := heads.take(data)) is not None:
                    if re.search(rb"(?<!\r)\n", taken[0]):
                        return [*found, "a bare LF"]  # whole, it is left to the parser, which refuses it too
                    found.append(taken[0])
                    data = taken[1]
            except HeadTooLarge:
                return [*found, "too large"]
            except BareLineFeed:
                return [*found, "a bare LF"]
        return [*found, heads.kept]

    edges = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
    assert heads_in([raw[start:end] for start, end in itertools.pairwise(edges)]) == heads_in([raw])
