import asyncio
import errno
import gc
import socket
import sys

import pytest

from iocproxy.net.connect import _take_turns, open_socket
from iocproxy.net.connect_errors import is_ours, told_as


@pytest.fixture
def closed_port():
    """A port that nothing listens on and that nobody else is given: bound, never listening."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


FOUR = socket.AF_INET


async def test_a_socket_set_up_for_a_transport():
    with socket.create_server(("127.0.0.1", 0)) as origin:
        sock = await open_socket([(FOUR, origin.getsockname())], "origin")
        with sock:
            assert sock.getpeername() == origin.getsockname()
            assert not sock.getblocking()
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_the_next_address_is_tried(closed_port):
    with socket.create_server(("127.0.0.1", 0)) as origin:
        targets = [(FOUR, ("127.0.0.1", closed_port)), (FOUR, origin.getsockname())]
        with await open_socket(targets, "origin") as sock:
            assert sock.getpeername() == origin.getsockname()


async def test_a_refusal_names_every_address_tried(closed_port):
    targets = [(FOUR, ("127.0.0.1", closed_port)), (FOUR, ("127.0.0.2", closed_port))]
    with pytest.raises(ConnectionRefusedError, match=r"cannot connect to a\.test:80: ") as caught:
        await open_socket(targets, "a.test:80")
    assert f"127.0.0.1:{closed_port} (" in str(caught.value)
    assert f"127.0.0.2:{closed_port} (" in str(caught.value)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


class Failing:
    """A loop whose connects fail, each address in its own way."""

    def __init__(self, failures):
        self._failures = failures

    async def sock_connect(self, _sock, address):
        raise self._failures[address]


def failure(number, winerror):
    return OSError(0, "", None, winerror) if sys.platform == "win32" else OSError(number, "")


@pytest.mark.parametrize("turn", [1, -1])
async def test_what_the_other_side_said_counts_for_more(turn):
    """An address that this machine cannot connect from is no reason to blame the machine when another one refused."""
    six, four = ("::1", 9), ("127.0.0.1", 9)
    loop = Failing({six: failure(errno.EADDRNOTAVAIL, 10049), four: failure(errno.ECONNREFUSED, 10061)})
    targets = [(FOUR, six), (FOUR, four)][::turn]
    with pytest.raises(OSError, match=r"cannot connect to a\.test:9: ") as caught:
        await open_socket(targets, "a.test:9", loop=loop)
    assert not is_ours(caught.value)
    with pytest.raises(OSError, match=r"cannot connect to a\.test:9: ") as caught:
        await open_socket([(FOUR, six)], "a.test:9", loop=loop)
    assert is_ours(caught.value)


def test_which_errors_are_ours():
    if sys.platform == "win32":
        ours = [OSError(0, "", None, code) for code in (8, 1450, 10024, 10049, 10055)]
        theirs = [OSError(0, "", None, code) for code in (121, 1225, 1231, 10051, 10054, 10060, 10061)]
    else:
        names = ("EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EADDRNOTAVAIL")
        ours = [OSError(getattr(errno, name), "") for name in names]
        theirs = [OSError(code, "") for code in (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ETIMEDOUT)]
    assert all(map(is_ours, ours))
    assert not any(map(is_ours, [*theirs, socket.gaierror(socket.EAI_NONAME, "")]))
    again = [told_as(exc, "why") for exc in [*ours, *theirs]]
    assert [is_ours(exc) for exc in again] == [True] * len(ours) + [False] * len(theirs)
    assert {exc.strerror for exc in again} == {"why"}


async def test_cancelling_the_connect_leaves_no_socket():
    # A full backlog: Linux leaves further connects unanswered. Where they are answered, the time limit is not reached.
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        opened = []
        try:
            async with asyncio.timeout(0.2):
                while len(opened) < 600:
                    opened.append(await open_socket([(FOUR, full.getsockname())], "full"))
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
