"""The client against a real proxy with a real limit. `iocproxy…` are fixtures of iocproxy's pytest plugin."""

from __future__ import annotations

from urllib.error import HTTPError

import pytest
from polite import fetch

from iocproxy.testing import Certificates, ManualClock, Origin, ProxyFactory


def test_waits_as_long_as_it_is_told(
    iocproxy: ProxyFactory, iocproxy_origin: Origin, iocproxy_clock: ManualClock
) -> None:
    proxy = iocproxy(upstream=iocproxy_origin, clock=iocproxy_clock, limits={"requests": {"rate": "2/10s"}})
    for _ in range(4):
        fetch(f"{proxy.url}/basket", sleep=iocproxy_clock.advance)
    assert [record.status for record in proxy.wait_for_records(5)] == [200, 200, 429, 200, 200]
    assert len(iocproxy_origin.requests) == 4  # the refused one never got there


def test_does_not_insist_on_what_is_broken(iocproxy: ProxyFactory, iocproxy_origin: Origin) -> None:
    proxy = iocproxy(upstream=iocproxy_origin)
    with pytest.raises(HTTPError) as broken:
        fetch(f"{proxy.url}/status/500")
    assert broken.value.code == 500
    broken.value.close()
    assert len(iocproxy_origin.requests) == 1


def test_over_https(iocproxy: ProxyFactory, iocproxy_origin: Origin, iocproxy_certificates: Certificates) -> None:
    proxy = iocproxy(upstream=iocproxy_origin, tls=True)
    assert fetch(f"{proxy.tls_url}/bytes/3", context=iocproxy_certificates.client_context()) == b"\x00\x01\x02"
    assert iocproxy_origin.requests[0].header("X-Forwarded-Proto") == "https"
