"""What every Link promises: ProactorLink over CPython's own transport, and SelectorLink where there is a selector."""

import asyncio
import gc
import hashlib
import random
import socket
import struct
import sys
import weakref

import pytest

from iocproxy.net.attach import attach
from iocproxy.net.endings import reset_when_closed
from iocproxy.net.loops import is_proactor
from iocproxy.net.proactor import ProactorLink

SIZE = 4 << 20


class Inner(asyncio.Protocol):
    """Keeps what it is told, in order."""

    def __init__(self, *, keep_open=True):
        self.link = None
        self.calls = []
        self.received = bytearray()
        self.keep_open = keep_open
        self.changed = asyncio.Event()

    def connection_made(self, link):
        self.link = link

    def data_received(self, data):
        assert type(data) is bytes
        self.received += data
        self._note("data")

    def eof_received(self):
        self._note("eof")
        return self.keep_open

    def connection_lost(self, exc):
        self._note("lost")

    def _note(self, call):
        self.calls.append(call)
        self.changed.set()

    async def until(self, call):
        while call not in self.calls:
            self.changed.clear()
            await self.changed.wait()


class Fidgety(Inner):
    """Pauses and resumes at random, several times within an iteration too."""

    def __init__(self, seed):
        super().__init__()
        self.random = random.Random(seed)

    def data_received(self, data):
        super().data_received(data)
        self.fidget()
        asyncio.get_running_loop().call_soon(self.fidget)

    def fidget(self):
        for _ in range(self.random.randrange(5)):
            self.random.choice((self.link.pause_reading, self.link.resume_reading))()
        # However it ended, go on soon: in this iteration, in the next, or in the one after.
        loop = asyncio.get_running_loop()
        self.random.choice((lambda call: call(), loop.call_soon, lambda call: loop.call_soon(loop.call_soon, call)))(
            self.link.resume_reading
        )


async def spin(iterations=10):
    for _ in range(iterations):
        await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(3))
async def test_nothing_is_lost_however_reading_is_paused_and_resumed(link, seed):
    inner = Fidgety(seed)
    client = await link(inner)
    sent = random.Random(seed).randbytes(SIZE)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(client, sent)
    client.shutdown(socket.SHUT_WR)
    await inner.until("eof")
    assert hashlib.sha256(inner.received).digest() == hashlib.sha256(sent).digest()
    assert inner.calls.count("eof") == 1
    inner.link.close()
    await inner.until("lost")


async def test_a_pause_holds_until_the_resume(link):
    inner = Inner()
    client = await link(inner)
    await spin()  # the first read is in flight
    inner.link.pause_reading()
    inner.link.pause_reading()
    client.send(b"data")
    await spin(50)
    assert inner.received == b""
    inner.link.resume_reading()
    inner.link.pause_reading()
    await spin(50)
    assert inner.received == b""
    inner.link.resume_reading()
    inner.link.resume_reading()
    await inner.until("data")
    assert inner.received == b"data"
    inner.link.abort()
    await inner.until("lost")


async def test_the_end_is_told_once_and_the_other_direction_goes_on(link):
    inner = Inner(keep_open=True)
    client = await link(inner)
    client.shutdown(socket.SHUT_WR)
    await inner.until("eof")
    for _ in range(3):
        inner.link.pause_reading()
        await spin()
        inner.link.resume_reading()
        await spin()
    assert inner.calls == ["eof"]
    inner.link.write(b"an answer")
    loop = asyncio.get_running_loop()
    assert await loop.sock_recv(client, 100) == b"an answer"
    assert inner.link.can_write_eof()
    inner.link.write_eof()
    assert await loop.sock_recv(client, 100) == b""
    inner.link.close()
    assert inner.link.is_closing()
    await inner.until("lost")
    assert inner.calls == ["eof", "lost"]


