"""Links on real sockets: the life of a connection, its flow control and its ends."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from iocproxy.errors import HandshakeFailure, ProxyError, Side
from iocproxy.net.endings import reset_when_closed
from iocproxy.tls import CertificateStore, ServerPolicy, UpstreamTls, client_context
from iocproxy.tls.pipeline import Ended, TlsPipeline

ALERT, FATAL = 21, 2


async def connect(address, context, **options):
    return await asyncio.open_connection(*address, ssl=context, server_hostname="localhost", **options)


async def shut(writer) -> None:
    writer.close()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def raw_exchange(address, data: bytes) -> bytes:
    """Send bytes on a plain socket and read until the server closes."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(data)
    answer = await reader.read()
    await shut(writer)
    return answer


# --- The life of a connection


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
async def test_echo_and_what_was_agreed_on(serve, store, trusting, version) -> None:
    running = await serve(store)
    context = trusting(version)
    context.set_alpn_protocols(["h2", "http/1.1"])
    reader, writer = await connect(running.address, context)
    made = await running.links.get()
    link = await made.inner.connected
    assert link is made.link
    info = link.info
    assert info == link.get_extra_info("tls_info")
    assert info[:1] + info[2:6] == (version.replace("_", "."), False, "localhost", "http/1.1", None)
    assert info.cipher == writer.get_extra_info("cipher")[0]
    assert link.get_extra_info("peername") == writer.get_extra_info("sockname")
    assert link.get_extra_info("ssl_object").version() == info.version
    assert link.get_extra_info("nonsense", 3) == 3
    assert made.timer.history == [5.0, "cancelled"]
    for size in (1, 100, 16_384, 70_000, 300_000):
        data = random.Random(size).randbytes(size)
        writer.write(data)
        assert await reader.readexactly(size) == data
    await shut(writer)
    assert await made.inner.lost is None
    # On Proactor a write of this size is over the mark until it is complete.
    assert [call for call in made.inner.calls if call not in {"pause", "resume"}] == ["made", "eof", "lost"]
    assert link.is_closing()
    assert link.get_extra_info("ssl_object") is None
    link.write(b"ignored")
    link.pause_reading()
    link.resume_reading()
    link.close()
    link.abort()


async def test_the_name_picks_the_certificate(serve, pair, trusting) -> None:
    running = await serve(CertificateStore([pair("first.example"), pair("*.second.example", rsa=True)]))
    for name, expected in (("first.example", "first.example"), ("a.second.example", "*.second.example")):
        _, writer = await asyncio.open_connection(*running.address, ssl=trusting(), server_hostname=name)
        names = writer.get_extra_info("peercert")["subjectAltName"]
        assert names == (("DNS", expected),)
        made = await running.links.get()
        assert (await made.inner.connected).info.server_name == name
        await shut(writer)
        await made.inner.lost


async def test_ciphertext_byte_by_byte(serve, store, trusting) -> None:
    """Each byte of the client's side is a segment of its own."""
    running = await serve(store)

    def client() -> bytes:
        pipeline = TlsPipeline(trusting(), server_name="localhost")
        with socket.create_connection(running.address) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def send(data: bytes) -> None:
                for octet in data:
                    sock.sendall(bytes((octet,)))

            while not pipeline.handshake():
                send(pipeline.take_outgoing())
                pipeline.feed(sock.recv(65536))
            send(pipeline.take_outgoing() + pipeline.write(b"drop by drop") + pipeline.close_notify())
            got = b""
            while pipeline.ended is None:
                received = sock.recv(65536)
                pipeline.feed(received) if received else pipeline.feed_eof()
                got += pipeline.read()
            return got

    assert await asyncio.to_thread(client) == b"drop by drop"
    made = await running.links.get()
    assert await made.inner.lost is None


async def test_writes_within_one_call_are_one_record(serve, recorder, store, trusting) -> None:
    def answer(_data: bytes) -> None:
        made.link.write(b"head")
        assert made.link.get_write_buffer_size() == 4
        made.link.write(b"body")

    def client() -> bytes:
        with (
            socket.create_connection(running.address) as sock,
            trusting().wrap_socket(sock, server_hostname="localhost") as tls,
        ):
            tls.sendall(b"?")
            return tls.recv(100)  # OpenSSL returns one record for each read

    running = await serve(store, lambda: recorder(answer))
    answered = asyncio.create_task(asyncio.to_thread(client))
    made = await running.links.get()
    assert await answered == b"headbody"
    assert made.link.get_write_buffer_size() == 0


