"""`Config` from Python and from TOML: what comes out, and that it is the same either way."""

from __future__ import annotations

import copy
import ipaddress
import json
import pickle
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from iocproxy.config import (
    Bind,
    Certificate,
    ClientCertificateFields,
    Config,
    Errors,
    Http,
    Key,
    KeyPart,
    Limits,
    Listener,
    Rate,
    Rates,
    RequestLimits,
    Route,
    Server,
    Timeouts,
    Tls,
    Upstream,
    load_config,
    parse_config,
)
from iocproxy.config.shapes import UNBOUNDED
from iocproxy.errors import ConfigError, Fault

LEAST: dict[str, Any] = {
    "listeners": [{"bind": "127.0.0.1:0"}],
    "upstreams": {"app": {"servers": ["http://127.0.0.1:9000"]}},
}

FULL = """
[server]
workers = 1
threads = 8
drain_timeout = "30s"
trusted_proxies = ["10.0.0.0/8", "::1"]
[timeouts]
request_header = "500ms"
tunnel_idle = 3
[http]
max_request_line = "4KiB"
max_head = 16384
max_fields = 50
[forwarding]
forwarded = true
request_id = "keep"
client_certificate = { subject = "X-Client-Subject", not_after = "X-Until", rfc9440 = true }
[errors.pages]
404 = "errors/404.html"
"5xx" = "/etc/errors/5xx.json"
[[listeners]]
bind = "[::]:8443"
proxy_protocol = false
[listeners.tls]
certificates = [
  { cert = "site.pem", key = "site.key" },
  { cert = "/etc/other.pem", key = "keys/other.key", password = "open sesame" },
]
min_version = "1.3"
session_tickets = false
client_auth = "optional"
client_ca = "ca.pem"
client_crl = "/etc/revoked.pem"
[[listeners.tls.hosts]]
names = ["Admin.example.com", "*.internal.example.com"]
client_auth = "required"
client_ca = "staff.pem"
client_crl = "staff.crl"
min_version = "1.2"
[[listeners.tls.hosts]]
names = ["open.example.com"]
client_auth = "none"
[[listeners]]
bind = "localhost:0"
[limits]
ipv4_prefix = 24
ipv6_prefix = 56
exempt = ["127.0.0.0/8"]
storage = "memory"
max_clients = 5000
[limits.connections]
rate = false
concurrent = false
total = false
dry_run = true
[limits.requests]
rate = "1000/1m"
dry_run = true
[[routes]]
host = "API.example.com"
path = "/v1/"
upstream = "api"
limits.requests.rate = "20/1s"
upstream_host = "server"
errors.pages = { 4xx = "api.json" }
[[routes]]
host = "*.example.com"
upstream = "app"
upstream_host = "Internal.example.com:8080"
limits.requests = { rate = "5/1m", dry_run = true }
[upstreams.app]
servers = ["http://app"]
[upstreams.api]
servers = ["http://10.0.0.5:9000", { url = "https://[::1]", weight = 2 }]
balance = "round_robin"
max_connections = 10
max_idle = 0
ca = "ca.pem"
[[middleware]]
use = "my_package.auth:RequireToken"
options = { header = "x-token", deep = { list = [1, "two"] } }
[logging]
level = "warning"
format = "json"
access = true
access_file = "logs/access.log"
"""


