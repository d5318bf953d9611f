"""slowhttptest against a proxy, a thousand connections at a time, and what the other clients notice of it.

Slow, so that it has to be asked for: `python -m pytest -m slow`. Wants slowhttptest (Debian's package of that name).
The proxy and its origin are processes of their own, so that what is measured is the proxy and not this interpreter.
The attacks come from 127.0.0.1, the other clients from 127.0.0.2 and further.
"""

from __future__ import annotations

import contextlib
import json
import re
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

#: Each is a client of its own, who asks less often than the default limits allow: for requests on a kept connection, and
#: with a connection for each.
KEPT, FRESH = 6, 4
KEPT_EVERY, FRESH_EVERY = 0.04, 0.2

#: What the proxy may grow by in an attack, in octets. A thousand slow readers at 256 KiB each are the most there is, and
#: what is read at a time comes on top.
GROWTH = 400 * 1024 * 1024

SHORT = {
    "timeouts": {"request_header": "3s", "request_body": "3s", "response_write": "3s", "keep_alive": "3s"},
    "http": {"min_body_grace": "2s"},
}

ATTACKS = {
    "headers": ["-H", "-i", "1", "-u", "{url}/"],
    "body": ["-B", "-i", "1", "-s", "100000", "-x", "8", "-u", "{url}/sink"],
    "read": ["-X", "-w", "64", "-y", "512", "-n", "1", "-z", "5", "-u", "{url}/bytes/3000000"],
    "range": ["-R", "-a", "5", "-b", "2000", "-t", "HEAD", "-u", "{url}/bytes/100000"],
}

ORIGIN = """
import sys
from iocproxy.testing import Origin

with Origin() as origin:
    print(origin.url, flush=True)
    sys.stdin.read()
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
            memory = Path("/proc/self/status").read_text("ascii")
            said = {name: proxy.stats()[name] for name in ("connections_open", "connections_refused", "connections_shed")}
            said["memory"] = int(memory.partition("VmRSS:")[2].split()[0]) * 1024
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

    def ask(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        said: dict[str, Any] = json.loads(self._line())
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

    def __init__(self, port: int) -> None:
        self._address = ("127.0.0.1", port)
        self._over = threading.Event()
        self.failures: list[str] = []
        self.taken: list[float] = []
        self.reconnected = 0
        work: list[Callable[[tuple[str, int]], None]] = [self._keep] * KEPT + [self._come_anew] * FRESH
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
        response = client.request("GET", "/bytes/100")
        self.taken.append(time.perf_counter() - begun)
        if response.status != 200 or len(response.body) != 100:
            self.failures.append(f"{response.status} {response.reason!r}")

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (AssertionError, OSError) as error:
            self.failures.append(repr(error))


def attack(kind: str, url: str, seconds: int) -> str:
    """How slowhttptest says it ended."""
    assert SLOWHTTPTEST is not None
    options = [option.format(url=url) for option in ATTACKS[kind]]
    command = [SLOWHTTPTEST, "-c", str(CONNECTIONS), "-r", "500", "-l", str(seconds), "-p", "5", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30, check=False)
    said = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", done.stdout)
    ended = re.search(r"Exit status:\s*(.+)", said)
    assert ended is not None, said[-1000:] + done.stderr[-1000:]
    counts = re.findall(r"^(connected|closed|error): +(\d+)$", said, re.MULTILINE)[-3:]
    return f"{ended[1].strip()} {dict(counts)}"


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
            self.port = int(self.proxy.first)
            self.url = f"http://127.0.0.1:{self.port}"
            self.close = stack.pop_all().close

    def wait_for(self, predicate: Callable[[dict[str, Any]], bool], seconds: float) -> None:
        until = time.monotonic() + seconds
        pause = threading.Event()
        while not predicate(said := self.proxy.ask()):
            assert time.monotonic() < until, said
            pause.wait(0.05)


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


def unharmed(clients: Clients) -> None:
    assert clients.failures == []
    assert len(clients.taken) > 100
    assert clients.p99 < P99


@pytest.mark.parametrize("kind", ATTACKS)
def test_one_address_gets_as_many_connections_as_anybody(front: Callable[..., Front], kind: str) -> None:
    started = front(**SHORT)
    before = started.proxy.ask()["memory"]
    with Clients(started.port) as clients:
        attack(kind, started.url, 4)
        grown = started.proxy.ask()["memory"] - before
    unharmed(clients)
    said = started.proxy.ask()
    refused = said["connections_refused"]
    print(kind, clients.p99, len(clients.taken), grown >> 20, refused)
    assert refused["rate"] + refused["concurrent"] >= CONNECTIONS - 100
    assert clients.reconnected == 0
    started.wait_for(lambda said: said["connections_open"] == 0, PATIENCE)
    assert grown < GROWTH // 10


@pytest.mark.parametrize("kind", ATTACKS)
def test_the_deadlines_alone(front: Callable[..., Front], kind: str) -> None:
    """As if each of the connections came from an address of its own."""
    started = front(limits={"exempt": ["127.0.0.1/32"]}, **SHORT)
    before = started.proxy.ask()["memory"]
    with Clients(started.port) as clients:
        begun = time.monotonic()
        ended = attack(kind, started.url, 30)
        took = time.monotonic() - begun
        grown = started.proxy.ask()["memory"] - before
    print(kind, ended, took, clients.p99, len(clients.taken), grown >> 20, started.proxy.ask())
    unharmed(clients)
    assert clients.reconnected == 0
    started.wait_for(lambda said: said["connections_open"] == 0, PATIENCE)


def test_who_comes_when_all_places_are_taken(front: Callable[..., Front]) -> None:
    """Twice as many slow heads as there are places, and deadlines that are far away."""
    started = front(limits={"exempt": ["127.0.0.1/32"], "connections": {"total": 500}})
    with Clients(started.port) as clients:
        ended = attack("headers", started.url, 8)
    said = started.proxy.ask()
    print(ended, clients.p99, len(clients.taken), clients.reconnected, said, len(clients.failures), clients.failures[:3])
    unharmed(clients)
    assert said["connections_shed"]["total"] >= 100
