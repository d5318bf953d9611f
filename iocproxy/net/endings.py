"""What can be asked of a connection's socket about its end, through the transport that owns it."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys

from iocproxy.link import Link

#: Linger on, for no time: struct linger is two u_short on Windows (winsock2.h), two int elsewhere (POSIX sys/socket.h).
_RESET = struct.pack("HH" if sys.platform == "win32" else "ii", 1, 0)


def end_output(link: Link) -> None:
    """Say that nothing more will be written, once everything is. On a connection that turns out to be gone (asyncio
    lets the OSError of `shutdown` through) it is aborted."""
    try:
        link.write_eof()
    except OSError:
        link.abort()


def reset_when_closed(link: Link) -> None:
    """Have the next close or abort send RST instead of FIN; what is still in the send buffer is lost.

    `transport.abort()` alone closes with a FIN, which looks like an orderly end.
    """
    sock = link.get_extra_info("socket")
    if sock is None:
        return
    with contextlib.suppress(OSError):  # it is gone already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def shut_down(sock: socket.socket) -> None:
    """Say that nothing more will be written or read, unless the socket is to be reset when it is closed.

    A FIN ahead of the reset would let a reader believe in an orderly end, and so in a complete message.
    """
    with contextlib.suppress(OSError):  # it is gone already
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(_RESET)) != _RESET:
            sock.shutdown(socket.SHUT_RDWR)


def unread_octets(link: Link) -> int:
    """How many octets were written that the other side has not acknowledged: the transport's buffer and, where the
    system tells (Linux), the kernel's, which can hold megabytes and empties without the transport noticing."""
    waiting = link.get_write_buffer_size()
    sock = link.get_extra_info("socket")
    if sys.platform == "linux" and sock is not None:
        import fcntl  # noqa: PLC0415 - not on Windows
        import termios  # noqa: PLC0415

        with contextlib.suppress(OSError):
            queued = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0" * 4)  # SIOCOUTQ, tcp(7)
            waiting += int.from_bytes(queued, sys.byteorder)
    return waiting
