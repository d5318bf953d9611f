"""Loading certificates, the contexts made of them, and which one a client gets."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from iocproxy.errors import ConfigError
from iocproxy.tls import (
    VERSIONS,
    CertificateStore,
    ClientHello,
    ServerPolicy,
    client_context,
    load_certificate,
    self_signed,
    server_context,
)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    made = self_signed(["site.example", "*.site.example", "127.0.0.1", "::1"])
    cert, key = tmp_path / "site.pem", tmp_path / "site.key"
    cert.write_bytes(made.cert)
    key.write_bytes(made.key)
    return cert, key


def faults_of(*args, **options) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_certificate(*args, path="listeners[0].tls.certificates[0]", **options)
    return [str(fault) for fault in caught.value.faults]


def encrypt(key: Path, password: bytes) -> None:
    private = load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password)))


def test_names_and_kind(files) -> None:
    loaded = load_certificate(*files)
    assert loaded.names == ("site.example", "*.site.example", "127.0.0.1", "::1")
    assert loaded.key_type == "ecdsa-secp256r1"
    assert not loaded.is_rsa
    assert loaded.warnings == ()


def test_one_file_for_both(files, tmp_path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(files[0].read_bytes() + files[1].read_bytes())
    assert load_certificate(both, both).names[0] == "site.example"


def test_rsa(pair) -> None:
    assert pair("rsa.example", rsa=True).is_rsa


def test_no_files_are_two_faults(tmp_path) -> None:
    first, second = faults_of(tmp_path / "no.pem", tmp_path / "no.key")
    assert first.startswith("listeners[0].tls.certificates[0].cert: ")
    assert "no.pem cannot be read (No such file or directory); a readable PEM file" in first
    assert "certificates[0].key: " in second
    assert "no.key cannot be read" in second


def test_not_pem(files) -> None:
    cert, key = files
    cert.write_bytes(b"\x30\x82")
    key.write_bytes(b"hello")
    first, second = faults_of(cert, key)
    assert "site.pem holds no PEM certificate" in first
    assert "site.key holds no PEM private key" in second


def test_damaged_pem(files) -> None:
    cert, key = files
    cert.write_bytes(cert.read_bytes()[:200] + cert.read_bytes()[300:])
    key.write_bytes(key.read_bytes()[:100] + key.read_bytes()[140:])
    first, second = faults_of(cert, key)
    assert "site.pem holds a damaged PEM certificate" in first
    assert "site.key holds a damaged PEM private key" in second


def test_files_the_wrong_way_round(files) -> None:
    cert, key = files
    first, second = faults_of(key, cert)
    assert "site.key holds no PEM certificate" in first
    assert "site.pem holds no PEM private key" in second


def test_mismatch(files) -> None:
    cert, key = files
    key.write_bytes(self_signed(["other.example"]).key)
    (fault,) = faults_of(cert, key)
    assert "site.key is not the key of the first certificate in" in fault
    assert fault.startswith("listeners[0].tls.certificates[0]: ")


def test_encrypted_key(files) -> None:
    cert, key = files
    encrypt(key, b"sesame")
    (fault,) = faults_of(cert, key)
    assert "site.key is encrypted and no password is given" in fault
    (fault,) = faults_of(cert, key, "open")
    assert "site.key cannot be decrypted with the password given" in fault
    loaded = load_certificate(cert, key, "sesame")
    assert server_context(loaded).session_stats()["accept"] == 0
    assert "sesame" not in repr(loaded)


def test_a_kind_of_key_that_tls_cannot_use(files) -> None:
    cert, key = files
    private = x25519.X25519PrivateKey.generate()
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (fault,) = faults_of(cert, key)
    assert "an RSA, ECDSA, Ed25519 or Ed448 key" in fault


def test_refused_by_openssl(tmp_path) -> None:
    # A 192-bit curve is below OpenSSL's security level.
    key = ec.generate_private_key(ec.SECP192R1())
    name = x509.Name([])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    (tmp_path / "weak.pem").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    (tmp_path / "weak.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (fault,) = faults_of(tmp_path / "weak.pem", tmp_path / "weak.key")
    assert "weak.pem" in fault
    assert "refused by OpenSSL (EE_KEY_TOO_SMALL)" in fault


def test_validity_is_a_warning(files) -> None:
    now = datetime.datetime.now(datetime.UTC)
    late = load_certificate(*files, now=now + datetime.timedelta(days=8))
    assert len(late.warnings) == 1
    assert "site.pem expired on " in late.warnings[0]
    early = load_certificate(*files, now=now - datetime.timedelta(days=8))
    assert "site.pem is not valid before " in early.warnings[0]


def test_the_common_name_is_not_a_name(tmp_path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "cn.example")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    (tmp_path / "cn.pem").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    (tmp_path / "cn.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    loaded = load_certificate(tmp_path / "cn.pem", tmp_path / "cn.key")
    assert loaded.names == ()
    assert "names no host" in loaded.warnings[0]


def test_self_signed_is_valid_for_its_days() -> None:
    now = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
    cert = x509.load_pem_x509_certificate(self_signed(["a"], days=3, now=now).cert)
    assert cert.not_valid_after_utc == datetime.datetime(2030, 1, 4, tzinfo=datetime.UTC)
    with pytest.raises(ValueError, match="at least one name"):
        self_signed([])


# --- Contexts


def test_server_context_policy(pair) -> None:
    context = server_context(pair("localhost"))
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    for option in (ssl.OP_NO_RENEGOTIATION, ssl.OP_NO_COMPRESSION, ssl.OP_CIPHER_SERVER_PREFERENCE):
        assert context.options & option
    assert not context.options & ssl.OP_NO_TICKET
    old = [cipher for cipher in context.get_ciphers() if cipher["protocol"] != "TLSv1.3"]
    assert old
    assert all(cipher["kea"] == "kx-ecdhe" and cipher["aead"] for cipher in old)


def test_server_context_options(pair) -> None:
    context = server_context(pair("localhost"), ServerPolicy(min_version="1.3", session_tickets=False, num_tickets=1))
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert context.options & ssl.OP_NO_TICKET
    assert context.num_tickets == 1


def test_client_context(ca_file, tmp_path) -> None:
    context = client_context(ca=ca_file)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.cert_store_stats()["x509_ca"] == 1
    lax = client_context(verify=False)
    assert (lax.verify_mode, lax.check_hostname) == (ssl.CERT_NONE, False)
    with pytest.raises(ConfigError, match=r"upstreams\.api\.ca: .*no\.pem cannot be read"):
        client_context(ca=tmp_path / "no.pem", path="upstreams.api.ca")
    (tmp_path / "junk.pem").write_text("junk")
    with pytest.raises(ConfigError, match=r"junk\.pem holds no PEM certificate"):
        client_context(ca=tmp_path / "junk.pem")


# --- Choosing


def asks(name: str) -> ClientHello:
    return ClientHello(name, (), (0x0304,))


def test_exact_then_wildcard_then_first(pair) -> None:
    first, wild, exact = pair("first.example"), pair("*.site.example", "10.0.0.5"), pair("www.site.example", rsa=True)
    store = CertificateStore([first, wild, exact])
    chosen = {
        name: store.choose(asks(name)).certificate
        for name in ("www.site.example", "api.site.example", "site.example", "a.b.site.example", "10.0.0.5", "x", "")
    }
    assert chosen == {
        "www.site.example": exact,
        "api.site.example": wild,
        "site.example": first,
        "a.b.site.example": first,
        "10.0.0.5": wild,
        "x": first,
        "": first,
    }
    assert store.choose(asks("www.site.example")).step_cost > store.choose(asks("api.site.example")).step_cost > 0


def test_the_first_of_two_of_one_kind_wins(pair) -> None:
    one, two = pair("same.example"), pair("same.example", "other.example")
    assert CertificateStore([one, two]).choose(asks("same.example")).certificate is one


def test_an_empty_store() -> None:
    with pytest.raises(ValueError, match="at least one"):
        CertificateStore([])


def test_session_stats_are_summed(pair) -> None:
    store = CertificateStore([pair("localhost"), pair("first.example")])
    assert store.session_stats()["accept"] == 0
    assert store.session_stats().keys() == ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).session_stats().keys()


def test_a_host_may_have_a_policy_of_its_own(pair) -> None:
    strict, inner = ServerPolicy(min_version="1.3"), ServerPolicy(session_tickets=False)
    hosts = {"admin.example": strict, "*.inner.example": inner, "open.inner.example": ServerPolicy()}
    store = CertificateStore([pair("*.example"), pair("admin.example")], hosts=hosts)
    for name, policy, cert in [
        ("", store.policy, 0),
        ("www.example", store.policy, 0),
        ("admin.example", strict, 1),
        ("inner.example", store.policy, 0),
        ("a.inner.example", inner, 0),
        ("a.b.inner.example", inner, 0),
        ("open.inner.example", store.policy, 0),
    ]:
        chosen = store.choose(asks(name))
        assert chosen.policy == store.policy_for(name) == policy, name
        assert chosen.certificate == store.identities[cert].certificate, name
        assert chosen.context.minimum_version is VERSIONS[policy.min_version], name
    contexts = [identity.context for identity in store.identities]
    assert len(contexts) == 6
    assert len(set(map(id, contexts))) == 6
