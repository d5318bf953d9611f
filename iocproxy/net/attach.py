"""From a socket to a protocol."""

from __future__ import annotations

import asyncio
import socket

from .loops import is_proactor
from .proactor import ProactorLink
from .selector import SelectorLink

#: What `attach` gives a protocol in `connection_made`.
SocketLink = ProactorLink | SelectorLink


async def attach(loop: asyncio.AbstractEventLoop, sock: socket.socket, protocol: asyncio.Protocol) -> None:
    """Let `protocol` serve `sock`, an accepted or connected non-blocking socket that is now its Link's to close.

    When this returns, `connection_made` has been called with a Link. On a selector loop this never suspends: only a
    Proactor has to be waited for. Raises what the loop or `connection_made` raises when the set-up fails, or
    CancelledError; the socket is closed then.
    """
    try:
        if is_proactor(loop):
            guarded = ProactorLink(loop, sock, protocol)
            await loop.connect_accepted_socket(lambda: guarded, sock)
        else:
            SelectorLink(loop, sock, protocol).start()
    except BaseException:
        sock.close()
        raise
