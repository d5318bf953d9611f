"""Taking a message's body out of the stream, whatever its framing.

Each reader has `feed(data) -> bytes`, the body octets in `data`. When the body is complete `done` is True, `rest`
is what follows it and `trailers` are the fields that ended it. `close()` says that the stream has ended and tells
whether the body may end there.
"""

from __future__ import annotations

from typing import Protocol

from iocproxy.http1.chunked import ChunkedDecoder
from iocproxy.http1.framing import CHUNKED, UNTIL_CLOSE, BodyLength
from iocproxy.message import Fields

#: Of every body that can have none; nobody adds to it.
NO_TRAILERS: Fields = []


class BodyReader(Protocol):
    done: bool
    rest: bytes

    @property
    def trailers(self) -> Fields: ...

    def feed(self, data: bytes) -> bytes: ...

    def close(self) -> bool:
        """The stream ended: True when that completes the body, False when it is cut short."""
        ...


class LengthBody:
    """A body of a known number of octets, which is more than none."""

    __slots__ = ("done", "left", "rest")
    trailers = NO_TRAILERS

    def __init__(self, length: int) -> None:
        self.left = length
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        left = self.left - len(data)
        if left > 0:
            self.left = left
            return data
        self.done = True
        if left:
            data, self.rest = data[: self.left], data[self.left :]
        self.left = 0
        return data

    def close(self) -> bool:
        return self.done

    def __repr__(self) -> str:
        return f"<LengthBody left={self.left}>"


class ChunkedBody:
    """A body in the chunked coding. `feed` raises `chunked.ChunkError`."""

    __slots__ = ("_decoder", "done", "rest")

    def __init__(self) -> None:
        self._decoder = ChunkedDecoder()
        self.done = False
        self.rest = b""

    @property
    def trailers(self) -> Fields:
        return self._decoder.trailers

    def feed(self, data: bytes) -> bytes:
        body, self.rest, self.done = self._decoder.feed(data)
        return body

    def close(self) -> bool:
        return self.done


class CloseBody:
    """A response body that ends with its connection (RFC 9112 section 6.3, rule 8)."""

    __slots__ = ("done", "rest")
    trailers = NO_TRAILERS

    def __init__(self) -> None:
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        return data

    def close(self) -> bool:
        self.done = True
        return True


def body_reader(length: BodyLength) -> BodyReader:
    """The reader for a body that is there (`length` is not `framing.NO_BODY`)."""
    if length == CHUNKED:
        return ChunkedBody()
    if length == UNTIL_CLOSE:
        return CloseBody()
    return LengthBody(length)
