"""A name server that hangs: it holds up requests for that name, and nobody else."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from iocproxy import Proxy
from iocproxy.testing import Certificates, Origin
from iocproxy.testing.patience import PATIENCE

ROOT = Path(__file__).parents[2]
GET = b"GET /status/204 HTTP/1.1\r\nHost: %b\r\n\r\n"


class Names:
    """The system's resolver, which does not answer for names under ``hangs.test`` until the end of the test."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.hung = threading.Semaphore(0)
        self.over = threading.Event()
        self._system = socket.getaddrinfo

    def __call__(self, host: Any, *arguments: Any, **options: Any) -> Any:
        flags = options.get("flags", 0)
        if not str(host).endswith("hangs.test"):
            return self._system(host, *arguments, **options)
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "not an address")
        self.asked.append(host)
        self.hung.release()
        self.over.wait(PATIENCE)
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    made = Names()
    monkeypatch.setattr(socket, "getaddrinfo", made)
    yield made
    made.over.set()
    for thread in threading.enumerate():
        if thread.name.startswith("iocproxy"):
            thread.join(PATIENCE)


def upstreams(count: int) -> dict[str, Any]:
    """Servers whose names hang, and a route to each: Host ``0.test``, ``1.test``, …"""
    return {
        "upstreams": {str(number): {"servers": [f"http://{number}.hangs.test:80"]} for number in range(count)},
        "routes": [{"host": f"{number}.test", "upstream": str(number)} for number in range(count)],
    }


async def test_a_name_that_hangs_holds_nobody_else_up(
    names: Names, origin_url: str, iocproxy_certificates: Certificates, make_config: Any, peer: Any
) -> None:
    """More of them than there are threads for CPU work, which the handshake of an RSA key needs."""
    pair = iocproxy_certificates.issue(rsa=True)
    tls = {"certificates": [{"cert": str(pair.cert), "key": str(pair.key)}]}
    sections = upstreams(3)
    sections["upstreams"]["app"] = {"servers": [origin_url]}
    sections["routes"].append({"upstream": "app"})
    config = make_config(
        listeners=[{"bind": "127.0.0.1:0"}, {"bind": "127.0.0.1:0", "tls": tls}],
        server={"threads": 1},
        timeouts={"connect": "10m"},
        **sections,
    )
    async with (
        Proxy(config) as proxy,
        peer(proxy.addresses[0]) as one,
        peer(proxy.addresses[0]) as two,
        peer(proxy.addresses[0]) as three,
    ):
        for number, client in enumerate((one, two, three)):
            await client.send(GET % (b"%d.test" % number))
            assert await asyncio.to_thread(names.hung.acquire, timeout=PATIENCE)
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(
                *proxy.addresses[1], ssl=iocproxy_certificates.client_context(), server_hostname="localhost"
            )
            writer.write(GET % b"a.test")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204 ")
            writer.close()
            await writer.wait_closed()
        begun = time.monotonic()
        await proxy.stop(drain=0)
        assert time.monotonic() - begun < PATIENCE / 2
    assert not names.over.is_set()
    assert sorted(names.asked) == ["0.hangs.test", "1.hangs.test", "2.hangs.test"]


@pytest.fixture
def origin_url(iocproxy_origin: Origin) -> str:
    return iocproxy_origin.url


async def test_all_who_want_it_wait_for_one_lookup_as_long_as_connecting_may_take(
    names: Names, make_config: Any, peer: Any
) -> None:
    config = make_config("http://hangs.test:80", timeouts={"connect": "300ms"})
    async with Proxy(config) as proxy, peer(proxy.addresses[0]) as one, peer(proxy.addresses[0]) as two:
        begun = time.monotonic()
        for client in (one, two):
            await client.send(GET % b"a.test")
        for client in (one, two):
            head = await client.head()
            assert head.startswith(b"HTTP/1.1 504 ")
            assert b"\r\nProxy-Status: iocproxy; error=dns_timeout\r\n" in head
        assert 0.25 <= time.monotonic() - begun < PATIENCE
        assert proxy.stats()["upstream_connect_failures"] == 2
    assert names.asked == ["hangs.test"]


EXIT = """
    import asyncio, socket, threading
    from iocproxy import Config, Proxy

    system, hung = socket.getaddrinfo, threading.Event()
    def getaddrinfo(host, *arguments, **options):
        if host != "hangs.test":
            return system(host, *arguments, **options)
        if options.get("flags", 0) & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "not an address")
        hung.set()
        threading.Event().wait()  # for ever
    socket.getaddrinfo = getaddrinfo

    async def main():
        upstreams = {"app": {"servers": ["http://hangs.test:80"]}}
        config = Config(listeners=[{"bind": "127.0.0.1:0"}], upstreams=upstreams, logging={"access": False})
        async with Proxy(config) as proxy:
            reader, writer = await asyncio.open_connection(*proxy.addresses[0])
            writer.write(b"GET / HTTP/1.1\\r\\nHost: a.test\\r\\n\\r\\n")
            await asyncio.to_thread(hung.wait)
            await proxy.stop(drain=0)
            writer.close()
        print("stopped")

    asyncio.run(main())
"""


def test_a_lookup_that_never_ends_keeps_neither_the_stop_nor_the_interpreter() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(EXIT)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopped\n", "")
