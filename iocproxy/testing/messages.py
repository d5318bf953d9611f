"""Read HTTP/1.1 messages strictly, and keep the bytes they were made of.

This is a second opinion on framing, written apart from `iocproxy.http1` on purpose: a test that read the proxy's
output with the proxy's own parser could not see a mistake that both make. It refuses everything that RFC 9112 does
not allow a sender to send, and repairs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

Fields = list[tuple[bytes, bytes]]

_HEAD_LIMIT = 1 << 20
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*((?:[\t \x21-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)[ \t]*")
_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([\x21-\x7e\x80-\xff]+) HTTP/1\.([01])")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9]) ([\t \x21-\x7e\x80-\xff]*)")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t \x21-\x7e\x80-\xff]*)?")


class WireError(AssertionError):
    """What arrived is not what HTTP allows or what the test expected."""


class TruncatedError(WireError):
    """The stream ended in the middle of a message."""


class RequestHead(NamedTuple):
    method: bytes
    target: bytes
    version: int  #: 10 or 11
    headers: Fields


class ResponseHead(NamedTuple):
    version: int  #: 10 or 11
    status: int
    reason: bytes
    headers: Fields


class ByteReader:
    """Cuts a stream into pieces. `receive` returns some bytes, or b"" at the end."""

    def __init__(self, receive: Callable[[], bytes]) -> None:
        self._receive = receive
        self._buffer = bytearray()

    @property
    def buffered(self) -> bytes:
        """What has arrived and was not taken yet."""
        return bytes(self._buffer)

    def some(self, limit: int) -> bytes:
        """Between 1 and `limit` bytes; b"" at the end of the stream."""
        if not self._buffer:
            data = self._receive()
            if len(data) <= limit:
                return data
            self._buffer += data
        return self._take(min(limit, len(self._buffer)))

    def exactly(self, size: int) -> bytes:
        """Raises TruncatedError when the stream ends before."""
        while len(self._buffer) < size:
            self._more(f"{size} bytes")
        return self._take(size)

    def until(self, marker: bytes, limit: int = _HEAD_LIMIT) -> bytes:
        """Everything up to the marker and the marker itself. Raises WireError when `limit` bytes do not hold it."""
        start = 0
        while (found := self._buffer.find(marker, start)) < 0:
            start = max(0, len(self._buffer) - len(marker) + 1)
            if len(self._buffer) > limit:
                raise WireError(f"no {marker!r} within {limit} bytes: {bytes(self._buffer[:200])!r}...")
            self._more(repr(marker))
        return self._take(found + len(marker))

    def at_end(self) -> bool:
        """Wait for the next byte or the end of the stream, and say whether it was the end."""
        if not self._buffer:
            self._buffer += self._receive()
        return not self._buffer

    def _more(self, wanted: str) -> None:
        data = self._receive()
        if not data:
            raise TruncatedError(f"the stream ended where {wanted} was expected, after {bytes(self._buffer[-200:])!r}")
        self._buffer += data

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken


def parse_request_head(raw: bytes) -> RequestHead:
    """The head of a request, its empty line included. Raises WireError."""
    line, fields = _split_head(raw)
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise WireError(f"not a request line: {line!r}")
    method, target, minor = match.groups()
    return RequestHead(method, target, 10 + int(minor), fields)


def parse_response_head(raw: bytes) -> ResponseHead:
    """The head of a response, its empty line included. Raises WireError."""
    line, fields = _split_head(raw)
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise WireError(f"not a status line: {line!r}")
    minor, status, reason = match.groups()
    return ResponseHead(10 + int(minor), int(status), reason, fields)


def _split_head(raw: bytes) -> tuple[bytes, Fields]:
    line, *lines = raw[: -len(b"\r\n\r\n")].split(b"\r\n")
    return line, [_parse_field(each) for each in lines]


def _parse_field(line: bytes) -> tuple[bytes, bytes]:
    match = _FIELD.fullmatch(line)
    if match is None:
        raise WireError(f"not a header field: {line!r}")
    return match[1], match[2]


def values(fields: Fields, name: bytes) -> list[bytes]:
    """Every value of the field, in order."""
    wanted = name.lower()
    return [value for key, value in fields if key.lower() == wanted]


class Body:
    """The body that follows a head; iterate it once for (bytes on the wire, bytes of content) pairs.

    `trailers` is complete when the iteration is. Raises WireError for framing that RFC 9112 section 6.3 forbids, and
    TruncatedError when the stream ends before the body does.
    """

    def __init__(self, reader: ByteReader, *, chunked: bool = False, length: int | None = 0) -> None:
        """`length` None: up to the end of the stream."""
        self._reader = reader
        self._chunked = chunked
        self._length = length
        self.trailers: Fields = []

    @classmethod
    def of_request(cls, head: RequestHead, reader: ByteReader) -> Body:
        chunked, length = _framing(head.headers)
        if chunked and head.version == 10:
            raise WireError("Transfer-Encoding in an HTTP/1.0 request")
        return cls(reader, chunked=chunked, length=length or 0)

    @classmethod
    def of_response(cls, head: ResponseHead, reader: ByteReader, method: bytes) -> Body:
        chunked, length = _framing(head.headers)
        if (head.status < 200 or head.status == 204) and (chunked or length is not None):
            raise WireError(f"framing fields in a {head.status} response: {head.headers!r}")
        if chunked and head.version == 10:
            raise WireError("Transfer-Encoding in an HTTP/1.0 response")
        if head.status < 200 or head.status in {204, 304} or method == b"HEAD":
            return cls(reader)
        if method == b"CONNECT" and head.status < 300:
            return cls(reader)
        return cls(reader, chunked=chunked, length=length)

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        if self._chunked:
            yield from self._chunks()
        elif self._length is None:
            while data := self._reader.some(1 << 18):
                yield data, data
        else:
            yield from self._counted(self._length)

    def _counted(self, length: int) -> Iterator[tuple[bytes, bytes]]:
        left = length
        while left:
            data = self._reader.some(left)
            if not data:
                raise TruncatedError(f"the stream ended {left} bytes before the end of a body of {length}")
            left -= len(data)
            yield data, data

    def _chunks(self) -> Iterator[tuple[bytes, bytes]]:
        while True:
            line = self._reader.until(b"\r\n")
            match = _CHUNK_LINE.fullmatch(line[:-2])
            if match is None:
                raise WireError(f"not a chunk size: {line!r}")
            yield line, b""
            size = int(match[1], 16)
            if not size:
                break
            yield from self._counted(size)
            end = self._reader.exactly(2)
            if end != b"\r\n":
                raise WireError(f"{end!r} after a chunk of {size} bytes")
            yield end, b""
        while (line := self._reader.until(b"\r\n")) != b"\r\n":
            self.trailers.append(_parse_field(line[:-2]))
            yield line, b""
        yield line, b""


def _framing(fields: Fields) -> tuple[bool, int | None]:
    """(chunked, content length or None); both at once are an error (RFC 9112 section 6.1)."""
    codings, lengths = values(fields, b"transfer-encoding"), values(fields, b"content-length")
    if codings and lengths:
        raise WireError(f"Transfer-Encoding and Content-Length: {codings!r}, {lengths!r}")
    if codings:
        if [coding.lower() for coding in codings] != [b"chunked"]:
            raise WireError(f"transfer coding {codings!r}")
        return True, None
    if not lengths:
        return False, None
    if len(lengths) > 1 or not re.fullmatch(rb"[0-9]{1,18}", lengths[0]):
        raise WireError(f"Content-Length {lengths!r}")
    return False, int(lengths[0])
