"""One connection that moves large bodies, one way at a time."""

from __future__ import annotations

import time

from load.http import Connection, WrongAnswerError, get, put
from peers.origin import BODIES, Origin

LARGE = "/100m"


def download(port: int, seconds: float) -> int:
    """GET 100 MB bodies until ``seconds`` have passed, one at least; returns the bytes of the bodies."""
    length = BODIES[LARGE]
    moved = 0
    deadline = time.monotonic() + seconds
    with Connection(port) as connection:
        while moved == 0 or time.monotonic() < deadline:
            connection.exchange(get(LARGE), length=length)
            moved += length
    return moved


def upload(port: int, origin: Origin, seconds: float) -> int:
    """PUT 100 MB bodies until ``seconds`` have passed, one at least; returns how many bytes the origin stored."""
    content = memoryview(origin.body(LARGE))
    stored = 0
    deadline = time.monotonic() + seconds
    with Connection(port) as connection:
        while stored == 0 or time.monotonic() < deadline:
            connection.socket.sendall(put("/upload/bulk", len(content)))
            connection.socket.sendall(content)
            status, length = connection.read_head()
            connection.skip_body(length)
            arrived = origin.take_upload("bulk")
            if status != 201 or len(arrived) != len(content):
                raise WrongAnswerError(f"upload answered {status}, {len(arrived)} of {len(content)} bytes stored")
            stored += len(arrived)
    return stored
