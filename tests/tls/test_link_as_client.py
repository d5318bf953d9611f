"""ClientLink, the client's end of a connection to an upstream: what tests/tls/test_tls_link.py asks of the server's."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import shutil
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from iocproxy.errors import ProxyError, Side
from iocproxy.tls import CertificateStore, Ended, KeptSession, TlsPipeline, UpstreamTls, client_context
from iocproxy.tls.kept_session import FIRST_PAUSE

OPENSSL = shutil.which("openssl")
VERSIONS = pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])


class Server:
    """A server on blocking sockets that does what it is told, one connection after the other."""

    def __init__(self, context) -> None:
        self.context = context
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()

    def accept(self) -> Accepted:
        return Accepted(self.listener.accept()[0], self.context)


class Accepted:
    """One connection, its handshake done; `pipeline` is its engine."""

    def __init__(self, sock: socket.socket, context) -> None:
        self.sock = sock
        self.pipeline = TlsPipeline(context)
        done = False
        while not done:
            received = sock.recv(65536)
            if not received:
                sock.close()
                raise ConnectionError("the client has left")
            self.pipeline.feed(received)
            done = self.pipeline.handshake()
            sock.sendall(self.pipeline.take_outgoing())

    def __enter__(self) -> Accepted:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(self.pipeline.write(data))

    def receive(self, size: int) -> bytes:
        got = b""
        while len(got) < size:
            self.pipeline.feed(self.sock.recv(65536))
            while piece := self.pipeline.read():
                got += piece
        return got

    def read_to_fin(self) -> tuple[bytes, Ended | None]:
        got = b""
        while received := self.sock.recv(65536):
            self.pipeline.feed(received)
            while piece := self.pipeline.read():
                got += piece
        self.pipeline.feed_eof()
        return got + self.pipeline.read(), self.pipeline.ended


@pytest.fixture
def server(pair):
    """An RSA server, whose handshakes would leave the loop if it were us."""
    made = Server(CertificateStore([pair("localhost", "127.0.0.1", rsa=True)]).identities[0].context)
    with made.listener:
        yield made


@pytest.fixture
def reach(make_link, ca_file):
    """`await reach(address, inner)` opens a link to a server."""

    async def start(address, inner, *, version=None, tls=None, **options):
        if tls is None:
            context = client_context(ca=ca_file)
            if version:
                context.maximum_version = getattr(type(context.maximum_version), version)
            tls = UpstreamTls(context, "localhost")
        made = make_link(inner, tls, **options)
        await asyncio.get_running_loop().create_connection(lambda: made.link, *address)
        return made

    return start


# --- The step that verifies, in a thread


class Blocked(ThreadPoolExecutor):
    """One thread that waits for `release`; counts what it is given."""

    def __init__(self) -> None:
        super().__init__(1)
        self.given = 0
        self.release = threading.Event()
        super().submit(self.release.wait)

    def submit(self, *arguments, **more):
        self.given += 1
        return super().submit(*arguments, **more)


@pytest.fixture
def blocked():
    with Blocked() as pool:
        yield pool
        pool.release.set()


async def offloaded(link) -> None:
    while "offloaded" not in repr(link):  # noqa: ASYNC110
        await asyncio.sleep(0)


@VERSIONS
async def test_a_chain_is_verified_in_a_thread(server, reach, recorder, blocked, version) -> None:
    """One step of the handshake, and whoever has the SSL object has it alone."""
    accepted = asyncio.create_task(asyncio.to_thread(server.accept))
    made = await reach(server.address, recorder(), version=version, executor=blocked)
    await offloaded(made.link)
    assert made.inner.calls == []
    blocked.release.set()
    link = await made.inner.connected
    with await accepted:
        assert link.info.version == version.replace("_", ".")
        assert blocked.given == 1
        link.abort()
        await made.inner.lost


@pytest.mark.parametrize("how", ["close", "abort", "handshake_timed_out"])
async def test_given_up_while_a_thread_has_it(server, reach, recorder, blocked, how) -> None:
    accepted = asyncio.create_task(asyncio.to_thread(server.accept))
    made = await reach(server.address, recorder(), executor=blocked)
    await offloaded(made.link)
    getattr(made.link, how)()
    error = await made.failed
    assert error.stage == "handshake"
    blocked.release.set()
    await asyncio.get_running_loop().run_in_executor(blocked, int)  # behind the handshake step
    assert made.inner.calls == []
    (failure,) = await asyncio.gather(accepted, return_exceptions=True)
    assert isinstance(failure, OSError | ProxyError)


async def test_a_bad_chain_is_found_in_the_thread_and_told_on_the_loop(serve, make_link, recorder, store) -> None:
    running = await serve(store)
    made = make_link(recorder(), UpstreamTls(client_context(), "localhost"))
    await asyncio.get_running_loop().create_connection(lambda: made.link, *running.address)
    assert (await made.failed).proxy_status == "tls_certificate_error"
    assert "unknown ca" in str(await (await running.links.get()).failed)  # the alert was sent


@VERSIONS
async def test_a_resumed_session_needs_no_thread(serve, reach, recorder, pair, ca_file, version) -> None:
    running = await serve(CertificateStore([pair("localhost")]))
    context = client_context(ca=ca_file)
    context.maximum_version = getattr(type(context.maximum_version), version)
    tls, kept = UpstreamTls(context, "localhost"), KeptSession(asyncio.get_running_loop().time)
    gone = ThreadPoolExecutor(1)
    gone.shutdown()
    for options in ({}, {"executor": gone}):
        made = await reach(running.address, recorder(), tls=tls, session=kept, **options)
        link = await made.inner.connected
        link.write(b"ping")
        await made.inner.received(4)
        link.close()
        await made.inner.lost
    assert link.info.resumed


@VERSIONS
async def test_a_refused_session_brings_a_chain(serve, reach, recorder, pair, ca_file, blocked, version) -> None:
    context = client_context(ca=ca_file)
    context.maximum_version = getattr(type(context.maximum_version), version)
    tls, kept = UpstreamTls(context, "localhost"), KeptSession(asyncio.get_running_loop().time)
    for options in ({}, {"executor": blocked}):
        running = await serve(CertificateStore([pair("localhost")]))  # the second has keys of its own
        made = await reach(running.address, recorder(), tls=tls, session=kept, **options)
        if options:
            assert kept.offer() is not None
            await offloaded(made.link)
            blocked.release.set()
        link = await made.inner.connected
        link.write(b"ping")
        await made.inner.received(4)
        link.close()
        await made.inner.lost
    assert not link.info.resumed
    assert blocked.given == 1


async def test_without_threads_there_is_no_new_connection(server, reach, recorder) -> None:
    gone = ThreadPoolExecutor(1)
    gone.shutdown()
    accepted = asyncio.create_task(asyncio.to_thread(server.accept))
    made = await reach(server.address, recorder(), executor=gone)
    error = await made.failed
    assert (error.side, str(error)) == (Side.PROXY, "the proxy is stopping")
    await asyncio.gather(accepted, return_exceptions=True)


# --- What holds in both directions


async def test_what_is_written_at_once_is_one_record(server, reach, recorder) -> None:
    """Within a delivery, too."""

    def serve() -> list[int]:
        with server.accept() as accepted:
            sizes = []
            for _ in range(2):
                # A record's header is its type, version and length (RFC 8446 section 5.1)
                header = accepted.sock.recv(5, socket.MSG_WAITALL)
                size = int.from_bytes(header[3:])
                accepted.pipeline.feed(header + accepted.sock.recv(size, socket.MSG_WAITALL))
                sizes.append(len(accepted.pipeline.read()))
                accepted.send(b"go on")
            return sizes

    def answer(_data: bytes) -> None:
        made.link.write(b"head")
        made.link.write(b"body")

    served = asyncio.create_task(asyncio.to_thread(serve))
    made = await reach(server.address, recorder(answer), version="TLSv1_2")
    link = await made.inner.connected
    link.write(b"head and body")
    assert await served == [13, 8]
    await made.inner.lost


@VERSIONS
async def test_pausing_is_looked_at_between_chunks(server, reach, recorder, version) -> None:
    """And resuming needs nothing new from the server, the end included."""
    payload = random.Random(6).randbytes(400_000)

    def serve() -> None:
        with server.accept() as accepted:
            accepted.send(payload)
            accepted.sock.sendall(accepted.pipeline.close_notify())
            with contextlib.suppress(ConnectionError):
                accepted.read_to_fin()

    deliveries = 0

    def pause(_data: bytes) -> None:
        nonlocal deliveries
        deliveries += 1
        made.link.pause_reading()

    served = asyncio.create_task(asyncio.to_thread(serve))
    made = await reach(server.address, recorder(pause), version=version)
    await made.inner.received(1)
    steps = 0
    while not made.inner.lost.done():
        before = deliveries
        made.link.resume_reading()
        assert deliveries == before
        await asyncio.sleep(0)
        assert deliveries - before <= 1
        steps += deliveries - before
    assert steps > 2
    assert bytes(made.inner.data) == payload
    assert made.inner.calls == ["made", "eof", "lost"]
    await served


@VERSIONS
async def test_a_clean_end_and_a_truncated_one(server, reach, recorder, version) -> None:
    def serve(last: bool) -> None:
        with server.accept() as accepted:
            accepted.send(b"what there is")
            if last:
                accepted.sock.sendall(accepted.pipeline.close_notify())
            accepted.sock.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                accepted.sock.recv(100)

    for clean in (True, False):
        served = asyncio.create_task(asyncio.to_thread(serve, clean))
        made = await reach(server.address, recorder(), version=version)
        error = await made.inner.lost
        assert bytes(made.inner.data) == b"what there is"
        assert made.inner.calls == (["made", "eof", "lost"] if clean else ["made", "lost"])
        assert (error is None) is clean
        await served
    assert str(error) == "the TLS connection ended without close_notify"
    assert (error.side, error.proxy_status) == (Side.UPSTREAM, "http_response_incomplete")


@VERSIONS
async def test_close_does_not_wait_for_the_answer(server, reach, recorder, version) -> None:
    ended = threading.Event()

    def serve() -> tuple[bytes, Ended | None]:
        with server.accept() as accepted:
            accepted.send(b"hi")
            said = accepted.read_to_fin()  # close_notify and FIN, and nothing of ours in return
            assert ended.wait(30)
            return said

    served = asyncio.create_task(asyncio.to_thread(serve))
    made = await reach(server.address, recorder(), version=version)
    link = await made.inner.connected
    await made.inner.received(2)  # and the tickets: left unread, they would make the end a reset
    link.write(b"bye")
    link.close()
    assert await made.inner.lost is None
    ended.set()
    assert await served == (b"bye", Ended.CLOSED)


@VERSIONS
async def test_damage_is_answered_with_an_alert(server, reach, recorder, version) -> None:
    def serve() -> str:
        with server.accept() as accepted:
            accepted.send(b"good")
            accepted.sock.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
            with pytest.raises(ProxyError) as caught:
                accepted.read_to_fin()
            return str(caught.value)

    served = asyncio.create_task(asyncio.to_thread(serve))
    made = await reach(server.address, recorder(), version=version)
    error = await made.inner.lost
    assert "alert bad record mac" in await served
    assert bytes(made.inner.data) == b"good"
    assert (error.side, error.status, error.proxy_status) == (Side.UPSTREAM, 502, "tls_protocol_error")


@pytest.fixture
def openssl_server(pair):
    """`openssl s_server` with TLS 1.2, and what it says as it comes."""
    if OPENSSL is None:
        pytest.skip("the openssl command is not on PATH")
    certificate = pair("localhost")
    command = [OPENSSL, "s_server", "-accept", "127.0.0.1:0", "-tls1_2", "-cert", certificate.cert]
    with subprocess.Popen(
        [*command, "-key", certificate.key],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


async def hear(process, wanted: str) -> re.Match[bytes]:
    heard = b""
    while not (found := re.search(wanted.encode(), heard)):
        chunk = await asyncio.to_thread(process.stdout.read, 4096)
        assert chunk, heard
        heard += chunk
    return found


async def test_renegotiation_is_refused(openssl_server, reach, recorder) -> None:
    """The server asks for it (HelloRequest, RFC 5246 section 7.4.1.1), is told no, and gives up."""
    port = int((await hear(openssl_server, r"ACCEPT 127\.0\.0\.1:(\d+)\s"))[1])
    made = await reach(("127.0.0.1", port), recorder())
    link = await made.inner.connected
    link.write(b"hello\n")
    await hear(openssl_server, "hello")
    openssl_server.stdin.write(b"R\n")
    await hear(openssl_server, "no renegotiation")
    await made.inner.lost
    assert not made.inner.data


# --- The session that is kept


@VERSIONS
async def test_a_session_is_kept_from_the_first_data_on(serve, reach, recorder, pair, ca_file, version) -> None:
    running = await serve(CertificateStore([pair("localhost")]))
    context = client_context(ca=ca_file)
    context.maximum_version = getattr(type(context.maximum_version), version)
    tls, kept = UpstreamTls(context, "localhost"), KeptSession(asyncio.get_running_loop().time)
    resumed = []
    for _ in range(4):
        made = await reach(running.address, recorder(), tls=tls, session=kept)
        link = await made.inner.connected
        resumed.append(link.info.resumed)
        assert (kept.offer() is None) is (len(resumed) == 1)
        link.write(b"ping")
        await made.inner.received(4)
        assert kept.offer() is not None
        # An abort leaves it good: OpenSSL would have it removed from its own cache, but ours is a copy.
        link.abort()
        await made.inner.lost
    assert resumed == [False, True, True, True]


@VERSIONS
async def test_a_connection_without_data_leaves_none(serve, reach, recorder, pair, ca_file, version) -> None:
    running = await serve(CertificateStore([pair("localhost")]))
    kept = KeptSession(asyncio.get_running_loop().time)
    made = await reach(running.address, recorder(), version=version, session=kept)
    (await made.inner.connected).close()
    await made.inner.lost
    assert kept.offer() is None
    assert kept.handshakes_full == 1


@VERSIONS
@pytest.mark.parametrize("first", [True, False], ids=["full", "resumed"])
async def test_a_fatal_alert_ends_the_session(server, reach, recorder, ca_file, version, first) -> None:
    """RFC 5246 section 7.2; of the connection that it was read from as of one that resumed it."""
    context = client_context(ca=ca_file)
    context.maximum_version = getattr(type(context.maximum_version), version)
    tls, kept = UpstreamTls(context, "localhost"), KeptSession(asyncio.get_running_loop().time)

    def serve(damage: bytes) -> None:
        with server.accept() as accepted, contextlib.suppress(ProxyError, ConnectionError):
            accepted.send(b"data")
            accepted.receive(2)
            accepted.sock.sendall(damage)
            accepted.read_to_fin()

    damages = [b"\x17\x03\x03\x00\x20" + bytes(32)]
    if not first:
        damages.insert(0, b"")
    for damage in damages:
        served = asyncio.create_task(asyncio.to_thread(serve, damage))
        made = await reach(server.address, recorder(), tls=tls, session=kept)
        await made.inner.received(4)
        assert kept.offer() is not None
        made.link.write(b"go")
        if not damage:
            made.link.close()
        await made.inner.lost
        await served
    assert kept.offer() is None
    assert kept.handshakes_resumed == (0 if first else 1)


@VERSIONS
async def test_a_handshake_that_fails_ends_the_session_it_offered(serve, reach, recorder, pair, ca_file, version):
    """Else a server that stumbles over it could not be reached any more."""
    running = await serve(CertificateStore([pair("localhost")]))
    context = client_context(ca=ca_file)
    context.maximum_version = getattr(type(context.maximum_version), version)
    now = 0.0
    tls, kept = UpstreamTls(context, "localhost"), KeptSession(lambda: now)
    made = await reach(running.address, recorder(), tls=tls, session=kept)
    (await made.inner.connected).write(b"ping")
    await made.inner.received(4)
    made.link.close()
    await made.inner.lost
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made = await reach(listener.getsockname(), recorder(), tls=tls, session=kept)
        listener.accept()[0].close()
        error = await made.failed
    assert (error.side, error.status) == (Side.UPSTREAM, 502)
    assert kept.offer() is None
    now = FIRST_PAUSE
    made = await reach(running.address, recorder(), tls=tls, session=kept)
    assert not (await made.inner.connected).info.resumed
    made.link.close()
    await made.inner.lost
