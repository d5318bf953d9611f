"""HTTP clients through the proxy, each doing all it can do; the origin behind keeps what it was sent."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import http.client
import io
import json
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import httpx
import pytest

from iocproxy.testing import Exchange, pattern
from iocproxy.testing.patience import PATIENCE

MIB = 1 << 20
LARGE = 4 * MIB + 12_345
PIECE = 65_536


@dataclass(frozen=True)
class Ask:
    """One request; a chunked body is uploaded in pieces, without a length."""

    method: str
    path: str
    body: bytes | None = None
    chunked: bool = False
    headers: dict[str, str] = field(default_factory=dict)

    def pieces(self) -> Iterator[bytes]:
        assert self.body is not None
        for start in range(0, len(self.body), PIECE):
            yield self.body[start : start + PIECE]

    async def pieces_later(self) -> AsyncIterator[bytes]:
        for piece in self.pieces():
            yield piece

    def content(self) -> Any:
        return self.pieces() if self.chunked else self.body

    def content_later(self) -> Any:
        return self.pieces_later() if self.chunked else self.body

    def content_of_aiohttp(self) -> Any:
        """It warns of large bodies that are no file."""
        large = self.body is not None and not self.chunked and len(self.body) >= MIB
        return io.BytesIO(self.body) if large else self.content_later()


class Answer(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key.lower() == name]
        assert len(found) < 2, found
        return found[0] if found else None


def trusting(front: Any) -> ssl.SSLContext | None:
    return front.certificates.client_context() if front.tls else None


# ── the clients: each takes its requests one after the other, on one connection where it can ─────────────────────────


def with_http_client(front: Any, asks: Sequence[Ask]) -> list[Answer]:
    place = urlsplit(front.base)
    connection = (
        http.client.HTTPSConnection(place.netloc, timeout=PATIENCE, context=trusting(front))
        if front.tls
        else http.client.HTTPConnection(place.netloc, timeout=PATIENCE)
    )
    answers = []
    with contextlib.closing(connection):
        for ask in asks:
            connection.request(ask.method, ask.path, ask.content(), ask.headers, encode_chunked=ask.chunked)
            response = connection.getresponse()
            answers.append(Answer(response.status, response.getheaders(), response.read()))
    return answers


class _AsItComes(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def with_urllib(front: Any, asks: Sequence[Ask], *extra: urllib.request.BaseHandler) -> list[Answer]:
    handlers = [urllib.request.HTTPSHandler(context=trusting(front))] if front.tls else []
    opener = urllib.request.build_opener(_AsItComes, *handlers, *extra)
    answers = []
    for ask in asks:
        request = urllib.request.Request(front.base + ask.path, ask.content(), ask.headers, method=ask.method)
        try:
            response = opener.open(request, timeout=PATIENCE)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            answers.append(Answer(response.status, response.headers.items(), response.read()))
    return answers


def with_aiohttp(front: Any, asks: Sequence[Ask]) -> list[Answer]:
    async def visit() -> list[Answer]:
        answers = []
        context = trusting(front)
        async with aiohttp.ClientSession(
            front.base,
            connector=aiohttp.TCPConnector(**({"ssl": context} if context else {})),
            timeout=aiohttp.ClientTimeout(PATIENCE),
            auto_decompress=False,
        ) as session:
            for ask in asks:
                async with session.request(
                    ask.method, ask.path, data=ask.content_of_aiohttp(), headers=ask.headers, allow_redirects=False
                ) as response:
                    answers.append(Answer(response.status, list(response.headers.items()), await response.read()))
        return answers

    return asyncio.run(visit())


def _httpx_options(front: Any) -> dict[str, Any]:
    return {"base_url": front.base, "verify": trusting(front) or True, "timeout": PATIENCE, "trust_env": False}


def with_httpx(front: Any, asks: Sequence[Ask]) -> list[Answer]:
    answers = []
    with httpx.Client(**_httpx_options(front)) as client:
        for ask in asks:
            with client.stream(ask.method, ask.path, content=ask.content(), headers=ask.headers) as response:
                answers.append(
                    Answer(response.status_code, response.headers.multi_items(), b"".join(response.iter_raw()))
                )
    return answers


def with_httpx_async(front: Any, asks: Sequence[Ask]) -> list[Answer]:
    async def visit() -> list[Answer]:
        answers = []
        async with httpx.AsyncClient(**_httpx_options(front)) as client:
            for ask in asks:
                async with client.stream(
                    ask.method, ask.path, content=ask.content_later(), headers=ask.headers
                ) as response:
                    body = b"".join([piece async for piece in response.aiter_raw()])
                    answers.append(Answer(response.status_code, response.headers.multi_items(), body))
        return answers

    return asyncio.run(visit())


class Curl:
    """All requests in one command, which keeps the connection from one to the next."""

    def __init__(self, run: Callable[..., subprocess.CompletedProcess[bytes]], directory: Path) -> None:
        self._run = run
        self._directory = directory

    def __call__(self, front: Any, asks: Sequence[Ask], *extra: str) -> list[Answer]:
        # -q: no .curlrc; --ssl-no-revoke: Windows' own TLS would ask a server whether the certificate was revoked
        arguments = ["-q"]
        for number, ask in enumerate(asks):
            if number:
                arguments.append("--next")
            arguments += ["-sS", "--http1.1", "--cacert", str(front.ca), "--ssl-no-revoke", *extra]
            arguments += ["-D", str(self._file(number, "head")), "-o", str(self._file(number, "body"))]
            arguments += ["--head"] if ask.method == "HEAD" else ["-X", ask.method]
            if ask.body is not None:
                upload = self._file(number, "upload")
                upload.write_bytes(ask.body)
                arguments += ["--data-binary", f"@{upload}"]
            fields = {"Transfer-Encoding": "chunked", **ask.headers} if ask.chunked else ask.headers
            for name, value in fields.items():
                arguments += ["-H", f"{name}: {value}"]
            arguments.append(front.base + ask.path)
        self._run("curl", *arguments)
        return [self._answer(number, ask) for number, ask in enumerate(asks)]

    def _answer(self, number: int, ask: Ask) -> Answer:
        # The heads of interim responses come before the final one
        head = self._file(number, "head").read_bytes().removesuffix(b"\r\n\r\n").split(b"\r\n\r\n")[-1]
        line, *fields = head.decode("latin-1").split("\r\n")
        headers = [(name, value) for name, _, value in (each.partition(": ") for each in fields)]
        body = self._file(number, "body")
        # Under --head it writes the head there
        content = body.read_bytes() if body.exists() and ask.method != "HEAD" else b""
        return Answer(int(line.split()[1]), headers, content)

    def _file(self, number: int, kind: str) -> Path:
        return self._directory / f"{number}.{kind}"


PYTHON = {
    "http.client": with_http_client,
    "urllib": with_urllib,
    "aiohttp": with_aiohttp,
    "httpx": with_httpx,
    "httpx-async": with_httpx_async,
}


class Client:
    """`visit(front, asks)` is the client at work; `keeps` whether it keeps its connection."""

    def __init__(self, name: str, visit: Callable[[Any, Sequence[Ask]], list[Answer]]) -> None:
        self.visit = visit
        self.keeps = name != "urllib"  # which sends Connection: close with every request


@pytest.fixture(params=["curl", *PYTHON])
def client(request: pytest.FixtureRequest, run_program: Any, tmp_path: Path) -> Client:
    name: str = request.param
    if name == "curl":
        request.getfixturevalue("find")("curl")
        return Client(name, Curl(run_program, tmp_path))
    return Client(name, PYTHON[name])


def records_of(front: Any, count: int) -> list[Any]:
    records = front.proxy.wait_for_records(count)
    assert [record.error for record in records] == [""] * count
    return records


# ── what each of them does ───────────────────────────────────────────────────────────────────────────────────────────


def test_many_requests_on_one_connection(front: Any, client: Client) -> None:
    """Methods, both ways to give a body, and every kind of answer without one, one after the other."""
    asks = [
        Ask("GET", "/bytes/1000"),
        Ask("HEAD", "/bytes/1000"),
        Ask("GET", "/stream/100000?chunk=999"),
        Ask("POST", "/sink", b"with a length"),
        Ask("GET", "/status/204"),
        Ask("POST", "/sink", b"in chunks" * 20_000, chunked=True),
        Ask("GET", "/status/304", headers={"If-None-Match": '"x"'}),
        Ask("PUT", "/sink", b"x"),
        Ask("DELETE", "/status/200"),
        Ask("GET", "/status/404"),
        Ask("GET", "/status/503"),
        Ask("GET", "/bytes/0"),
        Ask("GET", "/last?a=1&b=%20"),
    ]
    answers = client.visit(front, asks)
    assert [answer.status for answer in answers] == [*(200, 200, 200, 200, 204, 200, 304, 200, 200, 404, 503, 200, 200)]
    assert answers[0].body == pattern(1000)
    assert answers[2].body == pattern(100_000)
    for number in (1, 4, 6, 11):
        assert answers[number].body == b""
    assert [answers[number].header("content-length") for number in (0, 1, 4, 11)] == ["1000", "1000", None, "0"]
    assert [answers[number].header("transfer-encoding") for number in (0, 2)] == [None, "chunked"]
    assert {answer.header("via") for answer in answers} == {"1.1 iocproxy"}
    for number in (3, 5, 7):
        body = asks[number].body
        assert body is not None
        assert json.loads(answers[number].body) == {"length": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    assert json.loads(answers[-1].body)["target"] == "/last?a=1&b=%20"

    requests = front.origin.wait_for_requests(len(asks))
    assert [request.method.decode() for request in requests] == [ask.method for ask in asks]
    assert [requests[number].header("content-length") for number in (3, 5)] == ["13", None]
    assert [requests[number].header("transfer-encoding") for number in (3, 5)] == [None, "chunked"]
    records_of(front, len(asks))
    stats = front.proxy.stats()
    assert stats["connections_accepted"] == (1 if client.keeps else len(asks))
    assert (stats["upstream_connects"], stats["upstream_reused"]) == (1, len(asks) - 1)
    assert stats["upstream_retries"] == 0


def test_head_where_get_has_chunks(front: Any, client: Client) -> None:
    """No length and no coding in the answer (RFC 9112 section 6.1 allows it): nobody waits for a body."""
    head, then = client.visit(front, [Ask("HEAD", "/stream/100000"), Ask("GET", "/bytes/5")])
    assert (head.status, head.header("content-length"), head.body) == (200, None, b"")
    assert then.body == pattern(5)
    records_of(front, 2)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_large_body_each_way(front: Any, client: Client, chunked: bool) -> None:
    body = pattern(LARGE)
    up, down = client.visit(
        front,
        [
            Ask("POST", "/sink", body, chunked=chunked),
            Ask("GET", f"/{'stream' if chunked else 'bytes'}/{LARGE}"),
        ],
    )
    digest = hashlib.sha256(body).hexdigest()
    assert json.loads(up.body) == {"length": LARGE, "sha256": digest}
    assert (len(down.body), hashlib.sha256(down.body).hexdigest()) == (LARGE, digest)
    sent, got = records_of(front, 2)
    assert (sent.bytes_in, got.bytes_out) == (LARGE, LARGE)


def test_a_redirect_is_the_clients_affair(front: Any, client: Client) -> None:
    for status in (301, 302, 307, 308):
        location = f"http://elsewhere.test:81/{status}?q=%41#part"
        front.origin.on(
            "GET",
            f"/{status}",
            b"HTTP/1.1 %d Over there\r\nLocation: %b\r\nContent-Length: 5\r\n\r\nthere" % (status, location.encode()),
        )
    answers = client.visit(front, [Ask("GET", f"/{status}") for status in (301, 302, 307, 308)])
    assert [(answer.status, answer.header("location"), answer.body) for answer in answers] == [
        (status, f"http://elsewhere.test:81/{status}?q=%41#part", b"there") for status in (301, 302, 307, 308)
    ]


def test_compressed_content_is_not_touched(front: Any, client: Client) -> None:
    plain = pattern(50_000)
    packed = gzip.compress(plain, mtime=0)

    def respond(exchange: Exchange) -> None:
        assert exchange.request.header("accept-encoding") == "gzip"
        head = [("Content-Encoding", "gzip"), ("ETag", '"1"'), ("Vary", "Accept-Encoding")]
        if exchange.request.path == "/packed":
            exchange.respond(200, packed, head)
        else:
            exchange.send_head(200, [*head, ("Transfer-Encoding", "chunked")])
            for start in range(0, len(packed), 100):
                piece = packed[start : start + 100]
                exchange.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            exchange.send(b"0\r\n\r\n")

    front.origin.on("GET", "/packed*", respond)
    asks = [Ask("GET", path, headers={"Accept-Encoding": "gzip"}) for path in ("/packed", "/packed-in-chunks")]
    whole, chunks = client.visit(front, asks)
    assert whole.body == chunks.body == packed
    for answer in (whole, chunks):
        assert (answer.header("content-encoding"), answer.header("etag")) == ("gzip", '"1"')
        assert answer.header("vary") == "Accept-Encoding"


def test_several_fields_of_one_name(front: Any, client: Client) -> None:
    cookies = [b"a=1; Path=/", b"b=2; HttpOnly", b"a=3"]
    lines = b"".join(b"Set-Cookie: %b\r\n" % cookie for cookie in cookies)
    front.origin.on("GET", "/cookies", b"HTTP/1.1 200 OK\r\n%bContent-Length: 0\r\n\r\n" % lines)
    (answer,) = client.visit(front, [Ask("GET", "/cookies")])
    assert [value.encode() for name, value in answer.headers if name.lower() == "set-cookie"] == cookies


# ── what only some of them do ────────────────────────────────────────────────────────────────────────────────────────


def test_curl_waits_for_100_continue(front: Any, run_program: Any, tmp_path: Path) -> None:
    body = pattern(200_000)
    upload = tmp_path / "upload"
    upload.write_bytes(body)
    common = ["-sS", "-v", "--cacert", front.ca, "--ssl-no-revoke", "-H", "Expect: 100-continue"]
    common += ["--expect100-timeout", "300", "--data-binary", f"@{upload}"]
    done = run_program(
        *("curl", "-q", *common, f"{front.base}/sink"),
        *("--next", *common, "-H", "Transfer-Encoding: chunked", f"{front.base}/sink"),
    )
    said = json.dumps({"length": len(body), "sha256": hashlib.sha256(body).hexdigest()})
    assert done.stdout.decode() == 2 * said
    assert done.stderr.count(b"< HTTP/1.1 100 Continue") == 2
    assert done.stderr.count(b"< HTTP/1.1 200 OK") == 2
    assert [request.header("expect") for request in front.origin.requests] == ["100-continue"] * 2
    assert records_of(front, 2)[0].bytes_in == len(body)
    assert front.proxy.stats()["connections_accepted"] == 1


def test_curl_does_not_send_a_body_that_is_refused(front: Any, run_program: Any, tmp_path: Path) -> None:
    """A final answer instead of 100: the body stays where it is, and so the connection must end."""
    upload = tmp_path / "upload"
    upload.write_bytes(bytes(100_000))
    front.origin.on(
        "POST",
        "/refused",
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno",
        read_body=False,
    )
    done = run_program(
        *("curl", "-q", "-sS", "--cacert", front.ca, "--ssl-no-revoke", "-H", "Expect: 100-continue"),
        *("--expect100-timeout", "300", "--data-binary", f"@{upload}", "-w", "|%{http_code}|%{size_upload}"),
        f"{front.base}/refused",
    )
    assert done.stdout == b"no|403|0"


async def test_aiohttp_waits_for_100_continue(front: Any) -> None:
    body = pattern(200_000)
    options = {"ssl": trusting(front)} if front.tls else {}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(**options)) as session:
        for _ in range(2):
            async with session.post(f"{front.base}/sink", data=body, expect100=True) as response:
                assert (await response.json())["sha256"] == hashlib.sha256(body).hexdigest()
    assert [request.header("expect") for request in front.origin.requests] == ["100-continue"] * 2
    assert front.origin.connections == 1


def test_old_http_from_curl(front: Any, run_program: Any) -> None:
    """HTTP/1.0: no chunks, the end of the body is the end of the connection."""
    done = run_program(
        *("curl", "-q", "-sS", "--http1.0", "--cacert", front.ca, "--ssl-no-revoke", "-w", "%{num_connects}"),
        *("-o", "-", f"{front.base}/stream/100?chunk=7", f"{front.base}/status/200"),
    )
    assert done.stdout == pattern(100) + b"1" + b"1"
    assert [record.version for record in records_of(front, 2)] == [10, 10]


def test_redirects_are_followed_through_the_proxy(front: Any, run_program: Any) -> None:
    front.origin.on("GET", "/from", b"HTTP/1.1 302 Found\r\nLocation: /bytes/10\r\nContent-Length: 0\r\n\r\n")
    with httpx.Client(**_httpx_options(front), follow_redirects=True) as client:
        assert client.get("/from").content == pattern(10)
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=trusting(front)))
    with opener.open(f"{front.base}/from", timeout=PATIENCE) as response:
        assert response.read() == pattern(10)
    assert [request.path for request in front.origin.requests] == ["/from", "/bytes/10"] * 2


def test_compressed_content_is_understood(front: Any) -> None:
    plain = pattern(50_000)
    packed = gzip.compress(plain)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
    front.origin.on("GET", "/packed", head % len(packed) + packed)
    with httpx.Client(**_httpx_options(front)) as client:
        assert client.get("/packed").content == plain


async def test_many_at_once_with_a_pool(front: Any) -> None:
    """A pool of the client's in front of a pool of the proxy's: everybody gets the answer to his own question."""
    limits = httpx.Limits(max_connections=10, max_keepalive_connections=10)
    async with httpx.AsyncClient(**_httpx_options(front), limits=limits) as client:
        answers = await asyncio.gather(*(client.get(f"/echo?{number}") for number in range(60)))
    assert [answer.json()["target"] for answer in answers] == [f"/echo?{number}" for number in range(60)]
    stats = await asyncio.to_thread(front.proxy.stats)
    assert stats["connections_accepted"] <= 10
    assert stats["upstream_connects"] + stats["upstream_reused"] == 60
