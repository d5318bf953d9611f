"""What only SelectorLink does; what every Link promises is in test_links.py."""

import asyncio
import errno
import gc
import random
import selectors
import socket
import sys

import pytest

if sys.platform == "win32":
    pytest.skip("the ProactorEventLoop has no add_reader", allow_module_level=True)

from iocproxy.net.endings import end_output, reset_when_closed
from iocproxy.net.selector import HIGH, LOW, SelectorLink


class Inner(asyncio.Protocol):
    """Keeps what it is told; `on` has what else to do, by the name of the call."""

    def __init__(self, **on):
        self.on = on
        self.calls = []
        self.received = b""
        self.error = None
        self.changed = asyncio.Event()

    def connection_made(self, link):
        self.link = link
        self._note("made")

    def data_received(self, data):
        self.received += data
        self._note("data")

    def eof_received(self):
        self._note("eof")
        return True

    def pause_writing(self):
        self._note("pause")

    def resume_writing(self):
        self._note("resume")

    def connection_lost(self, exc):
        self.error = exc
        self._note("lost")

    def _note(self, call):
        self.calls.append(call)
        self.changed.set()
        self.on.get(call, lambda link: None)(self.link)

    async def until(self, call):
        while call not in self.calls:
            self.changed.clear()
            await self.changed.wait()


@pytest.fixture
def serve(pair):
    """`serve(inner)`: the client's socket; what `inner` serves has small socket buffers."""
    client, sock = pair
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 << 10)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)

    def start(inner):
        SelectorLink(asyncio.get_running_loop(), sock, inner).start()
        return client

    return start


async def read_all(client):
    loop, got = asyncio.get_running_loop(), b""
    while data := await loop.sock_recv(client, 1 << 16):
        got += data
    return got


def watched(sock):
    return asyncio.get_running_loop()._selector.get_map().get(sock.fileno())


async def test_the_connection_is_made_before_start_returns(serve):
    inner = Inner()
    serve(inner)
    assert inner.calls == ["made"]
    inner.link.abort()
    assert inner.calls == ["made"]  # the end has an iteration of its own
    await inner.until("lost")


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_a_connection_may_be_ended_while_it_is_made(serve, how):
    inner = Inner(made=lambda link: getattr(link, how)())
    client = serve(inner)
    await inner.until("lost")
    assert await read_all(client) == b""
    assert inner.calls == ["made", "lost"]


async def test_a_connection_may_be_paused_while_it_is_made(serve, pair):
    inner = Inner(made=lambda link: link.pause_reading())
    client = serve(inner)
    client.send(b"early")
    assert watched(pair[1]) is None
    inner.link.resume_reading()
    await inner.until("data")
    assert inner.received == b"early"
    inner.link.abort()
    await inner.until("lost")


async def test_a_pause_leaves_the_socket_with_the_selector_until_data_comes(serve, pair):
    inner = Inner()
    client = serve(inner)
    inner.link.pause_reading()
    assert watched(pair[1]) is not None
    inner.link.resume_reading()
    inner.link.pause_reading()
    client.send(b"data")
    for _ in range(10):
        await asyncio.sleep(0)
    assert watched(pair[1]) is None  # one look at it, and no more
    assert inner.received == b""
    inner.link.resume_reading()
    await inner.until("data")
    assert inner.received == b"data"
    inner.link.abort()
    await inner.until("lost")


async def test_after_the_end_the_socket_is_not_looked_at_again(serve, pair):
    inner = Inner()
    client = serve(inner)
    client.shutdown(socket.SHUT_WR)
    await inner.until("eof")
    for call in (inner.link.pause_reading, inner.link.resume_reading):
        call()
        assert watched(pair[1]) is None
    inner.link.close()
    await inner.until("lost")


async def test_what_is_written_behind_a_backlog_follows_it(serve):
    inner = Inner()
    client = serve(inner)
    chance = random.Random(1)
    pieces = [chance.randbytes(chance.choice([0, 1, 50, 3_000, 200_000])) for _ in range(300)]
    for piece in pieces:
        inner.link.write(piece)
    assert inner.link.get_write_buffer_size() > 0
    inner.link.write_eof()
    assert await read_all(client) == b"".join(pieces)
    assert inner.link.get_write_buffer_size() == 0
    assert inner.calls[1:] == ["pause", "resume"]
    inner.link.close()
    await inner.until("lost")


async def test_close_sends_what_is_left_and_then_the_end(serve):
    inner = Inner()
    client = serve(inner)
    inner.link.write(bytes(1 << 20))
    inner.link.close()
    inner.link.write(b"too late")
    assert inner.link.is_closing()
    assert await read_all(client) == bytes(1 << 20)
    await inner.until("lost")
    assert inner.error is None
    inner.link.write(b"far too late")


async def test_abort_drops_what_is_left(serve, pair):
    inner = Inner()
    serve(inner)
    inner.link.write(bytes(1 << 20))
    inner.link.abort()
    assert inner.link.get_write_buffer_size() == 0
    assert watched(pair[1]) is None
    inner.link.abort()
    inner.link.close()
    await inner.until("lost")
    assert inner.calls.count("lost") == 1


