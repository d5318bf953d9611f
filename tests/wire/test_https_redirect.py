"""A plain listener that sends everybody on to https: nothing but the address changes, and nothing is made up in it."""

from __future__ import annotations

import shutil
import subprocess
import urllib.request
from typing import Any

import pytest

from iocproxy.testing import Certificates, ManualClock, Origin, ProxyFactory, RawClient

#: What comes before and behind Location, but for the date.
HEAD = b"HTTP/1.1 308 Permanent Redirect\r\nLocation: "
CURL = shutil.which("curl")


def without_date(raw: bytes) -> bytes:
    return b"\r\n".join(line for line in raw.split(b"\r\n") if not line.startswith(b"Date: "))


@pytest.fixture
def redirecting(iocproxy: ProxyFactory, iocproxy_origin: Origin) -> Any:
    """Starts a proxy whose only listener sends everybody on; gives it."""

    def start(port: Any = True, **settings: Any) -> Any:
        listeners = [{"bind": "127.0.0.1:0", "https_redirect": port}]
        return iocproxy(upstream=iocproxy_origin, listeners=listeners, **settings)

    return start


@pytest.mark.parametrize(
    ("sent", "location"),
    [
        (b"GET /a/b?c=d&e HTTP/1.1\r\nHost: shop.test\r\n\r\n", b"https://shop.test/a/b?c=d&e"),
        (b"GET / HTTP/1.1\r\nHost: Shop.test:8080\r\n\r\n", b"https://Shop.test/"),
        (b"GET / HTTP/1.1\r\nHost: shop.test:\r\n\r\n", b"https://shop.test/"),
        (b"GET /x HTTP/1.1\r\nHost: [2001:db8::1]:8080\r\n\r\n", b"https://[2001:db8::1]/x"),
        (b"GET /x HTTP/1.1\r\nHost: [::1]\r\n\r\n", b"https://[::1]/x"),
        (b"GET /x HTTP/1.1\r\nHost: 192.0.2.1:80\r\n\r\n", b"https://192.0.2.1/x"),
        (b"GET http://shop.test:80/x?y HTTP/1.1\r\nHost: shop.test:80\r\n\r\n", b"https://shop.test/x?y"),
        (b"GET http://shop.test HTTP/1.1\r\nHost: shop.test\r\n\r\n", b"https://shop.test/"),
        (b"GET HTTPS://shop.test/x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", b"https://shop.test/x"),
        (b"DELETE /x HTTP/1.1\r\nHost: shop.test\r\n\r\n", b"https://shop.test/x"),
        (b"OPTIONS /x HTTP/1.1\r\nHost: shop.test\r\nMax-Forwards: 0\r\n\r\n", b"https://shop.test/x"),
        (b"POST /x HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 2\r\n\r\nhi", b"https://shop.test/x"),
        (b"POST /x HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"https://a.test/x"),
        # what a URI may not hold is escaped (RFC 3986 section 2), what is escaped stays as it is
        (b"GET /\"<>\\^`{|}%22' HTTP/1.1\r\nHost: a.test\r\n\r\n", b"https://a.test/%22%3C%3E%5C%5E%60%7B%7C%7D%22'"),
        (b"GET /%0d%0aSet-Cookie:x HTTP/1.1\r\nHost: a.test\r\n\r\n", b"https://a.test/%0d%0aSet-Cookie:x"),
        # no path becomes another host
        (b"GET //evil.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", b"https://a.test//evil.test/"),
        (b"GET /@evil.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", b"https://a.test/@evil.test/"),
        (b"GET /\\evil.test HTTP/1.1\r\nHost: a.test\r\n\r\n", b"https://a.test/%5Cevil.test"),
    ],
)
def test_where_to(redirecting: Any, iocproxy_origin: Origin, sent: bytes, location: bytes) -> None:
    proxy = redirecting()
    with RawClient(proxy.address) as client:
        for _ in range(2):  # the connection goes on
            client.send(sent)
            response = client.read_response()
            kept = b"Connection: keep-alive\r\n" if b" HTTP/1.0\r\n" in sent else b""
            expected = HEAD + location + b"\r\n" + kept + b"Content-Length: 0\r\n\r\n"
            assert without_date(response.raw) == expected
    with RawClient(proxy.address) as client:
        client.send_slowly(sent)
        assert client.read_response().header("location") == location.decode()
    records = proxy.wait_for_records(3)
    assert {(record.status, record.upstream, record.route, record.error) for record in records} == {(308, "", "", "")}
    assert iocproxy_origin.requests == []
    assert proxy.stats()["responses"]["3xx"] == 3


def test_another_port(redirecting: Any) -> None:
    proxy = redirecting(8443)
    with RawClient(proxy.address) as client:
        client.send(b"GET /x HTTP/1.1\r\nHost: shop.test:8080\r\n\r\nGET /y HTTP/1.1\r\nHost: [::1]\r\n\r\n")
        assert client.read_response().header("location") == "https://shop.test:8443/x"
        assert client.read_response().header("location") == "https://[::1]:8443/y"


def test_head_has_no_body(redirecting: Any) -> None:
    with RawClient(redirecting().address) as client:
        client.send(b"HEAD /x HTTP/1.1\r\nHost: a.test\r\n\r\n")
        response = client.read_response(b"HEAD")
        assert (response.status, response.header("location")) == (308, "https://a.test/x")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: \r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: :80\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: good.test@evil.test\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: evil.test/good.test\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: evil.test#good.test\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: evil.test\\good.test\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n", 400),
        (b"GET http://a.test/ HTTP/1.1\r\nHost: b.test\r\n\r\n", 400),
        (b"GET http://user@a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", 400),
        (b"GET /\rX HTTP/1.1\r\nHost: a.test\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: a.test\r\n\r\n", 400),
        (b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\n\r\n", 405),
        (b"TRACE / HTTP/1.1\r\nHost: a.test\r\n\r\n", 405),
    ],
)
def test_nobody_is_sent_anywhere(redirecting: Any, iocproxy_origin: Origin, sent: bytes, status: int) -> None:
    proxy = redirecting(http={"trace": True})
    with RawClient(proxy.address) as client:
        client.send(sent)
        response = client.read_response()
        assert response.status == status
        assert response.header("location") is None
        assert b"evil" not in response.raw
    assert proxy.wait_for_records(1)[0].status == status
    assert iocproxy_origin.requests == []


