"""Servers that nobody here wrote, behind the proxy: everything arrives, and their connections are used again."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from websockets.asyncio.client import connect

from iocproxy.testing import Certificates, ProxyFactory, RawClient, RawResponse, RunningProxy, pattern
from iocproxy.testing.patience import PATIENCE

HERE = Path(__file__).parent / "origins"
LARGE = pattern(251 * 4000)
GZIP = [("Accept-Encoding", "gzip")]
HOST = "Host: origin.test\r\n"
UPLOAD = pattern(300_000)
SUNK = f"{len(UPLOAD)} {hashlib.sha256(UPLOAD).hexdigest()}"


class Place(NamedTuple):
    """Where an origin may put its files, and how it is to behave."""

    directory: Path
    keep_alive: float  # seconds
    pair: tuple[Path, Path] | None  # certificate and key, for TLS
    find: Any
    start: Any

    def run(self, *command: str | Path, ready: str, **options: Any) -> int:
        """Start it; returns the port, which the line that says that it is ready names."""
        return int(self.start(command, ready, cwd=self.directory, **options).match[1])


# ── the servers ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Uvicorn:
    shortest = 1.0  # keep-alive it can be told

    def __init__(self, http: str) -> None:
        self.name = f"uvicorn-{http}"
        self._http = http

    def start(self, place: Place) -> int:
        tls = ("--ssl-certfile", place.pair[0], "--ssl-keyfile", place.pair[1]) if place.pair else ()
        return place.run(
            *(sys.executable, "-m", "uvicorn", "--app-dir", HERE, "asgi:app", "--host", "127.0.0.1", "--port", "0"),
            *("--lifespan", "off", "--no-access-log", "--ws-max-size", str(32 << 20), "--http", self._http),
            *("--timeout-keep-alive", str(int(place.keep_alive)), "--timeout-graceful-shutdown", "1"),
            *tls,
            ready=r"running on https?://127\.0\.0\.1:(\d+)",
        )


class AioHttp:
    name = "aiohttp"
    shortest = 0.2

    def start(self, place: Place) -> int:
        arguments = (str(place.keep_alive), *(place.pair or ()))
        return place.run(sys.executable, HERE / "aiohttp_app.py", *arguments, ready=r"listening on (\d+)")


class Gunicorn:
    name = "gunicorn"
    shortest = 1.0

    def start(self, place: Place) -> int:
        if sys.platform == "win32":
            pytest.skip("gunicorn runs on POSIX only")
        tls = ("--certfile", place.pair[0], "--keyfile", place.pair[1]) if place.pair else ()
        return place.run(
            *(sys.executable, "-m", "gunicorn", "wsgi:app", "--chdir", HERE, "--bind", "127.0.0.1:0", "--threads", "4"),
            *(
                "--keep-alive",
                str(int(place.keep_alive)),
                "--graceful-timeout",
                "1",
                "--worker-tmp-dir",
                place.directory,
            ),
            *("--no-control-socket",),
            *tls,
            ready=r"Listening at: https?://127\.0\.0\.1:(\d+)",
        )


class Node:
    name = "node"
    shortest = 0.2

    def start(self, place: Place) -> int:
        arguments = (str(place.keep_alive), *(place.pair or ()))
        return place.run(place.find("node"), HERE / "node.js", *arguments, ready=r"listening on (\d+)")


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
  keepalive_timeout {keep_alive}ms;
  client_max_body_size 0;
  default_type application/octet-stream;
  server {{
    listen 127.0.0.1:{port} {tls};
    {certificate}
    root {directory}/site;
    location = /stream {{ ssi on; ssi_types application/octet-stream; try_files /stream.ssi =404; }}
    location = /gzip {{ gzip on; gzip_proxied any; gzip_types *; try_files /large =404; }}
    location = /moved {{ return 302 /hello; }}
    location = /empty {{ return 204; }}
    location = /unavailable {{ add_header Retry-After 7 always; return 503; }}
    # It counts and keeps the body, and hands it on to itself
    location = /sink {{
      client_body_in_file_only on;
      proxy_set_header X-File $request_body_file;
      proxy_pass {scheme}://127.0.0.1:{port}/sunk;
    }}
    location = /sunk {{ return 200 "$content_length $http_x_file"; }}
  }}
}}
"""


