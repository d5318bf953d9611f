"""The machine: which core does what, how many files we may open, where scratch files go."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path


def cores() -> tuple[int, int]:
    """The core for load generator and origin, and the core for the proxy; the same one when there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """Run on ``core`` meanwhile, so that a process started inside is born there, all of its threads included."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def raise_file_limit() -> int:
    """Lift the soft limit on open files to the hard one, for us and all we start; returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def file_limit() -> int:
    """How many files each process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def connections_at_most(wanted: int) -> int:
    """``wanted``, or fewer where a proxy with as many upstream connections as clients would run out of files."""
    return min(wanted, file_limit() // 2 - 600)


#: Where the proxies and the origin listen; Linux hands out ephemeral ports from 32,768.
LISTENING = range(12_000, 32_000)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now, all different.

    From below the ephemeral range: there the connections of earlier scenarios linger in TIME_WAIT on nearly every
    port, and the system gives none of those out.
    """
    with contextlib.ExitStack() as stack:
        found: list[int] = []
        for port in random.sample(LISTENING, len(LISTENING)):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as every proxy here does
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
            if len(found) == count:
                return found
    raise OSError(f"not {count} of the ports from {LISTENING.start} are free")


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory that goes away afterwards, in memory where there is such a file system (bodies, uploads, logs)."""
    shared_memory = Path("/dev/shm")
    parent = shared_memory if os.access(shared_memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="iocproxy-bench-", dir=parent, ignore_cleanup_errors=True) as name:
        path = Path(name)
        path.chmod(0o755)
        yield path