def test_a_question_about_the_server_is_answered(redirecting: Any) -> None:
    with RawClient(redirecting().address) as client:
        client.send(b"OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n")
        response = client.read_response()
        assert response.status == 200
        assert "GET" in (response.header("allow") or "")


def test_a_body_that_is_still_coming_is_not_waited_for(redirecting: Any) -> None:
    with RawClient(redirecting().address) as client:
        client.send(b"POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n")
        response = client.read_response()
        assert (response.status, response.header("location")) == (308, "https://a.test/x")
        assert response.header("connection") == "close"
        client.expect_closed()


CHALLENGE = b"/.well-known/acme-challenge/LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0"


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_a_challenge_is_not_sent_on(redirecting: Any, iocproxy_origin: Origin, method: bytes) -> None:
    """RFC 8555 section 8.3: it comes over plain HTTP, and whoever renews certificates answers it."""
    iocproxy_origin.on("*", CHALLENGE, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + b"proof" * (method == b"GET"))
    proxy = redirecting()
    with RawClient(proxy.address) as client:
        client.send(b"%b %b HTTP/1.1\r\nHost: a.test\r\n\r\n" % (method, CHALLENGE))
        assert client.read_response(method).status == 200
        client.send(b"GET /other HTTP/1.1\r\nHost: a.test\r\n\r\n")
        assert client.read_response().status == 308
    assert [record.status for record in proxy.wait_for_records(2)] == [200, 308]


@pytest.mark.parametrize(
    "line",
    [
        b"POST %b" % CHALLENGE,
        b"GET %b?x" % CHALLENGE,
        b"GET %b/x" % CHALLENGE,
        b"GET /.well-known/acme-challenge/",
        b"GET /.well-known/acme-challenge",
        b"GET /.well-known/acme-challenge/../../admin",
        b"GET /.well-known/acme-challenge/..%2f..%2fadmin",
        b"GET //.well-known/acme-challenge/x",
        b"GET /x/.well-known/acme-challenge/x",
    ],
)
def test_what_only_looks_like_a_challenge_is(redirecting: Any, iocproxy_origin: Origin, line: bytes) -> None:
    with RawClient(redirecting().address) as client:
        client.send(b"%b HTTP/1.1\r\nHost: a.test\r\n\r\n" % line)
        assert client.read_response().status == 308
    assert iocproxy_origin.requests == []


