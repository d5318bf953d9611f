"""Both accept loops over real sockets: the one this platform runs, and the tasks of the Proactor on any loop."""

import asyncio
import os
import socket
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from iocproxy.net.accept_errors import lost_in_queue
from iocproxy.net.accept_proactor import ProactorAccept
from iocproxy.net.accept_selector import SelectorAccept
from iocproxy.net.address import Address
from iocproxy.net.listener import Listener
from iocproxy.net.tasks import Tasks

ROOT = Path(__file__).parents[2]


class Accepted:
    """An `on_accept` that keeps what it is given."""

    def __init__(self):
        self.sockets = []
        self.addresses = []
        self.changed = asyncio.Event()

    def __call__(self, sock, address):
        self.sockets.append(sock)
        self.addresses.append(address)
        self.changed.set()

    async def until(self, condition):
        while not condition():
            self.changed.clear()
            await self.changed.wait()

    def close(self):
        for sock in self.sockets:
            sock.close()


@pytest.fixture
async def accepted():
    keeper = Accepted()
    yield keeper
    keeper.close()


def connect(listener):
    return socket.create_connection(listener.address)


def reset(client):
    """Close with a RST instead of a FIN."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0))
    client.close()


async def spin(iterations=50):
    for _ in range(iterations):
        await asyncio.sleep(0)


async def test_a_client_is_handed_over_with_its_address(listen, accepted):
    listener = listen(accepted)
    listener.start()
    with connect(listener) as client:
        await accepted.until(lambda: accepted.sockets)
        assert accepted.addresses == [Address.of(client.getsockname())]
        assert accepted.sockets[0].getpeername() == client.getsockname()
        assert listener.accepted == 1


async def test_200_resets_in_the_queue_do_no_harm(listen, accepted, reported, log):
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))
    listener = listen(accepted)
    for _ in range(100):
        reset(connect(listener))
    listener.start()
    for _ in range(100):
        reset(connect(listener))
        await asyncio.sleep(0)
    with connect(listener) as client:
        await accepted.until(lambda: Address.of(client.getsockname()) in accepted.addresses)
    assert listener.accepted + listener.lost <= 201
    assert reported == []
    assert log.entries == []


async def test_an_on_accept_that_raises_loses_that_client_only(listen, accepted, log):
    def on_accept(sock, address):
        if not log.entries:
            raise ValueError("no such client")
        accepted(sock, address)

    listener = listen(on_accept)
    listener.start()
    loop = asyncio.get_running_loop()
    with connect(listener) as first:
        first.setblocking(False)
        assert await loop.sock_recv(first, 1) == b""
    with connect(listener) as second:
        await accepted.until(lambda: Address.of(second.getsockname()) in accepted.addresses)
    assert log.events() == ["accept_callback_failed"]
    assert log.entries[0]["listener"] == str(listener.address)
    assert isinstance(log.entries[0]["exc_info"], ValueError)


async def test_pausing_leaves_clients_in_the_queue(listen, accepted):
    listener = listen(accepted)
    listener.start()
    await spin()
    listener.pause()
    listener.pause()
    await spin()
    with connect(listener) as client:
        await spin()
        assert accepted.sockets == []
        listener.resume()
        listener.resume()
        await accepted.until(lambda: accepted.sockets)
        assert accepted.addresses == [Address.of(client.getsockname())]


@pytest.mark.skipif(sys.platform == "win32", reason="several accepts are outstanding, which may complete together")
async def test_pausing_from_on_accept_takes_no_further_client(listen, accepted):
    def on_accept(sock, address):
        listener.pause()
        accepted(sock, address)

    listener = listen(on_accept)
    clients = [connect(listener) for _ in range(3)]
    for count in range(1, 4):
        listener.start()
        await accepted.until(lambda count=count: len(accepted.sockets) == count)
        await spin()
        assert len(accepted.sockets) == count
    for client in clients:
        client.close()


async def test_closing_ends_its_tasks_and_frees_the_port(listen, accepted, tasks):
    listener = listen(accepted)
    listener.start()
    await spin()
    listener.close()
    listener.close()
    with pytest.raises(OSError, match=r".") as refused, connect(listener):
        pass
    assert isinstance(refused.value, (ConnectionError, TimeoutError))
    await spin()
    assert len(tasks) == 0
    with pytest.raises(RuntimeError, match="closed"):
        listener.start()
    assert repr(listener) == f"<Listener {listener.address} closed accepted=0 lost=0 paused=0>"


async def test_a_dual_stack_listener_reports_an_ipv4_client_as_such(listen, accepted):
    try:
        listener = listen(accepted, host="::")
    except OSError as exc:
        pytest.skip(f"this machine has no IPv6: {exc}")
    listener.start()
    port = listener.address.port
    assert str(listener.address) == f"[::]:{port}"
    with socket.create_connection(("127.0.0.1", port)) as four:
        await accepted.until(lambda: accepted.sockets)
        assert accepted.addresses == [("127.0.0.1", four.getsockname()[1])]
    with socket.create_connection(("::1", port)) as six:
        await accepted.until(lambda: len(accepted.sockets) == 2)
        assert accepted.addresses[1] == ("::1", six.getsockname()[1])


OUT_OF_FILES = """
    import asyncio, os, resource, socket, sys
    sys.path.insert(0, {tests!r})
    from conftest import Log, TaskListener
    from iocproxy.net.listener import Listener
    from iocproxy.net.sockets import bind_listener
    from iocproxy.net.tasks import Tasks

    async def main():
        log, sockets, changed = Log(), [], asyncio.Event()
        tasks = Tasks(log.logger)
        def on_accept(sock, address):
            sockets.append(sock)
            changed.set()
        listener = {kind}(bind_listener("127.0.0.1", 0), on_accept, tasks=tasks, log=log.logger)
        clients = [socket.create_connection(listener.address) for _ in range(20)]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.open(os.devnull, os.O_RDONLY)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 5, hard))
        listener.start()
        async with asyncio.timeout(20):
            while listener.paused < 3:
                changed.clear()
                await asyncio.sleep(0.01)
            assert len(sockets) == 5, sockets
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            while len(sockets) < 20:
                changed.clear()
                await changed.wait()
        assert listener.accepted == 20
        assert listener.paused < 20, "it spins"
        assert log.events() == ["accept_paused"], log.entries
        assert log.entries[0]["level"] == "warning"
        listener.close()
        await tasks.close()
        for sock in clients + sockets:
            sock.close()
        print("survived")

    asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on open files to lower")
