"""Client certificates as a whole proxy asks for them: who gets in, who does not, and what upstreams are told."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from iocproxy import Client, Request
from iocproxy.testing import CertificatePair, Certificates, Origin, ProxyFactory, RawClient, RunningProxy

TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
VERSIONS = pytest.mark.parametrize("version", [TLS12, TLS13], ids=["1.2", "1.3"])
#: How sessions are kept: by ticket, or in the server's cache (by session ID on TLS 1.2).
TICKETS = pytest.mark.parametrize("tickets", [True, False], ids=["tickets", "cache"])

OPEN, ADMIN = "open.test", "admin.test"
FIELDS = {
    "subject": "X-Client-Subject",
    "issuer": "X-Client-Issuer",
    "serial": "X-Client-Serial",
    "fingerprint": "X-Client-Fingerprint",
    "email": "X-Client-Email",
    "dns": "X-Client-DNS",
    "not_after": "X-Client-Not-After",
}
#: What OpenSSL's client says when the server wants a certificate that it did not show.
NONE_SHOWN = {TLS12: "handshake failure", TLS13: "certificate required"}


class Site:
    """A proxy with TLS, and clients for it. `ali` is a certificate that its authority has issued."""

    def __init__(self, proxy: RunningProxy, origin: Origin, certificates: Certificates) -> None:
        self.proxy, self.origin, self.certificates = proxy, origin, certificates
        self.ali = certificates.client_certificate("ali", "ali@example.com")

    def context(
        self, version: ssl.TLSVersion = TLS13, certificate: CertificatePair | None = None, **options: Any
    ) -> ssl.SSLContext:
        made = self.certificates.client_context(certificate=certificate)
        made.minimum_version = made.maximum_version = version
        for name, value in options.items():
            setattr(made, name, value)
        return made

    def visit(self, context: ssl.SSLContext, name: str | None, **options: Any) -> RawClient:
        return RawClient(self.proxy.tls_address, tls=context, server_name=name, **options)

    def refused(self, context: ssl.SSLContext, name: str | None = OPEN, **options: Any) -> str:
        """What a client is told that does not get in. With TLS 1.3 it learns that when it reads."""
        with pytest.raises(ssl.SSLError) as caught, self.visit(context, name, **options) as client:  # noqa: PT012
            client.send(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % (name or OPEN).encode())
            client.read_head()
        return str(caught.value).replace("_", " ").lower()

    def reasons(self) -> list[str]:
        return [event["reason"] for event in self.proxy.events("handshake_failed")]


Start = Callable[..., Site]


@pytest.fixture
def site(iocproxy: ProxyFactory, iocproxy_origin: Origin, iocproxy_certificates: Certificates) -> Iterator[Start]:
    """`site(client_auth="required", …)`: keys of `[listeners.tls]`; `settings` are further sections."""
    pair = iocproxy_certificates.issue(OPEN, ADMIN, "*.below.test", "localhost")
    sites: list[Site] = []

    def start(settings: dict[str, Any] | None = None, **tls: Any) -> Site:
        if "client_auth" in tls or any("client_auth" in host for host in tls.get("hosts", ())):
            tls.setdefault("client_ca", str(iocproxy_certificates.ca))
        table = {"certificates": [{"cert": str(pair.cert), "key": str(pair.key)}], **tls}
        proxy = iocproxy(upstream=iocproxy_origin, tls=table, **(settings or {}))
        sites.append(Site(proxy, iocproxy_origin, iocproxy_certificates))
        return sites[-1]

    yield start
    for each in sites:
        each.proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 0)


def told(origin: Origin, index: int = -1) -> dict[str, str]:
    """What an upstream was told about a client, by part."""
    request = origin.requests[index]
    return {part: value for part, name in FIELDS.items() if (value := request.header(name)) is not None}


# ── asked and required at the whole listener ─────────────────────────────────────────────────────────────────────────


@VERSIONS
def test_required(site: Start, version: ssl.TLSVersion) -> None:
    started = site(client_auth="required")
    assert NONE_SHOWN[version] in started.refused(started.context(version))
    assert started.proxy.wait_for_event("handshake_failed") == {
        "event": "handshake_failed",
        "level": "info",
        "client": "127.0.0.1",
        "failure": "certificate",
        "reason": "TLS handshake failed: the client showed no certificate",
    }
    with started.visit(started.context(version, started.ali), OPEN) as client:
        for _ in range(2):
            assert client.request("GET", "/status/204", headers=[("Host", ADMIN)]).status == 204
    assert started.proxy.stats()["handshakes_failed"] == 1
    assert len(started.origin.requests) == 2


@VERSIONS
def test_optional(site: Start, version: ssl.TLSVersion) -> None:
    started = site({"forwarding": {"client_certificate": FIELDS}}, client_auth="optional")
    for pair, said in [(None, None), (started.ali, "CN=ali,OU=clients,O=iocproxy")]:
        with started.visit(started.context(version, pair), OPEN) as client:
            assert client.request("GET", "/status/204", headers=[("Host", OPEN)]).status == 204
        assert told(started.origin).get("subject") == said


@VERSIONS
@pytest.mark.parametrize("auth", ["optional", "required"])
def test_a_certificate_that_is_shown_must_be_good(
    site: Start, tmp_path_factory: pytest.TempPathFactory, version: ssl.TLSVersion, auth: str
) -> None:
    started = site(client_auth=auth)
    stranger = Certificates(tmp_path_factory.mktemp("stranger")).client_certificate("ali")
    assert "unknown ca" in started.refused(started.context(version, stranger))
    reason = started.proxy.wait_for_event("handshake_failed")["reason"]
    assert reason.startswith("TLS handshake failed: certificate not accepted: ")
    assert "issuer" in reason


@VERSIONS
def test_revoked(site: Start, iocproxy_certificates: Certificates, version: ssl.TLSVersion) -> None:
    mallory = iocproxy_certificates.client_certificate("mallory")
    started = site(client_auth="required", client_crl=str(iocproxy_certificates.revocation_list(mallory)))
    assert "revoked" in started.refused(started.context(version, mallory))
    reason = started.proxy.wait_for_event("handshake_failed")["reason"]
    assert reason == "TLS handshake failed: certificate not accepted: certificate revoked"
    with started.visit(started.context(version, started.ali), OPEN) as client:
        assert client.request("GET", "/status/204").status == 204


def test_an_expired_list_refuses_everybody_and_is_warned_of(site: Start, iocproxy_certificates: Certificates) -> None:
    """OpenSSL would rather let nobody in than somebody who was revoked since."""
    started = site(client_auth="required", client_crl=str(iocproxy_certificates.revocation_list(days=-1)))
    keys = {event["key"]: event for event in started.proxy.events("configuration")}
    warning = keys["listeners[1].tls.client_crl"]
    assert "expired on" in warning["warning"]
    started.refused(started.context(TLS13, started.ali))
    assert "CRL has expired" in started.proxy.wait_for_event("handshake_failed")["reason"]


@VERSIONS
def test_why_reaches_a_client_that_has_already_sent_its_request(site: Start, version: ssl.TLSVersion) -> None:
    """With TLS 1.3 the client believes that it is connected. No reset may overtake the alert."""
    started = site(client_auth="required")
    body = bytes(200_000)
    for _ in range(20):
        with pytest.raises(ssl.SSLError) as caught, started.visit(started.context(version), OPEN) as client:  # noqa: PT012
            client.send(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            client.read_head()
        assert NONE_SHOWN[version] in str(caught.value).replace("_", " ").lower()
    started.proxy.wait_for(lambda proxy: proxy.stats()["handshakes_failed"] == 20)
    assert started.origin.requests == []


def test_a_refused_client_that_stays_is_closed_on_time(site: Start) -> None:
    started = site(client_auth="required")
    sock = socket.create_connection(started.proxy.tls_address, 20)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello = started.context(TLS13).wrap_bio(incoming, outgoing, server_hostname=OPEN)
    with sock:
        while True:
            try:
                hello.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(65536))
        sock.sendall(outgoing.read())
        while sock.recv(65536):  # the alert, then the end of the proxy's side
            pass
        started.proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 0)
    assert started.reasons() == ["TLS handshake failed: the client showed no certificate"]


def test_refused_clients_do_not_hold_a_stop_up(site: Start) -> None:
    started = site(client_auth="required")
    with started.visit(started.context(TLS13), OPEN) as client:
        with pytest.raises(ssl.SSLError):
            client.read_head()
        begun = time.monotonic()
        started.proxy.stop(drain=None)
        assert time.monotonic() - begun < 1.5  # a refused client has two seconds otherwise
    assert started.proxy.stats()["connections_open"] == 0


# ── one host among others: the hole ──────────────────────────────────────────────────────────────────────────────────


def guarded(site: Start, **tls: Any) -> Site:
    """An open listener with one host that demands certificates."""
    return site(hosts=[{"names": [ADMIN, "*.below.test"], "client_auth": "required"}], **tls)


def misdirected(client: RawClient, host: str) -> None:
    response = client.request("GET", "/status/204", headers=[("Host", host)])
    assert response.status == 421, host
    assert response.header("Proxy-Status") == "iocproxy; error=http_request_denied"
    assert response.header("Connection") is None


@VERSIONS
def test_the_name_asked_for_decides(site: Start, version: ssl.TLSVersion) -> None:
    started = guarded(site)
    for name in (ADMIN, "a.below.test"):
        assert NONE_SHOWN[version] in started.refused(started.context(version), name)
        with started.visit(started.context(version, started.ali), name) as client:
            assert client.request("GET", "/status/204", headers=[("Host", name)]).status == 204
    with started.visit(started.context(version), OPEN) as client:
        assert client.request("GET", "/status/204", headers=[("Host", OPEN)]).status == 204
    # without a certificate its subject is not asked for either
    assert started.reasons() == ["TLS handshake failed: the client showed no certificate"] * 2


SPELLINGS = [
    ADMIN,
    "ADMIN.test",
    f"{ADMIN}:443",
    f"{ADMIN}.",
    f"{ADMIN}..:1",
    "%61dmin.test",
    "a.below.test",
    "b.A.below.test",
]


@VERSIONS
@pytest.mark.parametrize("name", [OPEN, None, "unknown.test", f"{OPEN}."], ids=str)
def test_a_host_under_another_policy_is_misdirected(site: Start, version: ssl.TLSVersion, name: str | None) -> None:
    """By a Host that the name asked for did not lead to, or none was asked for: nothing reaches the origin."""
    started = guarded(site)
    context = started.context(version, check_hostname=False)
    with started.visit(context, name) as client:
        for host in SPELLINGS:
            misdirected(client, host)
        client.send(f"GET http://{ADMIN}/ HTTP/1.1\r\nHost: {ADMIN}\r\n\r\n".encode())
        assert client.read_response().status == 421
        # and the connection serves those it is for
        for host in (OPEN, "any.test", "below.test", f"x.{ADMIN}"):
            assert client.request("GET", "/status/204", headers=[("Host", host)]).status == 204
    assert len(started.origin.requests) == 4
    record = started.proxy.wait_for_records(len(SPELLINGS) + 5)[0]
    assert (record.status, record.route) == (421, "")
    assert record.error == "client: the host is under another TLS policy than the connection"


MISDIRECTED = b"GET / HTTP/1.1\r\nHost: admin.test\r\nAccept: application/json\r\n\r\n"


@pytest.mark.parametrize("size", [len(MISDIRECTED), 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("own", [False, True], ids=["built in", "page of one's own"])
def test_the_whole_answer(site: Start, tmp_path: Path, size: int, own: bool) -> None:
    body = b'{"status": 421, "error": "Misdirected Request", "message": "This host needs a connection of its own."}\n'
    settings: dict[str, Any] = {}
    if own:
        body = b"{}\n"
        (tmp_path / "421.json").write_bytes(body)
        settings = {"errors": {"pages": {"421": str(tmp_path / "421.json")}}}
    started = site(settings, hosts=[{"names": [ADMIN], "client_auth": "required"}])
    with started.visit(started.context(), OPEN) as client:
        client.send_slowly(MISDIRECTED, size)
        response = client.read_response()
        assert response.raw == (
            b"HTTP/1.1 421 Misdirected Request\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n"
            b"Proxy-Status: iocproxy; error=http_request_denied\r\nContent-Length: %d\r\nDate: %b\r\n\r\n%b"
            % (len(body), (response.header("Date") or "").encode(), body)
        )
        assert client.request("GET", "/status/204", headers=[("Host", OPEN)]).status == 204


def test_http_1_0_without_a_host_belongs_to_the_listener(site: Start) -> None:
    started = guarded(site)
    for name, pair, status in [(OPEN, None, 204), (ADMIN, started.ali, 421)]:
        with started.visit(started.context(TLS13, pair), name) as client:
            client.send(b"GET /status/204 HTTP/1.0\r\n\r\n")
            assert client.read_response().status == status
    with started.visit(started.context(TLS13), OPEN) as client:
        client.send(b"GET http://admin.test/status/204 HTTP/1.0\r\n\r\n")
        assert client.read_response().status == 421


def test_the_other_way_round(site: Start) -> None:
    """A certificate shown to one host says nothing to others: the open host would be told of it."""
    started = guarded(site)
    with started.visit(started.context(TLS13, started.ali), ADMIN) as client:
        misdirected(client, OPEN)
        for host in (ADMIN, "a.below.test"):  # under one policy a connection may be shared
            assert client.request("GET", "/status/204", headers=[("Host", host)]).status == 204


def test_an_open_host_of_a_guarded_listener(site: Start) -> None:
    started = site(client_auth="required", hosts=[{"names": [OPEN], "client_auth": "none"}])
    with started.visit(started.context(), OPEN) as client:
        for host in ("localhost", "any.test", ADMIN):
            misdirected(client, host)
        assert client.request("GET", "/status/204", headers=[("Host", OPEN)]).status == 204
    for name in (ADMIN, None, "any.test"):
        context = started.context(check_hostname=False)
        assert NONE_SHOWN[TLS13] in started.refused(context, name)


def test_a_body_that_is_still_coming_ends_the_connection(site: Start) -> None:
    started = guarded(site)
    with started.visit(started.context(), OPEN) as client:
        client.send(f"POST / HTTP/1.1\r\nHost: {ADMIN}\r\nContent-Length: 5\r\n\r\n".encode())
        response = client.read_response()
        assert (response.status, response.header("Connection")) == (421, "close")


def test_pipelined_requests_are_held_against_the_policy_one_by_one(site: Start) -> None:
    started = guarded(site)
    with started.visit(started.context(), OPEN) as client:
        client.send(b"".join(f"GET /status/204 HTTP/1.1\r\nHost: {h}\r\n\r\n".encode() for h in (OPEN, ADMIN, OPEN)))
        assert [client.read_response().status for _ in range(3)] == [204, 421, 204]


def test_another_version_is_another_policy(site: Start) -> None:
    started = site(hosts=[{"names": [ADMIN], "min_version": "1.3"}])
    assert "version" in started.refused(started.context(TLS12), ADMIN)
    with started.visit(started.context(TLS12), OPEN) as client:
        misdirected(client, ADMIN)
    with started.visit(started.context(TLS13), ADMIN) as client:
        assert client.request("GET", "/status/204", headers=[("Host", ADMIN)]).status == 204


def test_where_every_host_has_the_same_rules_nothing_is_held_against_them(
    site: Start, iocproxy_certificates: Certificates
) -> None:
    """What is compared are policies: the same authority from another file makes no difference."""
    copy = iocproxy_certificates.ca.with_name("copy.pem")
    copy.write_bytes(iocproxy_certificates.ca.read_bytes())
    started = site(client_auth="required", hosts=[{"names": [ADMIN], "client_ca": str(copy)}])
    with started.visit(started.context(TLS13, started.ali), OPEN) as client:
        assert client.request("GET", "/status/204", headers=[("Host", ADMIN)]).status == 204


def take_session(started: Site, context: ssl.SSLContext, name: str) -> ssl.SSLSession:
    with started.visit(context, name) as client:
        assert client.request("GET", "/status/204", headers=[("Host", name)]).status == 204
        session = client.tls.session
    assert session is not None
    started.proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 0)
    return session


@VERSIONS
@TICKETS
def test_a_session_of_the_open_host_does_not_lead_into_the_other(
    site: Start, version: ssl.TLSVersion, tickets: bool
) -> None:
    started = guarded(site, session_tickets=tickets)
    context = started.context(version)
    session = take_session(started, context, OPEN)
    # at the other name it is not taken up, so that a certificate is asked for
    assert NONE_SHOWN[version] in started.refused(context, ADMIN, session=session)
    # at its own name it is, and leads where it did
    with started.visit(context, OPEN, session=session) as client:
        misdirected(client, ADMIN)
        assert client.tls.session_reused
        assert client.request("GET", "/status/204", headers=[("Host", OPEN)]).status == 204
    # nor without any name
    context.check_hostname = False
    with started.visit(context, None, session=session) as client:
        misdirected(client, ADMIN)


@VERSIONS
@TICKETS
def test_a_session_made_with_a_certificate_stays_with_its_policy(
    site: Start, version: ssl.TLSVersion, tickets: bool
) -> None:
    started = guarded(site, session_tickets=tickets)
    context = started.context(version, started.ali)
    session = take_session(started, context, ADMIN)
    with started.visit(context, OPEN, session=session) as client:
        assert client.request("GET", "/status/204", headers=[("Host", OPEN)]).status == 204
        assert not client.tls.session_reused
        misdirected(client, ADMIN)


@VERSIONS
@TICKETS
def test_the_identity_is_the_same_when_a_session_is_taken_up(
    site: Start, version: ssl.TLSVersion, tickets: bool
) -> None:
    started = site(
        {"forwarding": {"client_certificate": {**FIELDS, "rfc9440": True}}},
        client_auth="required",
        session_tickets=tickets,
    )
    context = started.context(version, started.ali)
    session = take_session(started, context, OPEN)
    with started.visit(context, OPEN, session=session) as client:
        assert client.request("GET", "/status/204", headers=[("Host", OPEN)]).status == 204
        assert client.tls.session_reused
    assert [record.tls_resumed for record in started.proxy.wait_for_records(2)] == [False, True]
    first, second = ((told(started.origin, at), started.origin.requests[at].header("Client-Cert")) for at in (0, 1))
    assert first == second
    assert first[0]["subject"] == "CN=ali,OU=clients,O=iocproxy"


# ── what upstreams and middleware are told ───────────────────────────────────────────────────────────────────────────


def test_every_part_as_openssl_reads_it(site: Start, iocproxy_certificates: Certificates) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    started = site({"forwarding": {"client_certificate": {**FIELDS, "rfc9440": True}}}, client_auth="optional")
    pair = iocproxy_certificates.client_certificate("svc", "svc.example.com", "a@example.com", "b@example.com")
    with started.visit(started.context(TLS13, pair), OPEN) as client:
        client.request("GET", "/")
    certificate = x509.load_pem_x509_certificate(pair.cert.read_bytes())
    parts = told(started.origin)
    serial = parts.pop("serial")
    assert int(serial, 16) == certificate.serial_number
    assert len(serial) % 2 == 0
    assert parts == {
        "subject": "CN=svc,OU=clients,O=iocproxy",
        "issuer": certificate.issuer.rfc4514_string(),
        "fingerprint": certificate.fingerprint(hashes.SHA256()).hex(),
        "email": "a@example.com, b@example.com",
        "dns": "svc.example.com",
        "not_after": f"{certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
    }
    sent = started.origin.requests[0].header("Client-Cert")
    assert sent is not None
    assert sent[0] == sent[-1] == ":"
    assert ssl.PEM_cert_to_DER_cert(f"{ssl.PEM_HEADER}\n{sent[1:-1]}\n{ssl.PEM_FOOTER}") == certificate.public_bytes(
        Encoding.DER
    )


LIES = [
    ("X-Client-Subject", "CN=root"),
    ("x-client-subject", "CN=root"),
    ("X_Client_Subject", "CN=root"),
    ("X-CLIENT_SUBJECT", "CN=root"),
    ("X.Client.Subject", "CN=root"),
    ("X-Client-Email", "root@example.com"),
    ("x_client_serial", "00"),
    ("Client-Cert", ":AAAA:"),
    ("client_cert", ":AAAA:"),
    ("Client-Cert-Chain", ":AAAA:"),
]
KEPT = [("X-Client", "1"), ("X-Client-Subject-", "2"), ("X-Client-Subjects", "3"), ("XClientSubject", "4")]


@pytest.mark.parametrize("way", ["plain", "shown nothing", "shown"])
@pytest.mark.parametrize("trusted", [False, True], ids=["stranger", "trusted proxy"])
def test_what_clients_say_of_themselves_is_removed(site: Start, way: str, trusted: bool) -> None:
    sections: dict[str, Any] = {"forwarding": {"client_certificate": {**FIELDS, "rfc9440": True}}}
    if trusted:
        sections["server"] = {"trusted_proxies": ["127.0.0.0/8"]}
    started = site(sections, client_auth="optional")
    pair = started.ali if way == "shown" else None
    plain = RawClient(started.proxy.address) if way == "plain" else None
    with plain or started.visit(started.context(TLS13, pair), OPEN) as client:
        for _ in range(2):  # the second is known from the first
            client.request("GET", "/", headers=[("Host", OPEN), *LIES, *KEPT])
    wanted = {name.lower().replace("_", "-").replace(".", "-") for name, _ in LIES}
    for request in started.origin.requests:
        came = [(name.decode(), value.decode()) for name, value in request.headers]
        assert [field for field in came if field in KEPT] == KEPT
        about = {name: value for name, value in came if name.lower().replace("_", "-").replace(".", "-") in wanted}
        if way == "shown":
            assert about.pop("Client-Cert").startswith(":MII")
            assert about.pop("X-Client-Serial") != "00"
            assert about == {
                "X-Client-Subject": "CN=ali,OU=clients,O=iocproxy",
                "X-Client-Email": "ali@example.com",
            }
        else:
            assert about == {}


def test_naming_the_fields_in_connection_removes_nothing_of_ours(site: Start) -> None:
    started = site({"forwarding": {"client_certificate": FIELDS}}, client_auth="optional")
    with started.visit(started.context(TLS13, started.ali), OPEN) as client:
        client.request("GET", "/", headers=[("Connection", "X-Client-Subject, x-client-email, keep-alive")])
    assert told(started.origin)["subject"] == "CN=ali,OU=clients,O=iocproxy"
    assert told(started.origin)["email"] == "ali@example.com"


def test_no_trailer_says_it_either(site: Start) -> None:
    started = site({"forwarding": {"client_certificate": FIELDS}}, client_auth="optional")
    message = (
        b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n"
        b"Trailer: X-Client-Subject, X-Checksum, X_Client_Subject\r\n\r\n"
        b"1\r\na\r\n0\r\nX-Client-Subject: CN=root\r\nX_Client_Subject: CN=root\r\nX-Checksum: 1\r\n\r\n"
    )
    head, _, rest = message.partition(b"1\r\na\r\n")
    with RawClient(started.proxy.address) as client:
        client.send(message)
        assert client.read_response().status == 200
        client.send(head)  # and with the trailers later than the head
        client.send(b"1\r\na\r\n")
        started.origin.wait_for(lambda origin: len(origin.requests) == 2)
        client.send(rest)
        assert client.read_response().status == 200
    for request in started.origin.requests:
        assert request.trailers == [(b"X-Checksum", b"1")]
        assert request.header("Trailer") == "X-Checksum"


def test_without_names_nothing_is_sent_and_nothing_removed(site: Start) -> None:
    started = site(client_auth="optional")
    with started.visit(started.context(TLS13, started.ali), OPEN) as client:
        client.request("GET", "/", headers=LIES)
    came = [(name.decode(), value.decode()) for name, value in started.origin.requests[0].headers]
    assert [field for field in came if field in LIES] == LIES


class Watching:
    """Notes who came, and tries to pass for somebody else."""

    seen: list[Any] = []  # noqa: RUF012 - one test at a time looks at it

    def on_connect(self, client: Client) -> None:
        assert client.certificate is None

    def on_request(self, request: Request) -> None:
        self.seen.append(request.client.certificate)
        request.headers["X-Client-Subject"] = "CN=somebody else"
        request.headers["X-Seen"] = "1"


def test_middleware_is_told_and_cannot_tell_otherwise(site: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "watching", sys.modules[__name__])
    sections = {
        "forwarding": {"client_certificate": FIELDS},
        "middleware": [{"use": "watching:Watching"}],
    }
    Watching.seen.clear()
    started = site(sections, client_auth="optional")
    for pair in (None, started.ali):
        with started.visit(started.context(TLS13, pair), OPEN) as client:
            assert client.request("GET", "/").status == 200
    nobody, ali = Watching.seen
    assert nobody is None
    assert (ali.subject, ali.email) == ("CN=ali,OU=clients,O=iocproxy", ("ali@example.com",))
    assert started.ali.cert.read_text().startswith(ali.pem)
    assert [told(started.origin, at).get("subject") for at in (0, 1)] == [None, "CN=ali,OU=clients,O=iocproxy"]
    assert [request.header("X-Seen") for request in started.origin.requests] == ["1", "1"]


def test_many_clients_at_once_are_not_mistaken_for_each_other(site: Start) -> None:
    started = site({"forwarding": {"client_certificate": {"subject": "X-Client-Subject"}}}, client_auth="optional")
    pairs = {name: started.certificates.client_certificate(name) for name in ("ali", "berta", "cem", "dora")}
    failures: list[BaseException] = []

    def come(name: str) -> None:
        try:
            context = started.context(TLS13, pairs[name])
            for _ in range(3):
                with started.visit(context, OPEN) as client:
                    for _ in range(3):
                        client.request("GET", f"/?{name}")
        except BaseException as error:  # noqa: BLE001 - told below
            failures.append(error)

    threads = [threading.Thread(target=come, args=(name,)) for name in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(started.origin.requests) == 36
    for request in started.origin.requests:
        assert request.header("X-Client-Subject") == f"CN={request.query},OU=clients,O=iocproxy"
