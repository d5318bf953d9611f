"""https upstreams through a whole proxy: client certificates, names, sessions, and every way a handshake fails."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from iocproxy import ConfigError
from iocproxy.config import load_config
from iocproxy.server.material import faults_of
from iocproxy.testing import Certificates, Origin, OriginFactory, ProxyFactory, RawClient, RunningProxy
from iocproxy.testing.patience import PATIENCE

TLS_1_2, TLS_1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
VERSIONS = pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3], ids=["1.2", "1.3"])

CLOSE = [("Connection", "close")]
ALERT_CERTIFICATE = "iocproxy; error=tls_certificate_error"
ALERT_RECEIVED = "iocproxy; error=tls_alert_received"
PROTOCOL_ERROR = "iocproxy; error=tls_protocol_error"


def serving(certificates: Certificates, version: ssl.TLSVersion | None = None, **options: Any) -> ssl.SSLContext:
    """A server's context with the first pair; `client_ca` makes it demand a client certificate of that authority."""
    context = certificates.server_context(options.get("pair"))
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if "client_ca" in options:
        context.load_verify_locations(options["client_ca"])
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def table(certificates: Certificates, *servers: str, **options: Any) -> dict[str, Any]:
    return {"app": {"servers": list(servers), "ca": str(certificates.ca), **options}}


def shown(pair: Any, **more: Any) -> dict[str, Any]:
    return {"cert": str(pair.cert), "key": str(pair.key), **more}


def statuses(proxy: RunningProxy, count: int = 1) -> list[int]:
    """Of so many requests, each on a connection of its own to the origin."""
    with RawClient(proxy.address) as client:
        return [client.request("GET", "/close").status for _ in range(count)]


def closing(origin: Origin) -> Origin:
    origin.on("GET", "/close", b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
    return origin


def server_stats(proxy: RunningProxy) -> dict[str, int]:
    (group,) = proxy.stats()["upstreams"].values()
    (stats,) = group.values()
    return stats


# ── client certificates ──────────────────────────────────────────────────────────────────────────────────────────────


@VERSIONS
def test_a_client_certificate_is_shown(
    iocproxy: ProxyFactory,
    iocproxy_origin_factory: OriginFactory,
    iocproxy_certificates: Certificates,
    version: ssl.TLSVersion,
) -> None:
    context = serving(iocproxy_certificates, version, client_ca=iocproxy_certificates.ca)
    origin = closing(iocproxy_origin_factory(tls=context))
    mine = iocproxy_certificates.issue("proxy.example.test")
    proxy = iocproxy(upstreams=table(iocproxy_certificates, origin.url, client_certificate=shown(mine)))
    assert statuses(proxy, 4) == [204] * 4
    stats = server_stats(proxy)
    assert (stats["handshakes_full"], stats["handshakes_resumed"]) == (1, 3)
    assert not [event for event in proxy.log if event["level"] != "info"]


@VERSIONS
def test_a_server_that_demands_one_is_told_of(
    iocproxy: ProxyFactory,
    iocproxy_origin_factory: OriginFactory,
    iocproxy_certificates: Certificates,
    version: ssl.TLSVersion,
) -> None:
    context = serving(iocproxy_certificates, version, client_ca=iocproxy_certificates.ca)
    origin = iocproxy_origin_factory(tls=context)
    proxy = iocproxy(upstreams=table(iocproxy_certificates, origin.url))
    failed(proxy, origin.url, 502, ALERT_RECEIVED, "client certificate")
    assert origin.requests == []


@VERSIONS
def test_a_server_that_does_not_know_our_authority(
    iocproxy: ProxyFactory,
    iocproxy_origin_factory: OriginFactory,
    iocproxy_certificates: Certificates,
    tmp_path: Path,
    version: ssl.TLSVersion,
) -> None:
    other = Certificates(tmp_path)
    context = serving(iocproxy_certificates, version, client_ca=other.ca)
    origin = iocproxy_origin_factory(tls=context)
    mine = iocproxy_certificates.issue("proxy.example.test")
    proxy = iocproxy(upstreams=table(iocproxy_certificates, origin.url, client_certificate=shown(mine)))
    failed(proxy, origin.url, 502, ALERT_RECEIVED, "authority of our client certificate")


def encrypted(key: Path, password: bytes) -> Path:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    made = key.with_suffix(".encrypted.key")
    private = load_pem_private_key(key.read_bytes(), None)
    form = (Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password))
    made.write_bytes(private.private_bytes(*form))
    return made


