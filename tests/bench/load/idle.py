"""Connections that carried one request and then stay open, doing nothing."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator

from load.http import HOST, Connection, get


@contextlib.contextmanager
def held(port: int, count: int, context: ssl.SSLContext | None = None, *, one_client: bool = True) -> Iterator[None]:
    """Hold ``count`` keep-alive connections open, each of which has had a 13-byte answer.

    They come from 127.0.0.1, or else each from another address of 127.0.0.0/8.
    """
    with contextlib.ExitStack() as stack:
        for number in range(count):
            source = HOST if one_client else f"127.1.{number // 250}.{number % 250 + 1}"
            connection = stack.enter_context(Connection(port, context, source=source))
            connection.exchange(get("/13"), length=13)
        yield
