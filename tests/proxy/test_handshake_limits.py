"""Who lets handshakes fail too often is refused at the door, before any TLS."""

from __future__ import annotations

import socket
import ssl
import warnings
from collections.abc import Callable

import pytest

from iocproxy.testing import Certificates, ManualClock, Origin, ProxyFactory, RawClient, RunningProxy
from iocproxy.testing.patience import PATIENCE

LIMITS = {"handshakes": {"rate": "3/1m"}}


def connect(proxy: RunningProxy, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(proxy.tls_address, PATIENCE, (source, 0))


def garbage(proxy: RunningProxy, source: str = "127.0.0.1") -> None:
    with connect(proxy, source) as sock:
        sock.sendall(b"\x00garbage")
        assert sock.recv(100) == b""


def plain_http(proxy: RunningProxy) -> None:
    with connect(proxy) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 400 ")


def distrust(proxy: RunningProxy) -> None:
    with connect(proxy) as sock, pytest.raises(ssl.SSLCertVerificationError):
        ssl.create_default_context().wrap_socket(sock, server_hostname="localhost")


def an_old_version(proxy: RunningProxy) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with connect(proxy) as sock, pytest.raises(ssl.SSLError):
        context.wrap_socket(sock, server_hostname="localhost")


def broken_off(proxy: RunningProxy) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    with connect(proxy) as sock:
        sock.sendall(outgoing.read())
        assert sock.recv(1 << 16)  # the proxy has done its part


def half_a_hello(proxy: RunningProxy) -> None:
    with connect(proxy) as sock:
        sock.sendall(b"\x16\x03\x01\x02\x00\x01")


WAYS = {
    garbage: "not_tls",
    plain_http: "plain_http",
    distrust: "refused",
    an_old_version: "unsupported",
    broken_off: "broken_off",
    half_a_hello: "broken_off",
}


def failed(count: int) -> Callable[[RunningProxy], bool]:
    return lambda proxy: proxy.stats()["handshakes_failed"] == count


def refused(proxy: RunningProxy, source: str = "127.0.0.1") -> bool:
    """Whether a new connection is closed at once."""
    before = proxy.stats()["connections_refused"]["handshakes"]
    with connect(proxy, source) as sock:
        proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] or _refusals(proxy) > before)
        if _refusals(proxy) == before:
            return False
        assert sock.recv(1) == b""
        return True


def _refusals(proxy: RunningProxy) -> int:
    refusals: int = proxy.stats()["connections_refused"]["handshakes"]
    return refusals


@pytest.mark.parametrize(("fail", "reason"), WAYS.items(), ids=[way.__name__ for way in WAYS])
def test_failed_handshakes_count(
    iocproxy: ProxyFactory,
    iocproxy_origin: Origin,
    iocproxy_certificates: Certificates,
    iocproxy_clock: ManualClock,
    fail: Callable[[RunningProxy], None],
    reason: str,
) -> None:
    proxy = iocproxy(upstream=iocproxy_origin, tls=True, clock=iocproxy_clock, limits=LIMITS)
    for number in range(3):
        fail(proxy)
        proxy.wait_for(failed(number + 1))
    assert refused(proxy)
    assert not refused(proxy, "127.0.0.2")  # another client is another matter
    with RawClient(proxy.address) as client:  # and so is a listener without TLS
        assert client.request("GET", "/status/204").status == 204
    iocproxy_clock.advance(59.9)
    assert refused(proxy)
    iocproxy_clock.advance(0.2)
    with RawClient(proxy.tls_address, tls=iocproxy_certificates) as client:
        assert client.request("GET", "/status/204").status == 204
    failures = {why: count for why, count in proxy.stats()["handshake_failures"].items() if count}
    assert failures == {reason: 3, "silent": 1}  # that of the other client, who only looked in
    events = proxy.events("handshake_failed")
    assert [(event["level"], event["client"], event["failure"]) for event in events] == [
        *[("info", "127.0.0.1", reason)] * 3,
        ("debug", "127.0.0.2", "silent"),
    ]
    assert not any("exception" in event for event in events)


