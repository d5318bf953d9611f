"""TLS record by record at a whole proxy: how a hello may be cut, how responses are, and what a client may not do."""

from __future__ import annotations

import contextlib
import runpy
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iocproxy.testing import Certificates, Origin, ProxyFactory, RawClient
from iocproxy.testing.patience import PATIENCE

OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="the openssl command is not on PATH")

_RECORDS = runpy.run_path(str(Path(__file__).parents[1] / "tls" / "tls_records.py"))

GET = b"GET /bytes/100 HTTP/1.1\r\nHost: a.test\r\n\r\n"


class ByHand:
    """A client whose ciphertext goes through our hands: `cut` is applied to what is sent first."""

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext, cut: Callable[[bytes], list[bytes]]) -> None:
        self.sock = socket.create_connection(address, PATIENCE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                for piece in cut(self.outgoing.read()):
                    self.sock.sendall(piece)
                self.incoming.write(self.sock.recv(65536))
        self.sock.sendall(self.outgoing.read())

    def say(self, data: bytes) -> None:
        self.tls.write(data)
        self.sock.sendall(self.outgoing.read())

    def hear(self, until: bytes) -> tuple[bytes, list[int]]:
        """The plaintext that ends with `until`, and the sizes of the records of data it came in."""
        plain, sizes, wire = b"", [], b""
        while not plain.endswith(until):
            wire += self.sock.recv(65536)
            while len(wire) >= 5 and len(wire) >= (end := 5 + int.from_bytes(wire[3:5])):
                self.incoming.write(wire[:end])
                wire = wire[end:]
                with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):  # a ticket, close_notify
                    data = self.tls.read(65536)
                    if data:
                        plain += data
                        sizes.append(end)
        return plain, sizes

    def __enter__(self) -> ByHand:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


def whole(wire: bytes) -> list[bytes]:
    return [wire]


def in_records(size: int) -> Callable[[bytes], list[bytes]]:
    """The same handshake message in records of `size` (RFC 8446 section 5.1), each a write of its own."""

    def cut(wire: bytes) -> list[bytes]:
        if wire[0] != 22 or wire[5] != 1:
            return [wire]
        message = wire[5 : 5 + int.from_bytes(wire[3:5])]
        rest = wire[5 + len(message) :]
        pieces = [message[start : start + size] for start in range(0, len(message), size)]
        return [*(b"\x16\x03\x01" + len(piece).to_bytes(2) + piece for piece in pieces), *([rest] if rest else [])]

    return cut


VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])


def context(certificates: Certificates, version: ssl.TLSVersion) -> ssl.SSLContext:
    made = certificates.client_context()
    made.minimum_version = made.maximum_version = version
    return made


@VERSIONS
@pytest.mark.parametrize("rsa", [False, True], ids=["ecdsa", "rsa"])
@pytest.mark.parametrize("size", [1, 50, 200])
def test_a_hello_in_many_records(
    iocproxy: ProxyFactory,
    iocproxy_origin: Origin,
    iocproxy_certificates: Certificates,
    version: ssl.TLSVersion,
    rsa: bool,
    size: int,
) -> None:
    """What tools against censorship do, and large hellos with post-quantum keys."""
    proxy = iocproxy(upstream=iocproxy_origin, tls=iocproxy_certificates.issue(rsa=rsa))
    with ByHand(proxy.tls_address, context(iocproxy_certificates, version), in_records(size)) as client:
        client.say(GET)
        plain, _ = client.hear(bytes(range(100)))
        assert plain.startswith(b"HTTP/1.1 200 OK\r\n")


@VERSIONS
def test_a_response_is_one_record_where_it_fits(
    iocproxy: ProxyFactory, iocproxy_origin: Origin, iocproxy_certificates: Certificates, version: ssl.TLSVersion
) -> None:
    iocproxy_origin.on("GET", "/bytes/100", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + bytes(range(100)))
    proxy = iocproxy(upstream=iocproxy_origin, tls=True)
    with ByHand(proxy.tls_address, context(iocproxy_certificates, version), whole) as client:
        for _ in range(3):
            client.say(GET)
            plain, sizes = client.hear(bytes(range(100)))
            assert plain.startswith(b"HTTP/1.1 200 OK\r\n")
            assert len(sizes) == 1
        client.say(b"nonsense\r\n\r\n")
        _, sizes = client.hear(b"</html>\n")
        assert len(sizes) == 1


@needs_openssl
def test_renegotiation_is_refused(
    iocproxy: ProxyFactory, iocproxy_origin: Origin, iocproxy_certificates: Certificates
) -> None:
    assert OPENSSL is not None
    proxy = iocproxy(upstream=iocproxy_origin, tls=True)
    host, port = proxy.tls_address
    command = [OPENSSL, "s_client", "-connect", f"{host}:{port}", "-tls1_2"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        heard = b""
        while b"Extended master secret" not in heard:  # the handshake is over
            heard += client.stdout.readline()
        client.stdin.write(b"R\n")
        client.stdin.flush()
        heard = client.stdout.read()  # to the end: OpenSSL's client gives up
        assert b"no renegotiation" in heard
    proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 0)
    assert proxy.stats()["handshakes_full"] == 1


def test_a_flood_of_key_updates_ends_the_connection_and_harms_nobody(
    iocproxy: ProxyFactory, iocproxy_origin: Origin, iocproxy_certificates: Certificates
) -> None:
    proxy = iocproxy(upstream=iocproxy_origin, tls=True)
    with (
        RawClient(proxy.tls_address, tls=iocproxy_certificates) as other,
        socket.create_connection(proxy.tls_address, PATIENCE) as sock,
    ):
        client: Any = _RECORDS["RawTls13"](sock, iocproxy_certificates.client_context())
        sock.sendall(client.record(_RECORDS["APPLICATION"], GET))
        proxy.wait_for_records(1)
        with contextlib.suppress(ConnectionError):
            for _ in range(40):
                sock.sendall(b"".join(client.key_update(both=True) for _ in range(100)))
        proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 1)
        assert other.request("GET", "/bytes/1").status == 200


def test_a_request_between_key_updates_is_served(
    iocproxy: ProxyFactory, iocproxy_origin: Origin, iocproxy_certificates: Certificates
) -> None:
    proxy = iocproxy(upstream=iocproxy_origin, tls=True)
    with socket.create_connection(proxy.tls_address, PATIENCE) as sock:
        client: Any = _RECORDS["RawTls13"](sock, iocproxy_certificates.client_context())
        for part in (GET[:10], GET[10:], GET):
            sock.sendall(client.key_update() + client.key_update(both=True))
            sock.sendall(client.record(_RECORDS["APPLICATION"], part))
        assert [record.status for record in proxy.wait_for_records(2)] == [200, 200]
