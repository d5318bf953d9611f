"""Latency at a constant rate: an open loop, so a stall is paid by every request that fell due while it lasted.

One thread, ``select`` with a timeout in microseconds (``epoll`` rounds up to milliseconds), and a ring of keep-alive
connections.  A request's latency runs from the moment it was due, not from when it could be sent: no coordinated
omission.  The generator's own lateness is in the figure, therefore the same generator also measures the origin
directly, and what a proxy adds is the difference.
"""

from __future__ import annotations

import select
import time
from collections import deque

from load.http import Connection, WrongAnswerError, get

CONNECTIONS = 64
RATE = 1_000
"""Requests per second."""


def percentile(values: list[float], percent: float) -> float:
    """The smallest value that at least ``percent`` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100).__int__() - 1)]


def latencies(port: int, seconds: float) -> list[float]:
    """Seconds from due to answered, for each of ``RATE * seconds`` requests; one that fails is WrongAnswerError."""
    connections = [Connection(port) for _ in range(CONNECTIONS)]
    try:
        for connection in connections:
            connection.exchange(get("/13"), length=13)
        return _run(connections, round(RATE * seconds))
    finally:
        for connection in connections:
            connection.close()


def _run(connections: list[Connection], total: int) -> list[float]:
    request = get("/13")
    idle = deque(connections)
    waiting: dict[int, tuple[Connection, float]] = {}
    taken: list[float] = []
    sent = 0
    start = time.perf_counter() + 0.01
    while len(taken) < total:
        now = time.perf_counter()
        # :: 1 - send everything that is due and for which a connection is free
        while idle and sent < total and start + sent / RATE <= now:
            connection = idle.popleft()
            connection.socket.sendall(request)
            waiting[connection.socket.fileno()] = connection, start + sent / RATE
            sent += 1
        # :: 2 - wait for an answer, or until the next one is due (without a free connection, for an answer only)
        due = max(0.0, start + sent / RATE - time.perf_counter()) if idle and sent < total else 10.0
        ready, _, _ = select.select(list(waiting), (), (), due)
        if not ready and due == 10.0:
            raise WrongAnswerError(f"no answer within 10 s, {len(waiting)} requests under way")
        # :: 3 - take the answers
        for descriptor in ready:
            connection, was_due = waiting.pop(descriptor)
            status, length = connection.read_head()
            connection.skip_body(length)
            if status != 200 or length != 13:
                raise WrongAnswerError(f"status {status} with {length} bytes")
            taken.append(time.perf_counter() - was_due)
            idle.append(connection)
    return taken
