"""The client's view of the four ways a connection ends, TLS included, and the WebSocket helper."""

from __future__ import annotations

import ctypes
import socket
import ssl
import sys
import threading
from pathlib import Path

import pytest

from iocproxy.testing import (
    Close,
    Expect,
    HalfClose,
    Origin,
    RawClient,
    Reset,
    Send,
    TruncatedError,
    WireError,
    websocket,
)
from iocproxy.testing.certificates import Certificates

wine = sys.platform == "win32" and hasattr(ctypes.windll.ntdll, "wine_get_version")
resets_show = pytest.mark.skipif(wine, reason="Wine shows a reset to a reader as an orderly end")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def test_what_is_not_the_expected_end_is_told() -> None:
    with Origin() as origin:
        origin.script([Send(b"data"), Close()])
        with RawClient(origin.address) as client, pytest.raises(WireError, match="got b'data'"):
            client.expect_closed()
        origin.script([Close()])
        with RawClient(origin.address) as client, pytest.raises(WireError, match="got an orderly close"):
            client.expect_reset()
        origin.script([Send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na"), Close()])
        with RawClient(origin.address) as client, pytest.raises(TruncatedError):
            client.read_response()


@resets_show
def test_a_reset_is_not_an_end() -> None:
    with Origin() as origin:
        origin.script([Expect(b"x"), Reset()])
        with RawClient(origin.address) as client:
            client.send(b"x")
            with pytest.raises(WireError, match="got a reset"):
                client.read_until_closed()


def test_half_close_leaves_the_other_half() -> None:
    with Origin() as origin:
        script = origin.script([Expect(b"question"), HalfClose()])
        with RawClient(origin.address) as client:
            client.send(b"question")
            client.half_close()
            client.expect_closed()
        script.wait()


def test_nothing_comes_is_a_timeout() -> None:
    with Origin() as origin, RawClient(origin.address, timeout=0.05) as client, pytest.raises(TimeoutError):
        client.read_exactly(1)


def test_many_bodies_and_a_streamed_one() -> None:
    with Origin() as origin, RawClient(origin.address) as client:
        client.send(b"GET /bytes/1000000 HTTP/1.1\r\nHost: x\r\n\r\n")
        head, _ = client.read_head()
        assert sum(map(len, client.read_body(head))) == 1_000_000
        assert client.request("GET", "/status/200").header("content-length") == "0"
        assert f"to 127.0.0.1:{origin.address[1]}" in repr(client)
    assert repr(client).startswith("<RawClient closed")


def test_a_source_address_can_be_chosen() -> None:
    with Origin() as origin, RawClient(origin.address, source=("127.0.0.1", 0)) as client:
        assert client.sock.getsockname()[0] == "127.0.0.1"
        with pytest.raises(TypeError):
            _ = client.tls


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_both_ways(certificates: Certificates, version: ssl.TLSVersion) -> None:
    context = certificates.client_context(alpn=["http/1.1"])
    context.minimum_version = context.maximum_version = version
    with Origin(tls=certificates.server_context()) as origin:
        with RawClient(origin.address, tls=context) as client:
            assert client.request("GET", "/bytes/1000000").body[:3] == b"\x00\x01\x02"
            assert client.tls.version() == version.name.replace("_", ".")
            session = client.tls.session
            client.request("GET", "/", headers=[("Connection", "close")])
            client.expect_closed()
            with pytest.raises(ValueError, match="half closed"):
                client.half_close()
        with RawClient(origin.address, tls=context, session=session) as client:
            assert client.request("GET", "/").status == 200
            assert client.tls.session_reused
        assert all(request.secure for request in origin.requests)
        assert origin.url.startswith("https://")


def test_an_end_without_close_notify_is_told(certificates: Certificates) -> None:
    """Python's server socket is cut off below TLS, so that only a FIN arrives."""
    context = certificates.server_context()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with context.wrap_socket(listener.accept()[0], server_side=True) as secure:
                secure.recv(1)
                socket.socket.shutdown(secure, socket.SHUT_WR)

        thread = threading.Thread(target=serve)
        thread.start()
        with RawClient(listener.getsockname(), tls=certificates) as client:
            client.send(b"x")
            with pytest.raises(WireError, match="without close_notify"):
                client.expect_closed()
        thread.join()


def test_a_name_that_is_not_in_the_certificate(certificates: Certificates) -> None:
    with Origin(tls=certificates.server_context()) as origin:
        with pytest.raises(ssl.SSLCertVerificationError):
            RawClient(origin.address, tls=certificates, server_name="elsewhere.test")
        origin.wait_for(lambda server: bool(server.handshake_errors))
        with RawClient(origin.address, tls=certificates, server_name="a.example.test") as client:
            assert client.request().status == 200
        assert origin.failures == []


def test_further_certificates(certificates: Certificates, tmp_path: Path) -> None:
    pair = certificates.issue("only.test", rsa=True)
    assert b"RSA" in pair.key.read_bytes()
    assert {pair.cert.exists(), certificates.cert.exists(), certificates.key.exists(), certificates.ca.exists()} == {
        True
    }
    with Origin(tls=certificates.server_context(pair)) as origin:
        with RawClient(origin.address, tls=certificates, server_name="only.test") as client:
            cipher = client.tls.getpeercert()
            assert cipher is not None
            assert cipher["subjectAltName"] == (("DNS", "only.test"),)
        with pytest.raises(ssl.SSLError):
            RawClient(origin.address, tls=Certificates(tmp_path), server_name="only.test")


def test_websocket_echo() -> None:
    with Origin() as origin, RawClient(origin.address) as client:
        connected = websocket.connect(client)
        for payload in (b"", b"x", b"x" * 125, b"y" * 126, b"z" * 65_535, b"0" * 65_536):
            connected.send(payload)
            assert connected.receive() == (websocket.BINARY, payload, True)
        connected.send("grüße")
        assert connected.receive() == (websocket.TEXT, "grüße".encode(), True)
        connected.send(b"part", final=False)
        assert connected.receive() == (websocket.BINARY, b"part", False)
        connected.send(b"are you there", opcode=websocket.PING)
        assert connected.receive() == (websocket.PONG, b"are you there", True)
        assert connected.close(1001) == 1001
        client.expect_closed()


def test_websocket_frames_are_those_of_the_rfc() -> None:
    """RFC 6455 section 5.7 and section 1.3."""
    hello = websocket.Frame(websocket.TEXT, b"Hello")
    assert websocket.encode(hello) == bytes.fromhex("810548656c6c6f")
    assert websocket.encode(hello, mask=bytes.fromhex("37fa213d")) == bytes.fromhex("818537fa213d7f9f4d5158")
    assert websocket.accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_a_refused_handshake_is_told() -> None:
    with Origin() as origin, RawClient(origin.address) as client:
        assert client.request("GET", "/ws").status == 426
        with pytest.raises(AssertionError, match="handshake was answered"):
            websocket.connect(client, "/status/403")
