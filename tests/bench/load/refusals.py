"""A client that is over its limit and tries again and again."""

from __future__ import annotations

import socket
import time

from load.http import HOST, Connection, WrongAnswerError, get


def spend_the_allowance(port: int) -> None:
    """Use up the one connection or request that a refusing proxy lets through."""
    attempt(port)


def make_known(port: int, clients: int) -> None:
    """Have so many clients known, each by one connection from an address of its own."""
    for number in range(clients):
        source = f"127.{2 + number // 62_500}.{number // 250 % 250}.{number % 250 + 1}"
        with socket.create_connection((HOST, port), source_address=(source, 0)):
            pass


def attempt(port: int) -> bool:
    """Connect and ask; True when the proxy closed without a byte, however it did."""
    try:
        with Connection(port) as connection:
            connection.socket.sendall(get("/13"))
            return connection.socket.recv(1) == b""
    except (ConnectionResetError, BrokenPipeError):
        return True


def refused(port: int, seconds: float) -> int:
    """Try for ``seconds``; returns how many attempts were refused. One that was served is WrongAnswerError."""
    count = 0
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not attempt(port):
            raise WrongAnswerError(f"attempt {count + 1} was served, although the limit was used up")
        count += 1
    return count
