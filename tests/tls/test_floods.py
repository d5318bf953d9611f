"""Records that carry no data: a few are nothing, and a flood of them holds up nobody and fills no memory.

What it cost before there were bounds: 256 KiB of KeyUpdates, one read of a socket, held the loop for 88 ms, and for
175 ms where each asks for an answer; the answers piled up, as many octets as came, for a client that read none of them.
"""

from __future__ import annotations

import asyncio
import runpy
import socket
import ssl
import threading
from pathlib import Path

import pytest

from iocproxy.errors import ProxyError
from iocproxy.tls import CertificateStore, TlsPipeline, server_context
from iocproxy.tls.pipeline import MAX_BARREN, RECORD

_RECORDS = runpy.run_path(str(Path(__file__).with_name("tls_records.py")))
RawTls13, APPLICATION, ALERT = _RECORDS["RawTls13"], _RECORDS["APPLICATION"], _RECORDS["ALERT"]


@pytest.fixture
def connected(pair, trusting):
    """A server's pipeline, and a client that makes its records by hand."""
    ours, theirs = socket.socketpair()
    made = []
    thread = threading.Thread(target=lambda: made.append(RawTls13(theirs, trusting())))
    thread.start()
    pipeline = TlsPipeline(server_context(pair("localhost")))
    done = False
    while not done:
        pipeline.feed(ours.recv(65536))
        done = pipeline.handshake()
        ours.sendall(pipeline.take_outgoing())
    thread.join()
    with ours, theirs:
        yield pipeline, made[0]


def flood(make, octets=256 * 1024) -> bytes:
    records = []
    size = 0
    while size < octets:
        records.append(make())
        size += len(records[-1])
    return b"".join(records)


def test_the_records_made_here_are_good(connected) -> None:
    pipeline, client = connected
    pipeline.feed(client.record(APPLICATION, b"one") + client.key_update() + client.record(APPLICATION, b"two"))
    pipeline.feed(client.key_update(both=True) + client.record(APPLICATION, b"three"))
    assert pipeline.read() == b"onetwothree"
    assert len(pipeline.write(b"four")) == 27 + 26  # our own KeyUpdate goes first


@pytest.mark.parametrize("both", [False, True], ids=["for one direction", "for both"])
def test_key_updates_without_end(connected, both) -> None:
    pipeline, client = connected
    pipeline.feed(flood(lambda: client.key_update(both=both)))
    assert pipeline.read() == b""
    assert pipeline.barren  # the caller gives way to others
    assert pipeline.readable
    with pytest.raises(ProxyError, match="too many records without data"):
        pipeline.read()
    with pytest.raises(ProxyError, match="too many records without data"):
        pipeline.read()
    assert len(pipeline.take_outgoing()) <= MAX_BARREN + RECORD


def test_key_updates_now_and_then_are_nothing(connected) -> None:
    pipeline, client = connected
    got = b""
    for number in range(200):
        pipeline.feed(client.key_update(both=number % 2 == 0) + client.key_update())
        assert pipeline.read() == b""
        pipeline.feed(client.record(APPLICATION, b"%d," % number))
        got += pipeline.read()
    assert got == b"".join(b"%d," % number for number in range(200))


def test_the_largest_record_in_the_smallest_pieces(connected) -> None:
    """What is incomplete looks as if it carried no data."""
    pipeline, client = connected
    for _ in range(5):
        wire = client.key_update() + client.record(APPLICATION, bytes(RECORD))
        got = b""
        for start in range(0, len(wire), 7):
            pipeline.feed(wire[start : start + 7])
            got += pipeline.read()
        assert got == bytes(RECORD)


def test_little_in_much_is_taken_in_turns(connected) -> None:
    pipeline, client = connected
    batch = b"".join(client.key_update() for _ in range(600)) + client.record(APPLICATION, b"x")
    batches = [batch]
    while sum(map(len, batches)) < 256 * 1024:
        batches.append(b"".join(client.key_update() for _ in range(600)) + client.record(APPLICATION, b"x"))
    pipeline.feed(b"".join(batches))
    got, turns = b"", 0
    while pipeline.readable:
        got += pipeline.read()
        turns += 1
    assert got == b"x" * len(batches)
    assert turns >= 256 * 1024 // (3 * RECORD)


