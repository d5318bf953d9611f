"""What an error from accept means: one connection is gone, or accepting as such is in trouble."""

from __future__ import annotations

import errno
import sys

# On Windows errno says nothing here: 64, 121 and 1231 all arrive as EINVAL.
_LOST_WINERRORS = frozenset(
    {
        59,  # ERROR_UNEXP_NET_ERR: Wine's word for a reset while queued
        64,  # ERROR_NETNAME_DELETED: reset while queued
        121,  # ERROR_SEM_TIMEOUT
        1225,  # ERROR_CONNECTION_REFUSED
        1231,  # ERROR_NETWORK_UNREACHABLE
        1232,  # ERROR_HOST_UNREACHABLE
        1236,  # ERROR_CONNECTION_ABORTED
        10022,  # WSAEINVAL: from getpeername after a reset
        10050,  # WSAENETDOWN
        10051,  # WSAENETUNREACH
        10052,  # WSAENETRESET
        10053,  # WSAECONNABORTED
        10054,  # WSAECONNRESET
        10057,  # WSAENOTCONN: from getpeername after a reset
        10060,  # WSAETIMEDOUT
        10065,  # WSAEHOSTUNREACH
    }
)

# accept(2): Linux passes errors already pending on the new connection; treat them like EAGAIN.
_LOST_ERRNOS = frozenset(
    getattr(errno, name)
    for name in (
        "ECONNABORTED",
        "ECONNRESET",
        "EHOSTDOWN",
        "EHOSTUNREACH",
        "EINTR",
        "ENETDOWN",
        "ENETUNREACH",
        "ENONET",
        "ENOPROTOOPT",
        "ENOTCONN",
        "EOPNOTSUPP",
        "EPERM",
        "EPROTO",
        "ETIMEDOUT",
    )
    if hasattr(errno, name)
)


def lost_in_queue(exc: BaseException) -> bool:
    """True where only the connection being accepted is lost and the next can be taken at once.

    Anything else (EMFILE, ENFILE, ENOBUFS, ENOMEM and what nobody thought of) will most likely happen again at once.
    """
    if not isinstance(exc, OSError):
        return False
    if sys.platform == "win32":
        return isinstance(exc, ConnectionError) or exc.winerror in _LOST_WINERRORS
    else:
        return exc.errno in _LOST_ERRNOS
