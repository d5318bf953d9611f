"""A proxy in front of an origin, reached plain or over TLS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from iocproxy.testing import Origin, RawClient


class Front:
    """What a test of the wire needs: `client()` connects, `origin` records, `proxy` tells how requests ended."""

    def __init__(self, proxy: Any, origin: Origin, certificates: Any) -> None:
        self.proxy = proxy
        self.origin = origin
        self.scheme = "http" if certificates is None else "https"
        self.address = proxy.address if certificates is None else proxy.tls_address
        self._certificates = certificates

    def client(self, **options: Any) -> RawClient:
        return RawClient(self.address, tls=self._certificates, **options)

    def still_serves(self) -> None:
        """The next client is unharmed."""
        with self.client() as client:
            response = client.request("GET", "/bytes/7", headers=[("Host", "next.test")])
            assert (response.status, response.body) == (200, bytes(range(7)))


def _left_nothing(front: Front) -> bool:
    """Nothing is leaked: no request, tunnel or client's connection outlives its client."""
    stats = front.proxy.stats()
    return not any(stats[name] for name in ("requests_open", "tunnels_open", "connections_open"))


@pytest.fixture
def front(iocproxy: Any, iocproxy_origin: Origin) -> Iterator[Callable[..., Front]]:
    """Call it with sections of the configuration; clients connect without TLS."""
    fronts: list[Front] = []

    def start(**settings: Any) -> Front:
        fronts.append(Front(iocproxy(upstream=iocproxy_origin, **settings), iocproxy_origin, None))
        return fronts[-1]

    yield start
    for each in fronts:
        each.proxy.wait_for(lambda _, each=each: _left_nothing(each))


@pytest.fixture(params=["plain", "tls"])
def any_front(
    request: pytest.FixtureRequest, iocproxy: Any, iocproxy_origin: Origin, iocproxy_certificates: Any
) -> Iterator[Callable[..., Front]]:
    """The same twice, once with TLS between client and proxy."""
    tls = request.param == "tls"
    fronts: list[Front] = []

    def start(**settings: Any) -> Front:
        proxy = iocproxy(upstream=iocproxy_origin, tls=tls, **settings)
        fronts.append(Front(proxy, iocproxy_origin, iocproxy_certificates if tls else None))
        return fronts[-1]

    yield start
    for each in fronts:
        each.proxy.wait_for(lambda _, each=each: _left_nothing(each))
