"""Middleware where a listener has its own ways: what is sent on to https, and Strict-Transport-Security."""

from __future__ import annotations

from collections.abc import Callable

from iocproxy.http1.errors import bad_request_body
from iocproxy.testing import Certificates, Origin, ProxyFactory, RawClient

SOURCE = """
from iocproxy import Response

seen = []

class Mine:
    def on_request(self, request):
        seen.append(("request", request.path))
        if request.path == "/mine":
            return Response(200, [("Strict-Transport-Security", "max-age=1"), ("A", "b")], b"mine")

    def on_response(self, request, response):
        response.headers["Strict-Transport-Security"] = "max-age=2"

    def on_complete(self, record):
        seen.append(("complete", record.target, record.status))
"""


def test_what_is_sent_on_is_seen_at_its_end_only(
    iocproxy: ProxyFactory, iocproxy_origin: Origin, module: Callable[[str], str]
) -> None:
    name = module(SOURCE)
    proxy = iocproxy(
        upstream=iocproxy_origin,
        listeners=[{"bind": "127.0.0.1:0", "https_redirect": True}],
        middleware=[{"use": f"{name}:Mine"}],
    )
    with RawClient(proxy.address) as client:
        assert client.request("GET", "/mine").status == 308
        assert client.request("GET", "/.well-known/acme-challenge/token").status == 200
    proxy.wait_for_records(2)
    assert __import__(name).seen == [
        ("complete", "/mine", 308),
        ("request", "/.well-known/acme-challenge/token"),
        ("complete", "/.well-known/acme-challenge/token", 200),
    ]


def test_the_listeners_hsts_has_the_last_word(
    iocproxy: ProxyFactory,
    iocproxy_origin: Origin,
    iocproxy_certificates: Certificates,
    module: Callable[[str], str],
) -> None:
    name = module(SOURCE)
    pair = {"cert": str(iocproxy_certificates.cert), "key": str(iocproxy_certificates.key)}
    proxy = iocproxy(
        upstream=iocproxy_origin,
        tls={"certificates": [pair], "hsts": "1h"},
        middleware=[{"use": f"{name}:Mine"}],
    )
    for address, tls, fields in (
        (proxy.tls_address, iocproxy_certificates, {"/mine": "max-age=3600", "/bytes/1": "max-age=3600"}),
        (proxy.address, None, {"/mine": "max-age=1", "/bytes/1": "max-age=2"}),
    ):
        with RawClient(address, tls=tls) as client:
            for path, field in fields.items():
                for _ in range(2):
                    response = client.request("GET", path)
                    assert response.status == 200
                    assert response.header("strict-transport-security") == field  # several would raise
            assert client.request("GET", "/mine").header("a") == "b"


def test_one_that_is_over_before_it_begins_leaves_nothing_behind(
    iocproxy: ProxyFactory, iocproxy_origin: Origin, module: Callable[[str], str]
) -> None:
    """What ends the request comes between the call of an asynchronous hook and the first step of its task."""
    name = module(
        "import asyncio, gc\nended = []\nclass Mine:\n"
        "    def on_request(self, request):\n"
        "        asyncio.get_running_loop().call_soon(end)\n"
        "        return self.later()\n"
        "    async def later(self): raise AssertionError('it ran')\n"
        "    def on_complete(self, record): ended.append(gc.collect())\n"
    )
    proxy = iocproxy(upstream=iocproxy_origin, middleware=[{"use": f"{name}:Mine"}])

    def end() -> None:
        (connection,) = proxy._proxy._assembly.admission._open
        connection._exchange.client_failed(bad_request_body("too late", 408))

    __import__(name).end = end
    with RawClient(proxy.address) as client:
        assert client.request("GET", "/").status == 408
    assert proxy.wait_for_records(1)[0].status == 408
    assert __import__(name).ended
    assert proxy.stats()["requests_open"] == 0
    assert proxy.events("middleware_failed") == []
