"""Proxies inside the test's own loop, and what they must not leave behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from iocproxy import Config
from iocproxy.testing.patience import PATIENCE


def _make_config(upstream: str = "http://127.0.0.1:9", **sections: Any) -> Config:
    """One plain listener on a free port and one upstream, no access log; `sections` go over it."""
    settings: dict[str, Any] = {
        "listeners": [{"bind": "127.0.0.1:0"}],
        "upstreams": {"app": {"servers": [upstream]}},
        "logging": {"access": False},
    }
    return Config(**{**settings, **sections})


def _own_threads() -> list[str]:
    return [
        thread.name
        for thread in threading.enumerate()
        if thread.name.startswith("iocproxy") and not thread.name.startswith("iocproxy-testing")
    ]


def _connects(address: tuple[str, int]) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection(address[:2], timeout=PATIENCE).close()
    except OSError:
        return False
    return True


async def _until(condition: Any) -> None:
    """Let the loop turn until `condition()` is true."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
async def nothing_left() -> AsyncIterator[None]:
    """No task and no thread of a proxy outlives the test. Sockets are seen to by ResourceWarning, an error here."""
    loop = asyncio.get_running_loop()
    reported: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: reported.append(context))
    before = asyncio.all_tasks()
    yield
    await asyncio.sleep(0)  # callbacks that the end itself has queued
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    gc.collect()
    assert not left
    assert _own_threads() == []
    assert reported == []


class Peer:
    """A client on the test's own loop: sends bytes, reads bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def rest(self) -> bytes:
        """Everything to the end of the connection, b"" where it is reset."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    async def exactly(self, size: int) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readexactly(size)

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def _peer(address: tuple[str, int]) -> AsyncIterator[Peer]:
    made = Peer(*await asyncio.open_connection(*address[:2]))
    try:
        yield made
    finally:
        await made.close()


# Test modules cannot import a conftest (import-mode=importlib), so what they share comes as fixtures.


@pytest.fixture
def make_config() -> Any:
    return _make_config


@pytest.fixture
def own_threads() -> Any:
    return _own_threads


@pytest.fixture
def connects() -> Any:
    return _connects


@pytest.fixture
def until() -> Any:
    return _until


@pytest.fixture
def peer() -> Any:
    return _peer
