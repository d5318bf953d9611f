"""What the TLS tests share: certificates from files, a server over `ServerLink`, protocols that record."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import trustme

from iocproxy.tls import CertificateStore, ClientLink, ServerLink, load_certificate
from iocproxy.tls.offload import Turns


class Recorder(asyncio.Protocol):
    """The connection above a link: keeps what it is told; `on_data` says what to do with data."""

    def __init__(self, on_data=None, *, half_open=False, on_connect=None):
        self.on_data = on_data
        self.on_connect = on_connect
        self.half_open = half_open
        self.calls = []
        self.data = bytearray()
        self.arrival = asyncio.Event()
        self.link = None
        self.error = None
        loop = asyncio.get_running_loop()
        self.connected, self.ended, self.lost = loop.create_future(), loop.create_future(), loop.create_future()

    def connection_made(self, transport):
        self.calls.append("made")
        self.link = transport
        self.connected.set_result(transport)
        if self.on_connect:
            self.on_connect(transport)

    def data_received(self, data):
        assert type(data) is bytes
        self.data += data
        self.arrival.set()
        if self.on_data:
            self.on_data(data)

    async def received(self, size):
        """Wait until that many bytes have come in all."""
        while len(self.data) < size:
            self.arrival.clear()
            await self.arrival.wait()

    def eof_received(self):
        self.calls.append("eof")
        self.ended.set_result(None)
        return self.half_open

    def pause_writing(self):
        self.calls.append("pause")

    def resume_writing(self):
        self.calls.append("resume")

    def connection_lost(self, exc):
        self.calls.append("lost")
        self.error = exc
        self.lost.set_result(exc)


class Echo(Recorder):
    def __init__(self, **options):
        super().__init__(self.echo, **options)

    def echo(self, data):
        self.link.write(data)


class ManualTimer:
    """A `Timer` that never expires by itself; `begun` is set when it was armed."""

    def __init__(self):
        self.begun = asyncio.Event()
        self.armed = None
        self.history = []

    def arm(self, seconds):
        self.armed = seconds
        self.begun.set()
        self.history.append(seconds)

    def cancel(self):
        self.armed = None
        self.history.append("cancelled")

    drop = cancel


@pytest.fixture(scope="session")
def authority():
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


@pytest.fixture(scope="session")
def pair(authority, tmp_path_factory):
    """`pair("localhost", rsa=True)` gives a loaded certificate for these names."""
    directory = tmp_path_factory.mktemp("certificates")
    made = {}

    def make(*names, rsa=False):
        if (names, rsa) not in made:
            kind = trustme.KeyType.RSA if rsa else trustme.KeyType.ECDSA
            issued = authority.issue_cert(*names, key_type=kind)
            stem = directory / f"{len(made)}"
            cert, key = stem.with_suffix(".pem"), stem.with_suffix(".key")
            cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
            key.write_bytes(issued.private_key_pem.bytes())
            made[names, rsa] = load_certificate(cert, key)
        return made[names, rsa]

    return make


@pytest.fixture(params=["ecdsa", "rsa"])
def store(request, pair):
    """Handshakes inline and in the executor."""
    rsa = request.param == "rsa"
    return CertificateStore([pair("localhost", "127.0.0.1", rsa=rsa)], offload="always" if rsa else "never")


@pytest.fixture
def trusting(authority):
    """`trusting("TLSv1_2")` gives a client context of Python's own that trusts the authority."""

    def make(version=None, **options):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(context)
        if version:
            context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
        for name, value in options.items():
            setattr(context, name, value)
        return context

    return make


@pytest.fixture
def ca_file(authority, tmp_path):
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture
def executor():
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
async def make_link(executor):
    """Either end's link with a manual timer (`timer`) and a future for its failure (`failed`), in a namespace."""

    def make(inner, tls, **options):
        loop = asyncio.get_running_loop()
        made = SimpleNamespace(inner=inner, timer=ManualTimer(), failed=loop.create_future())
        options = {"executor": executor, "timer": made.timer, "handshake_timeout": 5.0, "loop": loop, **options}
        options["on_failure"] = made.failed.set_result
        if isinstance(tls, CertificateStore):
            made.link = ServerLink(inner, store=tls, **{"turns": Turns(loop), **options})
        else:
            made.link = ClientLink(inner, tls=tls, **options)
        return made

    return make


@pytest.fixture
async def serve(make_link):
    """`await serve(store, Recorder)` listens; gives `address` and `links`, a queue of the accepted ones."""
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:

        async def start(store, factory=Echo, **options):
            running = SimpleNamespace(links=asyncio.Queue())

            def accepted():
                made = make_link(factory(), store, **options)
                running.links.put_nowait(made)
                stack.push_async_callback(_gone, made)
                return made.link

            server = await loop.create_server(accepted, "127.0.0.1", 0)
            stack.push_async_callback(server.wait_closed)
            stack.callback(server.close)
            running.address = server.sockets[0].getsockname()[:2]
            return running

        yield start


async def _gone(made):
    """Wait until a connection has ended, one way or the other, and check that it was told once."""
    if not made.inner.lost.done() and not made.failed.done():
        made.link.abort()
    await asyncio.wait({made.inner.lost, made.failed}, return_when=asyncio.FIRST_COMPLETED)
    assert made.inner.lost.done() != made.failed.done()
    assert made.inner.calls.count("lost") == made.inner.calls.count("made") == (0 if made.failed.done() else 1)
    assert made.timer.armed is None


@pytest.fixture
def echo():
    return Echo


@pytest.fixture
def recorder():
    return Recorder
