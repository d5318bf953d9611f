"""What a limit's refusal is on the wire, octet by octet."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from iocproxy.testing import ManualClock, Origin, ProxyFactory, RawClient

REQUEST = b"GET /status/204 HTTP/1.1\r\nHost: a.test\r\n"
DATE = re.compile(rb"Date: [^\r]+\r\n")

FIELDS = (
    b'RateLimit-Policy: "requests-1s";q=1;w=1, "requests-10s";q=2;w=10\r\n'
    b'RateLimit: "requests-1s";r=1, "requests-10s";r=0;t=8\r\n'
)
PROBLEM = (
    b'{"type": "about:blank", "title": "Too Many Requests", "status": 429, '
    b'"detail": "Too many requests. Please slow down."}\n'
)


def refusal(kind: bytes, body: bytes, fields: bytes) -> bytes:
    return (
        b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: %b\r\nCache-Control: no-store\r\n"
        b"Proxy-Status: iocproxy; error=http_request_denied\r\n%bRetry-After: 8\r\nContent-Length: %d\r\n\r\n%b"
        % (kind, fields, len(body), body)
    )


@pytest.mark.parametrize("fields", [False, True])
@pytest.mark.parametrize("send", [RawClient.send, RawClient.send_slowly], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("rest", [b"", REQUEST + b"\r\n"], ids=["alone", "with another behind it"])
def test_a_refusal(
    iocproxy: ProxyFactory,
    iocproxy_origin: Origin,
    iocproxy_clock: ManualClock,
    send: Callable[[RawClient, bytes], None],
    rest: bytes,
    fields: bool,
) -> None:
    proxy = iocproxy(
        upstream=iocproxy_origin,
        clock=iocproxy_clock,
        limits={"requests": {"rate": ["1/1s", "2/10s"], "ratelimit_fields": fields}},
    )
    with RawClient(proxy.address) as client:
        for _ in range(2):
            assert client.request("GET", "/status/204").status == 204
            iocproxy_clock.advance(1)
        send(client, REQUEST + b"Accept: application/problem+json\r\n\r\n" + rest)
        expected = refusal(b"application/problem+json", PROBLEM, FIELDS if fields else b"")
        assert DATE.sub(b"", client.read_response().raw) == expected
        if rest:
            assert client.read_response().status == 429
        iocproxy_clock.advance(8)
        assert client.request("GET", "/status/204").status == 204