@pytest.mark.parametrize("first", ["an answer", "the end"])
async def test_tickets_go_with_the_first_thing_that_is_sent(serve, recorder, store, trusting, first) -> None:
    running = await serve(store, recorder)
    loop = asyncio.get_running_loop()
    pipeline = TlsPipeline(trusting("TLSv1_3"), server_name="localhost")
    with socket.create_connection(running.address) as sock:
        sock.setblocking(False)
        while not pipeline.handshake():
            await loop.sock_sendall(sock, pipeline.take_outgoing())
            pipeline.feed(await loop.sock_recv(sock, 65536))
        assert not pipeline.object.session.has_ticket
        await loop.sock_sendall(sock, pipeline.take_outgoing() + pipeline.write(b"?"))
        made = await running.links.get()
        await made.inner.received(1)
        with pytest.raises(BlockingIOError):
            sock.recv(1)  # on their own they would be a segment for nothing
        if first == "an answer":
            made.link.write(b"!")
        else:
            made.link.close()
        pipeline.feed(await loop.sock_recv(sock, 65536))
        assert pipeline.read() == (b"" if first == "the end" else b"!")
        assert pipeline.object.session.has_ticket
        assert (pipeline.ended is Ended.CLOSED) is (first == "the end")
        made.link.abort()
        await made.inner.lost


async def test_half_open_after_close_notify(serve, recorder, store, trusting) -> None:
    """A client that said close_notify may still be answered (RFC 8446 section 6.1)."""
    running = await serve(store, lambda: recorder(half_open=True))

    def client() -> bytes:
        pipeline = TlsPipeline(trusting("TLSv1_3"), server_name="localhost")
        with socket.create_connection(running.address) as sock:
            while not pipeline.handshake():
                sock.sendall(pipeline.take_outgoing())
                pipeline.feed(sock.recv(65536))
            sock.sendall(pipeline.take_outgoing() + pipeline.write(b"ask") + pipeline.close_notify())
            sock.shutdown(socket.SHUT_WR)
            got = b""
            while pipeline.ended is None:
                received = sock.recv(65536)
                pipeline.feed(received) if received else pipeline.feed_eof()
                got += pipeline.read()
            return got

    answer = asyncio.create_task(asyncio.to_thread(client))
    made = await running.links.get()
    await made.inner.ended
    assert bytes(made.inner.data) == b"ask"
    made.inner.link.write(b"answer")
    made.inner.link.close()
    assert await answer == b"answer"
    assert await made.inner.lost is None


class Shaken:
    """A client on a blocking socket: what it sends is told record by record, what it gets is read to the end."""

    def __init__(self, address, context) -> None:
        self.sock = socket.create_connection(address)
        self.pipeline = TlsPipeline(context, server_name="localhost")
        while not self.pipeline.handshake():
            self.sock.sendall(self.pipeline.take_outgoing())
            self.pipeline.feed(self.sock.recv(65536))
        self.sock.sendall(self.pipeline.take_outgoing())

    def __enter__(self) -> Shaken:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def read_to_fin(self) -> tuple[bytes, Ended | None]:
        """The plaintext up to the FIN, and how it ended."""
        got = b""
        while received := self.sock.recv(65536):
            self.pipeline.feed(received)
            while piece := self.pipeline.read():
                got += piece
        self.pipeline.feed_eof()
        return got + self.pipeline.read(), self.pipeline.ended


def ends_after_one(recorder, links: list, **options):
    """A protocol that says two last words to the first data and ends its side."""

    def answer(_data: bytes) -> None:
        if "ended our side" not in made.calls:
            made.calls.append("ended our side")
            made.link.write(b"last ")
            made.link.write(b"words")
            made.link.write_eof()
            made.link.write(b"ignored")
            made.link.write_eof()

    made = recorder(answer, half_open=True, **options)
    links.append(made)
    return made


