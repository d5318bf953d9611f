"""Names to addresses."""

from __future__ import annotations

import socket
from typing import Any

#: An address family and what to hand to `bind` or `connect`.
Target = tuple[socket.AddressFamily, tuple[Any, ...]]


def lookup(host: str, port: int, flags: int = 0) -> list[Target]:
    """The TCP addresses of `host`, in the system's order of preference, at least one. Blocks unless told
    AI_NUMERICHOST. Raises `socket.gaierror` (an OSError), for what cannot be a name too, where Python itself raises
    UnicodeError.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except UnicodeError as exc:  # the idna codec: an empty or overlong label
        raise socket.gaierror(socket.EAI_NONAME, f"{host!r} is not a host name") from exc
    return [(family, sockaddr) for family, _, _, _, sockaddr in found]
