"""Opening a connection to an upstream."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Sequence
from itertools import chain, zip_longest

from .address import Address
from .connect_errors import is_ours, told_as
from .lookup import Target
from .sockets import prepare_upstream


async def open_socket(
    targets: Sequence[Target], name: str, *, loop: asyncio.AbstractEventLoop | None = None
) -> socket.socket:
    """A connected, non-blocking socket, prepared for `attach`; it is the caller's to close.

    The addresses (`Resolver.resolve`, at least one) are tried one after the other, IPv6 and IPv4 taking turns (RFC 8305
    section 4), so the caller sets a time limit (`asyncio.timeout`). Raises the last OSError that is about the other
    side, else the last, with a message that tells `name`, every address tried and what it said. Cancelling leaves no
    socket behind.
    """
    loop = loop or asyncio.get_running_loop()
    failures: list[OSError] = []
    tried: list[str] = []
    for family, sockaddr in _take_turns(targets):
        sock: socket.socket | None = None
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
            prepare_upstream(sock)
            await loop.sock_connect(sock, sockaddr)
        except OSError as exc:
            if sock is not None:
                sock.close()
            failures.append(exc)
            tried.append(f"{Address.of(sockaddr)} ({_said(exc)})")
        except BaseException:
            if sock is not None:
                sock.close()
            raise
        else:
            return sock
    # A machine without IPv6 says so for ::1 (EADDRNOTAVAIL): what the address that it has said counts for more.
    last = next((exc for exc in reversed(failures) if not is_ours(exc)), failures[-1])
    try:
        raise told_as(last, f"cannot connect to {name}: {', '.join(tried)}") from last
    finally:
        del failures, last  # each holds this frame, which would hold them until the garbage collector comes


def _said(exc: OSError) -> str:
    if sys.platform == "win32":
        return str(exc)
    else:
        return os.strerror(exc.errno) if exc.errno else str(exc)  # asyncio's text repeats the address


def _take_turns(targets: Sequence[Target]) -> list[Target]:
    """The two families alternating, the system's first choice first, each family's order kept."""
    first = [target for target in targets if target[0] == targets[0][0]]
    other = [target for target in targets if target[0] != targets[0][0]]
    return [target for target in chain.from_iterable(zip_longest(first, other)) if target is not None]
