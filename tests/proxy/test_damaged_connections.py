"""TLS connections damaged at random: each is counted once and told in one line, none leaves a trace of a bug."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import struct
import sys
from collections.abc import Callable

import pytest

from iocproxy.testing import CertificatePair, Certificates, Origin, ProxyFactory, RunningProxy
from iocproxy.testing.patience import PATIENCE

CONNECTIONS = 40 if sys.platform == "win32" else 200  # of each kind of listener
REQUEST = b"GET /bytes/100 HTTP/1.1\r\nHost: a.test\r\n\r\n"
RESET = struct.pack("HH" if sys.platform == "win32" else "ii", 1, 0)  # linger on, for no time

Damage = Callable[[random.Random, bytes], bytes]


def flip(rnd: random.Random, data: bytes) -> bytes:
    damaged = bytearray(data)
    damaged[rnd.randrange(len(data))] ^= 1 << rnd.randrange(8)
    return bytes(damaged)


def cut(rnd: random.Random, data: bytes) -> bytes:
    return data[: rnd.randrange(len(data))]


def insert(rnd: random.Random, data: bytes) -> bytes:
    at = rnd.randrange(len(data))
    return data[:at] + rnd.randbytes(rnd.choice([1, 5, 100, 20_000])) + data[at:]


def repeat(_: random.Random, data: bytes) -> bytes:
    return 2 * data


def visit(proxy: RunningProxy, context: ssl.SSLContext, rnd: random.Random) -> None:
    """A client one of whose flights is damaged; it ends with FIN or reset, however far it came."""
    damage: Damage = rnd.choice([flip, cut, insert, repeat])
    at = rnd.randrange(3)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with socket.create_connection(proxy.tls_address, PATIENCE) as sock:

        def send(number: int) -> None:
            data = outgoing.read()
            if not data:
                return
            sock.sendall(damage(rnd, data) if number == at else data)
            if number == at and damage is cut:
                sock.shutdown(socket.SHUT_WR)

        with contextlib.suppress(ConnectionError, ssl.SSLError):
            for number in range(4):
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    send(number)
                    if not (data := sock.recv(65536)):
                        return
                    incoming.write(data)
            tls.write(REQUEST)
            send(2)
            sock.recv(65536)
        if rnd.random() < 0.2:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


@pytest.mark.parametrize("asks", [False, True], ids=["", "client certificates"])
@pytest.mark.parametrize("offload", ["never", "always"])
def test_each_is_counted_and_told_once(
    iocproxy: ProxyFactory, iocproxy_origin: Origin, iocproxy_certificates: Certificates, offload: str, asks: bool
) -> None:
    pair: CertificatePair = iocproxy_certificates.issue("localhost")
    auth = {"client_auth": "optional", "client_ca": str(iocproxy_certificates.ca)} if asks else {}
    tls = {"certificates": [{"cert": str(pair.cert), "key": str(pair.key)}], "offload": offload, **auth}
    proxy = iocproxy(
        upstream=iocproxy_origin,
        listeners=[{"bind": "127.0.0.1:0", "tls": tls}],
        timeouts={"tls_handshake": "300ms", "request_header": "300ms"},
    )
    shown = iocproxy_certificates.client_certificate("ali", "ali@example.com") if asks else None
    contexts = []
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        made = iocproxy_certificates.client_context(certificate=shown)
        made.minimum_version = made.maximum_version = version
        contexts.append(made)
    rnd = random.Random(f"{offload} {asks}")
    for _ in range(CONNECTIONS):
        visit(proxy, rnd.choice(contexts), rnd)

    proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 0)
    stats = proxy.stats()
    ended = stats["handshakes_failed"] + stats["handshakes_full"] + stats["handshakes_resumed"]
    assert stats["connections_accepted"] == ended == CONNECTIONS
    assert len(proxy.events("handshake_failed")) == stats["handshakes_failed"] > 0
    assert len(proxy.events("tls_failed")) == sum(stats["tls_failures"].values()) > 0
    told = [event for event in proxy.log if event["event"] != "configuration"]  # that the issuer is not in the file
    assert not [event for event in told if "exception" in event or event["level"] in {"warning", "error"}]
