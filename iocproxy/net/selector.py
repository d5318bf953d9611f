"""Between a socket and the protocol that serves it, on a loop that has `add_reader`: a transport of our own.

Theory of operation
-------------------
`SelectorLink` is what asyncio.selector_events._SelectorSocketTransport is, for connections that come by the thousand
and often stay for one request. What it does otherwise, and why:

* **It begins at once.** asyncio's transport calls `connection_made` in the next iteration and reads from the one after,
  behind a coroutine, a task, a future and three callbacks. Here `start` does both before it returns; with it a new
  connection costs a third less (docs/design/performance.md).
* **A pause costs nothing until data comes.** `pause_reading` leaves the socket with the selector, and the first event
  while paused takes it out. A body that pauses and resumes between two reads makes no system call for it.
* **What cannot be sent is kept, not copied**: the rest of the very object that was written, sent later together with
  what was written behind it (`sendmsg`).
* **The end is told once**, also when reading is resumed after it. asyncio's transport tells it again.
* Nothing is looked up that nobody asks for: addresses are, when `get_extra_info` is called.

The rest is as in asyncio, and tests hold the two side by side: `connection_lost` comes in an iteration of its own, what
the protocol raises goes to the loop's exception handler and ends the connection, and so does an error of the socket,
which `connection_lost` is told.

        reading                               writing
    open ──pause──► paused                open ──► backlog (the socket takes no more)
      │ ◄──resume──   │                     │         │ above `high`: the protocol is paused, until `low`
      ▼               ▼                     ▼         ▼
      at its end, or closed                 ended (`write_eof`), or closed
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from itertools import islice
from typing import Any, cast

#: How much one read takes at most, as asyncio does (net/memory.py has what has to be known about that).
READ = 256 * 1024

#: When the backlog is so long the protocol is told to pause, and when so short to go on (asyncio's own figures).
HIGH, LOW = 64 * 1024, 16 * 1024

#: Buffers handed to one `sendmsg`; Linux and the BSDs take 1024 (IOV_MAX).
_PIECES = 64

#: Takes the place of a protocol that was told `connection_lost`.
_NOBODY = asyncio.Protocol()


class SelectorLink:
    """The Link of one protocol over one connected, non-blocking socket, which is the link's to close."""

    __slots__ = (
        "_backlog",
        "_backlog_size",
        "_closing",
        "_ended",
        "_eof",
        "_fd",
        "_gone",
        "_high",
        "_loop",
        "_low",
        "_paused",
        "_polling",
        "_protocol",
        "_received",
        "_recv",
        "_send",
        "_sock",
        "_writing_paused",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, protocol: asyncio.Protocol) -> None:
        self._loop = loop
        self._protocol = protocol
        self._closing = False  #: `close` or `abort` was called, or the connection broke: nothing is delivered or taken
        self._gone = False  #: `connection_lost` is scheduled, or over
        # The socket
        self._sock = sock
        self._fd = sock.fileno()
        self._recv = sock.recv
        self._send = sock.send
        # Reading
        self._received = protocol.data_received
        self._paused = False  #: what the protocol told us
        self._polling = False  #: the selector watches the socket for us
        self._eof = False  #: the end was told
        # Writing
        self._ended = False  #: `write_eof` was called
        self._backlog: deque[bytes | memoryview] = deque()
        self._backlog_size = 0
        self._writing_paused = False  #: what we told the protocol
        self._high, self._low = HIGH, LOW

    def start(self) -> None:
        """Tell the protocol `connection_made`, and begin to read. Raises what that raises; the socket stays open then.

        To be called once, before anything else.
        """
        self._protocol.connection_made(cast("asyncio.Transport", self))
        if not self._closing and not self._paused:
            self._poll()

    def hand_over(self, protocol: asyncio.Protocol, data: bytes) -> None:
        """Serve `protocol` from now on, in place of the one that calls this, which hears nothing more.

        It is told `connection_made`, in which it must not pause reading, and given `data`, what was read already and is
        not for its predecessor. Reading goes on even if that had paused it. What `protocol` raises ends the connection,
        as at any other time. Not to be called after the end of file or `connection_lost` was told.
        """
        self._protocol = protocol
        self._received = protocol.data_received
        self._paused = False
        try:
            protocol.connection_made(cast("asyncio.Transport", self))
            if data and not self._closing:
                protocol.data_received(data)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the stream above is broken
            self._fail(exc, "data_received")
        if not self._paused:
            self.resume_reading()

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _readable(self) -> None:
        if self._paused:
            self._unpoll()
            return
        try:
            data = self._recv(READ)
        except BlockingIOError:
            return
        except OSError as exc:
            self._end(exc)
            return
        if not data:
            self._end_of_file()
            return
        try:
            self._received(data)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the stream above is broken
            self._fail(exc, "data_received")

    def _end_of_file(self) -> None:
        self._eof = True
        self._unpoll()
        try:
            keep_open = self._protocol.eof_received()
        except Exception as exc:  # noqa: BLE001 - as above
            self._fail(exc, "eof_received")
            return
        if not keep_open:
            self.close()

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        if not self._polling and not self._eof and not self._closing:
            self._poll()

    def _poll(self) -> None:
        try:
            self._loop.add_reader(self._fd, self._readable)
        except OSError as exc:  # the system watches no more of them
            self._end(exc)
        else:
            self._polling = True

    def _unpoll(self) -> None:
        if self._polling:
            self._polling = False
            self._loop.remove_reader(self._fd)

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────

    def write(self, data: bytes) -> None:
        """Send at once what the system takes, and keep the rest. `data` must not change afterwards.

        What is written after `close` or `abort`, or after the connection broke, is dropped. Raises RuntimeError after
        `write_eof`.
        """
        if self._backlog_size:
            self._keep(data)
            return
        if self._ended or self._closing:
            self._refuse()
            return
        try:
            sent = self._send(data)
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            self._end(exc)
            return
        if sent != len(data):
            self._keep(memoryview(data)[sent:])

    def _keep(self, data: bytes | memoryview) -> None:
        if self._ended or self._closing:
            self._refuse()
            return
        if not data:
            return
        if not self._backlog_size:
            self._loop.add_writer(self._fd, self._writable)
        self._backlog.append(data)
        self._backlog_size += len(data)
        if self._backlog_size > self._high and not self._writing_paused:
            self._writing_paused = True
            self._protocol.pause_writing()

    def _refuse(self) -> None:
        if self._ended and not self._closing:
            raise RuntimeError("written to after write_eof()")

    def _writable(self) -> None:
        backlog = self._backlog
        try:
            sent = self._sock.sendmsg(list(islice(backlog, _PIECES)))
        except BlockingIOError:
            return
        except OSError as exc:
            self._end(exc)
            return
        self._backlog_size -= sent
        while sent:
            piece = backlog[0]
            if len(piece) > sent:
                backlog[0] = memoryview(piece)[sent:]
                break
            sent -= len(piece)
            backlog.popleft()
        if self._writing_paused and self._backlog_size <= self._low:
            self._writing_paused = False
            self._protocol.resume_writing()  # which may write, close or abort
        if not self._backlog_size:
            self._loop.remove_writer(self._fd)
            if self._gone:
                return
            if self._closing:
                self._leave(None)
            elif self._ended:
                self._shut()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Send FIN once everything is written. Raises OSError when the connection turns out to be gone."""
        if self._ended or self._closing:
            return
        self._ended = True
        if not self._backlog_size:
            self._sock.shutdown(socket.SHUT_WR)

    def _shut(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as exc:
            self._end(exc)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """As on `asyncio.WriteTransport`: in octets, `low` is a quarter of `high` by default. Raises ValueError."""
        if high is None:
            high = HIGH if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high}) must be at least low ({low}), and low at least 0")
        self._high, self._low = high, low

    def get_write_buffer_size(self) -> int:
        return self._backlog_size

    # ── ending ───────────────────────────────────────────────────────────────────────────────────────────────────

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._unpoll()
            if not self._backlog_size:
                self._leave(None)

    def abort(self) -> None:
        self._end(None)

    def _fail(self, exc: Exception, where: str) -> None:
        """What asyncio's transports do when their protocol raises."""
        self._loop.call_exception_handler(
            {"message": f"Fatal error: protocol.{where}() call failed.", "exception": exc, "protocol": self._protocol}
        )
        self._end(exc)

    def _end(self, exc: Exception | None) -> None:
        """Close at once, for the reason given."""
        if self._gone:
            return
        self._closing = True
        self._unpoll()
        if self._backlog_size:
            self._backlog.clear()
            self._backlog_size = 0
            self._loop.remove_writer(self._fd)
        self._leave(exc)

    def _leave(self, exc: Exception | None) -> None:
        self._gone = True
        self._loop.call_soon(self._lost, exc)

    def _lost(self, exc: Exception | None) -> None:
        protocol, self._protocol = self._protocol, _NOBODY
        self._received = _NOBODY.data_received
        try:
            protocol.connection_lost(exc)
        finally:
            self._sock.close()

    # ── what else a transport has ────────────────────────────────────────────────────────────────────────────────

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`socket`, `sockname` and `peername`, as on `asyncio.BaseTransport`."""
        if name == "socket":
            return self._sock
        try:
            if name == "sockname":
                return self._sock.getsockname()
            if name == "peername":
                return self._sock.getpeername()
        except OSError:  # it is gone
            return default
        return default

    def __repr__(self) -> str:
        state = "closed" if self._gone else "closing" if self._closing else "paused" if self._paused else "open"
        backlog = f" backlog={self._backlog_size}" if self._backlog_size else ""
        return f"<SelectorLink {state}{' eof' if self._eof else ''}{backlog} of {self._protocol!r}>"
