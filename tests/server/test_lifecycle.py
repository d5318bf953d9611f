"""A proxy inside somebody's running loop: started, served, drained, stopped, and nothing of it left."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from iocproxy import Proxy, Record
from iocproxy.testing import ManualClock, Origin, RawClient
from iocproxy.testing.patience import PATIENCE

GET = b"GET /held HTTP/1.1\r\nHost: a.test\r\n\r\n"
BODY = b"all of it"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n" + BODY


class Gate:
    """Makes an origin hold its answers to /held until `open` is set."""

    def __init__(self, origin: Origin) -> None:
        self.open = threading.Event()
        origin.on("GET", "/held", self._answer)

    def _answer(self, exchange: object) -> bytes:
        self.open.wait(PATIENCE)
        return OK


@pytest.fixture
def origin(iocproxy_origin: Origin) -> Origin:
    return iocproxy_origin


@pytest.fixture
def gate(origin: Origin) -> Gate:
    return Gate(origin)


async def bounded(waiting: Awaitable[object]) -> None:
    async with asyncio.timeout(PATIENCE):
        await waiting


# ── serving and stopping ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_serve_runs_until_stop(origin: Origin, make_config: Any, connects: Any, until: Any, peer: Any) -> None:
    proxy = Proxy(make_config(origin.url))
    assert repr(proxy) == "<Proxy made>"
    assert proxy.addresses == ()
    serving = asyncio.create_task(proxy.serve())
    await until(lambda: proxy.addresses)
    assert repr(proxy) == f"<Proxy running 127.0.0.1:{proxy.addresses[0].port}>"
    async with peer(proxy.addresses[0]) as client:
        await client.send(b"GET /status/204 HTTP/1.1\r\nHost: a.test\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 204 ")
    await bounded(proxy.stop())
    await bounded(serving)
    assert not connects(proxy.addresses[0])
    assert repr(proxy).startswith("<Proxy stopped")
    assert proxy.stats()["requests"] == 1


async def test_serve_cancelled_stops_and_passes_the_cancellation_on(
    origin: Origin, make_config: Any, own_threads: Any, connects: Any, until: Any
) -> None:
    proxy = Proxy(make_config(origin.url))
    serving = asyncio.create_task(proxy.serve())
    await until(lambda: proxy.addresses)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await bounded(serving)
    assert not connects(proxy.addresses[0])
    assert own_threads() == []


async def test_serve_cancelled_lets_a_request_end(
    origin: Origin, gate: Gate, make_config: Any, connects: Any, until: Any, peer: Any
) -> None:
    proxy = Proxy(make_config(origin.url))
    serving = asyncio.create_task(proxy.serve())
    await until(lambda: proxy.addresses)
    async with peer(proxy.addresses[0]) as client:
        await client.send(GET)
        await asyncio.to_thread(origin.wait_for_requests, 1)
        serving.cancel()
        await until(lambda: not connects(proxy.addresses[0]))
        gate.open.set()
        assert (await client.rest()).endswith(BODY)
    with pytest.raises(asyncio.CancelledError):
        await bounded(serving)


async def test_a_second_cancellation_cuts_the_drain_short(
    origin: Origin, gate: Gate, make_config: Any, own_threads: Any, until: Any, peer: Any
) -> None:
    proxy = Proxy(make_config(origin.url, server={"drain_timeout": "10m"}))
    serving = asyncio.create_task(proxy.serve())
    await until(lambda: proxy.addresses)
    async with peer(proxy.addresses[0]) as client:
        await client.send(GET)
        await asyncio.to_thread(origin.wait_for_requests, 1)
        serving.cancel()
        await until(lambda: repr(proxy).startswith("<Proxy stopping"))
        await asyncio.sleep(0)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await bounded(serving)
        assert await client.rest() == b""
    assert own_threads() == []
    gate.open.set()


async def test_async_with(origin: Origin, make_config: Any, connects: Any) -> None:
    async with Proxy(make_config(origin.url)) as proxy:
        address = proxy.addresses[0]
        assert await asyncio.to_thread(connects, address)
    assert not connects(address)


async def test_async_with_passes_what_its_block_raises_on(origin: Origin, make_config: Any, connects: Any) -> None:
    with pytest.raises(LookupError, match="mine"):
        async with Proxy(make_config(origin.url)) as proxy:
            raise LookupError("mine")
    assert not connects(proxy.addresses[0])


async def test_a_proxy_is_started_once(origin: Origin, make_config: Any, connects: Any) -> None:
    proxy = Proxy(make_config(origin.url))
    await proxy.start()
    with pytest.raises(RuntimeError, match="running"):
        await proxy.start()
    assert await asyncio.to_thread(connects, proxy.addresses[0])
    await bounded(proxy.stop())
    with pytest.raises(RuntimeError, match="stopped"):
        await proxy.start()
    with pytest.raises(RuntimeError, match="stopped"):
        await proxy.serve()


async def test_stop_before_start_and_twice_and_at_once(origin: Origin, make_config: Any, connects: Any) -> None:
    proxy = Proxy(make_config(origin.url))
    await bounded(proxy.stop())
    await bounded(proxy.stop())
    with pytest.raises(RuntimeError):
        await proxy.start()

    other = Proxy(make_config(origin.url))
    await other.start()
    await bounded(asyncio.gather(other.stop(), other.stop(), other.stop(drain=0)))
    await bounded(other.stop())
    assert not connects(other.addresses[0])


async def test_stop_while_it_starts_leaves_nothing(
    origin: Origin, make_config: Any, own_threads: Any, connects: Any, until: Any
) -> None:
    proxy = Proxy(make_config(origin.url))
    starting = asyncio.create_task(proxy.start())
    await asyncio.sleep(0)
    assert not starting.done()  # it is loading, in a thread
    await bounded(proxy.stop())
    await bounded(asyncio.wait([starting]))
    if not starting.cancelled():
        starting.exception()  # whatever it says: it was stopped
    assert own_threads() == []
    assert not any(connects(address) for address in proxy.addresses)
    assert repr(proxy).startswith("<Proxy stopped")


async def test_start_cancelled_leaves_nothing(origin: Origin, make_config: Any, own_threads: Any) -> None:
    proxy = Proxy(make_config(origin.url))
    starting = asyncio.create_task(proxy.start())
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await bounded(starting)
    assert own_threads() == []
    await bounded(proxy.stop())


# ── draining ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_drain_lets_requests_end_and_refuses_newcomers(
    origin: Origin, gate: Gate, make_config: Any, connects: Any, peer: Any
) -> None:
    proxy = Proxy(make_config(origin.url))
    await proxy.start()
    address = proxy.addresses[0]
    async with peer(address) as busy, peer(address) as idle:
        await idle.send(b"GET /status/204 HTTP/1.1\r\nHost: a.test\r\n\r\n")
        assert b"Connection: close" not in await idle.head()
        await busy.send(GET)
        await asyncio.to_thread(origin.wait_for_requests, 2)
        stopping = asyncio.create_task(proxy.stop(drain=PATIENCE))
        assert await idle.rest() == b""  # an idle client is closed at once
        assert not await asyncio.to_thread(connects, address)
        assert not stopping.done()
        gate.open.set()
        head = await busy.head()
        assert b"\r\nConnection: close\r\n" in head
        assert await busy.rest() == BODY
        await bounded(stopping)
    assert proxy.stats()["connections_open"] == 0


async def test_a_pipelined_request_behind_the_one_in_flight_is_not_served_when_draining(
    origin: Origin, gate: Gate, make_config: Any, until: Any, peer: Any
) -> None:
    proxy = Proxy(make_config(origin.url))
    await proxy.start()
    async with peer(proxy.addresses[0]) as client:
        await client.send(GET + b"GET /second HTTP/1.1\r\nHost: a.test\r\n\r\n")
        await asyncio.to_thread(origin.wait_for_requests, 1)
        stopping = asyncio.create_task(proxy.stop(drain=PATIENCE))
        await until(lambda: repr(proxy).startswith("<Proxy stopping"))
        await asyncio.sleep(0)
        gate.open.set()
        said = await client.rest()
        assert said.count(b"HTTP/1.1 ") == 1
        assert b"\r\nConnection: close\r\n" in said
        await bounded(stopping)
    assert len(origin.requests) == 1


async def test_the_head_that_comes_while_draining_is_answered_and_closed(
    origin: Origin, make_config: Any, until: Any, peer: Any
) -> None:
    """Half a head is not idle: the client is in the middle of asking."""
    proxy = Proxy(make_config(origin.url))
    await proxy.start()
    async with peer(proxy.addresses[0]) as client:
        await client.send(b"GET /status/204 HTTP/1.1\r\nHost: a.test\r\n")
        await until(lambda: proxy.stats()["connections_open"] == 1)
        await asyncio.sleep(0.05)  # the loop reads what is already in the socket
        stopping = asyncio.create_task(proxy.stop(drain=PATIENCE))
        await until(lambda: repr(proxy).startswith("<Proxy stopping"))
        await asyncio.sleep(0)
        await client.send(b"\r\n")
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 204 ")
        assert b"\r\nConnection: close\r\n" in head
        assert await client.rest() == b""
        await bounded(stopping)


async def test_the_drain_timeout_cuts_off(origin: Origin, gate: Gate, make_config: Any, peer: Any) -> None:
    proxy = Proxy(make_config(origin.url, server={"drain_timeout": "200ms"}))
    await proxy.start()
    async with peer(proxy.addresses[0]) as client:
        await client.send(GET)
        await asyncio.to_thread(origin.wait_for_requests, 1)
        begun = time.monotonic()
        await bounded(proxy.stop())
        took = time.monotonic() - begun
        assert 0.15 <= took < PATIENCE / 2
        assert await client.rest() == b""
    gate.open.set()


async def test_a_stop_in_a_hurry_ends_the_drain_of_the_first(
    origin: Origin, gate: Gate, make_config: Any, until: Any, peer: Any
) -> None:
    proxy = Proxy(make_config(origin.url, server={"drain_timeout": "10m"}))
    await proxy.start()
    async with peer(proxy.addresses[0]) as client:
        await client.send(GET)
        await asyncio.to_thread(origin.wait_for_requests, 1)
        patient = asyncio.create_task(proxy.stop())
        await until(lambda: repr(proxy).startswith("<Proxy stopping"))
        await asyncio.sleep(0)
        assert not patient.done()
        await bounded(proxy.stop(drain=0))
        await bounded(patient)
        assert await client.rest() == b""
    gate.open.set()


class Bookkeeper:
    """An `on_record` that takes until `go_on` is set."""

    def __init__(self) -> None:
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()
        self.over: list[object] = []

    def __call__(self, record: Record) -> Awaitable[None]:
        return self._book(record.status)

    async def _book(self, status: int) -> None:
        self.begun.set()
        try:
            await self.go_on.wait()
            self.over.append(status)
        except asyncio.CancelledError:
            self.over.append("cancelled")
            raise


async def test_what_is_done_about_a_request_that_has_ended_gets_its_time(
    origin: Origin, make_config: Any, until: Any, peer: Any
) -> None:
    """Also when no connection is open any more."""
    booking = Bookkeeper()
    proxy = Proxy(make_config(origin.url, server={"drain_timeout": "10m"}), on_record=booking)
    await proxy.start()
    async with peer(proxy.addresses[0]) as client:
        await client.send(b"GET /status/204 HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 204 ")
    await bounded(booking.begun.wait())
    await until(lambda: proxy.stats()["connections_open"] == 0)
    stopping = asyncio.create_task(proxy.stop())
    await until(lambda: repr(proxy).startswith("<Proxy stopping"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not stopping.done()
    booking.go_on.set()
    await bounded(stopping)
    assert booking.over == [204]


@pytest.mark.parametrize("drain", [0.2, 0])
async def test_what_takes_longer_than_the_drain_is_cancelled(
    origin: Origin, make_config: Any, peer: Any, drain: float
) -> None:
    booking = Bookkeeper()
    proxy = Proxy(make_config(origin.url, server={"drain_timeout": "10m"}), on_record=booking)
    await proxy.start()
    async with peer(proxy.addresses[0]) as client:
        await client.send(b"GET /status/204 HTTP/1.1\r\nHost: a.test\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 204 ")
        await bounded(booking.begun.wait())
        begun = time.monotonic()
        await bounded(proxy.stop(drain=drain))
        assert time.monotonic() - begun >= drain * 0.75
    assert booking.over == ["cancelled"]


_DOOR = """
class Waits:
    async def on_connect(self, client):
        entered.set()
        await let_in.wait()
