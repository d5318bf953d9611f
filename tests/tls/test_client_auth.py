"""Client certificates below the proxy: what is read from files, what OpenSSL makes of it, what ends sessions."""

from __future__ import annotations

import asyncio
import datetime
import shutil
import socket
import ssl
import subprocess
import tempfile
import types

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from iocproxy.errors import ConfigError
from iocproxy.tls import CertificateStore, ServerPolicy, load_client_auth, read_client_certificate, server_link

OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="the openssl command is not on PATH")

VERSIONS = pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
KINDS = pytest.mark.parametrize(
    ("version", "tickets"),
    [("TLSv1_2", True), ("TLSv1_2", False), ("TLSv1_3", True), ("TLSv1_3", False)],
    ids=["1.2-ticket", "1.2-session-id", "1.3-psk", "1.3-stateful"],
)

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


class Authority:
    """An authority of our own: with intermediates, purposes, odd names and revocation lists."""

    def __init__(self, name, parent=None, *, until=NOW + DAY, ca=True):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        constraints = x509.BasicConstraints(ca=ca, path_length=None)
        self.cert = (parent or self).sign(self.name, self.key, (constraints, True), until=until)

    def sign(self, subject, key, *extensions, until=NOW + DAY):
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(NOW, until) - 2 * DAY)
            .not_valid_after(until)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key, hashes.SHA256())

    def crl(self, *revoked, start=NOW - DAY, until=NOW + DAY, key=None):
        builder = x509.CertificateRevocationListBuilder(self.name, start, until)
        for cert in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder(cert.serial_number, NOW - DAY).build()
            )
        return builder.sign(key or self.key, hashes.SHA256())


def pem(*things):
    return b"".join(thing.public_bytes(Encoding.PEM) for thing in things)


@pytest.fixture
def file(tmp_path):
    """`file("ca.pem", authority.cert)` writes certificates and lists in PEM, or octets as they are."""

    def write(name, *things):
        path = tmp_path / name
        path.write_bytes(b"".join(each if isinstance(each, bytes) else pem(each) for each in things))
        return path

    return write


