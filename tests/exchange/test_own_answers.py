"""What the proxy says when it answers by itself."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

from iocproxy.errors import ProxyError, Side
from iocproxy.exchange.answers import error_body, error_fields
from iocproxy.exchange.negotiation import Form

OWN = [400, 403, 404, 405, 408, 414, 417, 421, 429, 431, 500, 501, 502, 503, 504, 505]


@pytest.mark.parametrize("status", OWN)
def test_each_page_is_small_and_says_something(status: int) -> None:
    kind, page = error_body(status, Form.HTML)
    assert kind == b"text/html; charset=utf-8"
    assert len(page) < 512
    assert str(status).encode() in page
    said = []
    parser = HTMLParser()
    parser.handle_data = said.append  # type: ignore[method-assign]
    parser.feed(page.decode("ascii"))
    assert any(text.endswith(".") for text in said)


@pytest.mark.parametrize("status", [*OWN, 418, 599])
def test_the_same_as_json(status: int) -> None:
    kind, body = error_body(status, Form.JSON)
    said = json.loads(body)
    assert kind == b"application/json"
    assert said["status"] == status
    assert set(said) == {"status", "error", "message"}
    assert all(said.values())


@pytest.mark.parametrize("status", [*OWN, 418, 599])
def test_the_same_as_problem_details(status: int) -> None:
    """RFC 9457 section 3.1."""
    kind, body = error_body(status, Form.PROBLEM)
    said = json.loads(body)
    assert kind == b"application/problem+json"
    assert (said["type"], said["status"]) == ("about:blank", status)
    assert set(said) == {"type", "status", "title", "detail"}
    assert all(said.values())


def _error(status: int, proxy_status: str) -> ProxyError:
    return ProxyError(
        "secret-server:9000 is down", side=Side.UPSTREAM, stage="x", status=status, proxy_status=proxy_status
    )


def test_proxy_status_names_the_error_and_no_server() -> None:
    fields = dict(error_fields(502, "connection_refused", b"text/html"))
    assert fields[b"Proxy-Status"] == b"iocproxy; error=connection_refused"
    assert fields[b"Cache-Control"] == b"no-store"
    assert fields[b"Content-Type"] == b"text/html"
    assert not any(b"secret" in value for value in fields.values())


def test_no_proxy_status_where_none_fits() -> None:
    assert b"Proxy-Status" not in dict(error_fields(400, "", b"text/html"))


def test_405_says_what_is_allowed() -> None:
    assert b"GET" in dict(error_fields(405, "", b"text/html"))[b"Allow"]