def test_the_least_configuration_has_the_documented_defaults() -> None:
    config = Config(**LEAST)
    assert config.listeners == (Listener(bind="127.0.0.1:0"),)
    assert config.listeners[0].bind == Bind("127.0.0.1", 0)
    assert config.listeners[0].tls is None
    assert config.upstreams["app"].servers == (Server("http", "127.0.0.1", 9000, 1),)
    assert (config.upstreams["app"].max_connections, config.upstreams["app"].max_idle) == (256, 256)
    assert config.upstreams["app"].verify
    assert (config.server.workers, config.server.threads, config.server.drain_timeout) == (1, 4, 10.0)
    assert vars(config.timeouts) == {
        "request_header": 15.0,
        "request_body": 30.0,
        "response_write": 30.0,
        "keep_alive": 75.0,
        "tls_handshake": 10.0,
        "connect": 5.0,
        "upstream_response": 60.0,
        "upstream_body": 60.0,
        "upstream_idle": 60.0,
        "tunnel_idle": 600.0,
    }
    nothing = ClientCertificateFields()
    assert vars(config.forwarding) == {"forwarded": False, "request_id": "off", "client_certificate": nothing}
    assert set(vars(nothing).values()) == {None, False}
    assert config.errors.pages == {}
    assert vars(config.http) == {
        "max_request_line": 8192,
        "max_head": 32768,
        "max_fields": 100,
        "max_body": UNBOUNDED,
        "max_requests": 1000,
        "min_body_rate": 240,
        "min_body_grace": 5.0,
        "trace": False,
    }
    assert vars(config.limits.connections) == {
        "rate": Rates([Rate(60, 10.0)]),
        "concurrent": 100,
        "total": 10_000,
        "shed": True,
        "free_memory": 64 * 1024**2,
        "dry_run": False,
    }
    assert vars(config.limits.requests) == {
        "rate": Rates([Rate(300, 10.0)]),
        "concurrent": None,
        "key": Key([KeyPart("address")]),
        "missing": "address",
        "status": 429,
        "ratelimit_fields": False,
        "dry_run": False,
    }
    assert config.limits.exempt == ()
    assert (config.limits.ipv4_prefix, config.limits.ipv6_prefix, config.limits.max_clients) == (32, 64, 100_000)
    assert vars(config.logging) == {"level": "info", "format": "console", "access": True, "access_file": None}


