"""Certificates, client authorities and revocation lists that change while a proxy serves."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iocproxy import Proxy
from iocproxy.config import Config
from iocproxy.testing import (
    CertificatePair,
    Certificates,
    Origin,
    ProxyFactory,
    RawClient,
    RunningProxy,
    Send,
    WaitFor,
)
from iocproxy.testing.patience import PATIENCE, Deadline

OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="the openssl command is not on PATH")
TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3

KINDS = pytest.mark.parametrize(
    ("version", "tickets"),
    [(TLS12, True), (TLS12, False), (TLS13, True), (TLS13, False)],
    ids=["1.2-ticket", "1.2-session-id", "1.3-psk", "1.3-stateful"],
)


def put(pair: CertificatePair, cert: Path, key: Path) -> None:
    """Replace two files, one after the other."""
    for source, target in ((pair.cert, cert), (pair.key, key)):
        replace(target, source.read_bytes())


def replace(target: Path, content: bytes) -> None:
    """As a careful program does: it appears whole. Windows does not replace a file while somebody reads it."""
    fresh = target.with_suffix(".new")
    fresh.write_bytes(content)
    deadline = Deadline(PATIENCE, f"{target} could not be replaced")
    while True:
        try:
            fresh.replace(target)
        except PermissionError:
            assert deadline.remaining()
        else:
            return


class Site:
    """A proxy in front of the origin, with its certificates in `directory`: `first` for a.test (the default) and
    `second` for b.test."""

    def __init__(self, certificates: Certificates, directory: Path, origin: Origin) -> None:
        self.certificates, self.directory, self.origin = certificates, directory, origin
        self.proxy: RunningProxy
        self.first = directory / "first.pem", directory / "first.key"
        self.second = directory / "second.pem", directory / "second.key"
        self.ca, self.crl = directory / "ca.pem", directory / "crl.pem"
        put(certificates.issue("a.test"), *self.first)
        put(certificates.issue("b.test"), *self.second)
        self.ali, self.mallory = certificates.client_certificate("ali"), certificates.client_certificate("mallory")
        self.ca.write_bytes(certificates.ca.read_bytes())
        self.crl.write_bytes(certificates.revocation_list().read_bytes())

    def start(self, iocproxy: ProxyFactory, *, check: Any = False, **tls: Any) -> None:
        table = {"certificates": [{"cert": str(c), "key": str(k)} for c, k in (self.first, self.second)], **tls}
        self.proxy = iocproxy(upstream=self.origin, tls=table, server={"certificate_check": check})

    def context(self, version: ssl.TLSVersion | None = None, shows: CertificatePair | None = None) -> ssl.SSLContext:
        made = self.certificates.client_context(certificate=shows)
        if version is not None:
            made.minimum_version = made.maximum_version = version
        return made

    def connect(self, name: str = "a.test", context: ssl.SSLContext | None = None, **options: Any) -> RawClient:
        return RawClient(self.proxy.tls_address, tls=context or self.context(), server_name=name, **options)

    def serial(self, name: str = "a.test") -> str:
        """Of the certificate that a new connection is shown."""
        with self.connect(name) as client:
            return serial(client)

    def visit(self, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> tuple[Any, bool]:
        """One connection and request: its session, and whether an earlier one was taken up."""
        with self.connect(context=context, session=session) as client:
            assert client.request("GET", "/bytes/1").status == 200
            reused = client.tls.session_reused
            return session or client.tls.session, bool(reused)

    def sessions(self) -> dict[str, int]:
        ((_, said),) = self.proxy.stats()["sessions"].items()
        return dict(said)

    def said(self, event: str) -> list[tuple[str, str]]:
        """What these events name: key and file name."""
        return [(each["key"], Path(each["file"]).name) for each in self.proxy.events(event)]


def serial(client: RawClient) -> str:
    shown = client.tls.getpeercert()
    assert shown is not None
    return str(shown["serialNumber"])


@pytest.fixture
def site(iocproxy_certificates: Certificates, iocproxy_origin: Origin, tmp_path: Path) -> Site:
    return Site(iocproxy_certificates, tmp_path, iocproxy_origin)


# --- A new certificate


def test_new_connections_see_it_and_open_ones_go_on(site: Site, iocproxy: ProxyFactory) -> None:
    go = threading.Event()
    site.origin.on("GET", "/slow", respond=[WaitFor(go), Send(b"HTTP/1.1 204 No Content\r\n\r\n")])
    site.start(iocproxy)
    other = site.serial("b.test")
    with site.connect() as idle, site.connect() as busy:
        before = serial(idle)
        busy.send(b"GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n")
        site.proxy.wait_for(lambda proxy: proxy.stats()["requests_open"] == 1)
        put(site.certificates.issue("a.test"), *site.first)
        assert site.serial() == before
        assert site.proxy.renew_certificates() == []
        after = site.serial()
        assert after != before
        assert site.serial("b.test") == other
        assert idle.request("GET", "/bytes/1").status == 200
        go.set()
        assert busy.read_response().status == 204
        assert busy.request("GET", "/bytes/1").status == 200
    (event,) = site.proxy.events("certificate_renewed")
    assert event["level"] == "info"
    assert event["key"] == "listeners[1].tls.certificates[0]"
    assert event["file"] == str(site.first[0])
    assert event["names"] == ["a.test"]


@needs_openssl
def test_openssl_sees_it(site: Site, iocproxy: ProxyFactory) -> None:
    site.start(iocproxy)

    def shown() -> str:
        assert OPENSSL is not None
        host, port = site.proxy.tls_address
        command = [OPENSSL, "s_client", "-connect", f"{host}:{port}", "-servername", "a.test", "-showcerts"]
        said = subprocess.run(command, input=b"", capture_output=True, timeout=PATIENCE, check=False).stdout.decode()
        return said[said.index("-----BEGIN") : said.index("-----END")].strip()

    def held() -> str:
        text = site.first[0].read_text("ascii").replace("\r\n", "\n")
        return text[: text.index("-----END")].strip()

    assert shown() == held()
    before = held()
    put(site.certificates.issue("a.test"), *site.first)
    assert shown() == before
    site.proxy.renew_certificates()
    assert shown() == held() != before


def test_another_kind_of_key_and_other_names(site: Site, iocproxy: ProxyFactory) -> None:
    site.start(iocproxy)
    default = site.serial()
    put(site.certificates.issue("b.test", "c.test", rsa=True), *site.second)
    site.proxy.renew_certificates()
    assert site.serial("c.test") == site.serial("b.test") != default
    assert [each["kind"] for each in stats(site.proxy)] == ["ecdsa-secp256r1", "rsa-2048"]
    assert [each["names"] for each in stats(site.proxy)] == [["a.test"], ["b.test", "c.test"]]


def stats(proxy: RunningProxy) -> list[dict[str, Any]]:
    ((listener, found),) = proxy.stats()["certificates"].items()
    assert listener == f"127.0.0.1:{proxy.tls_address[1]}"
    return list(found)


# --- Sessions


def nothing(site: Site) -> None:
    pass


def written_again(site: Site) -> None:
    for file in (*site.first, *site.second, site.ca, site.crl):
        replace(file, file.read_bytes())


def another_certificate(site: Site) -> None:
    put(site.certificates.issue("b.test"), *site.second)


def another_broken(site: Site) -> None:
    site.second[1].write_bytes(b"")


def this_certificate(site: Site) -> None:
    put(site.certificates.issue("a.test"), *site.first)


def this_key_only_with_the_same_names(site: Site) -> None:
    put(site.certificates.issue("a.test", rsa=True), *site.first)


def client_ca(site: Site) -> None:
    """One more authority: OpenSSL would ask nobody about the old ones when a session is taken up."""
    more = site.directory / "more"
    more.mkdir()
    replace(site.ca, site.ca.read_bytes() + Certificates(more).ca.read_bytes())


def revocation(site: Site) -> None:
    replace(site.crl, site.certificates.revocation_list(site.mallory).read_bytes())


@KINDS
@pytest.mark.parametrize(
    ("change", "goes_on"),
    [
        (nothing, True),
        (written_again, True),
        (another_certificate, True),
        (another_broken, True),
        (this_certificate, False),
        (this_key_only_with_the_same_names, False),
        (client_ca, False),
        (revocation, False),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_sessions(
    site: Site,
    iocproxy: ProxyFactory,
    version: ssl.TLSVersion,
    tickets: bool,
    change: Callable[[Site], None],
    goes_on: bool,
) -> None:
    auth = {"client_auth": "optional", "client_ca": str(site.ca), "client_crl": str(site.crl)}
    site.start(iocproxy, session_tickets=tickets, **auth)
    context = site.context(version, site.ali)
    session, _ = site.visit(context)
    assert site.visit(context, session)[1]
    change(site)
    site.proxy.renew_certificates()
    assert site.visit(context, session)[1] is goes_on
    counted = site.sessions()
    assert (counted["handshakes_full"], counted["handshakes_resumed"]) == ((1, 2) if goes_on else (2, 1))
    assert counted["sessions_missed"] == (0 if goes_on else 1)
    # what is new has sessions of its own, which go on over the next renewal
    session, _ = site.visit(context)
    site.proxy.renew_certificates()
    assert site.visit(context, session)[1]


@pytest.mark.parametrize("version", [TLS12, TLS13], ids=["1.2", "1.3"])
def test_a_revoked_client_is_out(site: Site, iocproxy: ProxyFactory, version: ssl.TLSVersion) -> None:
    """Also while the certificate's own files are no good: the list must not wait until somebody puts them right."""
    site.start(iocproxy, client_auth="required", client_ca=str(site.ca), client_crl=str(site.crl))
    context = site.context(version, site.mallory)
    session, _ = site.visit(context)
    with site.connect(context=context) as opened:
        assert opened.request("GET", "/bytes/1").status == 200
        revocation(site)
        site.first[0].write_bytes(b"broken")
        site.second[1].unlink()
        faults = site.proxy.renew_certificates()
        assert [fault.path for fault in faults] == [
            "listeners[1].tls.certificates[0].cert",
            "listeners[1].tls.certificates[1].key",
        ]
        for offered in (None, session):
            with (  # noqa: PT012
                pytest.raises(ssl.SSLError, match=r"(?i)revoked"),
                site.connect(context=context, session=offered) as client,
            ):
                client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
                client.read_head()
        assert opened.request("GET", "/bytes/1").status == 200
    assert site.visit(site.context(version, site.ali))[1] is False
    assert site.said("certificate_renewed") == [("listeners[1].tls.client_crl", "crl.pem")]