async def test_ending_our_side_first(serve, recorder, store, trusting) -> None:
    """`write_eof` with TLS 1.3: close_notify and FIN go out, and what the other side still says is delivered."""
    running = await serve(store, lambda: ends_after_one(recorder, []))

    def client() -> tuple[bytes, Ended | None]:
        with Shaken(running.address, trusting("TLSv1_3")) as shaken:
            # The second record is in the same segment: it is here, unread, when our side ends.
            shaken.sock.sendall(shaken.pipeline.write(b"ask") + shaken.pipeline.write(b" this"))
            said = shaken.read_to_fin()
            shaken.sock.sendall(shaken.pipeline.write(b" and that") + shaken.pipeline.close_notify())
            shaken.sock.shutdown(socket.SHUT_WR)
            assert shaken.sock.recv(1) == b""
            return said

    done = asyncio.create_task(asyncio.to_thread(client))
    made = await running.links.get()
    await made.inner.ended
    assert await done == (b"last words", Ended.CLOSED)
    assert bytes(made.inner.data) == b"ask this and that"
    assert made.inner.link.can_write_eof()
    made.inner.link.close()
    assert await made.inner.lost is None
    assert made.inner.calls.count("eof") == 1


async def test_ending_our_side_first_with_tls_1_2(serve, recorder, store, trusting) -> None:
    """There close_notify ends both directions: what still comes is thrown away, and the end of it is told once."""
    running = await serve(store, lambda: ends_after_one(recorder, []))

    def client() -> tuple[bytes, Ended | None]:
        with Shaken(running.address, trusting("TLSv1_2")) as shaken:
            shaken.sock.sendall(shaken.pipeline.write(b"ask"))
            said = shaken.read_to_fin()
            shaken.sock.sendall(shaken.pipeline.write(b"too late"))
            shaken.sock.shutdown(socket.SHUT_WR)
            assert shaken.sock.recv(1) == b""
            return said

    done = asyncio.create_task(asyncio.to_thread(client))
    made = await running.links.get()
    await made.inner.ended
    assert await done == (b"last words", Ended.CLOSED)
    assert bytes(made.inner.data) == b"ask"
    made.inner.link.close()
    assert await made.inner.lost is None
    assert made.inner.calls.count("eof") == 1


@pytest.mark.parametrize(
    ("last", "told"),
    [
        (b"", "the TLS connection ended without close_notify"),
        (b"\x17\x03\x03\x00\x20" + bytes(32), "TLS failed: "),
    ],
    ids=["cut short", "damaged"],
)
async def test_a_bad_end_after_our_own(serve, recorder, store, trusting, last, told) -> None:
    """It is an error as it would be in a connection open on both sides. No alert is sent: ours has been the last."""
    running = await serve(store, lambda: ends_after_one(recorder, []))

    def client() -> tuple[bytes, Ended | None]:
        with Shaken(running.address, trusting("TLSv1_3")) as shaken:
            shaken.sock.sendall(shaken.pipeline.write(b"ask"))
            said = shaken.read_to_fin()
            shaken.sock.sendall(shaken.pipeline.write(b" more") + last)
            shaken.sock.shutdown(socket.SHUT_WR)
            assert shaken.sock.recv(1) == b""
            return said

    done = asyncio.create_task(asyncio.to_thread(client))
    made = await running.links.get()
    error = await made.inner.lost
    assert str(error).startswith(told)
    assert await done == (b"last words", Ended.CLOSED)
    assert bytes(made.inner.data) == b"ask more"
    assert "eof" not in made.inner.calls


async def test_pausing_after_our_own_end(serve, recorder, store, trusting) -> None:
    """What comes waits for `resume_reading`, and the end of it does, too."""
    running = await serve(store, recorder)
    payload = random.Random(8).randbytes(300_000)
    ended = threading.Event()

    def client() -> bytes:
        with Shaken(running.address, trusting("TLSv1_3")) as shaken:
            shaken.sock.sendall(shaken.pipeline.write(b"ask"))
            said = shaken.read_to_fin()
            ended.set()
            shaken.sock.sendall(shaken.pipeline.write(payload) + shaken.pipeline.close_notify())
            shaken.sock.shutdown(socket.SHUT_WR)
            assert shaken.sock.recv(1) == b""
            return said[0]

    done = asyncio.create_task(asyncio.to_thread(client))
    made = await running.links.get()
    await made.inner.connected
    await made.inner.received(3)
    made.link.pause_reading()
    made.link.write_eof()
    await asyncio.to_thread(ended.wait)
    for _ in range(50):
        await asyncio.sleep(0)
    assert bytes(made.inner.data) == b"ask"
    made.inner.on_data = lambda _data: made.link.pause_reading()
    while not made.inner.lost.done():
        made.link.resume_reading()
        await asyncio.sleep(0)
    assert bytes(made.inner.data) == b"ask" + payload
    assert await done == b""
    assert made.inner.calls == ["made", "eof", "lost"]


# --- Handshakes that fail


