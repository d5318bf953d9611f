"""A server that ends a connection in the very segment that makes it stand: nothing is kept of it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest

from iocproxy.testing import Certificates, ProxyFactory, RawClient
from iocproxy.testing.patience import PATIENCE


@pytest.fixture
def curt(iocproxy_certificates: Certificates) -> Iterator[int]:
    """The port of a server that sends Finished, the last message of a TLS 1.2 handshake, and close_notify at once."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(iocproxy_certificates.cert, iocproxy_certificates.key)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    stopping = threading.Event()

    def serve(sock: socket.socket) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = context.wrap_bio(incoming, outgoing, server_side=True)
        while True:
            try:
                server.do_handshake()
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(1 << 16))
            else:
                break
        with contextlib.suppress(ssl.SSLWantReadError):
            server.unwrap()
        sock.sendall(outgoing.read())

    def accept() -> None:
        while True:
            sock, _ = listener.accept()
            with sock:
                if stopping.is_set():
                    return
                sock.settimeout(PATIENCE)
                serve(sock)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        yield listener.getsockname()[1]
        stopping.set()
        socket.create_connection(listener.getsockname()).close()
        thread.join()


def test_a_connection_that_is_over_as_it_begins_takes_no_place(
    iocproxy: ProxyFactory, iocproxy_certificates: Certificates, curt: int
) -> None:
    app = {"servers": [f"https://127.0.0.1:{curt}"], "ca": str(iocproxy_certificates.ca), "server_name": "localhost"}
    proxy = iocproxy(upstreams={"app": {**app, "max_connections": 2}})
    with RawClient(proxy.address) as client:
        assert [client.request().status for _ in range(4)] == [502] * 4
    (stats,) = proxy.stats()["upstreams"]["app"].values()
    assert (stats["open"], stats["waiting"]) == (0, 0)