def test_out_of_files_pauses_accepting_and_goes_on(kind):
    script = textwrap.dedent(OUT_OF_FILES).format(tests=str(Path(__file__).parent), kind=kind.__name__)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("survived\n", "")


@pytest.mark.skipif(sys.platform == "win32", reason="the ProactorEventLoop has no add_reader")
async def test_stopping_while_it_waits_after_an_error_ends_the_wait():
    loop = asyncio.get_running_loop()
    failures = []
    failed = asyncio.Event()

    def fail(exc):
        failures.append(exc)
        failed.set()
        return 0.01

    with socket.socket() as never_listening:  # readable, and accept raises EINVAL
        accept = SelectorAccept(loop, never_listening, print, fail)
        accept.start()
        await failed.wait()
        accept.stop()
        later = loop.create_future()
        loop.call_later(0.02, later.set_result, None)  # after what `stop` has to cancel
        await later
        await spin()
        assert len(failures) == 1
        failed.clear()
        accept.start()
        await failed.wait()
        accept.stop()


class AcceptExLoop(asyncio.SelectorEventLoop):
    """`sock_accept` as IocpProactor has it: a task of its own per accept, which dies of the accept's error.

    The tests below settle each accept by hand; `accepts` holds the futures with their half-made sockets.
    """

    def __init__(self):
        super().__init__()
        self.accepts = []

    async def sock_accept(self, listener):
        return await self._accept(listener)

    def _accept(self, _listener):  # windows_events.IocpProactor.accept
        conn = socket.socket()

        async def accept_coro(future, conn):
            try:
                await future
            except asyncio.CancelledError:
                conn.close()
                raise

        future = self.create_future()
        asyncio.ensure_future(accept_coro(future, conn), loop=self)  # noqa: RUF006 - as CPython does
        self.accepts.append((future, conn))
        return future