"""


async def test_what_on_connect_lets_in_while_draining_does_not_hold_the_stop_up(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_config: Any, until: Any, peer: Any
) -> None:
    """Such a connection was never told to drain; nothing of a request has come, so nothing is lost with it."""
    (tmp_path / "iocproxy_late_door.py").write_text(_DOOR)
    monkeypatch.syspath_prepend(tmp_path)
    import iocproxy_late_door as door

    door.entered, door.let_in = asyncio.Event(), asyncio.Event()
    middleware = [{"use": "iocproxy_late_door:Waits"}]
    proxy = Proxy(make_config(origin.url, middleware=middleware, server={"drain_timeout": "10m"}))
    held = threading.Event()
    origin.on("GET", "/held", lambda _: held.wait(PATIENCE) and OK)
    await proxy.start()
    door.let_in.set()
    async with peer(proxy.addresses[0]) as busy:
        await busy.send(GET)
        await asyncio.to_thread(origin.wait_for_requests, 1)
        door.let_in.clear()
        door.entered.clear()
        async with peer(proxy.addresses[0]) as late:
            await bounded(door.entered.wait())
            stopping = asyncio.create_task(proxy.stop())
            await until(lambda: repr(proxy).startswith("<Proxy stopping"))
            await asyncio.sleep(0)
            door.let_in.set()
            assert await late.rest() == b""
        held.set()
        assert (await busy.rest()).endswith(BODY)
        await bounded(stopping)


@pytest.mark.parametrize("turns", range(5))
@pytest.mark.parametrize("drain", [0, 600])
async def test_stop_in_the_moment_of_an_accept(
    origin: Origin, gate: Gate, turns: int, drain: float, make_config: Any, peer: Any
) -> None:
    """A connection that stands between accept and connection_made when the stop begins is closed, not forgotten.

    `turns` of the loop after the accept cover every step of its set-up."""
    proxy = Proxy(make_config(origin.url))
    await proxy.start()
    async with peer(proxy.addresses[0]) as busy:
        await busy.send(GET)
        await asyncio.to_thread(origin.wait_for_requests, 1)
        open_before = proxy.stats()["connections_open"]
        late = RawClient(proxy.addresses[0])  # blocks the loop: it is in the queue when the loop turns next
        try:
            while proxy.stats()["connections_open"] == open_before:  # noqa: ASYNC110 - to act in that very moment
                await asyncio.sleep(0)
            for _ in range(turns):
                await asyncio.sleep(0)
            begun = time.monotonic()
            gate.open.set()
            async with asyncio.timeout(PATIENCE):
                await proxy.stop(drain=drain)  # in this very turn, not in a task of its own
            assert (await busy.rest()).endswith(BODY) or not drain
            assert time.monotonic() - begun < PATIENCE / 3
            late.sock.settimeout(PATIENCE)
            with contextlib.suppress(ConnectionError):
                assert await asyncio.to_thread(late.sock.recv, 1) == b""
        finally:
            late.close()


async def test_a_client_in_its_handshake_does_not_hold_the_stop_up(
    origin: Origin, iocproxy_certificates: object, make_config: Any, until: Any, peer: Any
) -> None:
    tls = {"certificates": [{"cert": str(iocproxy_certificates.cert), "key": str(iocproxy_certificates.key)}]}  # type: ignore[attr-defined]
    proxy = Proxy(
        make_config(origin.url, listeners=[{"bind": "127.0.0.1:0", "tls": tls}], server={"drain_timeout": "10m"})
    )
    await proxy.start()
    async with peer(proxy.addresses[0]) as client:
        await client.send(b"\x16\x03\x01")  # the first three octets of a ClientHello
        await until(lambda: proxy.stats()["connections_accepted"] == 1)
        await bounded(proxy.stop())
        assert b"HTTP" not in await client.rest()


# ── a guest in somebody's program ────────────────────────────────────────────────────────────────────────────────────


async def test_it_touches_nothing_that_is_not_its_own(origin: Origin, make_config: Any, peer: Any) -> None:
    loop = asyncio.get_running_loop()
    handler = loop.get_exception_handler()
    signals = {number: signal.getsignal(number) for number in signal.valid_signals()}
    root = logging.getLogger()
    before = (list(root.handlers), root.level, list(root.filters), logging.getLogger("asyncio").level)
    library = logging.getLogger("iocproxy")
    configured, defaults = structlog.is_configured(), structlog.get_config()
    excepthook = threading.excepthook

    async with Proxy(make_config(origin.url, logging={"access": True, "level": "debug"})) as proxy:
        async with peer(proxy.addresses[0]) as client:
            await client.send(b"GET /x HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
            await client.rest()
        assert loop.get_exception_handler() is handler
        assert getattr(loop, "_default_executor", None) is None
        assert {number: signal.getsignal(number) for number in signal.valid_signals()} == signals

    assert (list(root.handlers), root.level, list(root.filters), logging.getLogger("asyncio").level) == before
    assert library.level == logging.NOTSET
    assert library.propagate
    assert all(isinstance(each, logging.NullHandler) for each in library.handlers)
    assert structlog.is_configured() == configured
    assert structlog.get_config() == defaults
    assert getattr(loop, "_default_executor", None) is None
    assert threading.excepthook is excepthook


async def test_its_events_and_lines_go_to_the_standard_librarys_loggers(
    origin: Origin, caplog: pytest.LogCaptureFixture, make_config: Any, peer: Any
) -> None:
    caplog.set_level(logging.INFO, logger="iocproxy")
    async with Proxy(make_config(origin.url, logging={"access": True})) as proxy, peer(proxy.addresses[0]) as client:
        await client.send(b"GET /here HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
        await client.rest()
    said = [record.getMessage() for record in caplog.records if record.name == "iocproxy"]
    assert any(line.startswith("listening ") for line in said)
    assert any("/here" in record.getMessage() for record in caplog.records if record.name == "iocproxy.access")


async def test_two_proxies_in_one_loop_do_not_meet(
    iocproxy_origin_factory: Callable[..., Origin], make_config: Any, peer: Any
) -> None:
    left, right = iocproxy_origin_factory(), iocproxy_origin_factory()
    clocks = ManualClock(), ManualClock()
    records: tuple[list[Record], list[Record]] = ([], [])
    limits = [{"requests": {"rate": "1/10s"}}, {"requests": {"rate": "3/10s"}}]
    proxies = [
        Proxy(make_config(origin.url, limits=limit), clock=clock, on_record=seen.append)
        for origin, limit, clock, seen in zip((left, right), limits, clocks, records, strict=True)
    ]

    async def statuses(proxy: Proxy, count: int) -> list[int]:
        found = []
        async with peer(proxy.addresses[0]) as client:
            for _ in range(count):
                await client.send(b"GET /status/204 HTTP/1.1\r\nHost: a.test\r\n\r\n")
                head = await client.head()
                found.append(int(head[9:12]))
                if found[-1] == 429:
                    await client.exactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0]))
        return found

    async with proxies[0] as one, proxies[1] as two:
        assert one.addresses != two.addresses
        assert await statuses(one, 2) == [204, 429]
        assert await statuses(two, 4) == [204, 204, 204, 429]
        clocks[0].advance(11)
        assert await statuses(one, 1) == [204]
        assert await statuses(two, 1) == [429]
        await bounded(one.stop())
        clocks[1].advance(11)
        assert await statuses(two, 1) == [204]
        assert [one.stats()["requests"], two.stats()["requests"]] == [3, 6]
    assert [len(seen) for seen in records] == [3, 6]
    assert [len(left.requests), len(right.requests)] == [2, 4]


async def test_twenty_lives_leave_nothing(origin: Origin, make_config: Any, own_threads: Any, peer: Any) -> None:
    """A server that is started and stopped for every test of a suite must not grow it."""
    threads = threading.active_count()
    made = []
    for _ in range(20):
        async with Proxy(make_config(origin.url)) as proxy, peer(proxy.addresses[0]) as client:
            await client.send(b"GET /status/204 HTTP/1.1\r\nHost: a.test\r\n\r\n")
            await client.head()
        made.append(weakref.ref(proxy))
        del proxy
    await asyncio.sleep(0)  # callbacks that the end itself has queued
    gc.collect()
    assert own_threads() == []
    assert threading.active_count() <= threads + 2  # the origin's, which end by themselves
    assert not [proxy for each in made if (proxy := each()) is not None]
