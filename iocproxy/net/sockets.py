"""Sockets made and set up the way each platform wants it, before any transport has them."""

from __future__ import annotations

import contextlib
import socket
import sys

from .lookup import lookup

#: A dead connection is noticed within about two minutes: 60 s of silence, then a probe every 10 s, 6 of them.
KEEPALIVE_IDLE = 60  # seconds
KEEPALIVE_INTERVAL = 10  # seconds
KEEPALIVE_PROBES = 6  # Windows always sends 10

#: On Linux an accepted socket is a copy of its listener, options included (net/ipv4/tcp_minisocks.c,
#: tcp_create_openreq_child): set once there, they save five system calls for each connection.
INHERITED = sys.platform == "linux"

#: On Linux, octets that the kernel takes from us for a client before it can send them. What is on its way is not
#: counted, so no reader becomes slower by it. Without it the kernel takes what the send buffer may grow to, megabytes
#: for each client that does not read, until TCP as a whole runs short of memory (tcp(7), tcp_mem) and everybody's
#: connections stall.
UNSENT = 256 * 1024

#: What `raise_file_limit` answers where there is no limit: the handles that a Windows process may have.
UNLIMITED = 16_711_680

#: ws2def.h. Python has no name for it. Lets ConnectEx share local ports between different destinations.
_SO_REUSE_UNICASTPORT = 0x3007


def bind_listener(host: str, port: int, *, backlog: int = socket.SOMAXCONN) -> socket.socket:
    """A non-blocking listening TCP socket; port 0 lets the system choose.

    ``::`` is dual-stack, any other IPv6 address takes IPv6 only. A name is resolved (blocking) and its first address
    taken. Raises OSError as the system gave it, with nothing left open.
    """
    family, sockaddr = lookup(host, port, socket.AI_PASSIVE)[0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":
            # SO_REUSEADDR on Windows means that anybody may take the port over.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, sockaddr[0] != "::")
        sock.setblocking(False)
        if INHERITED:
            _tune(sock)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
        sock.bind(sockaddr)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def prepare_client(sock: socket.socket) -> None:
    """Set up an accepted socket; do it before `attach`.

    Raises OSError when the connection is already gone (macOS and Windows say so here); the caller closes it.
    """
    sock.setblocking(False)
    if not INHERITED:
        _tune(sock)


def _tune(sock: socket.socket) -> None:
    # asyncio sets this only where `sock.proto` is IPPROTO_TCP (base_events._set_nodelay), and it is 0 on a socket
    # accepted by AcceptEx or from a listener made without naming the protocol.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _keep_alive(sock)


def prepare_upstream(sock: socket.socket) -> None:
    """Set up a fresh socket that is about to be connected to an upstream. Raises OSError; the caller closes it."""
    sock.setblocking(False)
    _tune(sock)
    if sys.platform == "win32":
        with contextlib.suppress(OSError):  # Windows 10 and later
            sock.setsockopt(socket.SOL_SOCKET, _SO_REUSE_UNICASTPORT, 1)


if sys.platform == "win32":

    def raise_file_limit() -> int:
        """Allow this process as many open files as it may have; returns how many that is. Never raises."""
        return UNLIMITED

    def _keep_alive(sock: socket.socket) -> None:
        sock.ioctl(socket.SIO_KEEPALIVE_VALS, (1, KEEPALIVE_IDLE * 1000, KEEPALIVE_INTERVAL * 1000))

else:
    import resource

    if sys.platform == "darwin":
        _IDLE = socket.TCP_KEEPALIVE
    else:
        _IDLE = socket.TCP_KEEPIDLE

    def raise_file_limit() -> int:
        """Allow this process as many open files as it may have; returns how many that is. Never raises."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        # macOS says "unlimited" and then refuses more than OPEN_MAX (sys/syslimits.h).
        for wanted in (hard, 10_240):
            if 0 <= wanted <= soft:
                break
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
                break
        now = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return UNLIMITED if now == resource.RLIM_INFINITY else now

    def _keep_alive(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, _IDLE, KEEPALIVE_IDLE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
