"""nginx as an https origin that wants client certificates: what it sees of us, and that it resumes our sessions."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iocproxy.testing import Certificates, ProxyFactory, RawClient

NGINX = """\
daemon off;
master_process off;
pid nginx.pid;
error_log stderr notice;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  keepalive_timeout {keep_alive};
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {cert};
    ssl_certificate_key {key};
    ssl_protocols {protocol};
    ssl_session_tickets {tickets};
    ssl_session_cache shared:tls:1m;
    ssl_verify_client on;
    ssl_client_certificate {ca};
    location / {{
      return 200 "$ssl_protocol $ssl_session_reused $ssl_client_verify $ssl_server_name $connection_requests";
    }}
  }}
}}
"""

VERSIONS = pytest.mark.parametrize("protocol", ["TLSv1.2", "TLSv1.3"])


@pytest.fixture
def nginx(
    find: Any, start_program: Any, iocproxy_certificates: Certificates, tmp_path: Path
) -> Callable[..., dict[str, Any]]:
    """Call it with settings to start one; returns an upstream's table that trusts it."""

    def start(**settings: Any) -> dict[str, Any]:
        certificates = iocproxy_certificates
        for _ in range(4):
            with socket.create_server(("127.0.0.1", 0)) as listener:
                port = listener.getsockname()[1]
            given = {"directory": tmp_path, "port": port, "ca": certificates.ca, "keep_alive": "0s", "tickets": "on"}
            text = NGINX.format(**given | {"cert": certificates.cert, "key": certificates.key} | settings)
            (tmp_path / "nginx.conf").write_text(text)
            command = (find("nginx"), "-e", "stderr", "-p", tmp_path, "-c", "nginx.conf")
            try:
                start_program(command, r"OS: ", cwd=tmp_path)
            except RuntimeError as error:  # it cannot be told to choose a port
                if "Address already in use" not in str(error):
                    raise
            else:
                return {"servers": [f"https://127.0.0.1:{port}"], "ca": str(certificates.ca)}
        raise AssertionError("no port stays free for long")

    return start


def ask(proxy: Any, count: int) -> list[tuple[int, list[str]]]:
    with RawClient(proxy.address) as client:
        answers = [client.request("GET", "/") for _ in range(count)]
    return [(answer.status, answer.body.decode("ascii", "replace").split(" ")) for answer in answers]


def identity(certificates: Certificates) -> dict[str, str]:
    pair = certificates.issue("proxy.example.test")
    return {"cert": str(pair.cert), "key": str(pair.key)}


@VERSIONS
@pytest.mark.parametrize("tickets", ["on", "off"])
def test_it_verifies_us_and_resumes_our_sessions(
    iocproxy: ProxyFactory, nginx: Any, iocproxy_certificates: Certificates, protocol: str, tickets: str
) -> None:
    upstream = nginx(protocol=protocol, tickets=tickets)
    mine = identity(iocproxy_certificates)
    proxy = iocproxy(upstreams={"app": {**upstream, "client_certificate": mine, "server_name": "localhost"}})
    full, resumed = [protocol, ".", "SUCCESS", "localhost", "1"], [protocol, "r", "SUCCESS", "localhost", "1"]
    assert ask(proxy, 6) == [(200, full)] + [(200, resumed)] * 5
    (stats,) = proxy.stats()["upstreams"]["app"].values()
    assert (stats["handshakes_full"], stats["handshakes_resumed"]) == (1, 5)


@VERSIONS
def test_without_a_certificate_it_answers_400(iocproxy: ProxyFactory, nginx: Any, protocol: str) -> None:
    """nginx lets the handshake pass and refuses the request, which is its answer and not our error."""
    proxy = iocproxy(upstreams={"app": nginx(protocol=protocol)})
    for status, words in ask(proxy, 2):
        assert status == 400
        assert "No required SSL certificate was sent" in " ".join(words)
    assert proxy.events("upstream_tls_failed") == []


@VERSIONS
def test_a_certificate_of_a_stranger_is_answered_400(
    iocproxy: ProxyFactory, nginx: Any, tmp_path_factory: pytest.TempPathFactory, protocol: str
) -> None:
    stranger = Certificates(tmp_path_factory.mktemp("stranger"))
    mine = identity(stranger)
    proxy = iocproxy(upstreams={"app": {**nginx(protocol=protocol), "client_certificate": mine}})
    ((status, words),) = ask(proxy, 1)
    assert status == 400
    assert "The SSL certificate error" in " ".join(words)


def test_a_kept_connection_needs_no_handshake(
    iocproxy: ProxyFactory, nginx: Any, iocproxy_certificates: Certificates
) -> None:
    upstream = nginx(protocol="TLSv1.3", keep_alive="60s")
    proxy = iocproxy(upstreams={"app": {**upstream, "client_certificate": identity(iocproxy_certificates)}})
    assert [words[-1] for _, words in ask(proxy, 5)] == ["1", "2", "3", "4", "5"]
    (stats,) = proxy.stats()["upstreams"]["app"].values()
    assert (stats["handshakes_full"], stats["handshakes_resumed"]) == (1, 0)


def test_a_version_that_is_too_old(iocproxy: ProxyFactory, nginx: Any) -> None:
    proxy = iocproxy(upstreams={"app": {**nginx(protocol="TLSv1.2"), "tls_min_version": "1.3"}})
    ((status, _),) = ask(proxy, 1)
    assert status == 502
    assert "no TLS version that is allowed here" in proxy.wait_for_event("upstream_tls_failed")["error"]
