"""The chunked coding: read strictly, however it is split, and written so that it reads back."""

from __future__ import annotations

import itertools
import runpy
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iocproxy.http1.chunked import LAST_CHUNK, MAX_LINE, MAX_TRAILERS, ChunkedDecoder, ChunkError, encode_chunk
from iocproxy.message import Fields

_TABLES = runpy.run_path(str(Path(__file__).with_name("wire_tables.py")))
CHUNKED: dict[str, tuple[bytes, bytes, Fields]] = _TABLES["CHUNKED"]
NOT_CHUNKED: dict[str, bytes] = _TABLES["NOT_CHUNKED"]


def decode(pieces: Iterable[bytes]) -> tuple[bytes, bytes, Fields]:
    """(content, what follows, trailers); AssertionError when the body does not end within the pieces."""
    decoder = ChunkedDecoder()
    content = b""
    pieces = iter(pieces)
    for piece in pieces:
        decoded = decoder.feed(piece)
        content += decoded.body
        if decoded.done:
            return content, decoded.rest + b"".join(pieces), decoder.trailers
        assert decoded.rest == b""
    raise AssertionError(f"not ended: {decoder!r}")


@pytest.mark.parametrize("name", CHUNKED)
def test_a_body_however_it_is_split(name: str) -> None:
    raw, content, trailers = CHUNKED[name]
    assert decode([raw]) == (content, b"", trailers)
    for trailing in (b"\r\n", b"GET / HTTP/1.1\r\n", b"0\r\n\r\n", b"\x00"):
        assert decode([raw + trailing]) == (content, trailing, trailers)
    assert decode(raw[at : at + 1] for at in range(len(raw))) == (content, b"", trailers)
    for at in range(1, len(raw)):
        assert decode([raw[:at], raw[at:] + b"rest"]) == (content, b"rest", trailers)
        assert decode([raw[:at], b"", raw[at:]]) == (content, b"", trailers)


@pytest.mark.parametrize("name", NOT_CHUNKED)
def test_what_is_not_in_the_coding_however_it_is_split(name: str) -> None:
    raw = NOT_CHUNKED[name]
    with pytest.raises(ChunkError):
        decode([raw])
    with pytest.raises(ChunkError):
        decode(raw[at : at + 1] for at in range(len(raw)))
    if len(raw) <= 100:
        for at in range(1, len(raw)):
            with pytest.raises(ChunkError):
                decode([raw[:at], raw[at:]])


@pytest.mark.parametrize("name", CHUNKED)
def test_a_body_cut_short_never_looks_complete(name: str) -> None:
    raw, content, _ = CHUNKED[name]
    for at in range(len(raw)):
        decoded = ChunkedDecoder().feed(raw[:at])
        assert not decoded.done
        assert content.startswith(decoded.body)


def test_content_is_handed_on_as_it_comes() -> None:
    """Nothing is kept back until a chunk is complete: a chunk may be 2**60 octets long."""
    decoder = ChunkedDecoder()
    assert decoder.feed(b"fffffffffffffff\r\nab").body == b"ab"
    assert decoder.feed(b"cd").body == b"cd"
    assert repr(decoder) == f"<ChunkedDecoder DATA left={0xFFFFFFFFFFFFFFF - 4}>"


@pytest.mark.parametrize(("length", "accepted"), [(MAX_LINE - 1, True), (MAX_LINE, True), (MAX_LINE + 1, False)])
@pytest.mark.parametrize("size", [1, 2, 255, 100_000])
def test_the_edge_of_a_size_line(length: int, accepted: bool, size: int) -> None:
    raw = b"0;" + b"a" * (length - 2) + b"\r\n\r\n"
    pieces = [raw[at : at + size] for at in range(0, len(raw), size)]
    if accepted:
        assert decode(pieces) == (b"", b"", [])
    else:
        with pytest.raises(ChunkError):
            decode(pieces)


def test_a_size_line_without_end_is_given_up_at_its_limit() -> None:
    decoder = ChunkedDecoder()
    decoder.feed(b"0;" + b"a" * (MAX_LINE - 2))
    decoder.feed(b"\r")  # may still be the end
    with pytest.raises(ChunkError):
        decoder.feed(b"a")


@pytest.mark.parametrize(("octets", "accepted"), [(MAX_TRAILERS, True), (MAX_TRAILERS + 1, False)])
def test_the_edge_of_the_trailers(octets: int, accepted: bool) -> None:
    """All trailer lines together, each with its CRLF."""
    lines = b"X-A: 1\r\n" * 100
    raw = b"0\r\n" + lines + b"X-B: " + b"1" * (octets - len(lines) - 7) + b"\r\n\r\n"
    if accepted:
        assert len(decode([raw])[2]) == 101
    else:
        with pytest.raises(ChunkError):
            decode([raw])


def test_writing() -> None:
    assert encode_chunk(b"a") == b"1\r\na\r\n"
    assert encode_chunk(b"a" * 26) == b"1a\r\n" + b"a" * 26 + b"\r\n"
    assert LAST_CHUNK == b"0\r\n\r\n"


def _split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(
    st.lists(st.binary(min_size=1, max_size=50), max_size=6), st.lists(st.integers(0, 1000), max_size=6), st.binary()
)
def test_what_is_written_reads_back_however_it_is_split(chunks: list[bytes], cuts: list[int], rest: bytes) -> None:
    raw = b"".join(map(encode_chunk, chunks)) + LAST_CHUNK
    content, after, trailers = decode([*_split(raw, cuts), rest])
    assert (content, after, trailers) == (b"".join(chunks), rest, [])


@given(st.sampled_from(sorted(CHUNKED)), st.lists(st.integers(0, 1000), max_size=8))
def test_any_split_gives_the_same(name: str, cuts: list[int]) -> None:
    raw, content, trailers = CHUNKED[name]
    assert decode([*_split(raw, cuts), b"rest"]) == (content, b"rest", trailers)


@given(st.lists(st.sampled_from([*b'0123456789abcdefAF;="\\ \t\r\n:x\x00']), max_size=40), st.lists(st.integers(0, 40)))
def test_any_split_of_anything_ends_the_same_way(octets: list[int], cuts: list[int]) -> None:
    raw = bytes(octets)

    def outcome(pieces: list[bytes]) -> object:
        decoder, content, rest = ChunkedDecoder(), b"", b""
        done = False
        try:
            for piece in pieces:
                if done:
                    rest += piece
                    continue
                body, rest, done = decoder.feed(piece)
                content += body
        except ChunkError:
            return "refused"
        return content, rest, done, decoder.trailers

    assert outcome(_split(raw, cuts)) == outcome([raw])