@pytest.fixture
def client(tmp_path):
    """`client(authority, "ali")` gives a certificate and the pair of files for it, chain included."""
    made = []

    def issue(issuer, name, *extensions, chain=(), until=NOW + DAY):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = name if isinstance(name, x509.Name) else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        cert = issuer.sign(subject, key, *extensions, until=until)
        made.append(cert)
        pair = tmp_path / f"client{len(made)}.pem", tmp_path / f"client{len(made)}.key"
        pair[0].write_bytes(pem(cert, *chain))
        pair[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return cert, pair

    return issue


ROOT = Authority("root")


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def load(ca, crl=None, **options):
    return load_client_auth(ca, crl, required=True, ca_path="tls.client_ca", crl_path="tls.client_crl", **options)


def faults(*arguments):
    with pytest.raises(ConfigError) as caught:
        load(*arguments)
    return [(fault.path, fault.found) for fault in caught.value.faults]


def test_what_is_read(file) -> None:
    auth, warnings = load(file("ca.pem", b"a comment\n", ROOT.cert, ROOT.cert), file("crl.pem", b"#\n", ROOT.crl()))
    assert warnings == []
    assert auth.authorities == pem(ROOT.cert).decode()
    assert auth.required
    assert repr(auth) == "<ClientAuth required authorities=1 revoked=1>"


def test_a_list_in_der_is_the_same(file) -> None:
    ca, crl = file("ca.pem", ROOT.cert), ROOT.crl()
    assert load(ca, file("crl.der", crl.public_bytes(Encoding.DER))) == load(ca, file("crl.pem", crl))


def test_policies_are_equal_by_what_the_files_hold(file) -> None:
    ca, crl = file("ca.pem", ROOT.cert), file("crl.pem", ROOT.crl())
    first, _ = load(ca, crl)
    assert first == load(file("copy.pem", ROOT.cert), crl)[0]
    file("crl.pem", ROOT.crl(start=NOW))
    second, _ = load(ca, crl)
    file("ca.pem", ROOT.cert, Authority("another").cert)
    third, _ = load(ca, crl)
    assert len({ServerPolicy(client_auth=each) for each in (None, first, second, third, load(ca)[0])}) == 5


@pytest.mark.parametrize(
    ("ca", "said"),
    [
        (None, "cannot be read"),
        (b"", "holds no PEM certificate"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "holds a damaged PEM certificate"),
        (pem(ROOT.crl()), "holds no PEM certificate"),
        (pem(Authority("x", ca=False).cert), "holds CN=x, which is no authority"),
    ],
)
def test_a_bad_file_of_authorities(file, tmp_path, ca, said) -> None:
    path = file("ca.pem", ca) if ca is not None else tmp_path / "absent"
    ((key, found),) = faults(path)
    assert key == "tls.client_ca"
    assert said in found
    assert str(path) in found


@pytest.mark.parametrize(
    ("crl", "said"),
    [
        (None, "cannot be read"),
        (b"", "holds no certificate revocation list"),
        (pem(ROOT.cert), "holds no certificate revocation list"),
        (ROOT.cert.public_bytes(Encoding.DER), "holds no certificate revocation list"),
        (b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "holds a damaged revocation list"),
        (pem(ROOT.crl()) + b"-----BEGIN X509 CRL-----\n", "holds a damaged revocation list"),
        (pem(ROOT.crl(key=Authority("root").key)), "holds a list that CN=root in"),
    ],
)
def test_a_bad_file_of_lists(file, tmp_path, crl, said) -> None:
    path = file("crl", crl) if crl is not None else tmp_path / "absent"
    ((key, found),) = faults(file("ca.pem", ROOT.cert), path)
    assert key == "tls.client_crl"
    assert said in found
    assert str(path) in found


def test_both_files_are_looked_at(tmp_path) -> None:
    assert [path for path, _ in faults(tmp_path / "a", tmp_path / "b")] == ["tls.client_ca", "tls.client_crl"]


def test_no_place_for_the_lists(file, tmp_path, monkeypatch) -> None:
    """OpenSSL takes them from a file only."""
    ca, crl = file("ca.pem", ROOT.cert), file("crl.pem", ROOT.crl())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    assert load(ca)[1] == []
    ((key, found),) = faults(ca, crl)
    assert key == "tls.client_crl"
    assert found.startswith(f"no temporary file can be written for {crl} (")


def test_the_lists_leave_no_file_behind(file, tmp_path, monkeypatch) -> None:
    ca, crl = file("ca.pem", ROOT.cert), file("crl.pem", ROOT.crl())
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    load(ca, crl)
    assert list(place.iterdir()) == []


def test_what_is_warned_of(file) -> None:
    other = Authority("other")
    ca = file("ca.pem", ROOT.cert, other.cert, Authority("old", until=NOW - DAY).cert)
    crl = file("crl.pem", ROOT.crl(until=NOW - DAY / 2), Authority("unknown").crl(start=NOW + DAY / 2))
    _, warnings = load(ca, crl)
    said = [(key, text.replace(str(crl), "CRL").replace(str(ca), "CA")) for key, text in warnings]
    old, expired, early, unknown, *without = said
    assert old[0] == "tls.client_ca"
    assert old[1].startswith("CA: CN=old expired on ")
    assert expired[1].startswith("CRL: the list of CN=root expired on ")
    assert expired[1].endswith("; until there is a new one, every client of this issuer is refused")
    assert early[1].startswith("CRL: the list of CN=unknown is not valid before ")
    assert unknown[1].startswith("CRL: the list of CN=unknown is of nobody in CA; ")
    assert [text for _, text in without] == [
        f"CRL has no list of CN={name}: clients whose certificate it issued are refused" for name in ("other", "old")
    ]
    assert {key for key, _ in said[1:]} == {"tls.client_crl"}


# ── handshakes ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def greet(trusting):
    """`await greet(running, version, pair)` is one visit: (session, whether it was resumed), or why it was refused."""

    def visit(address, context, session):
        try:
            with (
                socket.create_connection(address) as sock,
                context.wrap_socket(sock, server_hostname="localhost", session=session) as tls,
            ):
                tls.sendall(b"ping")
                assert tls.recv(100) == b"ping"
                return session or tls.session, tls.session_reused
        except ssl.SSLError as error:
            return str(error).replace("_", " ").lower()

    async def greet(running, context, session=None):
        return await asyncio.to_thread(visit, running.address, context, session)

    return greet


@pytest.fixture
def showing(trusting):
    """`showing(version, pair)` is a client's context that shows the pair."""

    def make(version, pair=None):
        context = trusting(version)
        if pair is not None:
            context.load_cert_chain(*pair)
        return context

    return make


async def outcome(running):
    """How the server saw the last visit: the subject, or why it failed."""
    made = await running.links.get()
    await asyncio.wait({made.inner.lost, made.failed}, return_when=asyncio.FIRST_COMPLETED)
    if made.failed.done():
        return str(made.failed.result()).removeprefix("TLS handshake failed: ")
    return made.link.info.certificate and made.link.info.certificate.subject


@pytest.fixture
def guarded(pair, file):
    """`guarded([authorities], [lists])` is a store that requires certificates."""

    def make(authorities, lists=(), *, rsa=False, required=True, **policy):
        crl = file("crl.pem", *lists) if lists else None
        auth, _ = load_client_auth(file("ca.pem", *(each.cert for each in authorities)), crl, required=required)
        return CertificateStore([pair("localhost", rsa=rsa)], ServerPolicy(client_auth=auth, **policy))

    return make


SHOWN_NONE = "the client showed no certificate"
REVOKED = "certificate not accepted: certificate revoked"
NO_LIST = "certificate not accepted: unable to get certificate CRL"


@VERSIONS
@pytest.mark.parametrize("rsa", [False, True], ids=["inline", "offloaded"])
async def test_the_alert_and_the_reason(serve, guarded, client, greet, showing, version, rsa) -> None:
    running = await serve(guarded([ROOT], rsa=rsa))
    _, ali = client(ROOT, "ali")
    _, stranger = client(Authority("root"), "ali")
    assert isinstance(await greet(running, showing(version, ali)), tuple)
    assert await outcome(running) == "CN=ali"
    alert = {"TLSv1_2": "handshake failure", "TLSv1_3": "certificate required"}[version]
    assert alert in await greet(running, showing(version))
    assert await outcome(running) == SHOWN_NONE
    refused = await greet(running, showing(version, stranger))
    assert "alert" in refused
    assert (await outcome(running)).startswith("certificate not accepted: ")


@VERSIONS
async def test_a_certificate_for_servers_only(serve, guarded, client, greet, showing, version) -> None:
    running = await serve(guarded([ROOT]))
    purposes = {}
    for usage in ("SERVER_AUTH", "CLIENT_AUTH"):
        extension = x509.ExtendedKeyUsage([getattr(ExtendedKeyUsageOID, usage)])
        _, pair = client(ROOT, usage.lower(), (extension, False))
        await greet(running, showing(version, pair))
        purposes[usage] = await outcome(running)
    assert purposes["CLIENT_AUTH"] == "CN=client_auth"
    assert "purpose" in purposes["SERVER_AUTH"]


@VERSIONS
async def test_out_of_date(serve, guarded, client, greet, showing, version) -> None:
    running = await serve(guarded([ROOT]))
    _, pair = client(ROOT, "ali", until=NOW - DAY / 2)
    await greet(running, showing(version, pair))
    assert await outcome(running) == "certificate not accepted: certificate has expired"


async def test_an_intermediate_may_be_the_only_authority(serve, guarded, client, greet, showing) -> None:
    """What stands in the file is trusted, and nothing else: not those that another intermediate of its root issued."""
    users, others = Authority("users", ROOT), Authority("others", ROOT)
    running = await serve(guarded([users]))
    _, ali = client(users, "ali")
    await greet(running, showing("TLSv1_3", ali))
    assert await outcome(running) == "CN=ali"
    _, bob = client(others, "bob", chain=[others.cert])
    await greet(running, showing("TLSv1_3", bob))
    assert (await outcome(running)).startswith("certificate not accepted: ")


# Which lists are given, and what becomes of a client of each authority; "x" marks one that is revoked.
CHAINS = {
    "the root's own clients": (["root"], ["root"], {"root/ali": None, "root/x": REVOKED}),
    "the root's list alone": (["root", "users"], ["root"], {"root/ali": None, "users/ali": NO_LIST}),
    "the intermediate's list alone": (
        ["root", "users"],
        ["users"],
        {"users/ali": None, "users/x": REVOKED, "root/ali": NO_LIST, "gone/ali": NO_LIST},
    ),
    "both lists": (
        ["root", "users"],
        ["root", "users", "gone"],
        {"users/ali": None, "users/x": REVOKED, "root/ali": None, "gone/ali": REVOKED},
    ),
    "intermediates that clients send along": (
        ["root"],
        ["root", "users", "gone"],
        {"users/ali": None, "users/x": REVOKED, "gone/ali": REVOKED},
    ),
    "an intermediate without its root": (["users"], ["users"], {"users/ali": None, "users/x": REVOKED}),
}


@pytest.mark.parametrize("case", CHAINS)
async def test_whose_lists_are_needed(serve, guarded, client, greet, showing, case) -> None:
    authorities, lists, clients = CHAINS[case]
    users, gone = Authority("users", ROOT), Authority("gone", ROOT)
    known = {"root": ROOT, "users": users, "gone": gone}
    bad = {name: client(each, "x", chain=[each.cert]) for name, each in known.items()}
    crls = {
        "root": ROOT.crl(gone.cert, bad["root"][0]),
        "users": users.crl(bad["users"][0]),
        "gone": gone.crl(),
    }
    running = await serve(guarded([known[name] for name in authorities], [crls[name] for name in lists]))
    seen = {}
    for wanted in clients:
        issuer, _, name = wanted.partition("/")
        each = known[issuer]
        pair = bad[issuer][1] if name == "x" else client(each, name, chain=[each.cert])[1]
        await greet(running, showing("TLSv1_3", pair))
        said = await outcome(running)
        seen[wanted] = None if said == "CN=ali" else said
    assert seen == clients


# ── sessions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@KINDS
async def test_a_session_carries_the_certificate(serve, guarded, client, greet, showing, version, tickets) -> None:
    running = await serve(guarded([ROOT], session_tickets=tickets))
    _, ali = client(ROOT, "ali")
    context = showing(version, ali)
    session, _ = await greet(running, context)
    first = await running.links.get()
    await first.inner.lost
    for _ in range(2):
        _, reused = await greet(running, context, session)
        again = await running.links.get()
        await again.inner.lost
        assert reused is again.link.info.resumed is True
        assert again.link.info.certificate == first.link.info.certificate
        assert again.link.info.certificate.der == first.link.info.certificate.der


@KINDS
@pytest.mark.parametrize("changed", ["list", "authorities", "required"])
async def test_another_policy_takes_no_old_session(
    serve, guarded, client, greet, showing, version, tickets, changed
) -> None:
    """A renewed list is another policy and so another context, in which the session means nothing: OpenSSL itself looks
    into no list when a session is taken up."""
    cert, ali = client(ROOT, "ali")
    options = {"session_tickets": tickets}
    before = guarded([ROOT], [ROOT.crl()], required=changed != "required", **options)
    after = {
        "list": lambda: guarded([ROOT], [ROOT.crl(cert)], **options),
        "authorities": lambda: guarded([Authority("root")], **options),
        "required": lambda: guarded([ROOT], [ROOT.crl()], **options),
    }[changed]()
    assert before.policy != after.policy
    old, new = await serve(before), await serve(after)
    context = showing(version, None if changed == "required" else ali)
    session, _ = await greet(old, context)
    assert (await greet(old, context, session))[1]
    said = await greet(new, context, session)
    assert "alert" in said
    reason = await outcome(new)
    assert reason == {"list": REVOKED, "required": SHOWN_NONE}.get(changed, reason)
    assert after.session_stats()["hits"] == 0


@KINDS
async def test_a_certificate_that_expires_ends_its_sessions(
    serve, guarded, client, greet, showing, version, tickets, monkeypatch
) -> None:
    """OpenSSL does not look at the dates again, and hands out new tickets each time: that could go on for ever."""
    running = await serve(guarded([ROOT], session_tickets=tickets))
    _, ali = client(ROOT, "ali")
    context = showing(version, ali)
    session, _ = await greet(running, context)
    assert await outcome(running) == "CN=ali"
    late = (NOW + 2 * DAY).timestamp()
    monkeypatch.setattr(server_link, "time", types.SimpleNamespace(time=lambda: late))
    with pytest.raises(AssertionError):  # close_notify in place of an answer: there is no alert to be sent any more
        await greet(running, context, session)
    assert await outcome(running) == "certificate not accepted: certificate has expired"


# ── openssl s_client ─────────────────────────────────────────────────────────────────────────────────────────────────


def s_client(address, *options):
    assert OPENSSL is not None
    command = [OPENSSL, "s_client", "-connect", f"{address[0]}:{address[1]}", "-servername", "localhost", *options]
    done = subprocess.run(command, input="ping\n", capture_output=True, text=True, timeout=20, check=False)
    return done.stdout + done.stderr


@needs_openssl
@VERSIONS
async def test_s_client(serve, guarded, client, version, tmp_path, recorder) -> None:
    def closing():
        inner = recorder(lambda _: inner.link.close())
        return inner

    running = await serve(guarded([ROOT]), closing)
    _, (cert, key) = client(ROOT, "ali")
    flag = {"TLSv1_2": "-tls1_2", "TLSv1_3": "-tls1_3"}[version]
    shown = ("-cert", str(cert), "-key", str(key))
    file = str(tmp_path / "session.pem")
    alert = {"TLSv1_2": "alert handshake failure", "TLSv1_3": "alert certificate required"}[version]
    assert alert in await asyncio.to_thread(s_client, running.address, flag, "-ign_eof")
    assert await outcome(running) == SHOWN_NONE
    assert "New, TLS" in await asyncio.to_thread(s_client, running.address, flag, "-ign_eof", *shown, "-sess_out", file)
    assert await outcome(running) == "CN=ali"
    # the key need not be there any more: a session proves it
    again = await asyncio.to_thread(s_client, running.address, flag, "-ign_eof", "-sess_in", file)
    assert "Reused, TLS" in again
    assert await outcome(running) == "CN=ali"


# ── reading a certificate ────────────────────────────────────────────────────────────────────────────────────────────


def read(client, name, *extensions):
    cert, _ = client(ROOT, name, *extensions)
    return read_client_certificate(cert.public_bytes(Encoding.DER))


def test_the_parts(client) -> None:
    names = x509.SubjectAlternativeName(
        [
            x509.DNSName("a.example.com"),
            x509.RFC822Name("ali@example.com"),
            x509.UniformResourceIdentifier("spiffe://example.com/a"),
            x509.DNSName("b.example.com"),
        ]
    )
    made = read(client, "ali", (names, False))
    assert (made.subject, made.issuer) == ("CN=ali", "CN=root")
    assert (made.dns, made.email, made.uri) == (
        ("a.example.com", "b.example.com"),
        ("ali@example.com",),
        ("spiffe://example.com/a",),
    )
    assert made.not_after == (NOW + DAY).replace(microsecond=0)
    assert x509.load_pem_x509_certificate(made.pem.encode()).fingerprint(hashes.SHA256()).hex() == made.fingerprint
    assert "der" not in repr(made)


def test_a_name_cannot_break_a_line(client) -> None:
    said = "a\r\nX-Admin: yes\x00\x1b\x85,CN=root"
    made = read(client, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, said)]))
    assert made.subject == "CN=a\\0D\\0AX-Admin: yes\\00\\1B\\C2\\85\\,CN\\=root".replace("\\=", "=")
    assert made.dns == made.email == made.uri == ()


def test_no_name_at_all(client) -> None:
    assert read(client, x509.Name([])).subject == ""


@pytest.mark.parametrize("name", [b"\x82\x01\xff", b"\xa3\x00"], ids=["not ASCII", "X.400"])
async def test_one_that_cannot_be_read_is_refused(serve, guarded, client, greet, showing, name) -> None:
    """OpenSSL does not look at names; whoever acts on them must be able to."""
    content = b"\x30%c%b" % (len(name), name)
    _, pair = client(ROOT, "ali", (x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), content), False))
    running = await serve(guarded([ROOT]))
    context = showing("TLSv1_3", pair)
    with pytest.raises(AssertionError):  # close_notify in place of an answer
        await greet(running, context)
    assert await outcome(running) == "the client's certificate cannot be read"
