"""TLS that breaks after its handshake: the client gets the alert, the log a line, the counters a count."""

from __future__ import annotations

import socket
import ssl

import pytest

from iocproxy.testing import Certificates, Origin, ProxyFactory, RunningProxy
from iocproxy.testing.patience import PATIENCE

VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
UPLOAD = b"POST /upload HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\n123"

#: What a client sends in place of a record, why the connection ends, and the alert (RFC 8446 section 6) as OpenSSL
#: names it.
BAD = {
    "garbage": (b"\xff" * 50, "wrong version number", "ALERT_PROTOCOL_VERSION"),
    "http": (b"GET / HTTP/1.1\r\n\r\n", "wrong version number", "ALERT_PROTOCOL_VERSION"),
    "damaged": (b"\x17\x03\x03\x00\x20" + 32 * b"a", "decryption failed or bad record mac", "ALERT_BAD_RECORD_MAC"),
    "too_long": (b"\x17\x03\x03\xff\xff" + 32 * b"a", "packet length too long", "ALERT_RECORD_OVERFLOW"),
}


class Client:
    """Its ciphertext goes through our hands."""

    def __init__(self, proxy: RunningProxy, certificates: Certificates, version: ssl.TLSVersion) -> None:
        context = certificates.client_context()
        context.minimum_version = context.maximum_version = version
        self.sock = socket.create_connection(proxy.tls_address, PATIENCE)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.sock.sendall(self.outgoing.read())
                self.incoming.write(self.sock.recv(65536))
        self.sock.sendall(self.outgoing.read())

    def say(self, data: bytes) -> None:
        self.tls.write(data)
        self.sock.sendall(self.outgoing.read())

    def hear(self) -> bytes:
        """Everything up to the end; raises what OpenSSL makes of it."""
        while data := self.sock.recv(65536):
            self.incoming.write(data)
        return self.tls.read(65536)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


def failures(proxy: RunningProxy) -> dict[str, int]:
    proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 0)
    return {why: count for why, count in proxy.stats()["tls_failures"].items() if count}


@VERSIONS
@pytest.mark.parametrize(("data", "why", "alert"), BAD.values(), ids=BAD)
def test_what_is_no_record(
    iocproxy: ProxyFactory,
    iocproxy_origin: Origin,
    iocproxy_certificates: Certificates,
    version: ssl.TLSVersion,
    data: bytes,
    why: str,
    alert: str,
) -> None:
    proxy = iocproxy(upstream=iocproxy_origin, tls=True)
    with Client(proxy, iocproxy_certificates, version) as client:
        client.sock.sendall(data)
        with pytest.raises(ssl.SSLError, match=alert):
            client.hear()
    assert failures(proxy) == {"malformed": 1}
    event = {"event": "tls_failed", "level": "info", "client": "127.0.0.1", "failure": "malformed"}
    assert [dict(each, timestamp=None) for each in proxy.events("tls_failed")] == [
        {**event, "reason": f"TLS failed: {why}", "timestamp": None}
    ]


@VERSIONS
def test_within_a_request_its_line_says_so_too(
    iocproxy: ProxyFactory, iocproxy_origin: Origin, iocproxy_certificates: Certificates, version: ssl.TLSVersion
) -> None:
    proxy = iocproxy(upstream=iocproxy_origin, tls=True)
    with Client(proxy, iocproxy_certificates, version) as client:
        client.say(UPLOAD)
        proxy.wait_for(lambda proxy: proxy.stats()["requests_open"])
        client.sock.sendall(b"\xff" * 50)
        with pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):
            client.hear()
    (record,) = proxy.wait_for_records(1)
    assert (record.status, record.error) == (499, "client: TLS failed: wrong version number")
    assert failures(proxy) == {"malformed": 1}


@VERSIONS
def test_an_alert_of_the_client(
    iocproxy: ProxyFactory, iocproxy_origin: Origin, iocproxy_certificates: Certificates, version: ssl.TLSVersion
) -> None:
    """A client that cannot read what it gets says why before it leaves."""
    proxy = iocproxy(upstream=iocproxy_origin, tls=True)
    with Client(proxy, iocproxy_certificates, version) as client:
        client.incoming.write(b"\x17\x03\x03\x00\x20" + 32 * b"a")
        with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):
            client.tls.read(1)
        client.sock.sendall(client.outgoing.read())
        assert client.sock.recv(65536) == b""
    assert failures(proxy) == {"refused": 1}
    (event,) = proxy.events("tls_failed")
    assert (event["level"], event["failure"]) == ("info", "refused")
    assert event["reason"] == "TLS failed: sslv3 alert bad record mac"


@VERSIONS
def test_whoever_leaves_without_a_word_is_counted_and_hardly_told(
    iocproxy: ProxyFactory, iocproxy_origin: Origin, iocproxy_certificates: Certificates, version: ssl.TLSVersion
) -> None:
    proxy = iocproxy(upstream=iocproxy_origin, tls=True)
    with Client(proxy, iocproxy_certificates, version):
        pass
    assert failures(proxy) == {"truncated": 1}
    (event,) = proxy.events("tls_failed")
    assert (event["level"], event["failure"]) == ("debug", "truncated")
    assert event["reason"] == "the TLS connection ended without close_notify"


@VERSIONS
def test_an_orderly_end_is_no_failure(
    iocproxy: ProxyFactory, iocproxy_origin: Origin, iocproxy_certificates: Certificates, version: ssl.TLSVersion
) -> None:
    proxy = iocproxy(upstream=iocproxy_origin, tls=True)
    with Client(proxy, iocproxy_certificates, version) as client:
        with pytest.raises(ssl.SSLWantReadError):
            client.tls.unwrap()
        client.sock.sendall(client.outgoing.read())
        assert client.sock.recv(65536)
    assert failures(proxy) == {}
    assert not proxy.events("tls_failed")