def on_accept_ex_loop(test):
    """Run the coroutine function `test(loop, reported)` on an AcceptExLoop."""
    reported = []

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: reported.append(context))
        await test(loop, reported)

    with asyncio.Runner(loop_factory=AcceptExLoop) as runner:
        runner.run(main())
    assert reported == []


@pytest.mark.skipif(sys.platform == "win32", reason="emulates what the resets above do for real on Windows")
def test_a_failed_accept_makes_no_noise_and_leaves_no_socket(log):
    async def test(loop, reported):
        tasks = Tasks(log.logger)
        errors = []
        with socket.socket() as listener:
            accept = ProactorAccept(
                loop,
                listener,
                lambda sock, _: sock.close(),
                lambda exc: errors.append(exc) or 0.0,
                tasks=tasks,
                name="accept",
                outstanding=2,
            )
            accept.start()
            accept.start()
            await spin()
            assert len(loop.accepts) == 2
            lost = OSError("the network name is gone")
            loop.accepts[0][0].set_exception(lost)
            await spin()
            assert errors == [lost]
            assert loop.accepts[0][1].fileno() == -1
            assert len(loop.accepts) == 3, "it went on"
            future, conn = loop.accepts[1]
            future.set_result((conn, ("127.0.0.1", 1)))
            await spin()
            assert conn.fileno() == -1, "accepted, and closed by us"
            # Both at once: a connection that arrives as accepting stops is closed, not forgotten.
            future, conn = loop.accepts[2]
            future.set_result((conn, ("127.0.0.1", 2)))
            accept.stop()
            accept.stop()
            await spin()
            assert len(tasks) == 0
            assert [conn.fileno() for _, conn in loop.accepts] == [-1] * 4
            assert loop.get_task_factory() is None

    on_accept_ex_loop(test)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a loop whose accepts are settled by hand")
def test_the_embedders_task_factory_still_makes_every_task(log):
    made = []

    def factory(loop, coro, **kwargs):
        made.append(coro.__name__)
        return asyncio.Task(coro, loop=loop, **kwargs)

    async def test(loop, reported):
        loop.set_task_factory(factory)
        tasks = Tasks(log.logger)
        with socket.socket() as listener:
            accept = ProactorAccept(loop, listener, print, lambda exc: 0.0, tasks=tasks, name="accept", outstanding=1)
            accept.start()
            await spin()
            assert made == ["_run", "accept_coro"]
            assert loop.get_task_factory() is factory
            await tasks.close()

    on_accept_ex_loop(test)


def test_which_errors_cost_one_connection_only():
    if sys.platform == "win32":
        lost = [OSError(0, "", None, code) for code in (59, 64, 121, 1231, 10053, 10054, 10057)]
        trouble = [OSError(0, "", None, code) for code in (8, 1450, 10024, 10055)]
    else:
        import errno

        lost = [OSError(code, "") for code in (errno.ECONNABORTED, errno.EPROTO, errno.EHOSTUNREACH)]
        trouble = [OSError(code, "") for code in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EBADF)]
    assert all(map(lost_in_queue, lost))
    assert not any(map(lost_in_queue, [*trouble, MemoryError(), ValueError()]))


async def test_this_platforms_listener_is_chosen(listen, accepted, kind):
    listener = listen(accepted)
    assert repr(listener) == f"<Listener {listener.address} idle accepted=0 lost=0 paused=0>"
    listener.start()
    expected = "SelectorAccept" if kind is Listener else "ProactorAccept"
    assert type(listener._accept).__name__ == expected