async def test_the_end_found_while_paused_is_told_once_on_resume(link):
    inner = Inner(keep_open=True)
    client = await link(inner)
    await spin()
    inner.link.pause_reading()
    client.send(b"last words")
    client.shutdown(socket.SHUT_WR)
    await spin(50)
    assert inner.calls == []
    inner.link.resume_reading()
    await inner.until("eof")
    await spin()
    assert inner.received == b"last words"
    assert inner.calls[-1] == "eof"
    assert inner.calls.count("eof") == 1
    inner.link.abort()
    await inner.until("lost")


async def test_the_end_alone_found_while_paused_is_told_once_on_resume(link):
    inner = Inner(keep_open=True)
    client = await link(inner)
    await spin()
    inner.link.pause_reading()
    client.shutdown(socket.SHUT_WR)
    await spin()
    inner.link.resume_reading()
    await inner.until("eof")
    await spin()
    assert inner.calls == ["eof"]
    inner.link.abort()
    await inner.until("lost")


async def test_the_end_closes_unless_the_inner_protocol_wants_to_go_on(link):
    inner = Inner(keep_open=False)
    client = await link(inner)
    client.shutdown(socket.SHUT_WR)
    await inner.until("lost")
    assert inner.calls == ["eof", "lost"]


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_a_closed_link_delivers_nothing(link, how):
    inner = Inner()
    client = await link(inner)
    await spin()
    inner.link.pause_reading()
    client.send(b"held back")
    await spin(50)
    inner.link.resume_reading()
    await spin(1)  # the transport has scheduled the delivery
    getattr(inner.link, how)()
    before = list(inner.calls)
    await inner.until("lost")
    await spin()
    assert inner.calls == [*before, "lost"]


async def test_a_data_received_that_raises_closes_the_connection_and_is_reported(link, reported):
    class Broken(Inner):
        def data_received(self, data):
            raise ValueError("no such thing")

    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))
    inner = Broken()
    client = await link(inner)
    client.send(b"data")
    await inner.until("lost")
    assert [str(context["exception"]) for context in reported] == ["no such thing"]
    assert reported[0]["protocol"] is inner


async def test_an_eof_received_that_raises_closes_the_connection_and_is_reported(link, reported):
    class Broken(Inner):
        def eof_received(self):
            raise ValueError("no such end")

    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))
    inner = Broken()
    client = await link(inner)
    client.shutdown(socket.SHUT_WR)
    await inner.until("lost")
    assert [str(context["exception"]) for context in reported] == ["no such end"]


async def test_a_reset_leaves_no_socket_open(link, reported):
    """The transport's own `shutdown` fails on a reset connection, before it gets to `close`."""
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))
    inner = Inner()
    client = await link(inner)
    sock = inner.link._sock
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger(on=1, seconds=0))
    client.close()
    await inner.until("lost")
    await spin()
    assert sock.fileno() == -1
    assert reported == []


async def test_a_connection_that_is_to_be_reset_does_not_begin_with_an_orderly_end(link):
    """A FIN ahead of the reset would make a message that was cut short look complete."""
    inner = Inner()
    client = await link(inner)
    reset_when_closed(inner.link)
    inner.link.abort()
    await inner.until("lost")

    async def read_on():
        await asyncio.get_running_loop().sock_recv(client, 100)
        client.send(b"x")  # Wine shows a reset to a reader as an end; after a true end this would go through

    with pytest.raises((ConnectionResetError, ConnectionAbortedError)):
        await read_on()


def linger(*, on, seconds):
    return struct.pack("hh" if sys.platform == "win32" else "ii", on, seconds)


async def test_a_lost_connection_is_freed_without_the_garbage_collector(link):
    client = await link(inner := Inner())
    client.close()
    inner.link.close()
    await inner.until("lost")
    await spin()
    gone = weakref.ref(inner)
    gc.disable()
    try:
        del inner
        assert gone() is None
    finally:
        gc.enable()


