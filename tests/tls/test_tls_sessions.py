"""Sessions: who can take one up again, and that they survive the way we close."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import struct
import subprocess

import pytest

from iocproxy.tls import CertificateStore, ServerPolicy

OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="the openssl command is not on PATH")

KINDS = pytest.mark.parametrize(
    ("version", "tickets"),
    [("TLSv1_2", True), ("TLSv1_2", False), ("TLSv1_3", True), ("TLSv1_3", False)],
    ids=["1.2-ticket", "1.2-session-id", "1.3-psk", "1.3-stateful"],
)


def visit(address, context, session=None, *, polite=True):
    """One request as Python's own client; returns its session and whether an earlier one was taken up."""
    with (
        socket.create_connection(address) as sock,
        context.wrap_socket(sock, server_hostname="localhost", session=session) as tls,
    ):
        tls.sendall(b"ping")
        assert tls.recv(100) == b"ping"
        reused = tls.session_reused
        session = session or tls.session  # read once: each reading leaks on Python 3.11 and 3.12
        if polite:
            while tls.recv(100):
                pass
    return session, reused


def closing(recorder, how):
    """A connection that echoes once and then closes in its own way."""

    def factory():
        def answer(data):
            inner.link.write(data)
            if how == "close":
                inner.link.close()

        inner = recorder(answer)
        return inner

    return factory


@KINDS
@pytest.mark.parametrize("how", ["close", "the client leaves"])
@pytest.mark.parametrize("rsa", [False, True], ids=["ecdsa", "rsa"])
async def test_python_takes_up_a_session(serve, pair, trusting, recorder, version, tickets, how, rsa) -> None:
    store = CertificateStore([pair("localhost", rsa=rsa)], ServerPolicy(session_tickets=tickets))
    running = await serve(store, closing(recorder, how))
    context = trusting(version)
    session, resumed = None, []
    for _ in range(3):
        session, reused = await asyncio.to_thread(visit, running.address, context, session, polite=how == "close")
        made = await running.links.get()
        await made.inner.lost
        assert made.link.info.resumed is reused
        resumed.append(reused)
    assert resumed == [False, True, True]
    assert store.session_stats()["hits"] == 2


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
async def test_a_session_in_the_cache_survives_abort(serve, pair, trusting, recorder, version) -> None:
    store = CertificateStore([pair("localhost")], ServerPolicy(session_tickets=False))
    running = await serve(store, recorder)
    context = trusting(version)

    def first():
        with (
            socket.create_connection(running.address) as sock,
            context.wrap_socket(sock, server_hostname="localhost") as tls,
        ):
            tls.sendall(b"ping")
            assert tls.recv(100) == b"pong"
            session = tls.session
            with contextlib.suppress(OSError):  # a reset, or an end without close_notify
                tls.recv(100)
            return session

    visited = asyncio.create_task(asyncio.to_thread(first))
    made = await running.links.get()
    link = await made.inner.connected
    link.write(b"pong")
    await made.inner.received(4)
    link.abort()
    session = await visited
    await made.inner.lost
    again = await serve(store)
    _, reused = await asyncio.to_thread(visit, again.address, context, session, polite=False)
    assert reused


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
async def test_a_session_in_the_cache_survives_a_reset(serve, pair, trusting, version) -> None:
    running = await serve(CertificateStore([pair("localhost")], ServerPolicy(session_tickets=False)))
    context = trusting(version)

    def first():
        with (
            socket.create_connection(running.address) as sock,
            context.wrap_socket(sock, server_hostname="localhost") as tls,
        ):
            tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii" if os.name != "nt" else "hh", 1, 0))
            tls.sendall(b"ping")
            assert tls.recv(100) == b"ping"
            return tls.session

    session = await asyncio.to_thread(first)
    made = await running.links.get()
    assert isinstance(await made.inner.lost, OSError)
    _, reused = await asyncio.to_thread(visit, running.address, context, session, polite=False)
    assert reused