def test_a_key_with_a_password(
    iocproxy: ProxyFactory, iocproxy_origin_factory: OriginFactory, iocproxy_certificates: Certificates
) -> None:
    context = serving(iocproxy_certificates, client_ca=iocproxy_certificates.ca)
    origin = closing(iocproxy_origin_factory(tls=context))
    pair = iocproxy_certificates.issue("proxy.example.test")
    mine = shown(pair, password="open") | {"key": str(encrypted(pair.key, b"open"))}
    proxy = iocproxy(upstreams=table(iocproxy_certificates, origin.url, client_certificate=mine))
    assert statuses(proxy) == [204]
    assert "open" not in repr(proxy.config)


def faults(iocproxy: ProxyFactory, upstreams: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        iocproxy(upstreams=upstreams)
    return {fault.path: fault.found for fault in caught.value.faults}


def test_what_is_wrong_with_a_client_certificate_is_found_at_load(
    iocproxy: ProxyFactory, iocproxy_certificates: Certificates, tmp_path: Path
) -> None:
    pair, other = (iocproxy_certificates.issue("proxy.example.test") for _ in range(2))
    locked = encrypted(pair.key, b"open")
    missing = tmp_path / "none.pem"
    at = "upstreams.app.client_certificate"
    for mine, expected in (
        ({"cert": missing, "key": pair.key}, {f"{at}.cert": f"{missing} cannot be read (No such file or directory)"}),
        ({"cert": pair.cert, "key": missing}, {f"{at}.key": f"{missing} cannot be read (No such file or directory)"}),
        (
            {"cert": pair.cert, "key": other.key},
            {at: f"{other.key} is not the key of the first certificate in {pair.cert}"},
        ),
        ({"cert": pair.cert, "key": locked}, {f"{at}.key": f"{locked} is encrypted and no password is given"}),
        (
            {"cert": pair.cert, "key": locked, "password": "shut"},
            {f"{at}.key": f"{locked} cannot be decrypted with the password given"},
        ),
        ({"cert": pair.key, "key": pair.key}, {f"{at}.cert": f"{pair.key} holds no PEM certificate"}),
    ):
        given = {name: str(value) for name, value in mine.items()}
        upstreams = table(iocproxy_certificates, "https://127.0.0.1:9", client_certificate=given)
        assert faults(iocproxy, upstreams) == expected


def test_a_bad_authority_and_a_bad_certificate_are_told_together(
    iocproxy: ProxyFactory, iocproxy_certificates: Certificates
) -> None:
    pair = iocproxy_certificates.issue("proxy.example.test")
    mine = {"cert": str(pair.cert), "key": str(pair.cert)}
    upstreams = {
        "app": {"servers": ["https://127.0.0.1:9"], "ca": str(pair.key), "client_certificate": mine},
    }
    found = faults(iocproxy, upstreams)
    assert set(found) == {"upstreams.app.ca", "upstreams.app.client_certificate.key"}


def test_a_file_with_other_faults_is_told_of_it_too(iocproxy_certificates: Certificates, tmp_path: Path) -> None:
    """Whoever mends a file wants to do it once. A `client_certificate` that cannot be read hides nothing else."""
    file = tmp_path / "iocproxy.toml"
    text = f"""listeners = [{{ bind = "127.0.0.1:0" }}]
nonsense = 1
[upstreams.a]
servers = ["https://127.0.0.1:9"]
ca = "none.pem"
client_certificate = {{ cert = '{iocproxy_certificates.cert}', key = "none.key" }}
[upstreams.b]
servers = ["https://127.0.0.1:9"]
ca = "none.pem"
client_certificate = {{ cert = "none.pem" }}
[[routes]]
upstream = "a"
"""
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file, further=faults_of)
    assert [(fault.path, fault.line) for fault in caught.value.faults] == [
        ("nonsense", 2),
        ("upstreams.a.ca", 5),
        ("upstreams.a.client_certificate.key", 6),
        ("upstreams.b.ca", 9),
        ("upstreams.b.client_certificate.key", 10),
    ]


