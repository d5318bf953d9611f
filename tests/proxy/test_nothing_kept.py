"""A connection that is closed is freed at once: its objects do not wait for the garbage collector in circles."""

from __future__ import annotations

import gc
import socket
from collections.abc import Iterator

import pytest

from iocproxy.client.connection import ClientConnection
from iocproxy.exchange.exchange import Exchange
from iocproxy.exchange.tunnel import Tunnel
from iocproxy.testing import Certificates, Origin, ProxyFactory, RawClient, RunningProxy
from iocproxy.testing.websocket import connect
from iocproxy.tls import TlsLink
from iocproxy.upstream.connection import UpstreamConnection

#: 100,000 octets pass in one read, and leave a pause behind that lasts longer than the connection.
PACED = {"bandwidth": {"receive": "8KiB", "send": "8KiB"}}

KINDS = (ClientConnection, UpstreamConnection, Exchange, Tunnel, TlsLink)


def kept() -> list[object]:
    return [each for each in gc.get_objects() if isinstance(each, KINDS)]


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("paced", [False, True], ids=["", "paced"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize(
    "target",
    ["/bytes/100000", "/down", "", "garbage", "/ws", "/ws?left"],
    ids=["answered", "upstream down", "no request", "refused", "tunnel", "tunnel left"],
)
def test_closed_connections_leave_no_circles(
    iocproxy: ProxyFactory,
    iocproxy_origin: Origin,
    iocproxy_certificates: Certificates,
    tls: bool,
    target: str,
    paced: bool,
) -> None:
    upstream = iocproxy_origin.url
    if target == "/down":
        with socket.create_server(("127.0.0.1", 0)) as gone:
            upstream = f"http://127.0.0.1:{gone.getsockname()[1]}"
    before = {id(each) for each in kept()}
    proxy = iocproxy(upstream=upstream, tls=True, timeouts={"upstream_idle": "10ms"}, limits=PACED if paced else {})
    for _ in range(3):
        address = proxy.tls_address if tls else proxy.address
        with RawClient(address, tls=iocproxy_certificates if tls else None) as client:
            if target == "garbage":
                client.send(b"garbage\r\n\r\n")
                assert client.read_response().status == 400
            elif target.startswith("/ws"):
                tunnel = connect(client)
                assert target != "/ws" or tunnel.close() == 1000
            elif target:
                client.request("GET", target)
    proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 0)
    proxy.wait_for(lambda proxy: not [each for each in kept() if id(each) not in before])
    assert _served(proxy) == (3 if target else 0)


def _served(proxy: RunningProxy) -> int:
    return sum(proxy.stats()["responses"].values())
