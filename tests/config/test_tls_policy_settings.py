"""Ciphers, protocols, tickets, redirect and HSTS: what may stand there, and what it becomes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from iocproxy.config import Config, Hsts, Listener, Tls, parse_config
from iocproxy.errors import ConfigError

CERTIFICATES = [{"cert": "a.pem", "key": "a.key"}]


def tls(**settings: Any) -> Tls:
    return Tls(certificates=CERTIFICATES, **settings)


def test_defaults() -> None:
    assert (tls().ciphers, tls().alpn, tls().num_tickets, tls().hsts) == (None, ("http/1.1", "http/1.0"), 2, None)
    assert Listener(bind="127.0.0.1:80").https_redirect is None


@pytest.mark.parametrize(
    ("given", "meant", "field"),
    [
        ("365d", Hsts(31_536_000.0), "max-age=31536000"),
        (3600, Hsts(3600.0), "max-age=3600"),
        (timedelta(days=1), Hsts(86_400.0), "max-age=86400"),
        ("1500ms", Hsts(1.5), "max-age=1"),  # RFC 6797 section 6.1.1: whole seconds
        (0, Hsts(0.0), "max-age=0"),
        ({"max_age": "1d"}, Hsts(86_400.0), "max-age=86400"),
        ({"max_age": "1d", "include_subdomains": True}, Hsts(86_400.0, True), "max-age=86400; includeSubDomains"),
        (
            {"max_age": "365d", "include_subdomains": True, "preload": True},
            Hsts(31_536_000.0, True, True),
            "max-age=31536000; includeSubDomains; preload",
        ),
        (Hsts(60.0, True), Hsts(60.0, True), "max-age=60; includeSubDomains"),
    ],
)
def test_hsts(given: Any, meant: Hsts, field: str) -> None:
    section = tls(hsts=given)
    assert section.hsts == meant
    assert meant.value == field
    assert Tls(**section.model_dump()) == section


@pytest.mark.parametrize("given", [False, None])
def test_no_hsts(given: Any) -> None:
    assert tls(hsts=given).hsts is None


@pytest.mark.parametrize("given", [True, "a year", -1, [], "3651d", {}, {"max_age": True}])
def test_what_hsts_cannot_be(given: Any) -> None:
    with pytest.raises(ConfigError):
        tls(hsts=given)


@pytest.mark.parametrize(("given", "port"), [(True, 443), (8443, 8443), (443, 443), (False, None), (None, None)])
def test_https_redirect(given: Any, port: int | None) -> None:
    section = Listener(bind="127.0.0.1:80", https_redirect=given)
    assert section.https_redirect == port
    assert Listener(**section.model_dump()) == section


@pytest.mark.parametrize("given", ["true", 0, -1, 65536, 443.0, [443]])
def test_what_https_redirect_cannot_be(given: Any) -> None:
    with pytest.raises(ConfigError):
        Listener(bind="127.0.0.1:80", https_redirect=given)


def test_protocols_and_tickets() -> None:
    section = tls(alpn=["http/1.0"], num_tickets=0, ciphers="ECDHE+AESGCM")
    assert (section.alpn, section.num_tickets, section.ciphers) == (("http/1.0",), 0, "ECDHE+AESGCM")
    assert tls(alpn=[]).alpn == ()
    assert Tls(**section.model_dump()) == section


def test_a_file_with_all_of_it() -> None:
    config = parse_config(
        """
        upstreams.app.servers = ["http://app"]
        [[listeners]]
        bind = "0.0.0.0:80"
        https_redirect = true
        [[listeners]]
        bind = "0.0.0.0:443"
        [listeners.tls]
        certificates = [{ cert = "a.pem", key = "a.key" }]
        ciphers = "ECDHE+AESGCM"
        alpn = ["http/1.1"]
        num_tickets = 1
        hsts = { max_age = "365d", include_subdomains = true }
        """
    )
    assert config.listeners[0].https_redirect == 443
    assert config.listeners[1].tls is not None
    assert config.listeners[1].tls.hsts == Hsts(31_536_000.0, True)
    assert Config(**config.model_dump()) == config