def test_what_succeeds_or_says_nothing_does_not_count(
    iocproxy: ProxyFactory, iocproxy_origin: Origin, iocproxy_certificates: Certificates
) -> None:
    proxy = iocproxy(upstream=iocproxy_origin, tls=True, limits=LIMITS)
    for _ in range(5):
        with RawClient(proxy.tls_address, tls=iocproxy_certificates) as client:
            assert client.request("GET", "/status/204").status == 204
        connect(proxy).close()  # a health check, a browser that thought better of it
    proxy.wait_for(failed(5))
    assert {why: count for why, count in proxy.stats()["handshake_failures"].items() if count} == {"silent": 5}
    assert not refused(proxy)


def test_a_client_that_never_finishes_counts(iocproxy: ProxyFactory, iocproxy_origin: Origin) -> None:
    limits = {"handshakes": {"rate": "1/1m"}}
    proxy = iocproxy(upstream=iocproxy_origin, tls=True, limits=limits, timeouts={"tls_handshake": "20ms"})
    with connect(proxy) as sock:
        assert sock.recv(1) == b""
    proxy.wait_for(failed(1))
    assert refused(proxy)
    assert proxy.stats()["handshake_failures"]["timeout"] == 1


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["nothing", "half a hello"])
@pytest.mark.parametrize("drain", [0.0, 5.0], ids=["cut off", "drained"])
def test_a_stop_is_not_the_clients_doing(
    iocproxy: ProxyFactory, iocproxy_origin: Origin, said: bytes, drain: float
) -> None:
    proxy = iocproxy(upstream=iocproxy_origin, tls=True, limits=LIMITS)
    with connect(proxy) as sock:
        sock.sendall(said)
        proxy.wait_for(lambda proxy: proxy.stats()["connections_open"])
        proxy.stop(drain=drain)
    assert {why: count for why, count in proxy.stats()["handshake_failures"].items() if count} == {"stopped": 1}
    assert [event["failure"] for event in proxy.events("handshake_failed")] == ["stopped"]


def test_dry_run_only_says_so(iocproxy: ProxyFactory, iocproxy_origin: Origin) -> None:
    proxy = iocproxy(upstream=iocproxy_origin, tls=True, limits={"handshakes": {"rate": "1/1m", "dry_run": True}})
    for number in range(3):
        garbage(proxy)
        proxy.wait_for(failed(number + 1))
    assert proxy.stats()["dry_run"]["connections"] == 2
    said = proxy.events("limit_would_refuse")
    assert [(event["client"], event["limit"]) for event in said] == [("127.0.0.1", "handshakes")]
    assert _refusals(proxy) == 0


@pytest.mark.parametrize("limits", [{"handshakes": {"rate": False}}, {**LIMITS, "exempt": ["127.0.0.0/8"]}])
def test_nobody_is_counted(iocproxy: ProxyFactory, iocproxy_origin: Origin, limits: dict[str, object]) -> None:
    proxy = iocproxy(upstream=iocproxy_origin, tls=True, limits=limits)
    for number in range(5):
        garbage(proxy)
        proxy.wait_for(failed(number + 1))
    assert _refusals(proxy) == 0


def test_who_is_exempt_does_not_answer_for_its_network(iocproxy: ProxyFactory, iocproxy_origin: Origin) -> None:
    limits = {"handshakes": {"rate": "1/1m"}, "ipv4_prefix": 24, "exempt": ["127.0.0.2"]}
    proxy = iocproxy(upstream=iocproxy_origin, tls=True, limits=limits)
    garbage(proxy)
    proxy.wait_for(failed(1))
    assert refused(proxy, "127.0.0.3")  # of the same network
    assert not refused(proxy, "127.0.0.2")