class Nginx:
    name = "nginx"
    shortest = 0.2

    def start(self, place: Place) -> int:
        program = place.find("nginx")
        site = place.directory / "site"
        write_files(site)
        (site / "stream.ssi").write_text('<!--# include virtual="/large" -->')
        certificate = ""
        if place.pair:
            certificate = f"ssl_certificate {place.pair[0]}; ssl_certificate_key {place.pair[1]};"

        def start(port: int) -> None:
            config = NGINX.format(
                directory=place.directory,
                keep_alive=int(1000 * place.keep_alive),
                port=port,
                tls="ssl" if place.pair else "",
                scheme="https" if place.pair else "http",
                certificate=certificate,
            )
            (place.directory / "nginx.conf").write_text(config)
            command = (program, "-e", "stderr", "-p", place.directory, "-c", "nginx.conf")
            place.start(command, r"OS: ", cwd=place.directory)

        return on_a_free_port(start)


APACHE = """\
ServerRoot {directory}
ServerName origin.test
Listen 127.0.0.1:{port}
PidFile {directory}/apache.pid
DefaultRuntimeDir {directory}
Mutex pthread
ErrorLog /dev/stderr
LogLevel notice
TypesConfig /dev/null
{user}
LoadModule mpm_prefork_module {modules}/mod_mpm_prefork.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule mime_module {modules}/mod_mime.so
LoadModule alias_module {modules}/mod_alias.so
LoadModule filter_module {modules}/mod_filter.so
LoadModule deflate_module {modules}/mod_deflate.so
LoadModule cgi_module {modules}/mod_cgi.so
LoadModule headers_module {modules}/mod_headers.so
StartServers 2
MinSpareServers 1
MaxSpareServers 4
MaxRequestWorkers 8
KeepAlive On
KeepAliveTimeout {keep_alive}ms
MaxKeepAliveRequests 0
DocumentRoot {directory}/site
ScriptAlias /stream {directory}/cgi/stream
ScriptAlias /sink {directory}/cgi/sink
ScriptAlias /empty {directory}/cgi/empty
Alias /gzip {directory}/site/large
<Location /gzip>
  SetOutputFilter DEFLATE
</Location>
Redirect 302 /moved /hello
Redirect 503 /unavailable
<Location /unavailable>
  Header always set Retry-After 7
</Location>
{tls}
"""

APACHE_TLS = """\
LoadModule ssl_module {modules}/mod_ssl.so
SSLSessionCache none
SSLEngine on
SSLCertificateFile {cert}
SSLCertificateKeyFile {key}
"""

CGI = {
    "stream": "printf 'Content-Type: application/octet-stream\\r\\n\\r\\n'; exec cat {directory}/site/large",
    "sink": """\
cat > {directory}/uploads/$$
printf 'Content-Type: text/plain\\r\\n\\r\\n%s %s' "$(wc -c < {directory}/uploads/$$)" \
"$(sha256sum < {directory}/uploads/$$ | cut -d' ' -f1)"
""",
    "empty": "printf 'Status: 204 No Content\\r\\n\\r\\n'",
}


class Apache:
    name = "apache"
    shortest = 0.2

    def start(self, place: Place) -> int:
        program = place.find("apache2")
        modules = "/usr/lib/apache2/modules"  # Debian's; elsewhere the program has another name
        directory, user = place.directory, ""
        (directory / "uploads").mkdir()
        if os.geteuid() == 0:  # its workers give that up
            user = "User nobody\nGroup nogroup"
            (directory / "uploads").chmod(0o777)
        write_files(directory / "site")
        (directory / "cgi").mkdir()
        for name, text in CGI.items():
            script = directory / "cgi" / name
            script.write_text("#!/bin/sh\n" + text.format(directory=directory))
            script.chmod(0o755)
        tls = APACHE_TLS.format(modules=modules, cert=place.pair[0], key=place.pair[1]) if place.pair else ""

        def start(port: int) -> None:
            config = APACHE.format(
                directory=directory,
                port=port,
                user=user,
                modules=modules,
                keep_alive=int(1000 * place.keep_alive),
                tls=tls,
            )
            (directory / "apache.conf").write_text(config)
            command = (program, "-f", directory / "apache.conf", "-D", "FOREGROUND")
            place.start(command, "resuming normal operations", cwd=directory)

        return on_a_free_port(start)


def write_files(site: Path) -> None:
    """An hour old: what changed a moment ago has a weak entity tag only (RFC 9110 section 8.8.2.2)."""
    site.mkdir()
    for name, content in (("hello", b"hello, world\n"), ("large", LARGE)):
        (site / name).write_bytes(content)
        os.utime(site / name, (time.time() - 3600,) * 2)