async def test_no_tickets_no_resumption(serve, pair, trusting) -> None:
    running = await serve(CertificateStore([pair("localhost")], ServerPolicy(num_tickets=0)))
    context = trusting("TLSv1_3")

    def one_visit() -> bool:
        with (
            socket.create_connection(running.address) as sock,
            context.wrap_socket(sock, server_hostname="localhost") as tls,
        ):
            tls.sendall(b"ping")
            assert tls.recv(100) == b"ping"
            return tls.session is not None and tls.session.has_ticket

    assert not await asyncio.to_thread(one_visit)


async def test_a_session_of_one_certificate_is_not_taken_up_by_another(serve, pair, trusting) -> None:
    context = trusting("TLSv1_2", check_hostname=False)
    one = await serve(CertificateStore([pair("localhost")]))
    two = await serve(CertificateStore([pair("first.example")]))
    session, _ = await asyncio.to_thread(visit, one.address, context, polite=False)
    _, reused = await asyncio.to_thread(visit, two.address, context, session, polite=False)
    assert not reused


# --- openssl s_client: another implementation's idea of a client


def s_client(address, *options: str, say: str = "") -> str:
    assert OPENSSL is not None
    command = [OPENSSL, "s_client", "-connect", f"{address[0]}:{address[1]}", *options]
    done = subprocess.run(command, input=say, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout + done.stderr


@needs_openssl
@KINDS
async def test_s_client_takes_up_a_session(serve, pair, recorder, tmp_path, version, tickets) -> None:
    store = CertificateStore([pair("localhost")], ServerPolicy(session_tickets=tickets))
    running = await serve(store, closing(recorder, "close"))
    flag = {"TLSv1_2": "-tls1_2", "TLSv1_3": "-tls1_3"}[version]
    file = str(tmp_path / "session.pem")
    first = await asyncio.to_thread(s_client, running.address, flag, "-ign_eof", "-sess_out", file, say="ping\n")
    second = await asyncio.to_thread(s_client, running.address, flag, "-ign_eof", "-sess_in", file, say="ping\n")
    assert "New, " + version.replace("_", ".") in first
    assert "Reused, " + version.replace("_", ".") in second
    resumed = []
    for _ in range(2):
        made = await running.links.get()
        await made.inner.lost
        resumed.append(made.link.info.resumed)
    assert resumed == [False, True]


class Conversation:
    """s_client with its standard input kept open. A line that begins with R or K is a command if read by itself."""

    def __init__(self, address, *options: str) -> None:
        assert OPENSSL is not None
        command = [OPENSSL, "s_client", "-connect", f"{address[0]}:{address[1]}", *options]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, bufsize=0)

    def say(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line)

    async def hear(self, wanted: bytes) -> bytes:
        """Read what it prints until `wanted` came, or all of it."""
        stdout, heard = self.process.stdout, b""
        assert stdout is not None
        while wanted not in heard and (chunk := await asyncio.to_thread(stdout.read, 4096)):
            heard += chunk
        return heard

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        self.process.kill()
        self.process.wait()


@needs_openssl
async def test_renegotiation_is_refused(serve, pair) -> None:
    running = await serve(CertificateStore([pair("localhost")]))
    with Conversation(running.address, "-tls1_2") as client:
        client.say(b"hello\n")
        made = await running.links.get()
        await made.inner.received(6)
        client.say(b"R\n")
        assert b"no renegotiation" in await client.hear(b"no renegotiation")
    await made.inner.lost
    assert bytes(made.inner.data) == b"hello\n"


@needs_openssl
@pytest.mark.parametrize("command", [b"k\n", b"K\n"], ids=["the client's", "both"])
async def test_key_update(serve, pair, command) -> None:
    """One direction changes its keys, or both (RFC 8446 section 4.6.3), and go on."""
    running = await serve(CertificateStore([pair("localhost")]))
    with Conversation(running.address, "-tls1_3") as client:
        client.say(b"before\n")
        made = await running.links.get()
        await made.inner.received(7)
        client.say(command)
        await client.hear(b"KEYUPDATE")
        client.say(b"after\n")
        assert b"after\n" in await client.hear(b"after\n")
        made.link.close()
        assert await made.inner.lost is None
    assert bytes(made.inner.data) == b"before\nafter\n"
