"""Between a Proactor transport and the protocol that it serves: asyncio.proactor_events made to behave.

Theory of operation
-------------------
`ProactorLink` is the transport's protocol and the inner protocol's Link. What it takes away, each from CPython 3.11
to 3.14, Lib/asyncio/proactor_events.py:

* **Lost data.** `resume_reading` schedules `_loop_reading` when no read is in flight. Resume, pause, resume within one
  iteration schedules it twice: two reads go into the one buffer and the first one's data is lost. So a pause is
  passed on at once, a resume by one `call_soon` that does what is wanted by then: between two resumes lies an
  iteration, in which the read of the first was posted.
* **Data while paused.** `pause_reading` leaves the read in flight; the transport keeps what it brings and delivers it
  on resume. Nothing to do, except that this data is a `bytearray` on every version, 3.11 always delivers one.
* **Repeated end of file.** After `eof_received` returned true, each resume posts a read, which finds the end again. So
  the end is told once.
* **Data after close.** `_loop_reading` delivers a read that had completed when `close` was called, and so does a resume
  in the same iteration. A closed Link delivers nothing, like the selector transport.
* **An exception from `data_received`** goes to the loop's exception handler and the connection lives on with a hole in
  its stream. The selector transport closes it (`_fatal_error`); so do we.
* **Leaked socket.** `_call_connection_lost` calls `shutdown` before `close`, and it can raise (WinError 10054), so that
  the socket stays open. We shut down and close it ourselves in `connection_lost`; the transport then skips its own
  `shutdown`, and its `close` finds nothing left to do.
* **A reset that begins with an end.** That `shutdown` sends a FIN, also on a socket that is to be reset when it is
  closed: a reader may take it for the orderly end of a message that was cut short. Ours leaves it out then.
* **Memory kept.** Transport and protocol keep each other until the garbage collector comes round, and with them the
  transport's read buffer of 64 KiB. We part them once the connection is lost.

It holds nothing that is particular to Windows, and over a selector transport it does no harm.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

from .endings import shut_down

#: Takes the place of a protocol that was told `connection_lost`.
_NOBODY = asyncio.Protocol()


class ProactorLink(asyncio.Protocol):
    """The protocol of one Proactor transport, and the Link of the protocol above it."""

    __slots__ = (
        "_closed",
        "_ended",
        "_eof",
        "_inner",
        "_loop",
        "_paused",
        "_resume_due",
        "_sock",
        "_transport",
        "_wanted_paused",
    )

    _transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, inner: asyncio.Protocol) -> None:
        """`sock` is the very socket object that the transport is given."""
        self._loop = loop
        self._sock = sock
        self._inner = inner
        self._closed = False  #: `close` or `abort` was called, or the connection is lost: nothing is delivered
        self._ended = False  #: `write_eof` was called: the transport refuses what is written now
        self._eof = False  #: the end was told: no reading goes on
        self._paused = False  #: what the transport was told
        self._wanted_paused = False  #: what the inner protocol told us
        self._resume_due = False  #: `_resume` is scheduled

    # Towards the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._inner.connection_made(cast(asyncio.Transport, self))

    def hand_over(self, protocol: asyncio.Protocol, data: bytes) -> None:
        """As on `SelectorLink`."""
        self._inner = protocol
        self._wanted_paused = False
        try:
            protocol.connection_made(cast(asyncio.Transport, self))
            if data and not self._closed:
                protocol.data_received(data)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the stream above is broken
            self._fail(exc, "data_received")
        if not self._wanted_paused:
            self.resume_reading()

    def data_received(self, data: bytes | bytearray) -> None:
        if self._closed:
            return
        try:
            self._inner.data_received(data if type(data) is bytes else bytes(data))
        except Exception as exc:  # noqa: BLE001 - whatever it is, the stream above is broken
            self._fail(exc, "data_received")

    def eof_received(self) -> bool:
        if self._eof or self._closed:
            return True
        self._eof = True
        try:
            keep_open = self._inner.eof_received()
        except Exception as exc:  # noqa: BLE001 - as above
            self._fail(exc, "eof_received")
            return True
        if not keep_open:
            self._closed = True  # the transport closes itself on what we return
        return bool(keep_open)

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        try:
            self._inner.connection_lost(exc)
        finally:
            shut_down(self._sock)
            self._sock.close()
            self._inner = _NOBODY
            self._transport.set_protocol(_NOBODY)

    # Towards the inner protocol

    def write(self, data: bytes) -> None:
        """Send at once what the system takes, and leave the rest to the transport.

        An overlapped write costs some 60 Python calls; a non-blocking `send` costs one, and nearly always takes it
        all. Only while the transport has nothing of its own under way, or the order would be lost. An error is
        the transport's to find and to tell.
        """
        if not self._ended and not self._closed and not self._transport.get_write_buffer_size():
            try:
                sent = self._sock.send(data)
            except OSError:
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
        self._transport.write(data)

    def pause_reading(self) -> None:
        self._wanted_paused = True
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._wanted_paused = False
        if self._paused and not self._resume_due:
            self._resume_due = True
            self._loop.call_soon(self._resume)

    def _resume(self) -> None:
        self._resume_due = False
        if not self._wanted_paused and not self._closed:
            self._paused = False
            self._transport.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._transport.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def can_write_eof(self) -> bool:
        return self._transport.can_write_eof()

    def write_eof(self) -> None:
        self._ended = True
        self._transport.write_eof()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self._closed = True
        self._transport.close()

    def abort(self) -> None:
        self._closed = True
        self._transport.abort()

    def _fail(self, exc: Exception, where: str) -> None:
        """What the selector transport does when its protocol raises."""
        self._loop.call_exception_handler(
            {"message": f"Fatal error: protocol.{where}() call failed.", "exception": exc, "protocol": self._inner}
        )
        self.abort()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "paused" if self._paused else "open"
        return f"<ProactorLink {state}{' eof' if self._eof else ''} of {self._inner!r}>"