def on_a_free_port(start: Callable[[int], None]) -> int:
    """For a server that cannot be told to choose one: again where somebody took it meanwhile."""
    for _ in range(4):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port: int = listener.getsockname()[1]
        try:
            start(port)
        except RuntimeError as error:
            if "Address already in use" not in str(error):
                raise
        else:
            return port
    raise AssertionError("no port stays free for long")


Kind = Uvicorn | AioHttp | Gunicorn | Node | Nginx | Apache
KINDS: list[Kind] = [Nginx(), Apache(), Uvicorn("httptools"), Uvicorn("h11"), AioHttp(), Gunicorn(), Node()]
EACH = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
OF_FILES = pytest.mark.parametrize("kind", KINDS[:2], ids=lambda kind: kind.name)
WITH_WEBSOCKETS = pytest.mark.parametrize("kind", KINDS[2:5], ids=lambda kind: kind.name)


# ── how they are reached ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def open_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where other users may enter when this one is root, as Apache's workers have to; pytest closes its own to them."""
    if sys.platform != "win32" and os.geteuid() == 0:
        with tempfile.TemporaryDirectory(prefix="iocproxy-origins-") as name:
            Path(name).chmod(0o711)
            yield Path(name)
    else:
        yield tmp_path_factory.mktemp("origins")


@pytest.fixture(scope="module")
def launch(open_directory: Path, find: Any, start_program: Any, iocproxy_certificates: Certificates) -> Any:
    """Call it to start an origin; returns its URL."""
    counter = iter(range(1000))

    def launch(kind: Kind, *, keep_alive: float, tls: bool = False) -> str:
        directory = open_directory / f"{next(counter)}-{kind.name}"
        directory.mkdir()
        if sys.platform != "win32" and os.geteuid() == 0:
            directory.chmod(0o711)
        pair = (iocproxy_certificates.cert, iocproxy_certificates.key) if tls else None
        port = kind.start(Place(directory, keep_alive, pair, find, start_program))
        return f"{'https' if tls else 'http'}://127.0.0.1:{port}"

    return launch


class Behind(NamedTuple):
    """An origin, and a proxy in front of it."""

    kind: Kind
    url: str
    proxy: RunningProxy

    def client(self) -> RawClient:
        return RawClient(self.proxy.address)

    def direct(self) -> RawClient:
        host, _, port = self.url.partition("://")[2].partition(":")
        return RawClient((host, int(port)))

    def stats(self) -> dict[str, Any]:
        return self.proxy.stats()

    def open_upstream(self) -> int:
        return sum(server["open"] for server in self.stats()["upstreams"]["origin"].values())


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def lasting(request: pytest.FixtureRequest, launch: Any) -> tuple[Kind, str]:
    """An origin that keeps its connections for as long as anybody wants them."""
    return request.param, launch(request.param, keep_alive=60)


@pytest.fixture
def behind(lasting: tuple[Kind, str], iocproxy: ProxyFactory) -> Iterator[Behind]:
    proxy = iocproxy(upstream=lasting[1])
    yield Behind(*lasting, proxy)
    proxy.wait_for(lambda proxy: not proxy.stats()["connections_open"])
    assert {record.error for record in proxy.records} <= {""}


def answered(client: RawClient, method: str, path: str, **more: Any) -> RawResponse:
    return client.request(method, path, headers=[("Host", "origin.test"), *more.pop("headers", ())], **more)


def end_to_end(response: RawResponse) -> Mapping[str, list[bytes]]:
    """The fields that concern the ends: without those of the connection, the time, and what the proxy adds."""
    left_out = {"connection", "keep-alive", "transfer-encoding", "date", "via"}
    fields: dict[str, list[bytes]] = {}
    for name, value in response.headers:
        if (key := name.decode("ascii").lower()) not in left_out:
            fields.setdefault(key, []).append(value)
    return fields


# ── what each of them does ───────────────────────────────────────────────────────────────────────────────────────────