async def test_backpressure_is_passed_on(link):
    class Slow(Inner):
        def pause_writing(self):
            self._note("pause")

        def resume_writing(self):
            self._note("resume")

    inner = Slow()
    client = await link(inner)
    inner.link.set_write_buffer_limits(high=64 << 10)
    # Fixed, or the system may take all of it.
    inner.link.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 << 10)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
    sent = random.Random(1).randbytes(SIZE)
    inner.link.write(sent)
    await inner.until("pause")
    assert inner.link.get_write_buffer_size() > 64 << 10
    loop = asyncio.get_running_loop()
    got = bytearray()
    while len(got) < SIZE:
        got += await loop.sock_recv(client, 1 << 16)
    await inner.until("resume")
    assert got == sent
    assert inner.calls == ["pause", "resume"]
    assert inner.link.get_write_buffer_size() == 0
    inner.link.close()
    await inner.until("lost")


async def test_what_is_sent_at_once_and_what_has_to_wait_arrive_in_order(link):
    """Sizes from an octet to more than the system takes, so that the two ways alternate."""
    inner = Inner()
    client = await link(inner)
    inner.link.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 << 10)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
    chance = random.Random(2)
    loop = asyncio.get_running_loop()
    sent, got = hashlib.sha256(), hashlib.sha256()
    at_once = waited = missing = 0
    for _ in range(200):
        data = chance.randbytes(chance.choice([1, 1000, 30_000, 300_000]))
        inner.link.write(data)
        sent.update(data)
        missing += len(data)
        if inner.link.get_write_buffer_size():
            waited += 1
        else:
            at_once += 1
        while missing > chance.choice([0, 100_000, 1_000_000]):
            taken = await loop.sock_recv(client, 1 << 18)
            got.update(taken)
            missing -= len(taken)
    inner.link.write(b"the end")
    sent.update(b"the end")
    inner.link.close()
    while taken := await loop.sock_recv(client, 1 << 18):
        got.update(taken)
    assert got.digest() == sent.digest()
    assert at_once
    assert waited
    await inner.until("lost")


async def test_its_repr_shows_its_state(link):
    inner = Inner()
    client = await link(inner)
    kind = type(inner.link).__name__
    assert repr(inner.link).startswith(f"<{kind} open of ")
    inner.link.pause_reading()
    assert repr(inner.link).startswith(f"<{kind} paused of ")
    assert inner.link.get_extra_info("peername") == client.getsockname()
    inner.link.close()
    assert repr(inner.link).startswith(f"<{kind} closed of ")
    await inner.until("lost")


# --- What only ProactorLink has to see to


@pytest.mark.skipif(sys.platform == "win32", reason="the completion port does not count its reads")
@pytest.mark.parametrize(("guarded", "reads"), [(False, 2), (True, 1)])
async def test_resuming_twice_in_an_iteration_posts_one_read(pair, completion_transport, guarded, reads):
    """Two reads into one buffer lose data. The unguarded transport shows that the emulation would tell."""
    client, sock = pair
    loop = asyncio.get_running_loop()
    inner = Inner()
    proactor = await completion_transport(
        sock, ProactorLink(loop, sock, inner) if guarded else inner_of_bytearray(inner)
    )
    inner.link.pause_reading()
    client.send(b"while paused")
    await spin(50)
    assert not proactor.reads
    inner.link.resume_reading()
    inner.link.pause_reading()
    inner.link.resume_reading()
    await inner.until("data")
    await spin()
    assert proactor.most_reads == reads
    inner.link.abort()
    await inner.until("lost")


def inner_of_bytearray(inner):
    """`inner` straight on the transport, which hands it a bytearray after a pause on every version."""
    inner.data_received = lambda data: (inner.received.extend(data), inner._note("data"))
    return inner


# --- From a socket to a Link


async def test_attach_serves_a_socket_on_this_platforms_loop(pair):
    client, sock = pair
    loop = asyncio.get_running_loop()
    inner = Inner(keep_open=False)
    await attach(loop, sock, inner)
    assert inner.link is not None
    client.send(b"hello")
    await inner.until("data")
    assert inner.received == b"hello"
    inner.link.write(b"welcome")
    assert await loop.sock_recv(client, 100) == b"welcome"
    client.close()
    await inner.until("lost")
    await spin()
    assert sock.fileno() == -1


