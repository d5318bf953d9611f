"""What an error from connecting means: the other side cannot be reached, or we have nothing left to reach it with."""

from __future__ import annotations

import errno
import sys

# winerror, because errno says nothing for most of them (see accept_errors).
_OUR_WINERRORS = frozenset(
    {
        4,  # ERROR_TOO_MANY_OPEN_FILES
        8,  # ERROR_NOT_ENOUGH_MEMORY
        14,  # ERROR_OUTOFMEMORY
        1450,  # ERROR_NO_SYSTEM_RESOURCES
        10024,  # WSAEMFILE
        10048,  # WSAEADDRINUSE: from ConnectEx, no local port is left
        10049,  # WSAEADDRNOTAVAIL
        10055,  # WSAENOBUFS
    }
)

# connect(2), socket(2). EADDRINUSE and EADDRNOTAVAIL are about the local address: most often, no port is left.
_OUR_ERRNOS = frozenset(
    {
        errno.EADDRINUSE,
        errno.EADDRNOTAVAIL,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENOMEM,
    }
)


def is_ours(exc: OSError) -> bool:
    """True where the connection failed for want of something on this machine (files, ports, memory)."""
    if sys.platform == "win32" and exc.winerror is not None:
        return exc.winerror in _OUR_WINERRORS
    return exc.errno in _OUR_ERRNOS


def told_as(exc: OSError, message: str) -> OSError:
    """A fresh OSError that is like `exc` for whoever looks at class, errno and winerror, and says `message`.

    The class is kept by naming it: `_overlapped` raises ConnectionRefusedError with WinError 1225, for which the
    constructor of OSError knows no subclass.
    """
    if sys.platform == "win32":
        return type(exc)(exc.errno, message, None, exc.winerror)
    else:
        return type(exc)(exc.errno, message)
