"""What the tests of `iocproxy.net` share: a captured log, owned tasks, and the accept loops of both platforms.

`completion_transport` runs CPython's own Proactor transport on any platform: on Windows over the real completion port,
elsewhere over `EmulatedProactor`, which completes reads and writes as IocpProactor does. So the code that
`ProactorLink` guards against is the real one everywhere.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from asyncio import proactor_events
from collections import deque

import pytest
import structlog

from iocproxy.net.accept_proactor import ProactorAccept
from iocproxy.net.listener import Listener
from iocproxy.net.proactor import ProactorLink
from iocproxy.net.selector import SelectorLink
from iocproxy.net.sockets import bind_listener, prepare_client
from iocproxy.net.tasks import Tasks


class Log:
    """A structlog logger and what was written to it."""

    def __init__(self):
        self.entries = []
        self.logger = structlog.wrap_logger(
            None, processors=[self._take], wrapper_class=structlog.make_filtering_bound_logger(0)
        )

    def _take(self, _logger, level, entry):
        self.entries.append({"level": level, **entry})
        raise structlog.DropEvent

    def events(self):
        return [entry["event"] for entry in self.entries]


@pytest.fixture
def log():
    return Log()


@pytest.fixture
async def tasks(log):
    owner = Tasks(log.logger)
    yield owner
    await owner.close()


@pytest.fixture
def reported():
    """What reached the loop's exception handler; set with `loop.set_exception_handler`."""
    return []


class TaskListener(Listener):
    """Accepts in tasks on any loop. A selector loop takes one `sock_accept` at a time."""

    def _choose(self, loop):
        return ProactorAccept(
            loop,
            self._sock,
            self._admit,
            self._failed,
            tasks=self._tasks,
            name="accept",
            outstanding=8 if sys.platform == "win32" else 1,
        )


LISTENERS = [TaskListener] if sys.platform == "win32" else [Listener, TaskListener]


@pytest.fixture(params=LISTENERS, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


@pytest.fixture
async def listen(kind, tasks, log):
    """`listen(on_accept, host=…)` makes a listener on a free port, not started; closed at the end."""
    made = []

    def make(on_accept, host="127.0.0.1"):
        listener = kind(bind_listener(host, 0), on_accept, tasks=tasks, log=log.logger)
        made.append(listener)
        return listener

    yield make
    for listener in made:
        listener.close()


class _Read(asyncio.Future):
    """A read under way; cancelling it takes effect at once, like `_OverlappedFuture`."""

    def __init__(self, proactor, sock, buf, loop):
        super().__init__(loop=loop)
        self.proactor, self.fd, self.sock, self.buf = proactor, sock.fileno(), sock, buf

    def cancel(self, msg=None):
        self.proactor.forget(self)
        return super().cancel(msg)


class EmulatedProactor:
    """The two operations that a Proactor transport asks for, on a selector loop."""

    def __init__(self, loop):
        self.loop = loop
        self.reads = deque()
        self.most_reads = 0

    def recv_into(self, sock, buf):
        read = _Read(self, sock, buf, self.loop)
        self.reads.append(read)
        self.most_reads = max(self.most_reads, len(self.reads))
        self.loop.add_reader(read.fd, self._readable, read.fd)
        return read

    def _readable(self, fd):
        for read in [read for read in self.reads if read.fd == fd]:
            try:
                count = read.sock.recv_into(read.buf)
            except BlockingIOError:
                return
            except OSError as exc:
                read.set_exception(exc)
            else:
                read.set_result(count)
            self.forget(read)

    def forget(self, read):
        if read in self.reads:
            self.reads.remove(read)
            if all(other.fd != read.fd for other in self.reads):
                self.loop.remove_reader(read.fd)

    def send(self, sock, data):
        return self.loop.create_task(self.loop.sock_sendall(sock, bytes(data)))


@pytest.fixture
async def completion_transport():
    """`make(sock, protocol)`: serve `sock` with a Proactor transport; returns the proactor, for looking at."""
    loop = asyncio.get_running_loop()
    if sys.platform != "win32":
        loop._proactor = EmulatedProactor(loop)

    async def make(sock, protocol):
        connected = loop.create_future()
        proactor_events._ProactorSocketTransport(loop, sock, protocol, connected)
        await connected
        return loop._proactor

    return make


@pytest.fixture(params=["proactor", "selector"])
async def link(request, completion_transport):
    """`link(inner)`: a client socket whose other end `inner` serves through a Link of that kind."""
    loop = asyncio.get_running_loop()
    if request.param == "selector" and sys.platform == "win32":
        pytest.skip("the ProactorEventLoop has no add_reader")
    clients = []

    async def make(inner):
        client, sock = tcp_pair()
        clients.append(client)
        if request.param == "proactor":
            await completion_transport(sock, ProactorLink(loop, sock, inner))
        else:
            SelectorLink(loop, sock, inner).start()
        return client

    yield make
    for client in clients:
        client.close()


def tcp_pair():
    """Two connected non-blocking TCP sockets: the client's, and the accepted one, set up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        sock, _ = listener.accept()
    client.setblocking(False)
    prepare_client(sock)
    return client, sock


@pytest.fixture
def pair():
    """`tcp_pair()`, closed at the end."""
    both = tcp_pair()
    yield both
    for sock in both:
        sock.close()