def test_all_it_can_answer_on_one_connection(behind: Behind) -> None:
    with behind.client() as client:
        hello = answered(client, "GET", "/hello")
        assert (hello.status, hello.body, hello.header("content-length")) == (200, b"hello, world\n", "13")
        head = answered(client, "HEAD", "/large")
        assert (head.status, head.body) == (200, b"")
        assert head.header("content-length") in {str(len(LARGE)), None}  # one that makes no body counts none
        large = answered(client, "GET", "/large")
        assert (large.status, large.header("content-length")) == (200, str(len(LARGE)))
        assert large.body == LARGE
        stream = answered(client, "GET", "/stream")
        assert (stream.header("transfer-encoding"), stream.header("content-length")) == ("chunked", None)
        assert stream.body == LARGE
        packed = answered(client, "GET", "/gzip", headers=GZIP)
        assert packed.header("content-encoding") == "gzip"
        assert gzip.decompress(packed.body) == LARGE
        moved = answered(client, "GET", "/moved")
        assert (moved.status, (moved.header("location") or "").endswith("/hello")) == (302, True)
        empty = answered(client, "GET", "/empty")
        assert (empty.status, empty.body, empty.header("content-length")) == (204, b"", None)
        assert answered(client, "GET", "/missing").status == 404
        unavailable = answered(client, "GET", "/unavailable")
        assert (unavailable.status, unavailable.header("retry-after")) == (503, "7")
        assert answered(client, "GET", "/hello").body == hello.body
    behind.proxy.wait_for_records(10)
    stats = behind.stats()
    assert stats["connections_accepted"] == 1
    assert stats["upstream_connects"] + stats["upstream_reused"] == 10
    assert stats["upstream_retries"] == 0
    # Whether a connection lasts is the origin's to say, after an error above all; most do with each of these
    assert stats["upstream_reused"] >= 7, stats


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", "/hello"), ("GET", "/large"), ("GET", "/stream"), ("GET", "/gzip"), ("GET", "/moved")),
        *(("GET", "/empty"), ("GET", "/missing"), ("GET", "/unavailable"), ("POST", "/hello"), ("OPTIONS", "/hello")),
        *(("HEAD", "/hello"), ("HEAD", "/stream"), ("HEAD", "/missing"), ("DELETE", "/hello"), ("POST", "/empty")),
    ],
)
def test_the_same_as_without_the_proxy(behind: Behind, method: str, path: str) -> None:
    with behind.direct() as client:
        direct = answered(client, method, path, headers=GZIP)
    with behind.client() as client:
        proxied = answered(client, method, path, headers=GZIP)
        assert (proxied.status, proxied.reason, proxied.body) == (direct.status, direct.reason, direct.body)
        assert end_to_end(proxied) == end_to_end(direct)
        assert answered(client, "GET", "/hello").status == 200


def test_uploads(behind: Behind) -> None:
    with behind.client() as client:
        for turn in range(3):
            if turn % 2:
                pieces = [UPLOAD[start : start + 9_999] for start in range(0, len(UPLOAD), 9_999)]
                chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
                head = f"POST /sink HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n"
                client.send(head.encode() + chunks)
                response = client.read_response()
            else:
                response = answered(client, "POST", "/sink", body=UPLOAD)
            assert response.status == 200
            assert sunk(response) == SUNK
        assert answered(client, "GET", "/hello").status == 200
    records = behind.proxy.wait_for_records(4)
    assert [record.bytes_in for record in records] == [*[len(UPLOAD)] * 3, 0]
    assert behind.stats()["upstream_reused"] == 3


def sunk(response: RawResponse) -> str:
    """What became of an upload: its size and digest. nginx says where it has put it instead of the digest."""
    size, said = response.body.decode().split()
    if "/" in said:
        file = Path(said)
        said = hashlib.sha256(file.read_bytes()).hexdigest()
        file.unlink()
    return f"{size} {said}"


def test_100_continue(behind: Behind) -> None:
    with behind.client() as client:
        for _ in range(2):
            client.send(
                f"POST /sink HTTP/1.1\r\n{HOST}Content-Length: {len(UPLOAD)}\r\nExpect: 100-continue\r\n\r\n".encode()
            )
            assert client.read_response(b"POST").status == 100
            client.send(UPLOAD)
            assert sunk(client.read_response(b"POST")) == SUNK
        assert answered(client, "GET", "/hello").status == 200
    assert behind.stats()["upstream_reused"] >= 1


def test_pipelined_requests(behind: Behind) -> None:
    paths = ["/hello", "/large", "/missing", "/stream", "/empty", "/hello"]
    with behind.client() as client:
        client.send("".join(f"GET {path} HTTP/1.1\r\n{HOST}\r\n" for path in paths).encode())
        answers = [client.read_response() for _ in paths]
    assert [answer.status for answer in answers] == [200, 200, 404, 200, 204, 200]
    assert answers[1].body == answers[3].body == LARGE


