"""What an origin received, and the exchange in which it answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from iocproxy.message import reason_phrase
from iocproxy.testing.messages import Body, ByteReader, Fields, RequestHead, WireError, values
from iocproxy.testing.stream import Stream


class ReceivedRequest:
    """One request, byte for byte, on the origin's connection number `connection` (from 0, in order of arrival).

    `raw` is all of it as it was on the wire, `head` its part up to and with the empty line, `body` the content
    without chunk framing. Of a body longer than the origin's `keep` only that much is kept, in `raw` too;
    `body_length` counts all of it. `complete` is False until the whole body was read, and stays so when the client
    left before. `secure` tells whether it came over TLS.
    """

    def __init__(self, head: RequestHead, raw: bytes, connection: int, *, secure: bool) -> None:
        self.method = head.method
        self.target = head.target
        self.version = head.version
        self.headers: Fields = head.headers
        self.trailers: Fields = []
        self.head = raw
        self.connection = connection
        self.secure = secure
        self.body_length = 0
        self.complete = False
        self._wire = bytearray(raw)
        self._content = bytearray()

    @property
    def raw(self) -> bytes:
        return bytes(self._wire)

    @property
    def body(self) -> bytes:
        return bytes(self._content)

    @property
    def path(self) -> str:
        """The target without its query, as it was sent."""
        return self.target.partition(b"?")[0].decode("latin-1")

    @property
    def query(self) -> str:
        return self.target.partition(b"?")[2].decode("latin-1")

    def header(self, name: str) -> str | None:
        """The value of the field, None without one. Raises WireError when there are several."""
        found = self.header_values(name)
        if len(found) > 1:
            raise WireError(f"{name} came {len(found)} times: {found!r}")
        return found[0] if found else None

    def header_values(self, name: str) -> list[str]:
        return [value.decode("latin-1") for value in values(self.headers, name.encode("latin-1"))]

    def add(self, octets: bytes, data: bytes, keep: int) -> None:
        """Take note of a piece of the body: `octets` on the wire, `data` of content."""
        self.body_length += len(data)
        if len(self._content) < keep:
            self._content += data[: keep - len(self._content)]
            self._wire += octets

    def __repr__(self) -> str:
        line = f"{self.method.decode('latin-1')} {self.target.decode('latin-1')}"
        state = "" if self.complete else " incomplete"
        return f"<ReceivedRequest {line} on connection {self.connection}, body {self.body_length}{state}>"


class Exchange:
    """One request being answered. A handler gets this, in the thread of its connection.

    It may send raw bytes, a whole response, or end the connection; whatever it does not read of the body is read
    after it returned, as the next request follows it.
    """

    def __init__(
        self,
        request: ReceivedRequest,
        stream: Stream,
        reader: ByteReader,
        body: Body,
        *,
        keep: int,
        changed: Callable[[], None],
        stopping: threading.Event,
    ) -> None:
        self.request = request
        self.stream = stream
        self.reader = reader
        self.stopping = stopping
        self.ended = False
        self._body = self._read(body, keep)
        self._changed = changed

    def _read(self, body: Body, keep: int) -> Iterator[bytes]:
        if self.request.version == 11 and "100-continue" in self.request.header_values("expect"):
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        for octets, data in body:
            self.request.add(octets, data, keep)
            if data:
                yield data
        self.request.trailers = body.trailers
        self.request.complete = True
        self._changed()

    def iter_body(self) -> Iterator[bytes]:
        """What is left of the body, piece by piece, however long it is."""
        return self._body

    def read_body(self) -> bytes:
        """Read the body to its end; returns what was kept of it."""
        for _ in self._body:
            pass
        return self.request.body

    def send(self, data: bytes) -> None:
        """These bytes, exactly."""
        self.stream.send(data)

    def respond(
        self, status: int = 200, body: bytes = b"", headers: Iterable[tuple[str, str]] = (), *, reason: str = ""
    ) -> None:
        """A whole response, with Content-Length; without a body where HTTP has none (HEAD, 204, 304)."""
        fields = list(headers)
        if status not in {204, 304}:
            fields.append(("Content-Length", str(len(body))))
        self.send_head(status, fields, reason=reason)
        if self.has_body(status):
            self.send(body)

    def respond_json(self, value: Any, status: int = 200) -> None:
        self.respond(status, json.dumps(value).encode("ascii"), [("Content-Type", "application/json")])

    def send_head(self, status: int, headers: Iterable[tuple[str, str]] = (), *, reason: str = "") -> None:
        """Only the head, for a body that follows in pieces."""
        phrase = reason or reason_phrase(status).decode("ascii")
        lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers), "", ""]
        self.send("\r\n".join(lines).encode("latin-1"))

    def has_body(self, status: int = 200) -> bool:
        return self.request.method != b"HEAD" and status not in {204, 304}

    def half_close(self) -> None:
        """Send FIN; the connection is read to its end, but no further request is answered."""
        self.ended = True
        self.stream.half_close()

    def close(self) -> None:
        """End the connection in the orderly way."""
        self.ended = True
        self.stream.close()

    def reset(self) -> None:
        """End the connection with a reset."""
        self.ended = True
        self.stream.reset()
