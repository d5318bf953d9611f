"""HAProxy in front of us and nginx behind us: that their PROXY headers and ours mean the same to both."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iocproxy.testing import Certificates, Origin, ProxyFactory, RawClient, RunningProxy
from iocproxy.testing.patience import PATIENCE, Deadline

HAPROXY = """\
global
  maxconn 100
defaults
  mode tcp
  timeout connect 5s
  timeout client 20s
  timeout server 20s
listen plain
  bind 127.0.0.1:{plain}
  server app 127.0.0.1:{app} {send}
listen tls
  bind 127.0.0.1:{tls}
  server app 127.0.0.1:{app_tls} {send}
"""

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
  server {{
    listen 127.0.0.1:{port} proxy_protocol {ssl};
    ssl_certificate {cert};
    ssl_certificate_key {key};
    location / {{
      set $listener "$proxy_protocol_server_addr $proxy_protocol_server_port";
      return 200 "$proxy_protocol_addr $proxy_protocol_port $listener $connection_requests";
    }}
  }}
}}
"""


def free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [listener.getsockname()[1] for listener in listeners]
    finally:
        for listener in listeners:
            listener.close()


def started(start: Callable[[], Any]) -> Any:
    """Again, where a port was taken meanwhile: these servers cannot be told to choose one."""
    for _ in range(4):
        try:
            return start()
        except RuntimeError as error:
            if "in use" not in str(error) and "cannot bind" not in str(error):
                raise
    raise AssertionError("no port stays free for long")


@pytest.fixture
def behind_haproxy(
    find: Any,
    start_program: Any,
    iocproxy: ProxyFactory,
    iocproxy_origin: Origin,
    iocproxy_certificates: Certificates,
    tmp_path: Path,
) -> Any:
    """Call it with what to put on HAProxy's `server` line; returns our proxy and the two addresses of HAProxy."""

    def start(send: str) -> tuple[RunningProxy, tuple[str, int], tuple[str, int]]:
        haproxy, pair = find("haproxy"), iocproxy_certificates.pair
        proxy = iocproxy(
            upstream=iocproxy_origin,
            listeners=[
                {"bind": "127.0.0.1:0", "proxy_protocol": True},
                {
                    "bind": "127.0.0.1:0",
                    "proxy_protocol": True,
                    "tls": {"certificates": [{"cert": str(pair.cert), "key": str(pair.key)}]},
                },
            ],
            server={"trusted_proxies": ["127.0.0.1"]},
            limits={"connections": {"concurrent": 2}, "exempt": []},
        )

        def run() -> tuple[int, int]:
            plain, tls = free_ports(2)
            app, app_tls = proxy.address[1], proxy.tls_address[1]
            text = HAPROXY.format(plain=plain, tls=tls, app=app, app_tls=app_tls, send=send)
            (tmp_path / "haproxy.cfg").write_text(text)
            start_program((haproxy, "-V", "-db", "-f", "haproxy.cfg"), "Available polling|started|ready", cwd=tmp_path)
            return plain, tls

        plain, tls = started(run)
        for port in (plain, tls):
            wait_until_it_listens(port)
        return proxy, ("127.0.0.1", plain), ("127.0.0.1", tls)

    return start


def wait_until_it_listens(port: int) -> None:
    deadline = Deadline(PATIENCE, f"nobody listens on {port}")
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), deadline.remaining()).close()
        except ConnectionRefusedError:
            deadline.remaining()
        else:
            return


@pytest.mark.parametrize(
    "send",
    [
        "send-proxy",
        "send-proxy-v2",
        "send-proxy-v2-ssl-cn",
        "send-proxy-v2 proxy-v2-options crc32c,unique-id",
        "send-proxy check inter 50ms",
        "send-proxy-v2 check inter 50ms",
    ],
)
def test_haproxy_tells_us_of_its_clients(
    behind_haproxy: Any, iocproxy_origin: Origin, iocproxy_certificates: Certificates, send: str
) -> None:
    proxy, plain, tls = behind_haproxy(send)
    for source in ("127.0.0.21", "127.0.0.22"):
        with (
            RawClient(plain, source=(source, 0)) as one,
            RawClient(tls, iocproxy_certificates, source=(source, 0)) as two,
        ):
            for client in (one, two):
                assert client.request("GET", "/status/204").status == 204
    told = [request.header("X-Forwarded-For") for request in iocproxy_origin.requests]
    assert told == ["127.0.0.21"] * 2 + ["127.0.0.22"] * 2
    assert {record.client for record in proxy.wait_for_records(4)} == {"127.0.0.21", "127.0.0.22"}
    failures = proxy.stats()["proxy_protocol_failures"]
    assert {why: count for why, count in failures.items() if count and why not in {"silent", "broken_off"}} == {}


def test_haproxys_clients_are_limited_apart(behind_haproxy: Any) -> None:
    proxy, plain, _ = behind_haproxy("send-proxy-v2")
    kept = [RawClient(plain, source=(source, 0)) for source in ("127.0.0.31", "127.0.0.31", "127.0.0.32")]
    try:
        for client in kept:
            assert client.request("GET", "/status/204").status == 204
        with RawClient(plain, source=("127.0.0.31", 0)) as third:
            third.send(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
            try:
                assert third.sock.recv(100) == b""
            except ConnectionResetError:
                pass
        assert proxy.stats()["connections_refused"]["concurrent"] == 1
    finally:
        for client in kept:
            client.close()


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_nginx_is_told_of_our_clients(
    find: Any,
    start_program: Any,
    iocproxy: ProxyFactory,
    iocproxy_certificates: Certificates,
    tmp_path: Path,
    version: str,
    scheme: str,
) -> None:
    certificates = iocproxy_certificates
    nginx = find("nginx")

    def run() -> int:
        (port,) = free_ports(1)
        given = {"directory": tmp_path, "port": port, "ssl": "ssl" if scheme == "https" else ""}
        text = NGINX.format(**given, cert=certificates.cert, key=certificates.key)
        (tmp_path / "nginx.conf").write_text(text)
        start_program((nginx, "-e", "stderr", "-p", tmp_path, "-c", "nginx.conf"), r"OS: ", cwd=tmp_path)
        return port

    port = started(run)
    app: dict[str, Any] = {"servers": [f"{scheme}://127.0.0.1:{port}"], "proxy_protocol": version}
    if scheme == "https":
        app |= {"ca": str(certificates.ca), "server_name": "localhost"}
    proxy = iocproxy(upstreams={"app": app}, server={"trusted_proxies": ["127.0.0.1"]})
    listener = proxy.address[1]
    for source in ("127.0.0.41", "127.0.0.42"):
        with RawClient(proxy.address, source=(source, 0)) as client:
            own = client.sock.getsockname()[1]
            for number in (1, 2):
                answer = client.request("GET", "/")
                assert answer.body.decode() == f"{source} {own} 127.0.0.1 {listener} {number}"
    with RawClient(proxy.address) as client:
        answer = client.request("GET", "/", headers=[("X-Forwarded-For", "2001:db8::9")])
        assert answer.body.decode() == f"2001:db8::9  ::ffff:127.0.0.1 {listener} 1"  # nginx shows no port 0
