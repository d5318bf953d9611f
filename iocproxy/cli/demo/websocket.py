"""The origin's side of a WebSocket that echoes: as much of RFC 6455 as that takes, without I/O."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from typing import NamedTuple

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

#: A longer frame ends the connection with 1009.
LARGEST = 1 << 20


def accept_key(key: bytes) -> bytes:
    """The Sec-WebSocket-Accept for a Sec-WebSocket-Key (section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


class _Frame(NamedTuple):
    first: int  #: FIN, the reserved bits and the opcode, as on the wire
    payload: bytes


class _Refused(Exception):  # noqa: N818 - a close code on its way, not an error of ours
    """The frame cannot be answered; the argument is the close code (section 7.4.1)."""


class Echo:
    """Takes the client's bytes and gives the answer's; `closed` says that nothing follows."""

    def __init__(self) -> None:
        self.closed = False
        self._buffer = bytearray()

    def feed(self, data: bytes) -> bytes:
        """What to send for `data`: each frame as it came, a pong for a ping, a close for a close."""
        if self.closed:
            return b""
        self._buffer += data
        answer = bytearray()
        try:
            for first, payload in self._frames():
                opcode = first & 0x0F
                if opcode == _PONG:
                    continue
                answer += _head(0x80 | _PONG if opcode == _PING else first, len(payload)) + payload
                if opcode == _CLOSE:
                    self.closed = True
                    break
        except _Refused as refused:
            self.closed = True
            answer += _head(0x80 | _CLOSE, 2) + int(refused.args[0]).to_bytes(2, "big")
        return bytes(answer)

    def _frames(self) -> Iterator[_Frame]:
        """Every whole frame in the buffer (section 5.2), unmasked."""
        buffer = self._buffer
        while len(buffer) >= 2:
            first, second = buffer[0], buffer[1]
            if not second & 0x80 or first & 0x70 or first & 0x0F not in _KNOWN:
                raise _Refused(1002)  # section 5.1: a client masks every frame; we agreed on no extension
            size, start = second & 0x7F, 2
            if size >= 126:
                start = 4 if size == 126 else 10
                if len(buffer) < start:
                    return
                size = int.from_bytes(buffer[2:start], "big")
            if first & 0x08 and (size > 125 or not first & 0x80):
                raise _Refused(1002)  # section 5.5: control frames are short and whole
            if size > LARGEST:
                raise _Refused(1009)
            end = start + 4 + size
            if len(buffer) < end:
                return
            payload = _unmasked(bytes(buffer[start + 4 : end]), bytes(buffer[start : start + 4]))
            del buffer[:end]
            yield _Frame(first, payload)


_KNOWN = frozenset({_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG})


def _head(first: int, size: int) -> bytes:
    if size < 126:
        return bytes((first, size))
    if size < 1 << 16:
        return bytes((first, 126)) + size.to_bytes(2, "big")
    return bytes((first, 127)) + size.to_bytes(8, "big")


def _unmasked(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")
