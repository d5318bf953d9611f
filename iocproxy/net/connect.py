"""Opening a connection to an upstream."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, zip_longest

from .address import Address
from .lookup import Target, lookup
from .sockets import prepare_upstream


async def open_socket(
    host: str,
    port: int,
    *,
    executor: ThreadPoolExecutor,
    loop: asyncio.AbstractEventLoop | None = None,
) -> socket.socket:
    """A connected, non-blocking socket, prepared for `attach`; it is the caller's to close.

    A literal IP address needs no lookup; a name is resolved in `executor`. Its addresses are tried one after the
    other, IPv6 and IPv4 taking turns (RFC 8305 section 4), so the caller sets a time limit (`asyncio.timeout`).
    Raises the last OSError, whose message tells every address tried and what it said; `socket.gaierror` (an OSError)
    when the name has no address. Cancelling leaves no socket behind.
    """
    loop = loop or asyncio.get_running_loop()
    last: OSError | None = None
    tried: list[str] = []
    for family, sockaddr in await _resolve(host, port, executor, loop):
        sock: socket.socket | None = None
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
            prepare_upstream(sock)
            await loop.sock_connect(sock, sockaddr)
        except OSError as exc:
            if sock is not None:
                sock.close()
            last = exc
            tried.append(f"{Address.of(sockaddr)} ({_said(exc)})")
        except BaseException:
            if sock is not None:
                sock.close()
            raise
        else:
            return sock
    assert last is not None  # `lookup` found at least one address
    message = f"cannot connect to {Address(host, port)}: {', '.join(tried)}"
    # The class is kept by naming it: `_overlapped` raises ConnectionRefusedError with WinError 1225, for which the
    # constructor of OSError knows no subclass.
    if sys.platform == "win32":
        raise type(last)(last.errno, message, None, last.winerror) from last
    else:  # noqa: RET506 - mypy would find what follows unreachable
        raise type(last)(last.errno, message) from last


def _said(exc: OSError) -> str:
    if sys.platform == "win32":
        return str(exc)
    else:
        return os.strerror(exc.errno) if exc.errno else str(exc)  # asyncio's text repeats the address


async def _resolve(host: str, port: int, executor: ThreadPoolExecutor, loop: asyncio.AbstractEventLoop) -> list[Target]:
    try:
        return lookup(host, port, socket.AI_NUMERICHOST | socket.AI_NUMERICSERV)
    except socket.gaierror:
        return _take_turns(await loop.run_in_executor(executor, lookup, host, port))


def _take_turns(targets: list[Target]) -> list[Target]:
    """The two families alternating, the system's first choice first, each family's order kept."""
    first = [target for target in targets if target[0] == targets[0][0]]
    other = [target for target in targets if target[0] != targets[0][0]]
    return [target for target in chain.from_iterable(zip_longest(first, other)) if target is not None]
