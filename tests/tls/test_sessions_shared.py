"""Sessions where several share the contexts: threads with a loop each, and processes that were forked."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from iocproxy.testing.patience import PATIENCE
from iocproxy.tls import CertificateStore, ServerLink, ServerPolicy
from iocproxy.tls.offload import Turns

KINDS = pytest.mark.parametrize(
    ("version", "tickets"),
    [("TLSv1_2", True), ("TLSv1_2", False), ("TLSv1_3", True), ("TLSv1_3", False)],
    ids=["1.2-ticket", "1.2-session-id", "1.3-psk", "1.3-stateful"],
)


class _Timer:
    def arm(self, seconds: float) -> None:
        pass

    def cancel(self) -> None:
        pass

    drop = cancel


class _Once(asyncio.Protocol):
    """Echoes once and closes."""

    def connection_made(self, transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)
        self.transport.close()


def visit(address, context: ssl.SSLContext, session=None):
    with (
        socket.create_connection(address, timeout=PATIENCE) as sock,
        context.wrap_socket(sock, server_hostname="localhost", session=session) as tls,
    ):
        tls.sendall(b"ping")
        assert tls.recv(100) == b"ping"
        return session or tls.session, tls.session_reused


async def _serve(store: CertificateStore, listening: socket.socket, ready: Callable[[], None], ended) -> None:
    loop = asyncio.get_running_loop()
    turns = Turns(loop)
    with ThreadPoolExecutor(1) as executor:

        def accepted() -> ServerLink:
            return ServerLink(
                _Once(),
                store=store,
                loop=loop,
                on_failure=lambda _: None,
                executor=executor,
                turns=turns,
                timer=_Timer(),
                handshake_timeout=PATIENCE,
            )

        server = await loop.create_server(accepted, sock=listening)
        ready()
        await ended(loop)
        server.close()


@contextmanager
def in_a_thread(store: CertificateStore) -> Iterator[tuple[str, int]]:
    """A loop of its own that serves with `store`."""
    listening = socket.create_server(("127.0.0.1", 0))
    ready, stop = threading.Event(), threading.Event()

    async def ended(loop: asyncio.AbstractEventLoop) -> None:
        await loop.run_in_executor(None, stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(_serve(store, listening, ready.set, ended)))
    address = listening.getsockname()
    thread.start()
    try:
        assert ready.wait(PATIENCE)
        yield address
    finally:
        stop.set()
        thread.join()
        listening.close()


@KINDS
@pytest.mark.parametrize("rsa", [False, True], ids=["ecdsa", "rsa"])
def test_loops_in_two_threads(pair, trusting, version, tickets, rsa) -> None:
    """One takes up what the other has begun, back and forth, while both are busy with others."""
    store = CertificateStore([pair("localhost", rsa=rsa)], ServerPolicy(session_tickets=tickets), offload="always")
    with in_a_thread(store) as one, in_a_thread(store) as two, ThreadPoolExecutor(4) as clients:

        def wander(turn: int) -> list[bool]:
            context, session, resumed = trusting(version), None, []
            for step in range(6):
                session, reused = visit((one, two)[(turn + step) % 2], context, session)
                resumed.append(reused)
            return resumed

        assert list(clients.map(wander, range(8))) == [[False] + [True] * 5] * 8
    stats = store.session_stats()
    assert (stats["accept_good"], stats["hits"]) == (48, 40)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_processes_that_were_forked(pair, trusting, version) -> None:
    """Ticket keys are made with the context, and so inherited. (The cache belongs to each process.)"""
    store = CertificateStore([pair("localhost")])
    listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    addresses = [each.getsockname() for each in listening]
    children = []
    try:
        for mine in listening:
            read, write = os.pipe()
            with warnings.catch_warnings():
                # From 3.12 on Python warns of a fork where there are threads: here none that the child waits for.
                warnings.simplefilter("ignore", DeprecationWarning)
                child = os.fork()
            if not child:
                _be_a_worker(store, mine, read, write)
            os.close(read)
            children.append((child, write))
        context = trusting(version)
        session, reused = visit(addresses[0], context)
        resumed = [reused] + [visit(addresses[turn % 2], context, session)[1] for turn in range(1, 5)]
    finally:
        for _, write in children:
            os.close(write)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child, _ in children]
        for each in listening:
            each.close()
    assert resumed == [False, True, True, True, True]
    assert codes == [0, 0]


def _be_a_worker(store: CertificateStore, listening: socket.socket, read: int, write: int) -> None:
    """Serve until the parent closes its end of the pipe or is gone. Never returns."""
    code = 1
    try:
        os.close(write)

        async def ended(loop: asyncio.AbstractEventLoop) -> None:
            await loop.run_in_executor(None, os.read, read, 1)

        asyncio.run(_serve(store, listening, lambda: None, ended))
        code = 0
    finally:
        os._exit(code)
