"""slowhttptest against a proxy, a thousand connections at a time, and what the other clients notice of it.

Slow, so that it has to be asked for: `python -m pytest -m slow`. Wants slowhttptest (Debian's package of that name).
The proxy and its origin are processes of their own, so that what is measured is the proxy and not this interpreter.
The attacks come from 127.0.0.1, the other clients from 127.0.0.2 and further.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from iocproxy.testing import RawClient
from iocproxy.testing.patience import PATIENCE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

ROOT = Path(__file__).parents[2]
SLOWHTTPTEST = shutil.which("slowhttptest")
CONNECTIONS = 1000

#: In seconds; what the issue of these limits asks for.
P99 = 0.1

#: Each is a client of its own, who asks less often than the default limits allow: on a kept connection, or with a
#: connection for each request.
KEPT, FRESH = 6, 4
KEPT_EVERY, FRESH_EVERY = 0.04, 0.2

#: What the proxy may grow by in an attack, in octets. Slow readers can hold most: 256 KiB for each of the thousand, and
#: what one read brought on top of it.
GROWTH = CONNECTIONS * 2 * 256 * 1024 + 64 * 1024 * 1024

#: In seconds, and set for all that a slow client may meet.
DEADLINE = 3
SHORT = {
    "timeouts": dict.fromkeys(["request_header", "request_body", "response_write", "keep_alive"], f"{DEADLINE}s"),
    "http": {"min_body_grace": f"{DEADLINE}s"},
}

#: Slow readers ask for more than the proxy and its sockets take for them, and not for much more: attackers, proxy and
#: origin share the memory that this kernel has for TCP (tcp_mem), which would run short first.
ATTACKS = {
    "headers": ["-H", "-i", "1", "-u", "{url}/"],
    "body": ["-B", "-i", "1", "-s", "100000", "-x", "8", "-u", "{url}/sink"],
    "read": ["-X", "-w", "64", "-y", "512", "-n", "1", "-z", "5", "-u", "{url}/1000000"],
    "range": ["-R", "-a", "5", "-b", "2000", "-t", "HEAD", "-u", "{url}/100000"],
}

# It makes nothing of a thousand connections, as what it is slow at would be blamed on the proxy. A path that is a
# number is answered with so many octets, any other with none; bodies are thrown away.
ORIGIN = """
import asyncio, re, socket, sys

PIECE = bytes(65536)

async def serve(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            path = head.split(b" ", 2)[1].lstrip(b"/")
            length = int(path) if path.isdigit() else 0
            told = re.search(rb"(?i)content-length: *([0-9]+)", head)
            expected = int(told[1]) if told else 0
            while expected and (data := await reader.read(min(expected, 65536))):
                expected -= len(data)
            piece = b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % length
            if head.startswith(b"HEAD "):
                length = 0
            while piece or length:
                piece += PIECE[:length]
                length -= min(length, len(PIECE))
                writer.write(piece)
                await writer.drain()
                piece = b""
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()

async def main():
    listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, len(PIECE))
    await asyncio.start_server(serve, sock=listener)
    print("http://127.0.0.1:%d" % listener.getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main())
"""

# Each line it reads is answered with what `stats` says and the memory it has.
SERVER = """
import asyncio, json, sys
from pathlib import Path
from iocproxy import Config, Proxy

async def main():
    async with Proxy(Config(**json.loads(sys.argv[1]))) as proxy:
        print(proxy.addresses[0].port, flush=True)
        while await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline):
            status = Path("/proc/self/status").read_text("ascii")
            stats = proxy.stats()
            said = {
                "accepted": stats["connections_accepted"],
                "open": stats["connections_open"],
                "refused": sum(stats["connections_refused"].values()),
                "shed": sum(stats["connections_shed"].values()),
                "memory": int(status.partition("VmRSS:")[2].split()[0]) * 1024,
            }
            print(json.dumps(said), flush=True)