@pytest.mark.parametrize("how", ["close", "abort", "write_eof"])
async def test_the_protocol_may_end_it_when_told_to_go_on(serve, pair, how):
    """By then nothing is left to be sent, and the socket still stands with the selector for writing."""
    inner = Inner(resume=lambda link: getattr(link, how)())
    client, selected = serve(inner), asyncio.get_running_loop()._selector.get_map()
    fd = pair[1].fileno()
    inner.link.set_write_buffer_limits(high=1, low=0)
    inner.link.write(bytes(1 << 20))
    assert await read_all(client) == bytes(1 << 20)
    if how == "write_eof":
        assert selected[fd].events == selectors.EVENT_READ
        inner.link.close()
    await inner.until("lost")
    assert fd not in selected


async def test_the_protocol_may_write_when_told_to_go_on(serve):
    inner = Inner(resume=lambda link: link.write(b"!" * (1 << 20)) or link.close())
    client = serve(inner)
    inner.link.write(bytes(1 << 20))
    assert await read_all(client) == bytes(1 << 20) + b"!" * (1 << 20)
    await inner.until("lost")


async def test_writing_after_write_eof_is_a_mistake(serve):
    inner = Inner()
    serve(inner)
    inner.link.write_eof()
    inner.link.write_eof()
    with pytest.raises(RuntimeError, match="after write_eof"):
        inner.link.write(b"more")
    inner.link.abort()
    await inner.until("lost")
    inner.link.write(b"dropped")


async def test_writing_behind_a_backlog_after_write_eof_is_a_mistake(serve):
    inner = Inner()
    serve(inner)
    inner.link.write(bytes(1 << 20))
    inner.link.write_eof()
    with pytest.raises(RuntimeError, match="after write_eof"):
        inner.link.write(b"more")
    inner.link.abort()
    await inner.until("lost")


@pytest.mark.parametrize("backlog", [False, True], ids=["sending", "with a backlog"])
async def test_an_error_while_sending_ends_the_connection_and_is_told(serve, backlog):
    inner = Inner(made=lambda link: link.pause_reading())
    client = serve(inner)
    if backlog:
        inner.link.write(bytes(1 << 20))
    reset_when_closed(SelectorLink(asyncio.get_running_loop(), client, asyncio.Protocol()))
    client.close()
    if not backlog:
        inner.link.write(b"x")
    await inner.until("lost")
    assert isinstance(inner.error, ConnectionError)
    assert inner.link.get_write_buffer_size() == 0
    assert inner.link.get_extra_info("peername", "nobody") == "nobody"
    inner.link.write(b"dropped")


async def test_an_error_while_reading_ends_the_connection_and_is_told(serve):
    inner = Inner()
    client = serve(inner)
    reset_when_closed(SelectorLink(asyncio.get_running_loop(), client, asyncio.Protocol()))
    client.close()
    await inner.until("lost")
    assert isinstance(inner.error, ConnectionResetError)


async def test_ending_the_output_of_a_connection_that_is_gone(serve):
    inner = Inner(made=lambda link: link.pause_reading())
    client = serve(inner)
    reset_when_closed(SelectorLink(asyncio.get_running_loop(), client, asyncio.Protocol()))
    client.close()
    end_output(inner.link)
    await inner.until("lost")


async def test_limits_of_the_backlog(serve):
    inner = Inner()
    serve(inner)
    limits = inner.link.set_write_buffer_limits
    for given, expected in [((), (HIGH, LOW)), ((100,), (100, 25)), ((None, 10), (40, 10)), ((5, 5), (5, 5))]:
        limits(*given)
        assert (inner.link._high, inner.link._low) == expected
    for wrong in [(1, 2), (10, -1), (-4,)]:
        with pytest.raises(ValueError, match="must be at least"):
            limits(*wrong)
    inner.link.abort()
    await inner.until("lost")


async def test_what_can_be_asked_of_it(serve, pair):
    inner = Inner()
    client = serve(inner)
    ask = inner.link.get_extra_info
    assert ask("socket") is pair[1]
    assert (ask("sockname"), ask("peername")) == (client.getpeername(), client.getsockname())
    assert (ask("cipher"), ask("cipher", 3)) == (None, 3)
    inner.link.write(bytes(1 << 20))
    assert f"open backlog={inner.link.get_write_buffer_size()} of " in repr(inner.link)
    inner.link.close()
    assert "closing backlog" in repr(inner.link)
    inner.link.abort()
    await inner.until("lost")


class NoRoom(selectors.DefaultSelector):
    """A selector that can watch no more (epoll_ctl(2), ENOSPC)."""

    full = False

    def register(self, fileobj, events, data=None):
        if self.full:
            raise OSError(errno.ENOSPC, "no room")
        return super().register(fileobj, events, data)


def test_a_socket_that_cannot_be_watched_is_a_lost_connection(pair):
    client, sock = pair
    selector = NoRoom()

    async def main():
        inner = Inner(made=lambda link: setattr(selector, "full", True))
        SelectorLink(asyncio.get_running_loop(), sock, inner).start()
        await inner.until("lost")
        assert inner.error.errno == errno.ENOSPC
        return inner.calls

    loop = asyncio.SelectorEventLoop(selector)
    try:
        assert loop.run_until_complete(main()) == ["made", "lost"]
    finally:
        loop.close()
    client.setblocking(True)
    assert client.recv(1) == b""


async def test_a_lost_connection_lets_go_of_its_protocol(serve):
    inner = Inner()
    client = serve(inner)
    client.close()
    await inner.until("eof")
    link = inner.link
    link.close()
    await inner.until("lost")
    assert repr(link).startswith("<SelectorLink closed eof of <asyncio.protocols.Protocol")
    assert not [kept for kept in gc.get_referents(link) if kept is inner]
