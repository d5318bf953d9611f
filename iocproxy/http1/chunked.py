"""The chunked transfer coding (RFC 9112 section 7.1), read strictly and written anew.

Refused here although some accept it: a bare LF, blanks around the size, a size of more than 15 digits, signs, ``0x``,
an extension outside its grammar or longer than `MAX_LINE`, anything but CRLF behind the data. Chunk boundaries carry
no meaning (section 7.1: a recipient may re-chunk), so what one read brought is passed on as one chunk.
"""

from __future__ import annotations

import enum
import re
from typing import NamedTuple

from iocproxy.http1.fields import field_line, may_be_trailer
from iocproxy.message import Fields

#: The size line with its extensions, without CRLF.
MAX_LINE = 256
#: The trailer section as a whole.
MAX_TRAILERS = 8 * 1024

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
_SIZE_LINE = re.compile(
    rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[ \t]*" + _TOKEN + rb"(?:[ \t]*=[ \t]*(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?)*"
)

LAST_CHUNK = b"0\r\n\r\n"


class ChunkError(Exception):
    """The body is not in the chunked coding's grammar; the argument says how."""


class _State(enum.Enum):
    SIZE = enum.auto()  # at the start of a size line
    DATA = enum.auto()  # inside a chunk, `_left` octets of data to come
    DATA_END = enum.auto()  # behind a chunk's data: CRLF has to follow
    TRAILERS = enum.auto()  # behind the last chunk, at the start of a trailer line or the final empty line
    DONE = enum.auto()


class Decoded(NamedTuple):
    body: bytes  #: what the given data held of the body, joined
    rest: bytes  #: what follows the message; only when done
    done: bool


class ChunkedDecoder:
    """Takes the coding off. `feed` raises `ChunkError`; after `done` it must not be fed again."""

    __slots__ = ("_kept", "_left", "_state", "_trailer_octets", "trailers")

    def __init__(self) -> None:
        self._state = _State.SIZE
        self._left = 0
        self._kept = b""
        self._trailer_octets = 0
        #: the trailer fields that may be passed on (`fields.may_be_trailer`)
        self.trailers: Fields = []

    def feed(self, data: bytes) -> Decoded:
        if self._kept:
            data = self._kept + data
            self._kept = b""
        pieces: list[bytes] = []
        at = 0
        size = len(data)
        while True:
            if self._state is _State.DATA:
                piece = data[at : at + self._left]
                if piece:
                    pieces.append(piece)
                    at += len(piece)
                    self._left -= len(piece)
                if self._left:
                    break
                self._state = _State.DATA_END
            if self._state is _State.DATA_END:
                ending = data[at : at + 2]
                if ending != b"\r\n":
                    if b"\r\n".startswith(ending):
                        self._kept = ending
                        break
                    raise ChunkError("chunk data that does not end in CRLF")
                at += 2
                self._state = _State.SIZE
            if self._state is _State.SIZE:
                line, at = self._line(data, at, MAX_LINE)
                if line is None:
                    break
                match = _SIZE_LINE.fullmatch(line)
                if match is None:
                    raise ChunkError("a malformed chunk size line")
                self._left = int(match[1], 16)
                self._state = _State.DATA if self._left else _State.TRAILERS
                continue
            # _State.TRAILERS
            line, at = self._line(data, at, MAX_TRAILERS)
            if line is None:
                break
            if not line:
                self._state = _State.DONE
                return Decoded(b"".join(pieces), data[at:size], True)
            self._trailer(line)
        return Decoded(pieces[0] if len(pieces) == 1 else b"".join(pieces), b"", False)

    def _line(self, data: bytes, at: int, limit: int) -> tuple[bytes | None, int]:
        end = data.find(b"\r\n", at, at + limit + 2)
        if end < 0:
            if len(data) - at > limit + 1:  # the one is a CR whose LF has yet to come
                raise ChunkError(f"a line of more than {limit} octets in the chunked coding")
            self._kept = data[at:]
            return None, len(data)
        return data[at:end], end + 2

    def _trailer(self, line: bytes) -> None:
        self._trailer_octets += len(line) + 2
        if self._trailer_octets > MAX_TRAILERS:
            raise ChunkError(f"trailers of more than {MAX_TRAILERS} octets")
        field = field_line(line)
        if field is None:
            raise ChunkError("a malformed trailer field")
        if may_be_trailer(field[0].lower()):
            self.trailers.append(field)

    def __repr__(self) -> str:
        return f"<ChunkedDecoder {self._state.name} left={self._left}>"


def encode_chunk(data: bytes) -> bytes:
    """`data` (never empty: that would end the body) as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: Fields) -> bytes:
    """The end of a body in the chunked coding."""
    if not trailers:
        return LAST_CHUNK
    return b"0\r\n%b\r\n" % b"".join(b"%b: %b\r\n" % field for field in trailers)