@pytest.mark.parametrize(
    ("kind", "content", "most"),
    [(APPLICATION, b"", 32), (ALERT, b"\x01\x5a", 5)],
    ids=["empty records", "warning alerts"],
)
def test_openssl_has_a_limit_of_its_own(connected, kind, content, most) -> None:
    """And says why, in an alert."""
    pipeline, client = connected
    pipeline.feed(b"".join(client.record(kind, content) for _ in range(most + 1)))
    with pytest.raises(ProxyError):
        pipeline.read()
    assert pipeline.take_outgoing()


async def raw_client(running, context, *, buffer: int = 0) -> tuple[object, socket.socket]:
    def connect():
        sock = socket.socket()
        sock.settimeout(20)
        if buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.connect(running.address)
        return RawTls13(sock, context), sock

    return await asyncio.to_thread(connect)


async def test_a_flood_ends_the_connection(serve, pair, trusting) -> None:
    running = await serve(CertificateStore([pair("localhost")]))
    client, sock = await raw_client(running, trusting())
    with sock:
        made = await running.links.get()
        await made.inner.connected
        wire = flood(lambda: client.key_update(both=True))
        with pytest.raises(OSError):  # noqa: PT011 - a reset, or a broken pipe
            await asyncio.to_thread(_send_until_refused, sock, wire)
        error = await made.inner.lost
    assert "too many records without data" in str(error)


def _send_until_refused(sock: socket.socket, wire: bytes) -> None:
    sock.sendall(wire)
    while sock.recv(65536):
        pass
    raise ConnectionResetError  # where the system tells the end in the orderly way


async def test_others_have_their_turn(serve, pair, trusting) -> None:
    """Between two stretches of little data the loop goes round."""
    running = await serve(CertificateStore([pair("localhost")]))
    client, sock = await raw_client(running, trusting())
    wire = b"".join(
        b"".join(client.key_update() for _ in range(600)) + client.record(APPLICATION, b"x") for _ in range(64)
    )
    most = 0
    done = False

    async def look() -> None:
        """How much one turn of the loop delivers at most."""
        nonlocal most
        while not done:
            before = len(made.inner.data)
            await asyncio.sleep(0)
            most = max(most, len(made.inner.data) - before)

    with sock:
        made = await running.links.get()
        await made.inner.connected
        looking = asyncio.create_task(look())
        sending = asyncio.create_task(asyncio.to_thread(sock.sendall, wire))
        await made.inner.received(64)
        done = True
        await looking
        await sending
        assert bytes(made.inner.data) == b"x" * 64
        sock.shutdown(socket.SHUT_RDWR)
    # Two turns of ours may fall into one of its own; a read of the socket brings up to 16.
    assert most <= 8


async def test_answers_that_nobody_reads_do_not_pile_up(serve, pair, trusting, recorder) -> None:
    running = await serve(CertificateStore([pair("localhost")]), recorder)
    client, sock = await raw_client(running, trusting(), buffer=16 * 1024)
    batch = 100
    with sock:
        made = await running.links.get()
        link = await made.inner.connected
        link.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)
        link.set_write_buffer_limits(high=32 * 1024)

        def send() -> int:
            """Until nothing more is taken; returns how much went out."""
            sock.settimeout(1.0)
            sent = 0
            while True:
                wire = b"".join(client.key_update(both=True) for _ in range(batch)) + client.record(APPLICATION, b"x")
                try:
                    sock.sendall(wire)
                except TimeoutError:
                    return sent
                sent += len(wire)
                assert sent < 16 * 1024 * 1024

        sent = await asyncio.to_thread(send)
        assert sent
        assert "pause" in made.inner.calls
        assert link.get_write_buffer_size() <= 32 * 1024 + 6 * RECORD
        before = len(made.inner.data)

        # whoever reads is served on
        def read() -> None:
            sock.settimeout(1.0)
            try:
                while sock.recv(1 << 20):
                    pass
            except TimeoutError:
                pass

        await asyncio.to_thread(read)
        assert "resume" in made.inner.calls
        assert len(made.inner.data) > before
        sock.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_an_ordinary_upload_is_not_slowed_down(serve, pair, trusting, recorder, version) -> None:
    running = await serve(CertificateStore([pair("localhost")]), recorder)
    context = trusting()
    context.minimum_version = context.maximum_version = version
    _, writer = await asyncio.open_connection(*running.address, ssl=context, server_hostname="localhost")
    made = await running.links.get()
    data = bytes(range(256)) * 8192
    writer.write(data)
    await made.inner.received(len(data))
    assert made.inner.data == data
    writer.close()
    await made.inner.lost
