"""Keywords become a configuration that says what the test said, and nothing that it did not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from iocproxy.config import Config
from iocproxy.errors import ConfigError
from iocproxy.testing.certificates import Certificates
from iocproxy.testing.origin import Origin
from iocproxy.testing.settings import sections


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def unasked() -> Certificates:
    raise AssertionError("no certificates are needed here")


def test_an_upstream_is_enough() -> None:
    settings = sections("http://127.0.0.1:9", False, {}, unasked)
    config = Config(**settings)
    assert [(str(each.bind), each.tls) for each in config.listeners] == [("127.0.0.1:0", None)]
    assert [route.upstream for route in config.effective_routes] == ["origin"]
    assert not config.logging.access
    limits = config.limits
    assert not any(
        (limits.connections.rate, limits.connections.concurrent, limits.requests.rate, limits.handshakes.rate)
    )


def test_only_the_limits_that_are_named_hold() -> None:
    given = {"limits": {"requests": {"rate": "2/1s", "dry_run": True}, "ipv4_prefix": 24}}
    limits = Config(**sections("http://127.0.0.1:9", False, given, unasked)).limits
    assert (str(limits.requests.rate), limits.requests.dry_run, limits.ipv4_prefix) == ("2/1s", True, 24)
    assert not any((limits.connections.rate, limits.connections.concurrent, limits.handshakes.rate))
    assert given == {"limits": {"requests": {"rate": "2/1s", "dry_run": True}, "ipv4_prefix": 24}}


def test_several_upstreams_and_origins(certificates: Certificates) -> None:
    origin = Origin(port=9, tls=certificates.server_context())
    group = sections(["http://127.0.0.1:8", origin], False, {}, lambda: certificates)["upstreams"]["origin"]
    assert group == {"servers": ["http://127.0.0.1:8", "https://127.0.0.1:9"], "ca": str(certificates.ca)}


def test_tls_in_every_form(certificates: Certificates) -> None:
    other = certificates.issue("other.test")
    first = {"cert": str(certificates.cert), "key": str(certificates.key)}
    second = {"cert": str(other.cert), "key": str(other.key)}
    forms: list[tuple[Any, list[dict[str, str]]]] = [
        (True, [first]),
        (certificates, [first]),
        (other, [second]),
        ([certificates.pair, other], [first, second]),
        ({"certificates": [second], "min_version": "1.3"}, [second]),
    ]
    for tls, pairs in forms:
        plain, secure = sections("http://127.0.0.1:9", tls, {}, lambda: certificates)["listeners"]
        assert "tls" not in plain
        assert secure["tls"]["certificates"] == pairs
    assert secure["tls"]["min_version"] == "1.3"


@pytest.mark.parametrize(
    ("tls", "given"),
    [(False, {"upstreams": {}}), (True, {"upstreams": {}, "listeners": []}), (True, {"listeners": []})],
)
def test_what_is_said_twice_is_refused(tls: bool, given: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="not both"):
        sections("http://127.0.0.1:9", tls, given, unasked)


def test_faults_are_the_configurations_own(tmp_path: Path) -> None:
    settings = sections(None, False, {"limits": {"requests": 5}, "upstreems": {}}, unasked)
    with pytest.raises(ConfigError) as caught:
        Config(**settings)
    assert {fault.path for fault in caught.value.faults} >= {"upstreams", "upstreems", "limits.requests"}
