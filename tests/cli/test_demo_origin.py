"""The demo's origin without a proxy in front, which would keep the worst from it."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from iocproxy.cli.demo.connection import LARGEST_HEAD
from iocproxy.cli.demo.origin import DemoOrigin


@pytest.fixture
async def origin():
    logger = structlog.wrap_logger(structlog.ReturnLogger(), processors=[lambda *_: ""])
    async with DemoOrigin(logger) as running:
        yield running


@pytest.fixture
async def connect(origin):
    """Call it for a (reader, writer) to the origin."""
    writers = []

    async def open_connection():
        host, _, port = origin.url.rpartition("/")[2].rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writers.append(writer)
        return reader, writer

    yield open_connection
    for writer in writers:
        writer.close()


async def rest(reader):
    """What comes until the end, a reset included."""
    data = b""
    try:
        while piece := await asyncio.wait_for(reader.read(1 << 16), 30):
            data += piece
    except ConnectionError:
        pass
    return data


@pytest.mark.parametrize(
    ("wire", "answer"),
    [
        (b"nonsense\r\n\r\n", b"HTTP/1.1 400 "),
        (b"GET /json HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 "),
        (b"GET /json HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"HTTP/1.1 200 "),
        (b"GET /slow/9 HTTP/1.1\r\nHost: a\r\n\r\nGET /json HTTP/1.1\r\nHost: a\r\n\r\n", b""),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * LARGEST_HEAD + b"\r\n\r\n", b""),
    ],
    ids=["nonsense", "HTTP/1.0", "close", "pipelined", "a head too large"],
)
async def test_what_ends_the_connection(connect, wire, answer):
    reader, writer = await connect()
    writer.write(wire)
    data = await rest(reader)
    assert data.startswith(answer)
    assert bool(data) == bool(answer)


async def test_an_upgrade_to_something_else_is_answered_as_it_is(connect):
    reader, writer = await connect()
    writer.write(b"GET /json HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nPRI * HTTP/2.0\r\n\r\n")
    assert (await rest(reader)).startswith(b"HTTP/1.1 200 ")


async def test_a_reader_that_stops_holds_the_answer_up(connect):
    reader, writer = await connect()
    writer.write(b"GET /bytes/30000000 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    assert len(await rest(reader)) == 30_000_000


async def test_it_ends_with_answers_under_way(connect, origin):
    slow, endless = await connect(), await connect()
    slow[1].write(b"PUT /slow/60 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n")
    await slow[0].readuntil(b"100 Continue\r\n\r\n")
    endless[1].write(b"GET /bytes/1000000000 HTTP/1.1\r\nHost: a\r\n\r\n")
    await endless[0].readuntil(b"\r\n\r\n")
    await origin.__aexit__(None, None, None)
    await rest(slow[0])
    await rest(endless[0])
