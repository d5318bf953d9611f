"""The list of ciphers is checked when a proxy starts, with the certificates it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from iocproxy import ConfigError, Proxy
from iocproxy.cli.check import check
from iocproxy.testing import Certificates, ProxyFactory


def table(certificates: Certificates, **settings: Any) -> dict[str, Any]:
    return {"certificates": [{"cert": str(certificates.cert), "key": str(certificates.key)}], **settings}


@pytest.mark.parametrize(
    ("ciphers", "said"),
    [
        ("ECDHE+AESGMC", "is no cipher of OpenSSL"),
        ("AES128-GCM-SHA256", "leaves no cipher that goes with a key of the kind ecdsa-secp256r1"),
        ("ALL:eNULL", "ciphers with no encryption"),
    ],
)
async def test_faults_have_the_key_path(
    make_config: Any, iocproxy_certificates: Certificates, ciphers: str, said: str
) -> None:
    listeners = [
        {"bind": "127.0.0.1:0"},
        {"bind": "127.0.0.1:0", "tls": table(iocproxy_certificates, ciphers=ciphers)},
    ]
    proxy = Proxy(make_config(listeners=listeners))
    with pytest.raises(ConfigError) as caught:
        await proxy.start()
    await proxy.stop()
    assert said in caught.value.faults[0].found
    assert {fault.path for fault in caught.value.faults} == {"listeners[1].tls.ciphers"}


def test_warnings_have_the_key_path(iocproxy: ProxyFactory, iocproxy_certificates: Certificates) -> None:
    proxy = iocproxy(upstream="http://127.0.0.1:9", tls=table(iocproxy_certificates, ciphers="ECDHE+AESGCM:ECDHE+AES"))
    (event,) = (each for each in proxy.events("configuration") if each["key"] == "listeners[1].tls.ciphers")
    assert event["level"] == "warning"
    assert event["warning"].startswith("ciphers without authenticated encryption: ECDHE-")


def test_the_list_is_looked_at_even_where_the_file_has_other_faults(tmp_path: Path) -> None:
    file = tmp_path / "iocproxy.toml"
    file.write_text(
        """
        upstreams.app.servers = ["http://app"]
        [timeouts]
        connect = "soon"
        [[listeners]]
        bind = "0.0.0.0:443"
        [listeners.tls]
        certificates = [{ cert = "a.pem", key = "a.key" }]
        ciphers = "NOTHING"
        """
    )
    with pytest.raises(ConfigError) as caught:
        check(file)
    found = {fault.path: fault.line for fault in caught.value.faults}
    assert found["timeouts.connect"] == 4
    assert found["listeners[0].tls.ciphers"] == 9
