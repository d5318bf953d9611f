"""As much of RFC 6455 as a tunnel test needs: the handshake, frames, and an echo."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from iocproxy.testing.received import Exchange
    from iocproxy.testing.wire import RawClient, RawResponse

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3


class Frame(NamedTuple):
    opcode: int
    payload: bytes
    final: bool = True


def accept_key(key: str) -> str:
    """The Sec-WebSocket-Accept for a Sec-WebSocket-Key (section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key.encode("ascii") + _GUID, usedforsecurity=False).digest()).decode("ascii")


def encode(frame: Frame, *, mask: bytes = b"") -> bytes:
    """The frame on the wire (section 5.2); `mask` is four bytes, which a client must give."""
    size = len(frame.payload)
    flag = 0x80 if mask else 0
    head = bytes([(0x80 if frame.final else 0) | frame.opcode])
    if size < 126:
        head += bytes([flag | size])
    elif size < 1 << 16:
        head += bytes([flag | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([flag | 127]) + size.to_bytes(8, "big")
    return head + mask + _masked(frame.payload, mask)


def read_frame(exactly: Callable[[int], bytes]) -> Frame:
    """One frame, unmasked; `exactly` reads so many bytes and raises at the end of the stream."""
    first, second = exactly(2)
    size = second & 0x7F
    if size == 126:
        size = int.from_bytes(exactly(2), "big")
    elif size == 127:
        size = int.from_bytes(exactly(8), "big")
    mask = exactly(4) if second & 0x80 else b""
    return Frame(first & 0x0F, _masked(exactly(size), mask), bool(first & 0x80))


def _masked(payload: bytes, mask: bytes) -> bytes:
    if not mask or not payload:
        return payload
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")


class WebSocketClient:
    """A WebSocket over a `RawClient`; made by `connect`."""

    def __init__(self, client: RawClient, response: RawResponse) -> None:
        self.client = client
        self.response = response

    def send(self, payload: bytes | str, *, opcode: int | None = None, final: bool = True) -> None:
        """One masked frame: text for a str, binary for bytes, unless told otherwise."""
        data = payload.encode() if isinstance(payload, str) else payload
        kind = opcode if opcode is not None else TEXT if isinstance(payload, str) else BINARY
        self.client.send(encode(Frame(kind, data, final), mask=os.urandom(4)))

    def receive(self) -> Frame:
        """The next frame, whatever it is."""
        return read_frame(self.client.read_exactly)

    def close(self, code: int = 1000) -> int:
        """Exchange close frames; returns the code of the answer. The connection is left to be ended."""
        self.send(code.to_bytes(2, "big"), opcode=CLOSE)
        frame = self.receive()
        if frame.opcode != CLOSE:
            raise AssertionError(f"expected a close frame, got {frame!r}")
        return int.from_bytes(frame.payload[:2], "big")


def connect(client: RawClient, target: str = "/ws") -> WebSocketClient:
    """Do the opening handshake on a connection. Raises AssertionError when it is not accepted properly."""
    key = base64.b64encode(os.urandom(16)).decode("ascii")
    response = client.request(
        "GET",
        target,
        headers=[
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", key),
        ],
    )
    accepted = response.header("sec-websocket-accept")
    if response.status != 101 or accepted != accept_key(key):
        raise AssertionError(f"the WebSocket handshake was answered with {response.raw!r}")
    return WebSocketClient(client, response)


def echo(exchange: Exchange) -> None:
    """The origin's side: answer the handshake, send every frame back, a pong for a ping, and close when asked to."""
    key = exchange.request.header("sec-websocket-key")
    if key is None or (exchange.request.header("upgrade") or "").lower() != "websocket":
        exchange.respond(426, b"this is a WebSocket\n", [("Upgrade", "websocket"), ("Connection", "Upgrade")])
        return
    answer = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept_key(key))]
    exchange.send_head(101, answer)
    while not exchange.reader.at_end():
        frame = read_frame(exchange.reader.exactly)
        if frame.opcode == PING:
            frame = frame._replace(opcode=PONG)
        exchange.send(encode(frame))
        if frame.opcode == CLOSE:
            break
    exchange.close()