async def test_attach_closes_a_socket_that_it_cannot_serve(pair):
    class Unwilling(Inner):
        def connection_made(self, link):
            raise ValueError("not today")

    client, sock = pair
    loop = asyncio.get_running_loop()
    if is_proactor(loop):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            with pytest.raises(ValueError, match="Stream Socket"):
                await attach(loop, datagrams, Inner())
            assert datagrams.fileno() == -1
    else:
        with pytest.raises(ValueError, match="not today"):
            await attach(loop, sock, Unwilling())
        assert await loop.sock_recv(client, 1) == b""


async def test_attach_waits_for_nothing_but_a_proactor(pair):
    """Cancelled at once, it has attached already, or it has closed the socket."""
    client, sock = pair
    loop = asyncio.get_running_loop()
    inner = Inner()
    attaching = asyncio.create_task(attach(loop, sock, inner))
    await asyncio.sleep(0)
    attaching.cancel()
    if is_proactor(loop):
        with pytest.raises(asyncio.CancelledError):
            await attaching
        assert sock.fileno() == -1
    else:
        await attaching
        inner.link.abort()
        await inner.until("lost")
    assert await loop.sock_recv(client, 1) == b""
    await spin()


class First(Inner):
    """Takes the first three octets and hands the connection over, at once or when told to."""

    def __init__(self, following, *, at_once=True):
        super().__init__()
        self.following = following
        self.at_once = at_once
        self.rest = b""

    def data_received(self, data):
        super().data_received(data)
        if len(self.received) >= 3:
            self.rest = bytes(self.received[3:])
            self.link.pause_reading()
            if self.at_once:
                self.hand_over()

    def hand_over(self):
        self.link.hand_over(self.following, self.rest)


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_connection_is_handed_over_with_what_was_read_already(link, at_once):
    following = Inner(keep_open=False)
    first = First(following, at_once=at_once)
    client = await link(first)
    client.send(b"one and")
    await first.until("data")
    client.send(b" two")
    client.shutdown(socket.SHUT_WR)
    if not at_once:
        await spin(50)
        assert following.calls == []
        first.hand_over()
    await following.until("lost")
    assert following.link is first.link
    assert following.received == b" and two"
    assert following.calls[-2:] == ["eof", "lost"]
    assert first.calls == ["data"]


async def test_a_connection_is_handed_over_with_nothing_behind_it(link):
    following = Inner()
    client = await link(First(following))
    client.send(b"one")
    while following.link is None:
        await spin(1)
    await spin()
    assert following.calls == []
    client.send(b"two")
    await following.until("data")
    following.link.write(b"an answer")
    assert await asyncio.get_running_loop().sock_recv(client, 100) == b"an answer"
    following.link.abort()
    await following.until("lost")


async def test_who_takes_over_may_pause_at_what_came_along(link):
    class Pausing(Inner):
        def data_received(self, data):
            super().data_received(data)
            self.link.pause_reading()

    following = Pausing()
    client = await link(First(following))
    client.send(b"one and")
    await following.until("data")
    client.send(b" two")
    await spin(50)
    assert following.received == b" and"
    following.link.resume_reading()
    while following.received != b" and two":
        await spin(1)
    following.link.abort()
    await following.until("lost")


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_who_takes_over_may_close_at_once(link, how):
    class Closing(Inner):
        def connection_made(self, link):
            super().connection_made(link)
            getattr(link, how)()

    following = Closing()
    client = await link(First(following))
    client.send(b"one and two")
    await following.until("lost")
    assert following.received == b""


@pytest.mark.parametrize("where", ["connection_made", "data_received"])
async def test_who_takes_over_and_raises_ends_the_connection(link, where, reported):
    def fail(*_):
        raise ZeroDivisionError

    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    following = Inner()
    setattr(following, where, fail)
    first = First(following, at_once=False)
    client = await link(first)
    client.send(b"one and two")
    await first.until("data")
    first.hand_over()
    await following.until("lost")
    (context,) = reported
    assert isinstance(context["exception"], ZeroDivisionError)
    assert first.calls == ["data"]