def test_counts_do_not_go_back(site: Site, iocproxy: ProxyFactory) -> None:
    site.start(iocproxy, session_tickets=False)
    context = site.context()
    session, _ = site.visit(context)
    site.visit(context, session)
    before = site.sessions()
    assert before["sessions_cached"] > 0
    this_certificate(site)
    site.proxy.renew_certificates()
    after = site.sessions()
    assert after == {**before, "sessions_cached": 0}


# --- What cannot be used


def test_a_broken_file_keeps_the_old_and_is_told_once(site: Site, iocproxy: ProxyFactory) -> None:
    site.start(iocproxy)
    before, good = site.serial(), site.first[0].read_bytes()
    site.first[0].write_bytes(good[: len(good) // 2])
    another_certificate(site)
    other = site.serial("b.test")
    (fault,) = site.proxy.renew_certificates()
    assert fault.path == "listeners[1].tls.certificates[0].cert"
    assert "holds a damaged PEM certificate" in fault.found
    assert site.serial() == before
    assert site.serial("b.test") != other  # the good one came through
    (event,) = site.proxy.events("certificate_not_renewed")
    assert event["level"] == "warning"
    assert event["file"] == str(site.first[0])
    assert event["key"] == "listeners[1].tls.certificates[0].cert"
    assert event["listener"] == f"127.0.0.1:{site.proxy.tls_address[1]}"
    assert event["reason"] == f"{site.first[0]} holds a damaged PEM certificate"
    assert site.proxy.renew_certificates() == [fault]
    assert len(site.proxy.events("certificate_not_renewed")) == 1
    site.first[0].unlink()  # another reason
    site.proxy.renew_certificates()
    assert "cannot be read" in site.proxy.events("certificate_not_renewed")[1]["reason"]
    assert site.serial() == before
    site.first[0].write_bytes(good)
    assert site.proxy.renew_certificates() == []
    assert site.said("certificate_renewed") == [("listeners[1].tls.certificates[1]", "second.pem")]
    site.first[0].unlink()  # and once more, which is news again
    site.proxy.renew_certificates()
    assert len(site.proxy.events("certificate_not_renewed")) == 3


@pytest.mark.parametrize("broken", ["ca", "crl"])
def test_broken_authorities_and_lists_keep_the_old(site: Site, iocproxy: ProxyFactory, broken: str) -> None:
    site.start(iocproxy, client_auth="required", client_ca=str(site.ca), client_crl=str(site.crl))
    file = getattr(site, broken)
    good = file.read_bytes()
    file.write_bytes(b"broken")
    this_certificate(site)
    (fault,) = site.proxy.renew_certificates()
    assert site.said("certificate_not_renewed") == [(f"listeners[1].tls.client_{broken}", file.name)]
    assert fault.path == f"listeners[1].tls.client_{broken}"
    assert site.said("certificate_renewed") == [("listeners[1].tls.certificates[0]", "first.pem")]
    with pytest.raises(ssl.SSLError, match=r"(?i)required"):  # nobody gets in without a certificate now
        site.visit(site.context(TLS13))
    context = site.context(TLS13, site.ali)
    session, _ = site.visit(context)
    file.write_bytes(good)
    assert site.proxy.renew_certificates() == []
    assert site.visit(context, session)[1]  # the policy was in force all the time
    assert len(site.said("certificate_renewed")) == 1


def test_a_key_that_no_cipher_goes_with(site: Site, iocproxy: ProxyFactory) -> None:
    site.start(iocproxy, ciphers="ECDHE-ECDSA-AES128-GCM-SHA256")
    before = site.serial()
    for files in (site.first, site.second):
        put(site.certificates.issue("a.test", rsa=True), *files)
    (fault,) = site.proxy.renew_certificates()
    assert "leaves no cipher that goes with a key of the kind rsa-2048" in fault.found
    assert site.serial() == before
    assert site.proxy.events("certificate_not_renewed")[0]["reason"] == fault.found


def test_a_listener_without_tls(iocproxy: ProxyFactory, iocproxy_origin: Origin) -> None:
    proxy = iocproxy(upstream=iocproxy_origin)
    assert proxy.renew_certificates() == []
    assert proxy.stats()["certificates"] == {}


async def test_only_a_running_proxy(site: Site) -> None:
    certificate = {"cert": str(site.first[0]), "key": str(site.first[1])}
    listeners = [{"bind": "127.0.0.1:0", "tls": {"certificates": [certificate]}}]
    proxy = Proxy(Config(listeners=listeners, upstreams={"a": {"servers": [site.origin.url]}}))
    with pytest.raises(RuntimeError, match="made"):
        await proxy.renew_certificates()
    async with proxy:
        assert await proxy.renew_certificates() == []
        several = await asyncio.gather(*(proxy.renew_certificates() for _ in range(5)))
        assert several == [[]] * 5
    with pytest.raises(RuntimeError, match="stopped"):
        await proxy.renew_certificates()


# --- By itself


def test_it_is_noticed(site: Site, iocproxy: ProxyFactory) -> None:
    site.start(iocproxy, check="50ms", client_auth="optional", client_ca=str(site.ca), client_crl=str(site.crl))
    before = site.serial()
    this_certificate(site)
    site.proxy.wait_for_event("certificate_renewed")
    assert site.serial() != before
    revocation(site)
    site.proxy.wait_for(lambda _: ("listeners[1].tls.client_crl", "crl.pem") in site.said("certificate_renewed"))


def test_a_pair_that_does_not_match_heals(site: Site, iocproxy: ProxyFactory) -> None:
    """Certificate and key are written one after the other, and somebody is slow."""
    site.start(iocproxy, check="50ms")
    before, fresh = site.serial(), site.certificates.issue("a.test")
    replace(site.first[0], fresh.cert.read_bytes())
    event = site.proxy.wait_for_event("certificate_not_renewed")
    assert event["reason"] == f"{site.first[1]} is not the key of the first certificate in {site.first[0]}"
    assert site.serial() == before
    replace(site.first[1], fresh.key.read_bytes())
    site.proxy.wait_for_event("certificate_renewed")
    assert site.serial() != before
    assert len(site.proxy.events("certificate_not_renewed")) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows lets only administrators make symbolic links")
@pytest.mark.parametrize("style", ["kubernetes", "certbot"])
def test_a_symbolic_link_that_is_moved(site: Site, iocproxy: ProxyFactory, style: str) -> None:
    """A directory behind a link (the secret of a pod), and a link for each file. The new files are as old and as
    long as those before."""
    for number in (1, 2):
        folder = site.directory / f"v{number}"
        folder.mkdir()
        pair = site.certificates.issue("a.test")
        for source, name in zip(pair, ("tls.crt", "tls.key"), strict=True):
            (folder / name).write_bytes(source.read_bytes().ljust(4096, b"\n"))
            os.utime(folder / name, (1_700_000_000, 1_700_000_000))
    for file in site.second:  # what was just written would be read again anyway
        os.utime(file, (1_700_000_000, 1_700_000_000))
    site.first = site.directory / "live/tls.crt", site.directory / "live/tls.key"
    if style == "kubernetes":
        (site.directory / "live").symlink_to("v1")
    else:
        (site.directory / "live").mkdir()
        for file in site.first:
            file.symlink_to(f"../v1/{file.name}")
    site.start(iocproxy, check="50ms")
    before = site.serial()
    links = [site.directory / "live"] if style == "kubernetes" else list(site.first)
    for link in links:
        moved = link.with_name(f"{link.name}.tmp")
        moved.symlink_to(str(link.readlink()).replace("v1", "v2"))
        moved.replace(link)
    site.proxy.wait_for_event("certificate_renewed")
    assert site.serial() != before
