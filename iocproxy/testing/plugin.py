"""The pytest plugin (entry point ``pytest11``): fixtures that start real proxies and origins. See docs/testing.md.

It is loaded into every test run of everybody who has iocproxy installed, whether the tests use it or not. So it
imports nothing but pytest here; each fixture imports what it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iocproxy.clock import ManualClock
    from iocproxy.testing.certificates import Certificates
    from iocproxy.testing.factories import OriginFactory, ProxyFactory
    from iocproxy.testing.origin import Origin


@pytest.fixture
def iocproxy(request: pytest.FixtureRequest) -> Iterator[ProxyFactory]:
    """Call it to start a proxy: iocproxy(upstream=origin, tls=True, limits={...}), iocproxy(config), iocproxy(path)."""
    from iocproxy.testing.factories import ProxyFactory  # noqa: PLC0415

    factory = ProxyFactory(lambda: request.getfixturevalue("iocproxy_certificates"))
    yield factory
    _fail_with(factory.close())


@pytest.fixture
def iocproxy_origin_factory(request: pytest.FixtureRequest) -> Iterator[OriginFactory]:
    """Call it to start an origin server: iocproxy_origin_factory(tls=True)."""
    from iocproxy.testing.factories import OriginFactory  # noqa: PLC0415

    factory = OriginFactory(lambda: request.getfixturevalue("iocproxy_certificates"))
    yield factory
    _fail_with(factory.close())


@pytest.fixture
def iocproxy_origin(iocproxy_origin_factory: OriginFactory) -> Origin:
    """An origin server without TLS, listening on 127.0.0.1."""
    return iocproxy_origin_factory()


@pytest.fixture(scope="session")
def iocproxy_certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A certificate authority and a certificate for localhost, 127.0.0.1, ::1 and *.example.test."""
    from iocproxy.testing.certificates import Certificates  # noqa: PLC0415

    return Certificates(tmp_path_factory.mktemp("iocproxy-certificates"))


@pytest.fixture
def iocproxy_clock() -> ManualClock:
    """A clock that stands still until clock.advance(seconds); give it to a proxy as its clock."""
    from iocproxy.clock import ManualClock  # noqa: PLC0415

    return ManualClock()


def _fail_with(problems: list[str]) -> None:
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)