asyncio.run(main())
"""


class Child:
    """A process that is asked by lines and told to end by the end of its input."""

    def __init__(self, code: str, *arguments: str, log: Path) -> None:
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code, *arguments],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._log = log
        self.first = self._line()

    def ask(self) -> dict[str, int]:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        said: dict[str, int] = json.loads(self._line())
        return said

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, self._log.read_text("utf-8")[-2000:]
        return line

    def close(self) -> None:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


class Clients:
    """Ordinary ones, who ask all the time. `failures` are the requests that had no good answer."""

    def __init__(self, port: int, kept: int = KEPT, fresh: int = FRESH) -> None:
        self._address = ("127.0.0.1", port)
        self._over = threading.Event()
        self.failures: list[str] = []
        self.taken: list[float] = []
        self.reconnected = 0
        work: list[Callable[[tuple[str, int]], None]] = [self._keep] * kept + [self._come_anew] * fresh
        self._threads = [
            threading.Thread(target=each, args=((f"127.0.0.{2 + number}", 0),)) for number, each in enumerate(work)
        ]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def p99(self) -> float:
        return sorted(self.taken)[int(len(self.taken) * 0.99)]

    def _keep(self, source: tuple[str, int]) -> None:
        while not self._over.is_set():
            with self._told(), RawClient(self._address, source=source) as client:
                self._ask(client)
                while not self._over.wait(KEPT_EVERY):
                    try:
                        self._ask(client)
                    except (AssertionError, ConnectionError):
                        # Closed between two requests, as a connection may be: a client connects again and asks once
                        # more (RFC 9112 section 9.3.1).
                        self.reconnected += 1
                        break

    def _come_anew(self, source: tuple[str, int]) -> None:
        while not self._over.wait(FRESH_EVERY):
            with self._told():
                begun = time.perf_counter()
                with RawClient(self._address, source=source) as client:
                    self._ask(client, begun)

    def _ask(self, client: RawClient, begun: float | None = None) -> None:
        if begun is None:
            begun = time.perf_counter()
        response = client.request("GET", "/100")
        self.taken.append(time.perf_counter() - begun)
        if response.status != 200 or len(response.body) != 100:
            self.failures.append(f"{response.status} {response.reason!r}")

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (AssertionError, OSError) as error:
            self.failures.append(repr(error))
            self._over.wait(0.1)


@contextlib.contextmanager
def attack(kind: str, url: str, seconds: int) -> Iterator[subprocess.Popen[bytes]]:
    """slowhttptest for so long at most; it ends by itself when it has no connections left.

    It runs at the lowest priority: it polls without a pause once there is something that it does not read, and would
    take a core from those that are measured.
    """
    assert SLOWHTTPTEST is not None
    options = [option.format(url=url) for option in ATTACKS[kind]]
    command = ["nice", "-n", "19", SLOWHTTPTEST, "-c", str(CONNECTIONS), "-r", "400", "-l", str(seconds), "-p", "5"]
    with subprocess.Popen([*command, *options], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


class Front:
    """A proxy with an origin behind it."""

    def __init__(self, directory: Path, settings: dict[str, Any]) -> None:
        with contextlib.ExitStack() as stack:
            origin = Child(ORIGIN, log=directory / "origin.log")
            stack.callback(origin.close)
            # the bodies of a thousand have to get to the origin, or it would be its connections that run short
            upstreams = {"app": {"servers": [origin.first], "max_connections": 2000}}
            config = {
                "listeners": [{"bind": "127.0.0.1:0"}],
                "upstreams": upstreams,
                "logging": {"access": False},
                **settings,
            }
            self.proxy = Child(SERVER, json.dumps(config), log=directory / "proxy.log")
            stack.callback(self.proxy.close)
            self.port, self.origin_port = int(self.proxy.first), int(origin.first.rpartition(":")[2])
            self.url = f"http://127.0.0.1:{self.port}"
            self.close = stack.pop_all().close

    def watch(self, until: Callable[[dict[str, int]], bool], seconds: float) -> dict[str, int]:
        """Ask until it is so; returns the most that was seen of each figure meanwhile."""
        deadline = time.monotonic() + seconds
        pause = threading.Event()
        most = said = self.proxy.ask()
        while not until(said):
            assert time.monotonic() < deadline, said
            pause.wait(0.1)
            said = self.proxy.ask()
            most = {name: max(most[name], value) for name, value in said.items()}
        return most


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Callable[..., Front]]:
    if SLOWHTTPTEST is None:
        pytest.skip(f"not on PATH: {'slowhttptest'} (apt-get install slowhttptest)")
    with contextlib.ExitStack() as stack:

        def start(**settings: Any) -> Front:
            started = Front(tmp_path, settings)
            stack.callback(started.close)
            return started

        yield start


@contextlib.contextmanager
def others(front: Front) -> Iterator[Clients]:
    """Ordinary clients, who come to no harm. A few more ask the origin itself meanwhile: what they notice, such as a
    machine that has other things to do, is not the proxy's doing."""
    with Clients(front.port) as clients, Clients(front.origin_port, KEPT // 2, 0) as direct:
        yield clients
    assert clients.failures == []
    assert len(clients.taken) > 100
    assert clients.p99 < P99 + direct.p99


@pytest.mark.parametrize("kind", ATTACKS)
def test_one_address_gets_as_many_connections_as_anybody(front: Callable[..., Front], kind: str) -> None:
    started = front(**SHORT)
    before = started.proxy.ask()
    with others(started) as clients, attack(kind, started.url, 4) as process:
        most = started.watch(lambda _: process.poll() is not None, 10)
    after = started.watch(lambda said: said["open"] == 0, PATIENCE)
    assert clients.reconnected == 0
    assert after["refused"] >= CONNECTIONS - 100
    assert most["open"] <= 100 + KEPT + FRESH
    assert most["memory"] - before["memory"] < GROWTH // 10


@pytest.mark.parametrize("kind", ATTACKS)
def test_the_deadlines_alone(front: Callable[..., Front], kind: str) -> None:
    """As if each of the connections came from an address of its own."""
    started = front(limits={"exempt": ["127.0.0.1/32"]}, **SHORT)
    before = started.proxy.ask()
    with others(started) as clients, attack(kind, started.url, 30):
        connecting = started.watch(lambda said: said["accepted"] > CONNECTIONS, PATIENCE)
        begun = time.monotonic()
        closing = started.watch(lambda said: said["open"] <= KEPT + FRESH, PATIENCE)
        took = time.monotonic() - begun
    most = {name: max(connecting[name], closing[name]) for name in closing}
    assert clients.reconnected == 0
    # A reader's deadline begins anew while there is progress, and at first there is, as its buffer fills.
    assert took < (2 if kind == "read" else 1) * DEADLINE + 3
    assert most["memory"] - before["memory"] < GROWTH
    started.watch(lambda said: said["open"] == 0, PATIENCE)


def test_who_comes_when_all_places_are_taken(front: Callable[..., Front]) -> None:
    """Twice as many of them as there are places, no limit per client, and deadlines that are far away."""
    places = {"total": CONNECTIONS // 2, "rate": False, "concurrent": False}
    started = front(limits={"connections": places, "requests": {"rate": False}})
    with others(started), attack("headers", started.url, 6) as process:
        most = started.watch(lambda _: process.poll() is not None, 15)
    assert most["open"] <= CONNECTIONS // 2
    assert most["shed"] >= 100
