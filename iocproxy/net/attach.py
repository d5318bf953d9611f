"""From a socket to a protocol."""

from __future__ import annotations

import asyncio
import socket

from .loops import is_proactor
from .proactor import ProactorLink


async def attach(loop: asyncio.AbstractEventLoop, sock: socket.socket, protocol: asyncio.Protocol) -> None:
    """Let `protocol` serve `sock`, an accepted or connected non-blocking socket that is now the transport's to close.

    When this returns, `connection_made` has been called with a Link. Raises what the loop raises when the set-up
    fails, or CancelledError; the socket is closed then.
    """
    if is_proactor(loop):
        protocol = ProactorLink(loop, sock, protocol)
    try:
        await loop.connect_accepted_socket(lambda: protocol, sock)
    except BaseException:
        sock.close()
        raise
