import asyncio
import gc
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from iocproxy.net.connect import _take_turns, open_socket


@pytest.fixture
def executor():
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture
def closed_port():
    """A port that nothing listens on and that nobody else is given: bound, never listening."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


async def test_a_literal_address_needs_no_lookup():
    used = ThreadPoolExecutor(1)
    used.shutdown()  # would raise if it were asked
    with socket.create_server(("127.0.0.1", 0)) as origin:
        sock = await open_socket(*origin.getsockname(), executor=used)
        with sock:
            assert sock.getpeername() == origin.getsockname()
            assert not sock.getblocking()
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_a_name_is_looked_up_in_the_executor(executor):
    with socket.create_server(("127.0.0.1", 0)) as origin:
        port = origin.getsockname()[1]
        with await open_socket("localhost", port, executor=executor) as sock:
            assert sock.getpeername() == origin.getsockname()


async def test_a_refusal_names_every_address_tried(executor, closed_port):
    with pytest.raises(ConnectionRefusedError, match=rf"cannot connect to localhost:{closed_port}: ") as caught:
        await open_socket("localhost", closed_port, executor=executor)
    assert f"127.0.0.1:{closed_port} (" in str(caught.value)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example"])
async def test_a_name_without_an_address_is_a_gaierror(executor, host):
    with pytest.raises(socket.gaierror):
        await open_socket(host, 80, executor=executor)


async def test_cancelling_the_lookup_leaves_nothing(executor):
    release = threading.Event()
    executor.submit(release.wait)  # the only thread is busy, so the lookup waits
    opening = asyncio.create_task(open_socket("localhost", 9, executor=executor))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    release.set()


async def test_cancelling_the_connect_leaves_no_socket(executor):
    # A full backlog: Linux leaves further connects unanswered. Where they are answered, the time limit is not reached.
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        opened = []
        try:
            async with asyncio.timeout(0.2):
                while len(opened) < 600:
                    opened.append(await open_socket(*full.getsockname(), executor=executor))
        except (TimeoutError, ConnectionRefusedError):
            pass
        for sock in opened:
            sock.close()
    gc.collect()  # a leaked socket is a ResourceWarning, which is an error here
    assert opened


def test_families_take_turns_and_keep_their_order():
    six, four = socket.AF_INET6, socket.AF_INET
    found = [(six, ("a",)), (six, ("b",)), (six, ("c",)), (four, ("d",))]
    assert [address[0] for _, address in _take_turns(found)] == ["a", "d", "b", "c"]
    assert [address[0] for _, address in _take_turns(found[::-1])] == ["d", "c", "b", "a"]
    assert _take_turns([(four, ("d",))]) == [(four, ("d",))]
