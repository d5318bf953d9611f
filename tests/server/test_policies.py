"""From a listener's configuration to policies: whose files hold for which host, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from iocproxy import ConfigError, load_config
from iocproxy.cli.check import check
from iocproxy.config import Tls
from iocproxy.server.material import load_material
from iocproxy.server.policies import load_policies
from iocproxy.testing import Certificates
from iocproxy.tls import ServerPolicy


@pytest.fixture
def other(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("other"))


def policies(**tls: Any) -> Any:
    return load_policies(Tls(certificates=[{"cert": "unread", "key": "unread"}], **tls), "listeners[0].tls")


def test_nothing_asked() -> None:
    made = policies(min_version="1.3", session_tickets=False)
    assert (made.default, made.hosts, made.warnings) == (
        ServerPolicy(min_version="1.3", session_tickets=False),
        {},
        [],
    )


def test_hosts_take_from_the_listener_what_they_leave_out(
    iocproxy_certificates: Certificates, other: Certificates
) -> None:
    ca, crl = iocproxy_certificates.ca, iocproxy_certificates.revocation_list()
    made = policies(
        client_auth="optional",
        client_ca=ca,
        client_crl=crl,
        session_tickets=False,
        hosts=[
            {"names": ["a.test", "*.a.test"], "client_auth": "required"},
            {"names": ["b.test"], "client_auth": "none"},
            {"names": ["c.test"], "client_ca": other.ca, "client_crl": other.revocation_list()},
            {"names": ["d.test"], "min_version": "1.3"},
        ],
    )
    default = made.default.client_auth
    assert (default.required, default.authorities) == (False, ca.read_text())
    assert default.revoked == crl.read_text()
    assert {name: policy.client_auth and policy.client_auth.required for name, policy in made.hosts.items()} == {
        "a.test": True,
        "*.a.test": True,
        "b.test": None,
        "c.test": False,
        "d.test": False,
    }
    assert made.hosts["a.test"] is made.hosts["*.a.test"]
    assert made.hosts["a.test"].client_auth.revoked == crl.read_text()
    assert made.hosts["c.test"].client_auth.authorities == other.ca.read_text()
    assert made.hosts["d.test"] == ServerPolicy("1.3", session_tickets=False, client_auth=default)
    assert not any(policy.session_tickets for policy in made.hosts.values())


def test_loading_again_finds_what_has_changed(iocproxy_certificates: Certificates, tmp_path: Path) -> None:
    crl = tmp_path / "crl.pem"
    tls = {"client_auth": "required", "client_ca": iocproxy_certificates.ca, "client_crl": crl}
    crl.write_bytes(iocproxy_certificates.revocation_list().read_bytes())
    first, second = policies(**tls), policies(**tls)
    assert first.default == second.default
    crl.write_bytes(iocproxy_certificates.revocation_list(iocproxy_certificates.pair).read_bytes())
    assert policies(**tls).default != first.default


def test_faults_stand_where_the_file_is_named(iocproxy_certificates: Certificates, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        policies(
            client_auth="required",
            client_ca=tmp_path / "none.pem",
            client_crl=iocproxy_certificates.ca,
            hosts=[
                {"names": ["a.test"], "min_version": "1.3"},  # the same pair of files: told once
                {"names": ["b.test"], "client_crl": tmp_path / "none.crl"},
            ],
        )
    assert [fault.path for fault in caught.value.faults] == [
        "listeners[0].tls.client_ca",
        "listeners[0].tls.client_crl",
        "listeners[0].tls.hosts[1].client_crl",
    ]


FILE = """
[[listeners]]
bind = "127.0.0.1:0"
[listeners.tls]
certificates = [{ cert = 'CERT', key = 'KEY' }]
client_auth = "optional"
client_ca = 'CA'
client_crl = 'CRL'
[[listeners.tls.hosts]]
names = ["a.test", "*.b.test"]
client_auth = "required"
min_version = "1.3"
[[listeners.tls.hosts]]
names = ["c.test"]
client_auth = "none"
[upstreams.app]
servers = ["http://127.0.0.1:1"]
"""


@pytest.fixture
def written(iocproxy_certificates: Certificates, tmp_path: Path) -> Any:
    """`written(crl, more)` is a configuration file."""

    def write(crl: Path, more: str = "") -> Path:
        made = iocproxy_certificates
        text = FILE.replace("CERT", str(made.cert)).replace("KEY", str(made.key)).replace("CA'", f"{made.ca}'")
        file = tmp_path / "iocproxy.toml"
        file.write_text(text.replace("CRL", str(crl)) + more, "utf-8")
        return file

    return write


def test_check_tells_who_is_asked(written: Any, iocproxy_certificates: Certificates) -> None:
    said = str(check(written(iocproxy_certificates.revocation_list(days=-1))))
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert "client certificates are optional" in lines
    assert "a.test, *.b.test: TLS 1.3 or newer, client certificates are required" in lines
    assert "c.test: TLS 1.2 or newer, client certificates are not asked for" in lines
    assert any(line.startswith("listeners[0].tls.client_crl") and "expired on" in line for line in lines)


@pytest.mark.parametrize("broken", ["", 'balance = "fair"\n'], ids=["good otherwise", "bad otherwise"])
def test_a_file_that_is_named_has_its_line(written: Any, tmp_path: Path, broken: str) -> None:
    file = written(tmp_path / "none.crl", broken)
    with pytest.raises(ConfigError) as caught:
        check(file)
    found = {fault.path: (fault.file, fault.line) for fault in caught.value.faults}
    assert found["listeners[0].tls.client_crl"] == (str(file), 8)
    if broken:
        assert len(found) == 2
    else:
        with pytest.raises(ConfigError):
            load_material(load_config(file))