def test_every_available_setting(tmp_path: Path) -> None:
    file = tmp_path / "iocproxy.toml"
    file.write_text(FULL, encoding="utf-8")
    config = load_config(file)
    assert config.server.threads == 8
    assert config.server.drain_timeout == 30.0
    assert config.server.trusted_proxies == (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1/128"))
    assert (config.timeouts.request_header, config.timeouts.tunnel_idle) == (0.5, 3.0)
    assert config.http == Http(max_request_line=4096, max_head="16KiB", max_fields=50)
    assert (config.forwarding.forwarded, config.forwarding.request_id) == (True, "keep")
    assert config.forwarding.client_certificate == ClientCertificateFields(
        subject="X-Client-Subject", not_after="X-Until", rfc9440=True
    )
    pages = {"404": tmp_path / "errors/404.html", "5xx": tmp_path / "/etc/errors/5xx.json"}
    assert config.errors.pages == pages
    tls = config.listeners[0].tls
    assert tls is not None
    assert [(one.cert, one.key, one.password) for one in tls.certificates] == [
        (tmp_path / "site.pem", tmp_path / "site.key", None),
        (tmp_path / "/etc/other.pem", tmp_path / "keys/other.key", "open sesame"),
    ]
    assert (tls.min_version, tls.session_tickets, tls.client_auth) == ("1.3", False, "optional")
    assert (tls.client_ca, tls.client_crl) == (tmp_path / "ca.pem", tmp_path / "/etc/revoked.pem")
    assert [tuple(vars(hosts).values()) for hosts in tls.hosts] == [
        (
            ("admin.example.com", "*.internal.example.com"),
            "required",
            tmp_path / "staff.pem",
            tmp_path / "staff.crl",
            "1.2",
        ),
        (("open.example.com",), "none", None, None, None),
    ]
    assert [listener.bind for listener in config.listeners] == [Bind("::", 8443), Bind("localhost", 0)]
    connections = config.limits.connections
    assert (connections.rate, connections.concurrent, connections.total, connections.dry_run) == (
        (),
        None,
        None,
        True,
    )
    assert config.limits.requests == RequestLimits(rate=Rate(1000, 60.0), dry_run=True)
    assert config.limits.exempt == (ipaddress.ip_network("127.0.0.0/8"),)
    first, second = config.effective_routes
    assert (first.host, first.path, first.upstream) == ("api.example.com", "/v1/", "api")
    assert first.limits.requests is not None
    assert (first.limits.requests.rate, first.limits.requests.dry_run) == ((Rate(20, 1.0),), False)
    assert (first.upstream_host, first.errors.pages) == ("server", {"4xx": tmp_path / "api.json"})
    assert (second.upstream_host, second.errors.pages) == ("internal.example.com:8080", {})
    assert (second.host, second.path) == ("*.example.com", "/")
    assert second.limits.requests is not None
    assert (second.limits.requests.rate, second.limits.requests.dry_run) == ((Rate(5, 60.0),), True)
    assert list(config.upstreams) == ["app", "api"]
    api = config.upstreams["api"]
    assert api.servers == (Server("http", "10.0.0.5", 9000, 1), Server("https", "::1", 443, 2))
    assert (api.max_connections, api.max_idle, api.ca, api.verify) == (10, 0, tmp_path / "ca.pem", True)
    assert config.middleware[0].use == "my_package.auth:RequireToken"
    assert config.middleware[0].options == {"header": "x-token", "deep": {"list": [1, "two"]}}
    assert config.logging.access_file == tmp_path / "logs/access.log"
    assert (config.logging.level, config.logging.format, config.logging.access) == ("warning", "json", True)


def test_round_trip() -> None:
    config = parse_config(FULL)
    dumped = config.model_dump()
    assert Config(**dumped) == config
    assert Config.model_validate(dumped) == config
    assert Config(**json.loads(config.model_dump_json())) == config


def test_dumped_it_reads_like_the_file() -> None:
    dumped = parse_config(FULL).model_dump(mode="json")
    assert dumped["timeouts"]["tunnel_idle"] == "3s"
    assert dumped["http"]["max_head"] == "16KiB"
    assert dumped["limits"]["connections"]["rate"] is False
    assert dumped["limits"]["requests"]["rate"] == "1000/60s"
    assert dumped["upstreams"]["api"]["servers"] == ["http://10.0.0.5:9000", {"url": "https://[::1]:443", "weight": 2}]


def test_instances_and_values_from_python() -> None:
    config = Config(
        listeners=(
            Listener(bind=Bind("::1", 0), tls=Tls(certificates=[Certificate(cert="a.pem", key=Path("a.key"))])),
        ),
        upstreams={"app": Upstream(servers=[Server("https", "app", 443, 3), "http://other"])},
        routes=[Route(path="/x", upstream="app")],
        timeouts=Timeouts(connect=timedelta(milliseconds=250), keep_alive="2m", tls_handshake=1),
        limits=Limits(exempt=[ipaddress.ip_address("127.0.0.1")], connections={"rate": Rate(5, 1), "total": None}),
    )
    assert config.upstreams["app"].servers == (Server("https", "app", 443, 3), Server("http", "other", 80, 1))
    assert (config.timeouts.connect, config.timeouts.keep_alive, config.timeouts.tls_handshake) == (0.25, 120.0, 1.0)
    assert config.limits.exempt == (ipaddress.ip_network("127.0.0.1/32"),)
    assert config.limits.connections.rate == (Rate(5, 1.0),)
    assert config.limits.connections.total is None
    assert config.routes[0].path == "/x"


def test_statuses_may_be_numbers_in_python() -> None:
    errors = Errors(pages={404: "a.html", "5xx": Path("b.txt")})
    assert errors.pages == {"404": Path.cwd() / "a.html", "5xx": Path.cwd() / "b.txt"}
    with pytest.raises(ConfigError) as raised:
        Config(**LEAST, errors={"pages": {604: "b.html"}})
    assert [fault.path for fault in raised.value.faults] == ["errors.pages[604]"]


def test_paths_from_python_count_from_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    certificate = Certificate(cert="a.pem", key="keys/a.key")
    assert (certificate.cert, certificate.key) == (Path.cwd() / "a.pem", Path.cwd() / "keys" / "a.key")
    assert (
        parse_config("""listeners = [{ bind = "a:0" }]
        upstreams.a = { servers = ["https://a"], ca = "ca.pem" }""")
        .upstreams["a"]
        .ca
        == Path.cwd() / "ca.pem"
    )


def test_paths_count_from_the_file_however_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "p.toml").write_text(FULL, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert load_config(Path("etc", "p.toml")).upstreams["api"].ca == Path.cwd() / "etc" / "ca.pem"
    assert Certificate(cert="a", key="b").cert == Path.cwd() / "a", "reading a file leaves nothing behind"


def test_one_upstream_needs_no_route() -> None:
    config = Config(**LEAST)
    assert config.routes == ()
    assert config.effective_routes == (Route(upstream="app"),)
    assert config.effective_routes[0].limits.requests is None
    assert config.effective_routes[0].upstream_host == "keep"
    assert config.effective_routes[0].errors.pages == {}


def test_it_is_frozen() -> None:
    config = Config(**LEAST)
    with pytest.raises(ValidationError, match="frozen"):
        config.server = None  # type: ignore[misc, assignment]
    with pytest.raises(ValidationError, match="frozen"):
        config.timeouts.connect = 1.0  # type: ignore[misc]


def test_copies_and_pickles_are_equal() -> None:
    config = parse_config(FULL)
    assert pickle.loads(pickle.dumps(config)) == config
    assert copy.deepcopy(config) == config


def test_where_it_was_read_makes_no_difference() -> None:
    config = parse_config(FULL)
    assert config == parse_config("# one line more\n" + FULL) == parse_config(FULL, "iocproxy.toml")
    assert config != parse_config(FULL.replace("threads = 8", "threads = 9"))
    assert config != FULL


def test_a_fault_found_later_gets_its_place() -> None:
    fault = Fault("upstreams.api.ca", "missing", "a PEM file")
    line = FULL.splitlines().index('ca = "ca.pem"') + 1
    assert str(parse_config(FULL, "f.toml").placed(fault)) == f"f.toml:{line}: upstreams.api.ca: missing; a PEM file"
    assert Config(**LEAST).placed(fault) == fault


def test_neither_repr_nor_fault_shows_a_password() -> None:
    assert "sesame" not in repr(parse_config(FULL))
    with pytest.raises(ConfigError) as raised:
        Certificate(cert="a", key="b", password=["sesame"])
    assert [str(fault) for fault in raised.value.faults] == ["password: (not shown); must be a text that is not empty"]


def test_a_section_by_itself_raises_config_error_too() -> None:
    with pytest.raises(ConfigError) as raised:
        Upstream(servers=["nowhere"], max_idle=-1, max_conections=1)
    assert [fault.path for fault in raised.value.faults] == ["servers[0]", "max_idle", "max_conections"]


def test_model_validate_speaks_our_words_too() -> None:
    with pytest.raises(ConfigError):
        Config.model_validate({"listeners": 1})


def test_what_a_route_leaves_out_is_as_for_all() -> None:
    config = Config(
        **LEAST,
        http={"max_body": "1MiB", "max_requests": False, "trace": True},
        timeouts={"request_body": "7s"},
        routes=[
            {"path": "/a", "upstream": "app"},
            {
                "path": "/b",
                "upstream": "app",
                "http": {"max_body": False, "max_requests": 5, "min_body_rate": False, "trace": False},
                "timeouts": {"upstream_response": "5m"},
            },
        ],
    )
    first, second = config.routes
    assert (config.http_of(first), config.timeouts_of(first)) == (config.http, config.timeouts)
    own = config.http_of(second)
    assert (own.max_body, own.max_requests, own.min_body_rate, own.trace) == (UNBOUNDED, 5, 0, False)
    assert own.max_head == config.http.max_head
    assert (config.timeouts_of(second).upstream_response, config.timeouts_of(second).request_body) == (300.0, 7.0)
    again = Config(**config.model_dump())
    assert again == config
    assert again.http_of(again.routes[1]) == own