def self_signed(directory: Path, name: str, *extensions: Any, days: int = 10) -> dict[str, str]:
    """A certificate of nobody's, valid for so many days from two days ago on."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    begin = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=2)
    builder = x509.CertificateBuilder(
        subject, subject, private.public_key(), 1, begin, begin + datetime.timedelta(days=days)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    cert, key = directory / f"{name}.pem", directory / f"{name}.key"
    cert.write_bytes(builder.sign(private, hashes.SHA256()).public_bytes(Encoding.PEM))
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return {"cert": str(cert), "key": str(key)}


def test_what_is_doubtful_about_a_client_certificate_is_a_warning(
    iocproxy: ProxyFactory, iocproxy_certificates: Certificates, tmp_path: Path
) -> None:
    """That it names no host is not: nobody looks for one."""
    from cryptography.x509 import ExtendedKeyUsage
    from cryptography.x509.oid import ExtendedKeyUsageOID as Usage

    for extensions, days, said in (
        ([], 10, None),
        ([ExtendedKeyUsage([Usage.SERVER_AUTH, Usage.CLIENT_AUTH])], 10, None),
        ([ExtendedKeyUsage([Usage.SERVER_AUTH])], 10, "is not meant for clients (extendedKeyUsage)"),
        ([], 1, "expired on"),
    ):
        mine = self_signed(tmp_path, "client", *extensions, days=days)
        upstreams = table(iocproxy_certificates, "https://127.0.0.1:9", client_certificate=mine)
        proxy = iocproxy(upstreams=upstreams)
        warned = proxy.events("configuration")
        if said is None:
            assert warned == []
        else:
            assert [event["key"] for event in warned] == ["upstreams.app.client_certificate"]
            assert said in warned[0]["warning"]
        proxy.stop()


# ── names and versions ───────────────────────────────────────────────────────────────────────────────────────────────


def noting_names(certificates: Certificates, names: list[str | None], **options: Any) -> ssl.SSLContext:
    context = serving(certificates, **options)
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    return context


def test_the_name_in_the_url_is_asked_for_and_checked(
    iocproxy: ProxyFactory, iocproxy_origin_factory: OriginFactory, iocproxy_certificates: Certificates
) -> None:
    names: list[str | None] = []
    origin = closing(iocproxy_origin_factory(tls=noting_names(iocproxy_certificates, names)))
    url = f"https://localhost:{origin.address[1]}"
    proxy = iocproxy(upstreams=table(iocproxy_certificates, url))
    assert statuses(proxy) == [204]
    assert names == ["localhost"]


def test_an_address_is_checked_and_not_sent(
    iocproxy: ProxyFactory, iocproxy_origin_factory: OriginFactory, iocproxy_certificates: Certificates
) -> None:
    """RFC 6066 section 3: literal addresses are not permitted in SNI."""
    names: list[str | None] = []
    origin = closing(iocproxy_origin_factory(tls=noting_names(iocproxy_certificates, names)))
    proxy = iocproxy(upstreams=table(iocproxy_certificates, origin.url))
    assert statuses(proxy) == [204]
    assert names == [None]
    only_a_name = iocproxy_certificates.issue("localhost")
    origin = iocproxy_origin_factory(tls=serving(iocproxy_certificates, pair=only_a_name))
    proxy = iocproxy(upstreams=table(iocproxy_certificates, origin.url))
    failed(proxy, origin.url, 502, ALERT_CERTIFICATE, "IP address mismatch")


def test_another_name_than_in_the_url(
    iocproxy: ProxyFactory, iocproxy_origin_factory: OriginFactory, iocproxy_certificates: Certificates
) -> None:
    names: list[str | None] = []
    pair = iocproxy_certificates.issue("internal.example.test")
    origin = closing(iocproxy_origin_factory(tls=noting_names(iocproxy_certificates, names, pair=pair)))
    upstreams = table(iocproxy_certificates, origin.url, server_name="Internal.example.test")
    proxy = iocproxy(upstreams=upstreams)
    assert statuses(proxy) == [204]
    assert names == ["internal.example.test"]
    proxy = iocproxy(upstreams=table(iocproxy_certificates, origin.url, server_name="other.example.test"))
    failed(proxy, origin.url, 502, ALERT_CERTIFICATE, "not valid for 'other.example.test'")


def test_an_address_in_place_of_a_name(
    iocproxy: ProxyFactory, iocproxy_origin_factory: OriginFactory, iocproxy_certificates: Certificates
) -> None:
    names: list[str | None] = []
    pair = iocproxy_certificates.issue("10.1.2.3")
    origin = closing(iocproxy_origin_factory(tls=noting_names(iocproxy_certificates, names, pair=pair)))
    url = f"https://localhost:{origin.address[1]}"
    proxy = iocproxy(upstreams=table(iocproxy_certificates, url, server_name="10.1.2.3"))
    assert statuses(proxy) == [204]
    assert names == [None]


def test_a_server_of_an_older_version(
    iocproxy: ProxyFactory, iocproxy_origin_factory: OriginFactory, iocproxy_certificates: Certificates
) -> None:
    origin = closing(iocproxy_origin_factory(tls=serving(iocproxy_certificates, TLS_1_2)))
    assert statuses(iocproxy(upstreams=table(iocproxy_certificates, origin.url))) == [204]
    proxy = iocproxy(upstreams=table(iocproxy_certificates, origin.url, tls_min_version="1.3"))
    failed(proxy, origin.url, 502, ALERT_RECEIVED, "no TLS version that is allowed here")


def test_keys_that_are_for_https_only(iocproxy: ProxyFactory) -> None:
    for key, value in (
        ("server_name", "a.test"),
        ("client_certificate", {"cert": "a.pem", "key": "a.key"}),
        ("tls_min_version", "1.3"),
    ):
        found = faults(iocproxy, {"app": {"servers": ["http://127.0.0.1:9"], key: value}})
        assert found == {f"upstreams.app.{key}": f"`{key}` without an https server"}
    for key, value in (("server_name", "*.a.test"), ("server_name", 5), ("tls_min_version", 1.3)):
        assert set(faults(iocproxy, {"app": {"servers": ["https://127.0.0.1:9"], key: value}})) == {
            f"upstreams.app.{key}"
        }


# ── sessions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@VERSIONS
@pytest.mark.parametrize("tickets", [True, False], ids=["tickets", "cache"])
def test_a_session_is_taken_up_by_the_next_connections(
    iocproxy: ProxyFactory,
    iocproxy_origin_factory: OriginFactory,
    iocproxy_certificates: Certificates,
    version: ssl.TLSVersion,
    tickets: bool,
) -> None:
    context = serving(iocproxy_certificates, version)
    if not tickets:
        context.options |= ssl.OP_NO_TICKET
    origin = closing(iocproxy_origin_factory(tls=context))
    proxy = iocproxy(upstreams=table(iocproxy_certificates, origin.url))
    assert statuses(proxy, 10) == [204] * 10
    assert origin.connections == 10
    stats = server_stats(proxy)
    assert (stats["handshakes_full"], stats["handshakes_resumed"]) == (1, 9)
    assert context.session_stats()["hits"] == 9


@VERSIONS
def test_a_server_that_has_new_keys_is_met_in_full(
    iocproxy: ProxyFactory, iocproxy_certificates: Certificates, version: ssl.TLSVersion
) -> None:
    with Origin(tls=serving(iocproxy_certificates, version)) as origin:
        closing(origin)
        port = origin.address[1]
        proxy = iocproxy(upstreams=table(iocproxy_certificates, origin.url))
        assert statuses(proxy, 20) == [204] * 20
    with Origin(port=port, tls=serving(iocproxy_certificates, version)) as origin:
        closing(origin)
        assert statuses(proxy, 20) == [204] * 20
    stats = server_stats(proxy)
    assert (stats["handshakes_full"], stats["handshakes_resumed"]) == (2, 38)


def test_servers_share_no_session(
    iocproxy: ProxyFactory, iocproxy_origin_factory: OriginFactory, iocproxy_certificates: Certificates
) -> None:
    """One server under three upstreams; where it was not checked, nothing is known about it for where it is."""
    origin = closing(iocproxy_origin_factory(tls=serving(iocproxy_certificates)))
    upstreams = table(iocproxy_certificates, origin.url)
    upstreams["unchecked"] = {"servers": [origin.url], "verify": False}
    upstreams["strange"] = {"servers": [origin.url]}  # the system's authorities do not know it
    routes = [{"path": f"/{name}/", "upstream": name} for name in upstreams]
    proxy = iocproxy(upstreams=upstreams, routes=routes)
    origin.on("GET", "/app/x", b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
    origin.on("GET", "/unchecked/x", b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
    with RawClient(proxy.address) as client:
        for _ in range(3):
            assert client.request("GET", "/unchecked/x").status == 204
            assert client.request("GET", "/app/x").status == 204
            assert client.request("GET", "/strange/x").status == 502
    stats = proxy.stats()["upstreams"]
    for name, expected in (("unchecked", (1, 2)), ("app", (1, 2)), ("strange", (0, 0))):
        (server,) = stats[name].values()
        assert (server["handshakes_full"], server["handshakes_resumed"]) == expected


@VERSIONS
@pytest.mark.parametrize(("stumble", "status"), [("silence", 504), ("a close", 502), ("an alert", 502)], ids=str)
def test_a_server_that_stumbles_over_a_session_is_met_in_full_next(
    iocproxy: ProxyFactory, iocproxy_certificates: Certificates, version: ssl.TLSVersion, stumble: str, status: int
) -> None:
    context = serving(iocproxy_certificates, version)
    stop = threading.Event()

    def answer(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as tls:
            assert not tls.session_reused
            tls.recv(65536)
            tls.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            with contextlib.suppress(OSError):
                tls.unwrap()

    def serve() -> None:
        answer(listener.accept()[0])
        with listener.accept()[0] as sock:
            sock.recv(65536)
            if stumble == "an alert":
                sock.sendall(alert(80))
            elif stumble == "silence":
                assert stop.wait(PATIENCE)
        answer(listener.accept()[0])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        thread = threading.Thread(target=serve)
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        proxy = iocproxy(upstreams=table(iocproxy_certificates, url), timeouts={"connect": "1s"})
        with RawClient(proxy.address) as client:
            assert client.request("GET", "/").status == 204
            assert client.request("GET", "/").status == status
            stop.set()
            assert client.request("GET", "/").status == 204
        thread.join()
    stats = server_stats(proxy)
    assert (stats["handshakes_full"], stats["handshakes_resumed"]) == (2, 0)


def test_a_plain_server_counts_no_handshakes(iocproxy: ProxyFactory, iocproxy_origin: Origin) -> None:
    proxy = iocproxy(upstream=iocproxy_origin)
    assert set(server_stats(proxy)) == {"open", "idle", "waiting"}


# ── handshakes that fail ─────────────────────────────────────────────────────────────────────────────────────────────


def failed(proxy: RunningProxy, url: str, status: int, proxy_status: str, reason: str) -> None:
    """Three requests are answered alike, and the log names server and reason once."""
    with RawClient(proxy.address) as client:
        for _ in range(3):
            answer = client.request("GET", "/")
            assert (answer.status, answer.header("Proxy-Status")) == (status, proxy_status)
            assert reason.encode() not in answer.body
    records = proxy.wait_for_records(3)
    assert {record.status for record in records} == {status}
    for record in records:
        assert record.error.startswith("upstream: ")
        assert reason in record.error
    (event,) = proxy.events("upstream_tls_failed")
    assert (event["level"], event["server"]) == ("warning", url.removeprefix("https://"))
    assert reason in event["error"]
    assert not [each for each in proxy.log if "exception" in each or each["level"] in {"error", "critical"}]
    assert server_stats(proxy)["open"] == 0


def test_an_unknown_authority(
    iocproxy: ProxyFactory, iocproxy_origin_factory: OriginFactory, iocproxy_certificates: Certificates, tmp_path: Path
) -> None:
    origin = iocproxy_origin_factory(tls=serving(Certificates(tmp_path)))
    proxy = iocproxy(upstreams=table(iocproxy_certificates, origin.url))
    failed(proxy, origin.url, 502, ALERT_CERTIFICATE, "no authority known here has issued it, see `ca`")
    origin.wait_for(lambda origin: len(origin.handshake_errors) == 3)
    assert "unknown ca" in origin.handshake_errors[0].lower()  # the alert was sent


def test_an_expired_certificate(iocproxy: ProxyFactory, iocproxy_origin_factory: OriginFactory, tmp_path: Path) -> None:
    from cryptography.x509 import IPAddress, SubjectAlternativeName

    names = SubjectAlternativeName([IPAddress(ipaddress.ip_address("127.0.0.1"))])
    mine = self_signed(tmp_path, "localhost", names, days=1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(mine["cert"], mine["key"])
    origin = iocproxy_origin_factory(tls=context)
    proxy = iocproxy(upstreams={"app": {"servers": [origin.url], "ca": mine["cert"]}})
    failed(proxy, origin.url, 502, ALERT_CERTIFICATE, "certificate has expired")


@contextlib.contextmanager
def answering(said: bytes, *, reset: bool = False, wait: bool = False) -> Iterator[str]:
    """The URL of a server that says this to every ClientHello and closes; `wait` keeps the connection open."""
    stop = threading.Event()

    def serve() -> None:
        held = []
        while not stop.is_set():
            with contextlib.suppress(OSError):
                sock, _ = listener.accept()
                if not reset:
                    sock.settimeout(PATIENCE)
                    sock.recv(65536)
                sock.sendall(said)
                held.append(sock)
                if not wait:
                    held.pop().close()
        for sock in held:
            sock.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stop.set()
            thread.join()


def alert(description: int) -> bytes:
    """A fatal alert in the clear (RFC 8446 section 6)."""
    return b"\x15\x03\x03\x00\x02\x02" + bytes((description,))


@pytest.mark.parametrize(
    ("said", "proxy_status", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", PROTOCOL_ERROR, "does it speak plain HTTP on this port?"),
        (b"\x00" * 100, PROTOCOL_ERROR, "what the server sends is not TLS"),
        (b"\x16\x03\x03\x00\x04\x02\x00\x00\x00", PROTOCOL_ERROR, "TLS handshake failed"),
        (b"\x16\x03\x03\xff\xff" + bytes(20), PROTOCOL_ERROR, "what the server sends is not TLS"),
        (alert(40), ALERT_RECEIVED, "nothing in common with us"),
        (alert(70), ALERT_RECEIVED, "no TLS version that is allowed here"),
        (alert(112), ALERT_RECEIVED, "no host of that name; see `server_name`"),
        (alert(120), ALERT_RECEIVED, "alert"),  # some releases of OpenSSL have no name for it
        (alert(255), ALERT_RECEIVED, "an alert that this OpenSSL has no name for"),
        (alert(80), ALERT_RECEIVED, "internal error"),
        (b"", "iocproxy; error=connection_terminated", "closed during the TLS handshake"),
    ],
    ids=["plain HTTP", "zeros", "an empty hello", "a long record", "40", "70", "112", "120", "255", "80", "a close"],
)
def test_what_a_server_may_say_instead(iocproxy: ProxyFactory, said: bytes, proxy_status: str, reason: str) -> None:
    with answering(said) as url:
        proxy = iocproxy(upstreams={"app": {"servers": [url], "verify": False}})
        failed(proxy, url, 502, proxy_status, reason)
        assert proxy.stats()["upstream_connect_failures"] == 3
        proxy.stop()


def test_a_reset_in_the_handshake(iocproxy: ProxyFactory) -> None:
    with answering(b"", reset=True) as url:
        proxy = iocproxy(upstreams={"app": {"servers": [url], "verify": False}})
        failed(proxy, url, 502, "iocproxy; error=connection_terminated", "during the TLS handshake")
        proxy.stop()


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x03\x00\x80\x02"], ids=["silence", "half a record"])
def test_a_handshake_that_takes_too_long(iocproxy: ProxyFactory, said: bytes) -> None:
    with answering(said, wait=True) as url:
        upstreams = {"app": {"servers": [url], "verify": False}}
        proxy = iocproxy(upstreams=upstreams, timeouts={"connect": "200ms"})
        failed(proxy, url, 504, "iocproxy; error=connection_timeout", "the TLS handshake was not complete within")
        proxy.stop()


def test_another_reason_is_told_anew(iocproxy: ProxyFactory) -> None:
    with answering(alert(40)) as url, answering(alert(80)) as other:
        proxy = iocproxy(upstreams={"app": {"servers": [url, other], "verify": False}})
        with RawClient(proxy.address) as client:
            assert [client.request("GET", "/").status for _ in range(4)] == [502] * 4
        assert len(proxy.events("upstream_tls_failed")) == 2
        assert len(proxy.events("upstream_skipped")) == 4
        proxy.stop()


def test_not_checking_is_said_at_each_start(iocproxy: ProxyFactory) -> None:
    servers = ["https://127.0.0.1:9", "https://10.0.0.6:9443", "http://127.0.0.1:10"]
    proxy = iocproxy(upstreams={"app": {"servers": servers, "verify": False}})
    (event,) = proxy.events("configuration")
    assert (event["level"], event["key"]) == ("warning", "upstreams.app.verify")
    assert "between here and https://127.0.0.1:9, https://10.0.0.6:9443 can read and change" in event["warning"]


# ── ends of responses ────────────────────────────────────────────────────────────────────────────────────────────────


@VERSIONS
@pytest.mark.parametrize("clean", [True, False], ids=["close_notify", "a bare FIN"])
def test_a_body_that_lasts_until_the_end(
    iocproxy: ProxyFactory, iocproxy_certificates: Certificates, version: ssl.TLSVersion, clean: bool
) -> None:
    """Only close_notify says that it is whole (RFC 9112 section 9.8)."""
    context = serving(iocproxy_certificates, version)
    done = threading.Event()

    def serve() -> None:
        sock, _ = listener.accept()
        with context.wrap_socket(sock, server_side=True) as tls:
            tls.recv(65536)
            tls.sendall(b"HTTP/1.1 200 OK\r\n\r\nall there is")
            if clean:
                with contextlib.suppress(OSError):
                    tls.unwrap()
            else:
                tls.shutdown(socket.SHUT_WR)
            done.wait(PATIENCE)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        proxy = iocproxy(upstreams=table(iocproxy_certificates, f"https://127.0.0.1:{listener.getsockname()[1]}"))
        with RawClient(proxy.address) as client:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            if clean:
                assert client.read_response().body == b"all there is"
            else:
                head, _ = client.read_head()
                with pytest.raises((AssertionError, OSError)):
                    for _ in client.read_body(head):
                        pass
        done.set()
        thread.join()
    assert (proxy.wait_for_records(1)[0].error == "") is clean
