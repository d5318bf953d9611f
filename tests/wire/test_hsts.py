"""Strict-Transport-Security: in every response over TLS, once, and in none over plain HTTP (RFC 6797)."""

from __future__ import annotations

from typing import Any

import pytest

from iocproxy.testing import Certificates, Origin, ProxyFactory, RawClient
from iocproxy.testing.script import ExpectRequest, Send

FIELD = "max-age=31536000; includeSubDomains"
LINE = b"Strict-Transport-Security: max-age=31536000; includeSubDomains\r\n"
GET = b"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n"


@pytest.fixture
def strict(iocproxy: ProxyFactory, iocproxy_origin: Origin, iocproxy_certificates: Certificates) -> Any:
    """A plain listener, one with HSTS and one with TLS alone."""
    pair = {"cert": str(iocproxy_certificates.cert), "key": str(iocproxy_certificates.key)}

    def start(**settings: Any) -> Any:
        hsts = {"max_age": "365d", "include_subdomains": True}
        return iocproxy(
            upstream=iocproxy_origin,
            listeners=[
                {"bind": "127.0.0.1:0"},
                {"bind": "127.0.0.1:0", "tls": {"certificates": [pair], "hsts": hsts}},
                {"bind": "127.0.0.1:0", "tls": {"certificates": [pair]}},
            ],
            **settings,
        )

    return start


def fields(raw: bytes) -> list[bytes]:
    head = raw.partition(b"\r\n\r\n")[0]
    return [line for line in head.split(b"\r\n") if line.lower().startswith(b"strict-transport-security:")]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nDate: Mon, 02 Nov 2026 08:00:00 GMT\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: /y\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nStrict-Transport-Security: max-age=1\r\nContent-Length: 2\r\n\r\nok",
        (
            b"HTTP/1.1 200 OK\r\nDate: Mon, 02 Nov 2026 08:00:00 GMT\r\nstrict-transport-security: max-age=0\r\n"
            b"STRICT-TRANSPORT-SECURITY: max-age=2\r\nContent-Length: 2\r\n\r\nok"
        ),
    ],
)
def test_what_upstreams_answer(
    strict: Any, iocproxy_origin: Origin, iocproxy_certificates: Certificates, answer: bytes
) -> None:
    iocproxy_origin.on("GET", "/x", answer)
    proxy = strict()
    plain, with_hsts, without = proxy.addresses
    own = fields(answer)
    # in turn, since heads that are seen again are written once
    for _ in range(3):
        for address, tls, expected in (
            (with_hsts, iocproxy_certificates, [LINE.strip()]),
            (without, iocproxy_certificates, own),
            (plain, None, own),
        ):
            with RawClient(address, tls=tls) as client:
                for _ in range(2):
                    client.send(GET)
                    assert fields(client.read_response().raw) == expected


def test_nothing_else_has_changed(strict: Any, iocproxy_origin: Origin, iocproxy_certificates: Certificates) -> None:
    iocproxy_origin.on(
        "GET",
        "/x",
        b"HTTP/1.1 200 OK\r\nDate: Mon, 02 Nov 2026 08:00:00 GMT\r\nA: 1\r\nContent-Length: 2\r\n\r\nok",
    )
    with RawClient(strict().tls_address, tls=iocproxy_certificates) as client:
        for _ in range(2):
            client.send(GET)
            assert client.read_response().raw == (
                b"HTTP/1.1 200 OK\r\nDate: Mon, 02 Nov 2026 08:00:00 GMT\r\nA: 1\r\nContent-Length: 2\r\n"
                b"Via: 1.1 iocproxy\r\n" + LINE + b"\r\nok"
            )


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /nowhere HTTP/1.1\r\nHost: a.test\r\n\r\n", 404),
        (b"CONNECT a.test:1 HTTP/1.1\r\nHost: a.test\r\n\r\n", 405),
        (b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 99999\r\n\r\n", 413),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a.test\r\n\r\n", 414),
        (b"GET /bad HTTP/1.1\r\nHost: a.test\r\n\r\n", 502),
        (b"OPTIONS /bad HTTP/1.1\r\nHost: a.test\r\nMax-Forwards: 0\r\n\r\n", 200),
    ],
)
def test_the_proxys_own_answers(
    strict: Any, iocproxy_origin: Origin, iocproxy_certificates: Certificates, sent: bytes, status: int
) -> None:
    iocproxy_origin.on("*", "/bad", respond=b"nonsense\r\n\r\n")
    route = {"upstream": "origin", "path": "/"}
    if status == 404:
        route = {"upstream": "origin", "path": "/bad"}
    proxy = strict(routes=[route], http={"max_body": 1000})
    plain, with_hsts, _ = proxy.addresses
    with RawClient(with_hsts, tls=iocproxy_certificates) as client:
        client.send(sent)
        response = client.read_response()
        assert response.status == status
        assert fields(response.raw) == [LINE.strip()]
    with RawClient(plain) as client:
        client.send(sent)
        response = client.read_response()
        assert response.status == status
        assert fields(response.raw) == []


def test_a_limit_answers_so_too(strict: Any, iocproxy_certificates: Certificates) -> None:
    proxy = strict(limits={"requests": {"rate": "1/1h"}})
    with RawClient(proxy.tls_address, tls=iocproxy_certificates) as client:
        assert client.request("GET", "/bytes/1").status == 200
        response = client.request("GET", "/bytes/1")
        assert (response.status, response.header("strict-transport-security")) == (429, FIELD)


def test_http_1_0_and_head(strict: Any, iocproxy_certificates: Certificates) -> None:
    proxy = strict()
    with RawClient(proxy.tls_address, tls=iocproxy_certificates) as client:
        assert client.request("HEAD", "/bytes/1").header("strict-transport-security") == FIELD
        client.send(b"GET /stream/10 HTTP/1.0\r\n\r\n")
        assert fields(client.read_response().raw) == [LINE.strip()]


def test_a_tunnel_begins_so_too(strict: Any, iocproxy_certificates: Certificates) -> None:
    with RawClient(strict().tls_address, tls=iocproxy_certificates) as client:
        client.send(
            b"GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        raw = client.read_until(b"\r\n\r\n")
        assert raw.startswith(b"HTTP/1.1 101 ")
        assert fields(raw) == [LINE.strip()]


def test_interim_responses_go_without(
    strict: Any, iocproxy_origin: Origin, iocproxy_certificates: Certificates
) -> None:
    script = iocproxy_origin.script(
        [
            ExpectRequest(),
            Send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ]
    )
    with RawClient(strict().tls_address, tls=iocproxy_certificates) as client:
        client.send(GET)
        assert fields(client.read_until(b"\r\n\r\n")) == []
        assert fields(client.read_until(b"\r\n\r\n")) == [LINE.strip()]
    script.wait()
