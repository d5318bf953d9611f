"""TLS as a client meets it at a whole proxy."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from typing import Any

import pytest

from iocproxy.testing import Certificates, Origin, ProxyFactory, RawClient, RunningProxy
from iocproxy.testing.patience import PATIENCE

VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])


@pytest.fixture
def origin(iocproxy_origin: Origin) -> Origin:
    return iocproxy_origin


def context(certificates: Certificates, version: ssl.TLSVersion, alpn: tuple[str, ...] = ()) -> ssl.SSLContext:
    made = certificates.client_context(alpn=alpn)
    made.minimum_version = made.maximum_version = version
    return made


def own_threads() -> set[str]:
    return {each.name for each in threading.enumerate() if each.name.startswith("iocproxy_")}


@VERSIONS
def test_both_versions_with_alpn(
    iocproxy: ProxyFactory, origin: Origin, iocproxy_certificates: Certificates, version: ssl.TLSVersion
) -> None:
    proxy = iocproxy(upstream=origin, tls=True)
    with RawClient(proxy.tls_address, tls=context(iocproxy_certificates, version, ("h2", "http/1.1"))) as client:
        assert client.tls.selected_alpn_protocol() == "http/1.1"
        for _ in range(2):
            assert client.request("GET", "/bytes/300000").status == 200
        assert client.request("POST", "/sink", body=bytes(300_000)).status == 200
        said = client.tls.version()
    records = proxy.wait_for_records(3)
    assert {record.tls_version for record in records} == {said}
    assert not any(record.tls_resumed for record in records)
    assert dict(origin.requests[0].headers)[b"X-Forwarded-Proto"] == b"https"


def test_an_old_client_of_a_strict_listener_is_refused(
    iocproxy: ProxyFactory, origin: Origin, iocproxy_certificates: Certificates
) -> None:
    pair = iocproxy_certificates.pair
    table = {"certificates": [{"cert": str(pair.cert), "key": str(pair.key)}], "min_version": "1.3"}
    proxy = iocproxy(upstream=origin, tls=table)
    with pytest.raises(ssl.SSLError, match=r"(?i)version"):
        RawClient(proxy.tls_address, tls=context(iocproxy_certificates, ssl.TLSVersion.TLSv1_2))
    proxy.wait_for(lambda proxy: proxy.stats()["handshakes_failed"] == 1)
    with RawClient(proxy.tls_address, tls=iocproxy_certificates) as client:
        assert client.request("GET", "/status/204").status == 204


@VERSIONS
@pytest.mark.parametrize("tickets", [True, False], ids=["tickets", "cache"])
def test_a_session_is_resumed_and_the_record_says_so(
    iocproxy: ProxyFactory,
    origin: Origin,
    iocproxy_certificates: Certificates,
    version: ssl.TLSVersion,
    tickets: bool,
) -> None:
    pair = iocproxy_certificates.pair
    table = {"certificates": [{"cert": str(pair.cert), "key": str(pair.key)}], "session_tickets": tickets}
    proxy = iocproxy(upstream=origin, tls=table)
    client_side = context(iocproxy_certificates, version)
    with RawClient(proxy.tls_address, tls=client_side) as client:
        assert client.request("GET", "/status/204").status == 204
        assert not client.tls.session_reused
        session = client.tls.session
    proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 0)
    with RawClient(proxy.tls_address, tls=client_side, session=session) as client:
        assert client.tls.session_reused
        assert client.request("GET", "/status/204").status == 204
    assert [record.tls_resumed for record in proxy.wait_for_records(2)] == [False, True]
    stats = proxy.stats()
    assert (stats["handshakes_full"], stats["handshakes_resumed"]) == (1, 1)
    if version is ssl.TLSVersion.TLSv1_2:
        assert session.has_ticket is tickets


def test_the_name_asked_for_picks_the_certificate(
    iocproxy: ProxyFactory, origin: Origin, iocproxy_certificates: Certificates
) -> None:
    pairs = [iocproxy_certificates.issue(name) for name in ("one.test", "two.test", "*.three.test")]
    proxy = iocproxy(upstream=origin, tls=pairs)
    for name, said in [("one.test", "one.test"), ("two.test", "two.test"), ("x.three.test", "*.three.test")]:
        with RawClient(proxy.tls_address, tls=iocproxy_certificates, server_name=name) as client:
            assert ("DNS", said) in client.tls.getpeercert()["subjectAltName"]  # type: ignore[index]
            assert client.request("GET", "/status/204", headers=[("Host", name)]).status == 204
    with pytest.raises(ssl.SSLCertVerificationError):  # an unknown name gets the first
        RawClient(proxy.tls_address, tls=iocproxy_certificates, server_name="four.test")
    with RawClient(proxy.tls_address, tls=iocproxy_certificates, server_name="one.test") as client:
        assert client.request("GET", "/status/204").status == 204


def test_plain_http_to_the_tls_port_is_told_so(iocproxy: ProxyFactory, origin: Origin) -> None:
    proxy = iocproxy(upstream=origin, tls=True)
    with RawClient(proxy.tls_address) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        assert client.read_response().status == 400
    event = proxy.wait_for_event("handshake_failed")
    assert event["client"] == "127.0.0.1"
    assert "HTTP" in event["reason"]
    assert proxy.stats()["handshakes_failed"] == 1
    assert origin.requests == []


def test_tls_to_the_plain_port_is_refused_and_named(
    iocproxy: ProxyFactory, origin: Origin, iocproxy_certificates: Certificates
) -> None:
    proxy = iocproxy(upstream=origin)
    with pytest.raises(OSError):  # noqa: PT011 - SSLError here, a reset there
        RawClient(proxy.address, tls=iocproxy_certificates)
    record = proxy.wait_for_records(1)[0]
    assert (record.status, record.method) == (400, "")
    assert "TLS" in record.error
    with RawClient(proxy.address) as client:
        assert client.request("GET", "/status/204").status == 204


@pytest.mark.parametrize("data", [b"", b"\x16\x03\x01\x02"], ids=["silence", "half a hello"])
def test_a_handshake_has_a_deadline(iocproxy: ProxyFactory, origin: Origin, data: bytes) -> None:
    proxy = iocproxy(upstream=origin, tls=True, timeouts={"tls_handshake": "300ms"})
    with socket.create_connection(proxy.tls_address, PATIENCE) as sock:
        sock.sendall(data)
        with contextlib.suppress(ConnectionError):
            assert sock.recv(100) in {b"", b"\x15\x03\x01\x00\x02\x02\x28"}  # at most an alert
    assert proxy.wait_for_event("handshake_failed")["reason"]
    proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 0)
    assert proxy.stats()["handshakes_failed"] == 1


def test_rsa_handshakes_run_in_the_proxys_threads(
    iocproxy: ProxyFactory, origin: Origin, iocproxy_certificates: Certificates
) -> None:
    proxy = iocproxy(upstream=origin, tls=iocproxy_certificates.issue(rsa=True), server={"threads": 3})
    for _ in range(4):
        with RawClient(proxy.tls_address, tls=iocproxy_certificates) as client:
            assert client.request("GET", "/status/204").status == 204
    assert 1 <= len(own_threads()) <= 3
    proxy.stop()
    assert own_threads() == set()


@VERSIONS
def test_both_sides_say_goodbye(
    iocproxy: ProxyFactory, origin: Origin, iocproxy_certificates: Certificates, version: ssl.TLSVersion
) -> None:
    proxy = iocproxy(upstream=origin, tls=True)
    with RawClient(proxy.tls_address, tls=context(iocproxy_certificates, version)) as client:
        assert client.request("GET", "/bytes/1000000", headers=[("Connection", "close")]).status == 200
        client.expect_closed()  # close_notify, then FIN


def test_a_response_cut_short_is_not_closed_in_the_orderly_way(
    iocproxy: ProxyFactory, origin: Origin, iocproxy_certificates: Certificates
) -> None:
    """Without close_notify the client sees that the response is not whole (RFC 8446 section 6.1)."""
    origin.on("GET", "/cut", _cut)
    proxy = iocproxy(upstream=origin, tls=True)
    with RawClient(proxy.tls_address, tls=iocproxy_certificates) as client:
        client.send(b"GET /cut HTTP/1.1\r\nHost: a\r\n\r\n")
        head, _ = client.read_head()
        assert head.status == 200
        with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
            for _ in client.read_body(head):
                pass
    assert proxy.wait_for_records(1)[0].error


def _cut(exchange: Any) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")
    exchange.close()


def test_many_clients_at_once(iocproxy: ProxyFactory, origin: Origin, iocproxy_certificates: Certificates) -> None:
    proxy: RunningProxy = iocproxy(upstream=origin, tls=True)
    failures: list[BaseException] = []

    def visit() -> None:
        try:
            with RawClient(proxy.tls_address, tls=iocproxy_certificates) as client:
                for _ in range(5):
                    assert client.request("GET", "/bytes/20000").status == 200
        except BaseException as error:  # noqa: BLE001 - told below
            failures.append(error)

    threads = [threading.Thread(target=visit) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert proxy.stats()["handshakes_full"] == 20