async def test_plain_http_gets_a_cleartext_400(serve, store) -> None:
    running = await serve(store)
    answer = await raw_exchange(running.address, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.endswith(b"This port speaks TLS: use https://\n")
    made = await running.links.get()
    error = await made.failed
    assert (error.side, error.stage) == (Side.CLIENT, "handshake")
    assert str(error) == "TLS handshake failed: plain HTTP on a TLS port"
    assert made.inner.calls == []


async def test_plain_http_that_asks_for_the_head_only(serve, store) -> None:
    running = await serve(store)
    answer = await raw_exchange(running.address, b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert answer.endswith(b"Content-Length: 35\r\n\r\n")


async def test_plain_http_that_is_still_sending_is_not_reset(serve, store) -> None:
    """An upload may end, and its sender read the answer."""
    running = await serve(store)
    reader, writer = await asyncio.open_connection(*running.address)
    writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n")
    assert (await reader.read()).endswith(b"This port speaks TLS: use https://\n")  # the answer and the end of it
    made = await running.links.get()
    assert made.timer.armed == 2.0
    for _ in range(20):
        writer.write(bytes(100_000))
        await writer.drain()
    writer.write_eof()
    assert "plain HTTP" in str(await made.failed)
    await shut(writer)


async def test_plain_http_that_stays_is_closed_on_time(serve, store) -> None:
    running = await serve(store)
    reader, writer = await asyncio.open_connection(*running.address)
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert await reader.read()
    made = await running.links.get()
    made.link.handshake_timed_out()
    assert "plain HTTP" in str(await made.failed)
    await shut(writer)


@pytest.mark.parametrize(
    ("data", "answer", "message"),
    [
        (b"SSH-2.0-x\r\n", b"", "not TLS"),
        (b"\x80\x2e\x01\x03\x01" + bytes(43), b"\x15\x03\x01\x00\x02\x02\x46", "an SSLv2 hello"),
        (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", b"\x15\x03\x01\x00\x02\x02\x0a", "malformed"),
        (b"\x16\x03\x01\x00\x04\x01\xff\xff\xff", b"\x15\x03\x01\x00\x02\x02\x2f", "too long"),
    ],
)
async def test_garbage(serve, store, data, answer, message) -> None:
    running = await serve(store)
    assert await raw_exchange(running.address, data) == answer
    made = await running.links.get()
    assert message in str(await made.failed)


async def test_an_alert_for_a_client_without_a_common_version(serve, pair, trusting) -> None:
    running = await serve(CertificateStore([pair("localhost")], ServerPolicy(min_version="1.3")))
    with pytest.raises(ssl.SSLError, match=r"(?i)alert protocol version"):
        await connect(running.address, trusting("TLSv1_2"))
    made = await running.links.get()
    assert "unsupported protocol" in str(await made.failed)


async def test_a_client_that_does_not_trust_us(serve, store) -> None:
    running = await serve(store)

    def client() -> None:  # not asyncio's TLS, which does not send the alert
        with socket.create_connection(running.address) as sock:
            ssl.create_default_context().wrap_socket(sock, server_hostname="localhost")

    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.to_thread(client)
    made = await running.links.get()
    assert "alert unknown ca" in str(await made.failed)
    assert made.inner.calls == []


@pytest.mark.parametrize("portion", [0, 3, 100])
async def test_a_client_that_stops_in_the_middle(serve, store, trusting, portion) -> None:
    running = await serve(store)
    hello = TlsPipeline(trusting(), server_name="localhost")
    hello.handshake()
    reader, writer = await asyncio.open_connection(*running.address)
    writer.write(hello.take_outgoing()[:portion])
    made = await running.links.get()
    await made.timer.begun.wait()
    assert made.timer.armed == 5.0
    made.link.handshake_timed_out()
    error = await made.failed
    assert str(error) == "the TLS handshake was not complete within 5 s"
    assert made.timer.armed is None
    await asyncio.gather(reader.read(), return_exceptions=True)
    await shut(writer)


async def test_a_client_that_stops_after_our_flight(serve, store, trusting) -> None:
    running = await serve(store)
    hello = TlsPipeline(trusting(), server_name="localhost")
    hello.handshake()
    reader, writer = await asyncio.open_connection(*running.address)
    writer.write(hello.take_outgoing())
    assert (await reader.readexactly(1))[0] == 22
    made = await running.links.get()
    made.link.handshake_timed_out()
    assert "not complete" in str(await made.failed)
    await shut(writer)


async def test_a_timer_that_comes_late_changes_nothing(serve, store, trusting) -> None:
    running = await serve(store)
    reader, writer = await connect(running.address, trusting())
    made = await running.links.get()
    await made.inner.connected
    made.link.handshake_timed_out()
    writer.write(b"still here")
    assert await reader.readexactly(10) == b"still here"
    await shut(writer)


async def test_a_client_that_leaves_during_the_handshake(serve, store) -> None:
    running = await serve(store)
    _, writer = await asyncio.open_connection(*running.address)
    writer.write(b"\x16\x03\x01")
    made = await running.links.get()
    await shut(writer)
    assert "closed during the TLS handshake" in str(await made.failed)


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
async def test_a_client_that_says_goodbye_during_the_handshake(serve, store, trusting, version) -> None:
    running = await serve(store)
    hello = TlsPipeline(trusting(version), server_name="localhost")
    hello.handshake()
    reader, writer = await asyncio.open_connection(*running.address)
    writer.write(hello.take_outgoing())
    await reader.read(1)
    writer.write(b"\x15\x03\x03\x00\x02\x01\x00")
    error = await (await running.links.get()).failed
    assert (str(error), error.handshake) == ("TLS handshake failed: ended by close_notify", HandshakeFailure.BROKEN_OFF)
    await asyncio.gather(reader.read(), return_exceptions=True)
    await shut(writer)


async def test_close_during_the_handshake(serve, store) -> None:
    running = await serve(store)
    reader, writer = await asyncio.open_connection(*running.address)
    made = await running.links.get()
    made.link.close()
    assert await reader.read() == b""
    error = await made.failed
    assert error.side is Side.PROXY
    await shut(writer)


@pytest.mark.parametrize("how", ["close", "abort", "handshake_timed_out"])
async def test_given_up_before_there_is_a_transport(make_link, recorder, store, how) -> None:
    made = make_link(recorder(), store)
    getattr(made.link, how)()
    assert made.link.is_closing()
    server = await asyncio.get_running_loop().create_server(lambda: made.link, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await asyncio.gather(reader.read(), return_exceptions=True)
        await shut(writer)
        assert (await made.failed).stage == "handshake"
    assert made.inner.calls == []


# --- Handshakes in the executor


@pytest.fixture
def blocked():
    """An executor whose one thread waits until `release` is set."""
    with ThreadPoolExecutor(1) as pool:
        pool.release = threading.Event()
        pool.submit(pool.release.wait)
        yield pool
        pool.release.set()


async def started(running, trusting):
    """A connection whose first handshake step is handed over and has to wait."""
    hello = TlsPipeline(trusting(), server_name="localhost")
    hello.handshake()
    streams = await asyncio.open_connection(*running.address)
    streams[1].write(hello.take_outgoing())
    made = await running.links.get()
    while "offloaded" not in repr(made.link):  # noqa: ASYNC110
        await asyncio.sleep(0)
    return hello, *streams, made


async def test_the_connection_goes_while_a_thread_has_it(serve, pair, trusting, blocked) -> None:
    running = await serve(CertificateStore([pair("localhost", rsa=True)], offload="always"), executor=blocked)
    _, _, writer, made = await started(running, trusting)
    await shut(writer)
    assert "closed during the TLS handshake" in str(await made.failed)
    blocked.release.set()
    await asyncio.get_running_loop().run_in_executor(blocked, int)  # behind the handshake step
    assert made.inner.calls == []


async def test_a_step_that_nobody_waits_for_any_more_is_not_taken(serve, pair, trusting, blocked) -> None:
    """A hello costs its sender nothing, and whoever leaves at once must not keep the threads from those who wait."""
    store = CertificateStore([pair("localhost", rsa=True)], offload="always")
    running = await serve(store, executor=blocked)
    _, _, writer, made = await started(running, trusting)
    await shut(writer)
    await made.failed
    blocked.release.set()
    await asyncio.get_running_loop().run_in_executor(blocked, int)  # behind the handshake step
    assert store.session_stats()["accept"] == 0


async def test_the_time_is_up_while_a_thread_has_it(serve, pair, trusting, blocked) -> None:
    running = await serve(CertificateStore([pair("localhost", rsa=True)], offload="always"), executor=blocked)
    _, _, writer, made = await started(running, trusting)
    made.link.handshake_timed_out()
    error = await made.failed
    assert str(error) == "the TLS handshake was not complete within 5 s: it waited for a thread"
    assert (error.side, error.handshake) == (Side.PROXY, HandshakeFailure.OVERLOADED)
    assert not error.handshake.clients_doing  # it has done its part
    await shut(writer)


async def test_what_comes_while_a_thread_has_it_is_kept(serve, pair, trusting, blocked) -> None:
    """Here garbage, since a client has nothing to say yet; more than is held, so that the transport is paused."""
    running = await serve(CertificateStore([pair("localhost", rsa=True)], offload="always"), executor=blocked)
    _, reader, writer, made = await started(running, trusting)
    writer.write(b"\x17\x03\x03\x40\x00" * 20_000)
    while made.link._held_size <= 65_536:  # noqa: ASYNC110
        await asyncio.sleep(0)
    blocked.release.set()
    error = await made.failed
    assert "TLS handshake failed" in str(error)
    await asyncio.gather(reader.read(), return_exceptions=True)
    await shut(writer)


async def test_an_executor_that_is_shut_down(serve, pair) -> None:
    gone = ThreadPoolExecutor(1)
    gone.shutdown()
    running = await serve(CertificateStore([pair("localhost", rsa=True)], offload="always"), executor=gone)
    with pytest.raises((ConnectionError, ssl.SSLError)):
        await connect(running.address, ssl.create_default_context())
    made = await running.links.get()
    error = await made.failed
    assert (error.side, str(error)) == (Side.PROXY, "the proxy is stopping")


# --- After the handshake


async def test_garbage_after_the_handshake(serve, store, trusting) -> None:
    running = await serve(store)

    def client() -> bytes:
        pipeline = TlsPipeline(trusting("TLSv1_3"), server_name="localhost")
        with socket.create_connection(running.address) as sock:
            while not pipeline.handshake():
                sock.sendall(pipeline.take_outgoing())
                pipeline.feed(sock.recv(65536))
            sock.sendall(pipeline.take_outgoing() + b"\x17\x03\x03\x00\x20" + bytes(32))
            try:
                while pipeline.ended is None:
                    received = sock.recv(65536)
                    pipeline.feed(received) if received else pipeline.feed_eof()
                    pipeline.read()
            except ProxyError as error:
                return str(error)
            return str(pipeline.ended)

    assert "alert bad record mac" in await asyncio.to_thread(client)
    made = await running.links.get()
    error = await made.inner.lost
    assert isinstance(error, ProxyError)
    assert (error.side, error.stage) == (Side.CLIENT, "body")
    assert made.inner.calls == ["made", "lost"]


async def test_truncation_is_not_an_end(serve, recorder, store, trusting) -> None:
    running = await serve(store, recorder)
    _, writer = await connect(running.address, trusting())
    writer.write(b"half a mess")
    made = await running.links.get()
    await made.inner.connected
    await writer.drain()
    writer.get_extra_info("socket").shutdown(socket.SHUT_WR)  # past TLS
    error = await made.inner.lost
    assert str(error) == "the TLS connection ended without close_notify"
    assert bytes(made.inner.data) == b"half a mess"
    assert made.inner.calls == ["made", "lost"]
    await shut(writer)


@pytest.mark.parametrize("how", ["a bare FIN came", "abort", "reset"])
async def test_what_was_cut_short_does_not_end_with_close_notify(serve, recorder, store, trusting, how) -> None:
    """Half an answer whose end is the connection's must not look whole. For a FIN that an attacker has made, least of
    all (RFC 8446 section 6.1)."""

    def answer(_data: bytes) -> None:
        made.link.write(b"half an ans")
        if how == "reset":
            reset_when_closed(made.link)
        if how != "a bare FIN came":
            loop.call_soon(made.link.abort)

    running = await serve(store, lambda: recorder(answer))
    loop = asyncio.get_running_loop()

    def client() -> Ended | None:
        with Shaken(running.address, trusting()) as shaken:
            shaken.sock.sendall(shaken.pipeline.write(b"ask"))
            if how == "a bare FIN came":
                got = b""
                while got != b"half an ans":
                    shaken.pipeline.feed(shaken.sock.recv(65536))
                    got += shaken.pipeline.read()
                shaken.sock.shutdown(socket.SHUT_WR)
            try:
                return shaken.read_to_fin()[1]
            except ConnectionError:
                return None

    done = asyncio.create_task(asyncio.to_thread(client))
    made = await running.links.get()
    await made.inner.lost
    assert await done in {None, Ended.TRUNCATED}


async def test_our_close_is_clean(serve, recorder, store, trusting) -> None:
    def answer(_data: bytes) -> None:
        made.link.write(b"bye")
        made.link.close()
        made.link.write(b"ignored")

    running = await serve(store, lambda: recorder(answer))

    def client() -> bytes:
        with (
            socket.create_connection(running.address) as sock,
            trusting().wrap_socket(sock, server_hostname="localhost", suppress_ragged_eofs=False) as tls,
        ):
            tls.sendall(b"?")
            got = b""
            while received := tls.recv(100):
                got += received
            return got

    answered = asyncio.create_task(asyncio.to_thread(client))
    made = await running.links.get()
    assert await answered == b"bye"  # and no SSLEOFError
    assert await made.inner.lost is None


async def test_abort(serve, recorder, store, trusting) -> None:
    running = await serve(store, recorder)
    reader, writer = await connect(running.address, trusting())
    made = await running.links.get()
    (await made.inner.connected).abort()
    assert await made.inner.lost is None
    await asyncio.gather(reader.read(), return_exceptions=True)
    await shut(writer)


# --- Flow control


async def test_paused_data_needs_nothing_new_to_be_delivered(serve, recorder, store, trusting) -> None:
    """The first record of a segment makes the reader pause; the others come on resume, without new socket data."""
    first = asyncio.get_running_loop().create_future()

    deliveries = 0

    def pause(_data: bytes) -> None:
        nonlocal deliveries
        deliveries += 1
        made.link.pause_reading()
        if not first.done():
            first.set_result(None)

    running = await serve(store, lambda: recorder(pause))
    _, writer = await connect(running.address, trusting())
    made = await running.links.get()
    await made.inner.connected
    payload = random.Random(5).randbytes(1_000_000)
    writer.write(payload)
    writer.close()  # so that the end is behind the data, too
    await first
    steps = 0
    while not made.inner.lost.done():
        before = deliveries
        made.link.resume_reading()
        assert deliveries == before  # never from within resume_reading
        await asyncio.sleep(0)
        assert deliveries - before <= 1  # and none after the pause
        steps += deliveries - before
    assert steps > 3
    assert bytes(made.inner.data) == payload
    assert made.inner.calls == ["made", "eof", "lost"]
    await shut(writer)


async def test_pause_resume_pause_within_one_call(serve, recorder, store, trusting) -> None:
    arrived = asyncio.Semaphore(0)

    def flicker(_data: bytes) -> None:
        made.link.pause_reading()
        made.link.resume_reading()
        made.link.pause_reading()
        arrived.release()

    running = await serve(store, lambda: recorder(flicker))
    _, writer = await connect(running.address, trusting())
    made = await running.links.get()
    link = await made.inner.connected
    writer.write(b"a" * 10)
    await arrived.acquire()
    writer.write(b"b" * 10)
    await writer.drain()
    for _ in range(20):
        await asyncio.sleep(0)
    assert bytes(made.inner.data) == b"a" * 10
    link.resume_reading()
    link.pause_reading()
    link.resume_reading()
    await arrived.acquire()
    assert bytes(made.inner.data) == b"a" * 10 + b"b" * 10
    link.abort()
    await made.inner.lost
    await shut(writer)


async def test_ten_megabytes_both_ways_with_random_pauses(serve, recorder, store, trusting) -> None:
    """What arrives is echoed; the reader pauses at random, and whenever its writer is told to pause."""
    size, dice = 10_000_000, random.Random(6)
    payload = dice.randbytes(size)
    loop = asyncio.get_running_loop()

    class Hesitant(recorder):
        writable = True

        def data_received(self, data):
            self.link.write(data)
            if dice.random() < 0.3:
                self.link.pause_reading()
                loop.call_soon(self.go_on)

        def go_on(self):
            if self.writable:
                self.link.resume_reading()

        def pause_writing(self):
            self.writable = False
            self.link.pause_reading()

        def resume_writing(self):
            self.writable = True
            self.link.resume_reading()

    running = await serve(store, Hesitant)
    reader, writer = await connect(running.address, trusting())

    async def send() -> None:
        for start in range(0, size, 100_003):
            writer.write(payload[start : start + 100_003])
            await writer.drain()

    sending = asyncio.create_task(send())
    assert await reader.readexactly(size) == payload
    await sending
    await shut(writer)


async def test_a_client_that_does_not_read(serve, recorder, store, trusting) -> None:
    running = await serve(store, recorder)
    _, writer = await connect(running.address, trusting(), limit=1000)
    made = await running.links.get()
    link = await made.inner.connected
    link.set_write_buffer_limits(high=10_000)
    stuck = 0  # for so many turns of the loop: on Proactor each write waits for a turn or two to be complete
    while stuck < 50:
        if link.get_write_buffer_size() > 10_000:
            stuck += 1
        else:
            stuck = 0
            link.write(bytes(100_000))
        await asyncio.sleep(0)
    assert made.inner.calls[-1] == "pause"
    link.close()  # cannot finish
    assert not made.inner.lost.done()
    link.abort()
    await made.inner.lost
    writer.transport.abort()
    await shut(writer)


# --- Towards upstreams


async def reach(make_link, address, inner, context, name="localhost"):
    made = make_link(inner, UpstreamTls(context, name))
    await asyncio.get_running_loop().create_connection(lambda: made.link, *address)
    return made


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
async def test_as_a_client(serve, make_link, recorder, store, ca_file, name) -> None:
    running = await serve(store)
    made = await reach(make_link, running.address, recorder(), client_context(ca=ca_file), name)
    link = await made.inner.connected
    assert link.info.version == "TLSv1.3"
    assert link.info.alpn == "http/1.1"
    assert made.timer.history == [5.0, "cancelled"]
    link.write(b"over and out")
    server = await running.links.get()
    await server.inner.connected
    await made.inner.received(12)
    assert bytes(made.inner.data) == b"over and out"
    assert server.link.info.server_name == ("localhost" if name == "localhost" else "")
    link.close()
    assert await made.inner.lost is None
    assert await server.inner.lost is None


async def test_ending_our_side_first_as_a_client(serve, make_link, recorder, store, ca_file) -> None:
    """A tunnel to an https upstream: the client has ended, and the answer still comes."""
    running = await serve(store, lambda: recorder(half_open=True))
    made = await reach(make_link, running.address, recorder(), client_context(ca=ca_file))
    link = await made.inner.connected
    link.write(b"ask")
    link.write_eof()
    server = await running.links.get()
    await server.inner.ended
    assert bytes(server.inner.data) == b"ask"
    server.link.write(b"answer")
    server.link.close()
    assert await made.inner.lost is None
    assert bytes(made.inner.data) == b"answer"
    assert made.inner.calls == ["made", "eof", "lost"]


async def test_a_certificate_that_is_not_trusted(serve, make_link, recorder, store) -> None:
    running = await serve(store)
    made = await reach(make_link, running.address, recorder(), client_context())
    error = await made.failed
    assert (error.side, error.stage, error.status) == (Side.UPSTREAM, "handshake", 502)
    assert error.proxy_status == "tls_certificate_error"
    assert error.retryable
    server = await running.links.get()
    assert "unknown ca" in str(await server.failed)  # the alert was really sent


async def test_verification_off(serve, make_link, recorder, store) -> None:
    running = await serve(store)
    made = await reach(make_link, running.address, recorder(), client_context(verify=False), "any.example")
    (await made.inner.connected).close()
    await made.inner.lost


async def test_an_upstream_that_does_not_speak_tls(make_link, recorder, ca_file) -> None:
    class Plain(asyncio.Protocol):
        def connection_made(self, transport):
            transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            transport.close()

    server = await asyncio.get_running_loop().create_server(Plain, "127.0.0.1", 0)
    async with server:
        address = server.sockets[0].getsockname()
        made = await reach(make_link, address, recorder(), client_context(ca=ca_file))
        error = await made.failed
    assert (error.side, error.status) == (Side.UPSTREAM, 502)
    assert error.proxy_status in {"tls_protocol_error", "connection_terminated"}


async def test_an_upstream_that_is_silent(make_link, recorder, ca_file) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        made = await reach(make_link, silent.getsockname(), recorder(), client_context(ca=ca_file))
        made.link.handshake_timed_out()
        error = await made.failed
    assert (error.status, error.proxy_status) == (504, "connection_timeout")


async def test_an_upstream_that_truncates(serve, make_link, recorder, store, ca_file) -> None:
    running = await serve(store, recorder)
    made = await reach(make_link, running.address, recorder(), client_context(ca=ca_file))
    server = await running.links.get()
    link = await server.inner.connected
    link.write(b"only a part")
    await made.inner.connected
    link._transport.close()  # past TLS: a bare FIN
    error = await made.inner.lost
    assert bytes(made.inner.data) == b"only a part"
    assert (error.side, error.status, error.proxy_status) == (Side.UPSTREAM, 502, "http_response_incomplete")
