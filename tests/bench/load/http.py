"""A blocking HTTP/1.1 client, small enough to see what it checks."""

from __future__ import annotations

import socket
import ssl
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"
TIMEOUT_SECONDS = 30.0
_CHUNK = 1 << 20
_HEAD_LIMIT = 64 * 1024


class WrongAnswerError(Exception):
    """The answer was not what a correct proxy gives: a status, a length, a close, a session that was not resumed."""


def get(path: str, *, close: bool = False) -> bytes:
    """The bytes of a GET request."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{_CLOSE if close else ''}\r\n".encode()


def put(path: str, length: int) -> bytes:
    """The head of an upload of ``length`` bytes."""
    return f"PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode()


_CLOSE = "Connection: close\r\n"


class Connection:
    """One connection, plain or TLS; a context manager that closes it."""

    __slots__ = ("_held", "socket")

    def __init__(
        self,
        port: int,
        context: ssl.SSLContext | None = None,
        session: ssl.SSLSession | None = None,
        *,
        source: str = HOST,
    ) -> None:
        raw = socket.create_connection((HOST, port), TIMEOUT_SECONDS, source_address=(source, 0))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket: socket.socket | ssl.SSLSocket = raw
        if context is not None:
            try:
                self.socket = context.wrap_socket(raw, server_hostname="localhost", session=session)
            except BaseException:
                raw.close()
                raise
        self._held = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close it, without a TLS close_notify."""
        self.socket.close()

    def finish_tls(self) -> None:
        """Send close_notify and wait for the other side's, or for its end."""
        if isinstance(self.socket, ssl.SSLSocket):
            try:
                self.socket.unwrap()
            except (OSError, ValueError):
                # a server may answer our close_notify with a bare FIN; the handshake is complete either way
                return

    def exchange(self, request: bytes, *, length: int) -> None:
        """Send a whole request and take its answer; unless it is 200 with ``length`` bytes, WrongAnswerError."""
        self.socket.sendall(request)
        status, found = self.read_head()
        if status != 200 or found != length:
            raise WrongAnswerError(f"status {status} with {found} bytes, wanted 200 with {length}")
        self.skip_body(length)

    def read_head(self) -> tuple[int, int]:
        """The status of the next response and its Content-Length (0 when there is none)."""
        while (end := self._held.find(b"\r\n\r\n")) < 0:
            more = self.socket.recv(_HEAD_LIMIT)
            if not more:
                raise WrongAnswerError(f"closed within the head of a response, after {self._held[:80]!r}")
            self._held += more
            if len(self._held) > 2 * _HEAD_LIMIT:
                raise WrongAnswerError("the head of a response does not end")
        head, self._held = self._held[:end], self._held[end + 4 :]
        lines = head.split(b"\r\n")
        length = 0
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
            elif name.lower() == b"transfer-encoding":
                raise WrongAnswerError("a body whose length was known came back chunked")
        return int(lines[0].split(b" ", 2)[1]), length

    def skip_body(self, length: int) -> None:
        """Read ``length`` bytes and forget them."""
        missing = length - len(self._held)
        if missing < 0:
            raise WrongAnswerError(f"{-missing} bytes more than the body")
        self._held = b""
        if not missing:
            return
        buffer = bytearray(min(_CHUNK, missing))
        while missing:
            got = self.socket.recv_into(buffer, min(len(buffer), missing))
            if not got:
                raise WrongAnswerError(f"closed {missing} bytes before the end of a body")
            missing -= got

    def read_body(self, length: int) -> bytes:
        """Read and keep ``length`` bytes."""
        body = bytearray(self._held[:length])
        self._held = self._held[length:]
        while len(body) < length:
            more = self.socket.recv(min(_CHUNK, length - len(body)))
            if not more:
                raise WrongAnswerError(f"closed {length - len(body)} bytes before the end of a body")
            body += more
        return bytes(body)
