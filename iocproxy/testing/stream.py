"""One connected socket, blocking, used from one thread and stoppable from another.

Theory of operation: every blocking call waits in slices of `SLICE` seconds and looks at `stopped` in between, because
neither shutdown nor close wakes a thread blocked in `recv` on every platform. A slice that ends is no error: the
socket (or the TLS object, which is handed the same bytes again) is in the state it was in before.

The four ways to end are kept apart, as tests are about their difference: `half_close` (FIN, still reading), `close`
(FIN; TLS: close_notify first), `reset` (RST), and leaving it to the other side.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from iocproxy.testing.patience import Deadline

if TYPE_CHECKING:
    import ssl

SLICE = 0.1
_READ_SIZE = 262_144
# struct linger is two u_short on Windows and two int elsewhere
_LINGER_RESET = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


class StoppedError(Exception):
    """The owner of the stream is stopping; the thread that gets this just ends."""


class Stream:
    """Blocking reads and writes with a deadline of `timeout` seconds each.

    `secure` says that `sock` is an `ssl.SSLSocket`, made with ``suppress_ragged_eofs=False``: the end of the
    connection without close_notify then raises `ssl.SSLEOFError` from `receive`.
    """

    def __init__(
        self, sock: socket.socket, *, timeout: float, secure: bool = False, stopped: Callable[[], bool] = bool
    ) -> None:
        self.sock = sock
        self.timeout = timeout
        self.secure = secure
        self._stopped = stopped
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def receive(self, size: int = _READ_SIZE) -> bytes:
        """What has arrived, at least one byte; b"" at the end of the stream.

        Raises TimeoutError, StoppedError, ConnectionResetError or ConnectionAbortedError.
        """
        deadline = Deadline(self.timeout, "nothing arrived")
        while True:
            self._begin_slice(deadline)
            with contextlib.suppress(TimeoutError):
                return self.sock.recv(size)

    def send(self, data: bytes) -> None:
        """Send all of it. Raises TimeoutError when the other side takes nothing for `timeout` seconds."""
        view = memoryview(data)
        while view:
            deadline = Deadline(self.timeout, f"{len(view)} bytes could not be sent")
            sent = 0
            while not sent:
                self._begin_slice(deadline)
                with contextlib.suppress(TimeoutError):
                    sent = self.sock.send(view)
            view = view[sent:]

    def handshake(self, context: ssl.SSLContext) -> None:
        """Become the server's side of a TLS connection. Raises ssl.SSLError and OSError as the handshake does."""
        sock = context.wrap_socket(
            self.sock, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        self.sock, self.secure = sock, True
        deadline = Deadline(self.timeout, "the handshake did not end")
        while True:
            self._begin_slice(deadline)
            with contextlib.suppress(TimeoutError):
                return sock.do_handshake()

    def _begin_slice(self, deadline: Deadline) -> None:
        if self._stopped():
            raise StoppedError
        self.sock.settimeout(min(SLICE, deadline.remaining()))

    def half_close(self) -> None:
        """Send FIN and go on reading. Raises ValueError on TLS, which Python cannot half close."""
        if self.secure:
            raise ValueError("a TLS connection cannot be half closed")
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End in the orderly way, and never fail: close_notify where there is TLS, then FIN."""
        with contextlib.suppress(OSError, ValueError):
            self.sock.settimeout(0)
            if self.secure:
                # Sends close_notify; then it wants the other side's, which nobody waits for.
                with contextlib.suppress(OSError):
                    self.sock.unwrap()  # type: ignore[attr-defined]
            self.sock.shutdown(socket.SHUT_WR)
            # Bytes left unread would turn the close into a reset (RFC 2525 section 2.17).
            while socket.socket.recv(self.sock, _READ_SIZE):
                pass
        self.sock.close()

    def reset(self) -> None:
        """End with RST."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        self.sock.close()

    def wake(self) -> None:
        """Make the thread that is blocked in this stream notice that it is stopped; callable from any thread."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)
