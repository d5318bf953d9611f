"""A blocking client that sends exactly the bytes it is given and says exactly what came back."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from iocproxy.testing.messages import (
    Body,
    ByteReader,
    Fields,
    ResponseHead,
    TruncatedError,
    WireError,
    parse_response_head,
    values,
)
from iocproxy.testing.patience import PATIENCE
from iocproxy.testing.stream import Stream

__all__ = ["RawClient", "RawResponse", "TruncatedError", "WireError"]


class HasClientContext(Protocol):
    """`iocproxy_certificates`, or anything else that makes a client's TLS context."""

    def client_context(self) -> ssl.SSLContext: ...


class RawResponse(NamedTuple):
    """One response, interim ones (1xx) included. `raw` is all of it as it was on the wire."""

    status: int
    reason: bytes
    headers: Fields
    body: bytes
    raw: bytes

    def header(self, name: str) -> str | None:
        """The value of the field, None without one. Raises WireError when there are several."""
        found = values(self.headers, name.encode("latin-1"))
        if len(found) > 1:
            raise WireError(f"{name} came {len(found)} times: {found!r}")
        return found[0].decode("latin-1") if found else None

    @property
    def trailers(self) -> Fields:
        """The trailer fields of a chunked body."""
        if not values(self.headers, b"transfer-encoding"):
            return []
        rest = iter([self.raw.partition(b"\r\n\r\n")[2]])
        body = Body(ByteReader(lambda: next(rest, b"")), chunked=True)
        for _ in body:
            pass
        return body.trailers


class RawClient:
    """A connection to `address`, made at once; close it or use it in a ``with`` statement.

    `tls` is an `ssl.SSLContext` or `iocproxy_certificates`; `server_name` is what SNI asks for and the certificate
    must be valid for (``localhost`` unless told otherwise), None asks for none, for a context that checks no names;
    `session` resumes an earlier connection's TLS session and needs that connection's context. Each call that waits
    does so for at most `timeout` seconds and raises TimeoutError; unexpected bytes or ends raise `WireError`, an
    AssertionError.
    """

    def __init__(
        self,
        address: tuple[str, int],
        tls: ssl.SSLContext | HasClientContext | None = None,
        *,
        server_name: str | None = "localhost",
        session: ssl.SSLSession | None = None,
        source: tuple[str, int] | None = None,
        timeout: float = PATIENCE,
    ) -> None:
        """`source` is the address to connect from, for what is counted by client: ("127.0.0.2", 0).

        Raises OSError and ssl.SSLError as connecting and the handshake do.
        """
        host, port = address[:2]
        self.address = (host, port)
        sock = socket.create_connection((host, port), timeout=timeout, source_address=source)
        try:
            if tls is not None:
                context = tls if isinstance(tls, ssl.SSLContext) else tls.client_context()
                sock = context.wrap_socket(
                    sock, server_hostname=server_name, session=session, suppress_ragged_eofs=False
                )
            self._stream = Stream(sock, timeout=timeout, secure=tls is not None)
        except BaseException:
            sock.close()
            raise
        self._reader = ByteReader(self._stream.receive)

    # -- sending

    def send(self, data: bytes) -> None:
        """Send all of it, in as few segments as the kernel likes."""
        self._stream.send(data)

    def send_slowly(self, data: bytes, size: int = 1) -> None:
        """Send in pieces of `size` bytes, each a write (and, without Nagle's algorithm, a segment) of its own."""
        for start in range(0, len(data), size):
            self._stream.send(data[start : start + size])

    def request(
        self,
        method: str = "GET",
        target: str = "/",
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
    ) -> RawResponse:
        """Send a well-formed request and read its final response.

        Host and, where there is a body, Content-Length are added unless given.
        """
        fields = list(headers)
        names = {name.lower() for name, _ in fields}
        if "host" not in names:
            host, port = self.address
            fields.insert(0, ("Host", f"[{host}]:{port}" if ":" in host else f"{host}:{port}"))
        if body and not names & {"content-length", "transfer-encoding"}:
            fields.append(("Content-Length", str(len(body))))
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "", ""]
        self.send("\r\n".join(lines).encode("latin-1") + body)
        while True:
            response = self.read_response(method.encode("ascii"))
            if response.status >= 200 or response.status == 101:
                return response

    # -- receiving

    def read_head(self) -> tuple[ResponseHead, bytes]:
        """The next head, parsed and as it was on the wire."""
        raw = self._reader.until(b"\r\n\r\n")
        return parse_response_head(raw), raw

    def read_body(self, head: ResponseHead, method: bytes = b"GET") -> Iterator[bytes]:
        """The content that follows the head, piece by piece: for bodies too large to keep."""
        return (data for _, data in Body.of_response(head, self._reader, method) if data)

    def read_response(self, method: bytes = b"GET") -> RawResponse:
        """The next response, which may be an interim one; `method` is the request's (HEAD has no body)."""
        head, raw = self.read_head()
        wire, content = [raw], []
        for octets, data in Body.of_response(head, self._reader, method):
            wire.append(octets)
            content.append(data)
        return RawResponse(head.status, head.reason, head.headers, b"".join(content), b"".join(wire))

    def read_exactly(self, size: int) -> bytes:
        return self._reader.exactly(size)

    def read_until(self, marker: bytes) -> bytes:
        """Everything up to the marker and the marker itself."""
        return self._reader.until(marker)

    def read_until_closed(self) -> bytes:
        """Everything up to the orderly end of the connection, which must not be a reset."""
        pieces = []
        while data := self._end_or_data(self._reader.some, 1 << 18):
            pieces.append(data)
        return b"".join(pieces)

    # -- ending

    def expect_closed(self) -> None:
        """The other side ends in the orderly way (FIN; on TLS close_notify), and nothing comes before that."""
        data = self._end_or_data(self._reader.some, 200)
        if data:
            raise WireError(f"expected the end of the connection, got {data!r}")

    def expect_reset(self) -> None:
        """The other side ends with a reset, and nothing comes before that."""
        try:
            data = self._reader.some(200)
        except (ConnectionResetError, ConnectionAbortedError):
            return
        raise WireError(f"expected a reset, got {data!r}" if data else "expected a reset, got an orderly close")

    def _end_or_data(self, read: Callable[[int], bytes], size: int) -> bytes:
        try:
            return read(size)
        except ssl.SSLEOFError as error:
            raise WireError("the TLS connection ended without close_notify") from error
        except (ConnectionResetError, ConnectionAbortedError) as error:
            raise WireError("expected an orderly end of the connection, got a reset") from error

    def half_close(self) -> None:
        """Send FIN and go on reading."""
        self._stream.half_close()

    def reset(self) -> None:
        """End with RST."""
        self._stream.reset()

    def close(self) -> None:
        """End in the orderly way; may be called more than once."""
        self._stream.close()

    # -- the socket

    @property
    def sock(self) -> socket.socket:
        return self._stream.sock

    @property
    def tls(self) -> ssl.SSLSocket:
        """The TLS socket: ``version()``, ``session_reused``, ``selected_alpn_protocol()``… TypeError without TLS."""
        if not isinstance(self._stream.sock, ssl.SSLSocket):
            raise TypeError("not a TLS connection")
        return self._stream.sock

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        with contextlib.suppress(OSError):
            host, port = self.sock.getsockname()[:2]
            return f"<RawClient {host}:{port} to {self.address[0]}:{self.address[1]}>"
        return f"<RawClient closed, was to {self.address[0]}:{self.address[1]}>"
