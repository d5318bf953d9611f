"""The websockets library on both sides of the proxy: many at once, and messages of many MiB."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

from iocproxy.testing import Certificates, ProxyFactory, RunningProxy
from iocproxy.testing.patience import PATIENCE

SOCKETS = 200
LARGE = 16 << 20
AT_ONCE = 50  # connecting at a time


class Ends(NamedTuple):
    """`open` connects a client through the proxy; `requests` are the handshakes that the server got."""

    proxy: RunningProxy
    url: str
    options: dict[str, Any]
    requests: list[Any]

    def open(self, path: str = "/", **more: Any) -> connect:
        return connect(
            self.url + path, **{"open_timeout": PATIENCE, "max_size": None, "proxy": None, **self.options, **more}
        )


async def _echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


@pytest.fixture(params=["plain", "tls"])
async def ends(
    request: pytest.FixtureRequest, iocproxy: ProxyFactory, iocproxy_certificates: Certificates
) -> AsyncIterator[Ends]:
    tls = request.param == "tls"
    requests: list[Any] = []
    async with serve(
        _echo,
        "127.0.0.1",
        0,
        max_size=None,
        subprotocols=["echo.v2", "echo.v1"],
        process_request=lambda _, request: requests.append(request),
    ) as server:
        port = server.sockets[0].getsockname()[1]
        proxy = await asyncio.to_thread(
            lambda: iocproxy(
                upstreams={"app": {"servers": [f"http://127.0.0.1:{port}"], "max_connections": 2 * SOCKETS}},
                tls=tls,
                timeouts={"connect": "1m"},
            )
        )
        host, number = proxy.tls_address if tls else proxy.address
        options: dict[str, Any] = {"subprotocols": ["echo.v1"]}
        if tls:
            options["ssl"] = iocproxy_certificates.client_context()
        yield Ends(proxy, f"{'wss' if tls else 'ws'}://{host}:{number}", options, requests)
        await asyncio.to_thread(proxy.wait_for, lambda proxy: proxy.stats()["connections_open"] == 0)
        assert {record.error for record in proxy.records} <= {""}


async def test_a_conversation(ends: Ends) -> None:
    """Text, binary, empty, fragments, ping, a subprotocol, compression, and the end with its code."""
    async with ends.open("/talk?x=1") as socket:
        assert socket.subprotocol == "echo.v1"
        assert [extension.name for extension in socket.protocol.extensions] == ["permessage-deflate"]
        for message in ("grüß", "", b"", b"\x00\xff" * 10_000, "z" * 100_000):
            await socket.send(message)
            assert await socket.recv() == message
        await socket.send(["frag", "men", "ts"])
        assert await socket.recv() == "fragments"
        await asyncio.wait_for(await socket.ping(b"?"), PATIENCE)
        await socket.close(4001, "enough")
        assert (socket.close_code, socket.close_reason) == (4001, "enough")
    (request,) = ends.requests
    assert request.path == "/talk?x=1"
    assert request.headers["X-Forwarded-For"] == "127.0.0.1"


async def test_a_refused_handshake(ends: Ends) -> None:
    with pytest.raises(websockets.exceptions.InvalidStatus) as caught:
        await ends.open("/", additional_headers={"Sec-WebSocket-Version": "12"})
    assert caught.value.response.status_code in {400, 426}


async def test_many_at_once(ends: Ends) -> None:
    """Each is echoed its own messages, in order, while all the others are connected too."""
    connecting = asyncio.Semaphore(AT_ONCE)
    everybody = asyncio.Barrier(SOCKETS + 1)

    async def talk(number: int) -> None:
        async with connecting:
            socket = await ends.open(f"/{number}")
        async with socket:
            await everybody.wait()
            sent = [f"{number}-{turn}" for turn in range(3)]
            sent += [bytes([number % 256]) * (number * 50 + turn) for turn in range(3)]
            for message in sent:
                await socket.send(message)
            assert [await socket.recv() for _ in sent] == sent
            await everybody.wait()

    async with asyncio.timeout(6 * PATIENCE), asyncio.TaskGroup() as group:
        for number in range(SOCKETS):
            group.create_task(talk(number))
        await everybody.wait()
        stats = await asyncio.to_thread(ends.proxy.stats)
        assert (stats["tunnels_open"], stats["connections_accepted"]) == (SOCKETS, SOCKETS)
        await everybody.wait()
    assert {request.path for request in ends.requests} == {f"/{number}" for number in range(SOCKETS)}
    records = await asyncio.to_thread(ends.proxy.wait_for_records, SOCKETS)
    assert {record.status for record in records} == {101}


@pytest.mark.parametrize("fragments", [False, True], ids=["one-frame", "fragments"])
async def test_large_messages(ends: Ends, fragments: bool) -> None:
    """The second is on its way to the server while the echo of the first comes back."""
    messages = [os.urandom(LARGE), os.urandom(LARGE + 1)]
    digests = [hashlib.sha256(message).digest() for message in messages]

    async def send(socket: ClientConnection) -> None:
        for message in messages:
            if fragments:
                await socket.send(message[start : start + 1_000_000] for start in range(0, len(message), 1_000_000))
            else:
                await socket.send(message)

    async with (
        asyncio.timeout(6 * PATIENCE),
        ends.open(compression=None, ping_timeout=None) as socket,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(send(socket))
        for message, digest in zip(messages, digests, strict=True):
            echoed = await socket.recv(decode=False)
            assert (len(echoed), hashlib.sha256(echoed).digest()) == (len(message), digest)
    (record,) = await asyncio.to_thread(ends.proxy.wait_for_records, 1)
    assert min(record.bytes_in, record.bytes_out) > 2 * LARGE