def test_limits_hold(redirecting: Any, iocproxy_clock: ManualClock) -> None:
    limits = {"requests": {"rate": "2/10s"}}
    proxy = redirecting(limits=limits, clock=iocproxy_clock)
    with RawClient(proxy.address) as client:
        statuses = [client.request("GET", "/x").status for _ in range(3)]
        assert statuses == [308, 308, 429]
        iocproxy_clock.advance(10.1)
        assert client.request("GET", "/x").status == 308
    assert proxy.stats()["requests_limited"] == 1


def test_a_connection_has_its_last_request(redirecting: Any) -> None:
    with RawClient(redirecting(http={"max_requests": 2}).address) as client:
        assert client.request("GET", "/x").header("connection") is None
        assert client.request("GET", "/x").header("connection") == "close"
        client.expect_closed()


@pytest.mark.parametrize(
    ("claim", "status"), [("https", 200), ("HTTPS", 200), ("http", 308), ("", 308), ("https,http", 308)]
)
def test_what_a_trusted_proxy_took_tls_off_is_served(redirecting: Any, claim: str, status: int) -> None:
    """Sent on, it would come back over plain HTTP for ever."""
    proxy = redirecting(server={"trusted_proxies": ["127.0.0.1"]})
    with RawClient(proxy.address) as client:
        assert client.request("GET", "/bytes/1", headers=[("X-Forwarded-Proto", claim)]).status == status


def test_what_anybody_else_claims_is_not_believed(redirecting: Any, iocproxy_origin: Origin) -> None:
    with RawClient(redirecting().address) as client:
        assert client.request("GET", "/bytes/1", headers=[("X-Forwarded-Proto", "https")]).status == 308
    assert iocproxy_origin.requests == []


def test_the_other_listeners_are_as_they_were(
    iocproxy: ProxyFactory, iocproxy_origin: Origin, iocproxy_certificates: Certificates
) -> None:
    pair = {"cert": str(iocproxy_certificates.cert), "key": str(iocproxy_certificates.key)}
    proxy = iocproxy(
        upstream=iocproxy_origin,
        listeners=[
            {"bind": "127.0.0.1:0", "https_redirect": True},
            {"bind": "127.0.0.1:0"},
            {"bind": "127.0.0.1:0", "tls": {"certificates": [pair], "hsts": "365d"}},
        ],
    )
    for address, tls, status, field in zip(
        proxy.addresses,
        (None, None, iocproxy_certificates),
        (308, 200, 200),
        (None, None, "max-age=31536000"),
        strict=True,
    ):
        with RawClient(address, tls=tls) as client:
            response = client.request("GET", "/bytes/1")
            assert (response.status, response.header("strict-transport-security")) == (status, field)


@pytest.fixture
def both(iocproxy: ProxyFactory, iocproxy_origin: Origin, iocproxy_certificates: Certificates) -> Any:
    """A plain listener that leads to one with TLS, as a browser meets them."""
    import socket

    pair = {"cert": str(iocproxy_certificates.cert), "key": str(iocproxy_certificates.key)}
    for _ in range(5):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        listeners = [
            {"bind": "127.0.0.1:0", "https_redirect": port},
            {"bind": f"127.0.0.1:{port}", "tls": {"certificates": [pair], "hsts": "1d"}},
        ]
        try:
            return iocproxy(upstream=iocproxy_origin, listeners=listeners)
        except Exception as error:  # noqa: BLE001 - somebody else took the port
            last = error
    raise last


@pytest.mark.skipif(CURL is None, reason="not on PATH")
def test_curl_follows_with_method_and_body(
    both: Any, iocproxy_origin: Origin, iocproxy_certificates: Certificates
) -> None:
    assert CURL is not None
    command = [CURL, "-sSL", "--cacert", str(iocproxy_certificates.ca), "-d", "key=value"]
    url = f"http://localhost:{both.address[1]}/any?x=1"
    done = subprocess.run([*command, "--ipv4", url], capture_output=True, timeout=30, check=True)
    (request,) = iocproxy_origin.requests
    assert request.head.startswith(b"POST /any?x=1 HTTP/1.1\r\n")
    assert request.header("X-Forwarded-Proto") == "https"
    assert request.body == b"key=value"
    assert done.stderr == b""


def test_a_browser_follows(both: Any, iocproxy_origin: Origin, iocproxy_certificates: Certificates) -> None:
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=iocproxy_certificates.client_context()))
    with opener.open(f"http://localhost:{both.address[1]}/bytes/3", timeout=30) as response:
        assert response.read() == bytes(range(3))
        assert response.url == f"https://localhost:{both.tls_address[1]}/bytes/3"
        assert response.headers["Strict-Transport-Security"] == "max-age=86400"
    assert len(iocproxy_origin.requests) == 1