@EACH
def test_connections_that_the_origin_closes_when_idle(kind: Kind, launch: Any, iocproxy: ProxyFactory) -> None:
    """The proxy sees that they end, and takes a new one for the next request, whatever its method."""
    url = launch(kind, keep_alive=kind.shortest)
    behind = Behind(kind, url, iocproxy(upstream=url))
    with behind.client() as client:
        assert answered(client, "GET", "/hello").status == 200
        assert behind.open_upstream() == 1
        behind.proxy.wait_for(lambda _: behind.open_upstream() == 0)
        assert sunk(answered(client, "POST", "/sink", body=UPLOAD)) == SUNK
    stats = behind.stats()
    assert (stats["upstream_connects"], stats["upstream_retries"]) == (2, 0)


@OF_FILES
def test_what_is_asked_for_conditionally_and_in_part(kind: Kind, launch: Any, iocproxy: ProxyFactory) -> None:
    url = launch(kind, keep_alive=60)
    behind = Behind(kind, url, iocproxy(upstream=url))
    with behind.client() as client:
        large = answered(client, "GET", "/large")
        tag, modified = large.header("etag"), large.header("last-modified")
        assert tag
        assert modified
        for condition in (("If-None-Match", tag), ("If-Modified-Since", modified)):
            for method in ("GET", "HEAD"):
                same = answered(client, method, "/large", headers=[condition])
                assert (same.status, same.body, same.header("etag")) == (304, b"", tag)
        part = answered(client, "GET", "/large", headers=[("Range", "bytes=1000-1999"), ("If-Range", tag)])
        assert (part.status, part.body) == (206, LARGE[1000:2000])
        assert part.header("content-range") == f"bytes 1000-1999/{len(LARGE)}"
        parts = answered(client, "GET", "/large", headers=[("Range", "bytes=0-9,20-29")])
        assert parts.status == 206
        assert (parts.header("content-type") or "").startswith("multipart/byteranges")
        assert answered(client, "GET", "/large", headers=[("Range", "bytes=9999999-")]).status == 416
        assert answered(client, "GET", "/large", headers=[("If-Match", '"other"')]).status == 412
    assert {record.error for record in behind.proxy.wait_for_records(9)} == {""}
    stats = behind.stats()
    assert stats["upstream_connects"] <= 2  # after a 412 Apache closes


@EACH
def test_over_tls(kind: Kind, launch: Any, iocproxy: ProxyFactory, iocproxy_certificates: Certificates) -> None:
    url = launch(kind, keep_alive=60, tls=True)
    proxy = iocproxy(upstream=url, tls=True)
    with RawClient(proxy.tls_address, tls=iocproxy_certificates) as client:
        assert answered(client, "GET", "/hello").body == b"hello, world\n"
        assert answered(client, "GET", "/stream").body == LARGE
        assert sunk(answered(client, "POST", "/sink", body=UPLOAD)) == SUNK
        assert answered(client, "HEAD", "/large").status == 200
    assert [record.error for record in proxy.wait_for_records(4)] == [""] * 4
    stats = proxy.stats()
    assert (stats["upstream_connects"], stats["upstream_reused"]) == (1, 3)


@WITH_WEBSOCKETS
async def test_websockets(kind: Kind, launch: Any, iocproxy: ProxyFactory, iocproxy_certificates: Certificates) -> None:
    url = await asyncio.to_thread(launch, kind, keep_alive=60)
    proxy = await asyncio.to_thread(lambda: iocproxy(upstream=url, tls=True))
    options: dict[str, Any] = {"max_size": None, "compression": None, "proxy": None, "open_timeout": PATIENCE}
    secure = {"ssl": iocproxy_certificates.client_context()}
    messages = ["grüß", b"", b"\x00\xff", pattern(2 << 20)]
    async with (
        connect(f"{proxy.url.replace('http', 'ws', 1)}/ws", **options) as plain,
        connect(f"{proxy.tls_url.replace('http', 'ws', 1)}/ws", **options, **secure) as encrypted,
    ):
        for websocket in (plain, encrypted):
            for message in messages:
                await websocket.send(message)
                assert await websocket.recv() == message
    records = await asyncio.to_thread(proxy.wait_for_records, 2)
    assert [(record.status, record.error) for record in records] == [(101, "")] * 2
