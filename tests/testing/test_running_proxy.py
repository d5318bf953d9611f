"""A proxy in a thread: what it says, how the test waits for it, and how it ends."""

from __future__ import annotations

import socket
import threading

import pytest

from iocproxy.errors import ConfigError
from iocproxy.testing import Origin, ProxyFactory, RawClient, RunningProxy


@pytest.fixture
def origin(iocproxy_origin: Origin) -> Origin:
    return iocproxy_origin


def test_it_serves_until_it_is_stopped(iocproxy: ProxyFactory, origin: Origin) -> None:
    proxy = iocproxy(upstream=origin)
    assert proxy.url == f"http://127.0.0.1:{proxy.address[1]}"
    assert proxy.addresses == (proxy.address,)
    assert repr(proxy) == f"<RunningProxy 127.0.0.1:{proxy.address[1]} running records=0>"
    with RawClient(proxy.address) as client:
        assert client.request("GET", "/status/204").status == 204
    proxy.stop()
    proxy.stop()
    assert repr(proxy).endswith("stopped records=1>")
    assert proxy.problems == []
    with pytest.raises(OSError):  # noqa: PT011  which one depends on the platform
        socket.create_connection(proxy.address, timeout=2)
    with pytest.raises(RuntimeError, match="started already"):
        proxy.start()


def test_records_and_events_arrive(iocproxy: ProxyFactory, origin: Origin) -> None:
    proxy = iocproxy(upstream=origin)
    listening = proxy.wait_for_event("listening")
    assert listening["level"] == "info"
    with RawClient(proxy.address) as client:
        client.request("GET", "/status/204")
    (record,) = proxy.wait_for_records(1)
    assert record.client == "127.0.0.1"
    assert proxy.wait_for(lambda running: running.records[0]) is record


def test_waiting_ends_and_shows_what_there_was(iocproxy: ProxyFactory, origin: Origin) -> None:
    proxy = iocproxy(upstream=origin)
    with pytest.raises(TimeoutError, match=r"did not come true within 0\.05 s.*running.*listening"):
        proxy.wait_for(lambda running: running.events("never"), timeout=0.05)


def test_stats_are_there_before_and_after_the_end(iocproxy: ProxyFactory, origin: Origin) -> None:
    proxy = iocproxy(upstream=origin)
    running = proxy.wait_for(lambda each: each.stats())
    proxy.stop(drain=None)
    assert proxy.stats().keys() == running.keys()


def test_a_tls_listener_beside_the_plain_one(iocproxy: ProxyFactory, origin: Origin) -> None:
    proxy = iocproxy(upstream=origin, tls=True)
    assert proxy.addresses == (proxy.address, proxy.tls_address)
    assert proxy.tls_url == f"https://127.0.0.1:{proxy.tls_address[1]}"
    with pytest.raises(LookupError, match="no listener with TLS"):
        _ = iocproxy(upstream=origin).tls_address


def test_a_configuration_that_is_complete_takes_no_more(iocproxy: ProxyFactory, origin: Origin) -> None:
    config = iocproxy(upstream=origin).config
    assert iocproxy(config).config is config
    with pytest.raises(TypeError, match="no further sections"):
        iocproxy(config, upstream=origin)
    with pytest.raises(TypeError, match="no further sections"):
        iocproxy(config, limits={})


def test_what_cannot_start_says_why_and_leaves_nothing(iocproxy: ProxyFactory, origin: Origin) -> None:
    config = iocproxy(upstream=origin).config
    before = set(threading.enumerate())
    with pytest.raises(ConfigError, match="upstreems"):
        iocproxy(upstreems={})
    with socket.socket() as taken:
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"{port}"):
            iocproxy(upstream=origin, listeners=[{"bind": f"127.0.0.1:{port}"}])
    assert set(threading.enumerate()) == before
    with RunningProxy(config) as proxy, RawClient(proxy.address) as client:
        assert client.request("GET", "/status/204").status == 204


async def test_two_at_once_from_a_running_loop(iocproxy: ProxyFactory, origin: Origin) -> None:
    first, second = iocproxy(upstream=origin), iocproxy(upstream=origin)
    assert first.address != second.address
    with RawClient(second.address) as client:
        assert client.request("GET", "/status/204").status == 204
    assert len(second.wait_for_records(1)) == 1
    assert first.records == []
