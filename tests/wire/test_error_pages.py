"""The answers the proxy gives itself: HTML for people, JSON for programs, and the connection as it should be."""

from __future__ import annotations

import json
from typing import Any

import pytest

BAD = b"nonsense\r\n\r\n"


@pytest.fixture
def started(any_front: Any) -> Any:
    front = any_front()
    front.origin.on("*", "/bad", respond=BAD)
    return front


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "html"),
        ("*/*", "html"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "html"),
        ("application/json", "json"),
        ("application/problem+json, */*", "problem"),
        ("APPLICATION/JSON", "json"),
        ("text/html, application/json", "html"),
        ("", "html"),
    ],
)
def test_the_form_that_was_asked_for(started: Any, accept: str | None, kind: str) -> None:
    with started.client() as client:
        headers = [] if accept is None else [("Accept", accept)]
        response = client.request("GET", "/bad", headers=headers)
        assert response.status == 502
        assert (response.header("proxy-status") or "").startswith("iocproxy; error=")
        assert response.header("cache-control") == "no-store"
        assert (response.header("date") or "").endswith(" GMT")
        assert response.header("content-length") == str(len(response.body))
        assert response.header("connection") is None
        if kind == "json":
            assert response.header("content-type") == "application/json"
            said = json.loads(response.body)
            assert (said["status"], said["error"]) == (502, "Bad Gateway")
        elif kind == "problem":
            assert response.header("content-type") == "application/problem+json"
            said = json.loads(response.body)
            assert (said["type"], said["status"], said["title"]) == ("about:blank", 502, "Bad Gateway")
        else:
            assert response.header("content-type") == "text/html; charset=utf-8"
            assert b"<title>502 Bad Gateway</title>" in response.body
        # the request was complete: the connection goes on
        assert client.request("GET", "/bytes/1").body == b"\x00"


def test_the_answer_to_head_has_the_length_and_no_body(started: Any) -> None:
    with started.client() as client:
        page = client.request("GET", "/bad")
        head = client.request("HEAD", "/bad")
        assert (head.status, head.body) == (502, b"")
        assert head.header("content-length") == page.header("content-length")
        assert client.request("GET", "/bytes/1").body == b"\x00"
    assert [record.bytes_out for record in started.proxy.wait_for_records(3)] == [len(page.body), 0, 1]


def test_nothing_of_the_request_is_in_the_page(started: Any) -> None:
    with started.client() as client:
        response = client.request(
            "GET",
            "/bad?<script>alert(1)</script>",
            headers=[("Host", "evil.test"), ("User-Agent", "<script>"), ("Accept", "<script>")],
        )
        assert response.status == 502
        assert b"script" not in response.raw
        assert b"evil" not in response.raw
        assert b"nonsense" not in response.raw
        assert str(started.origin.address[1]).encode() not in response.raw


def test_a_request_with_its_body_complete_keeps_the_connection(started: Any) -> None:
    with started.client() as client:
        assert client.request("POST", "/bad", body=b"hello").status == 502
        assert client.request("GET", "/bytes/1").body == b"\x00"


def test_a_request_whose_body_is_still_coming_ends_the_connection(started: Any) -> None:
    started.origin.on("POST", "/bad", respond=BAD, read_body=False)
    with started.client() as client:
        client.send(b"POST /bad HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhel")
        response = client.read_response()
        assert (response.status, response.header("connection")) == (502, "close")
        client.expect_closed()


@pytest.mark.parametrize(
    ("line", "connection"),
    [
        (b"GET /bad HTTP/1.0\r\n", "close"),
        (b"GET /bad HTTP/1.0\r\nConnection: keep-alive\r\n", "keep-alive"),
        (b"GET /bad HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n", "close"),
    ],
)
def test_the_connection_is_as_the_client_wished(started: Any, line: bytes, connection: str) -> None:
    with started.client() as client:
        client.send(line + b"\r\n")
        response = client.read_response()
        assert (response.status, response.header("connection")) == (502, connection)
        if connection == "close":
            client.expect_closed()
        else:
            assert client.request("GET", "/bytes/1").body == b"\x00"


def test_no_route(any_front: Any, iocproxy_origin: Any) -> None:
    front = any_front(routes=[{"host": "a.test", "upstream": "origin"}])
    with front.client() as client:
        response = client.request("GET", "/", headers=[("Host", "b.test")])
        assert (response.status, response.header("proxy-status")) == (404, "iocproxy; error=destination_not_found")
        assert client.request("GET", "/", headers=[("Host", "A.TEST")]).status == 200
    assert len(iocproxy_origin.requests) == 1


def test_405_says_what_is_allowed(started: Any) -> None:
    with started.client() as client:
        client.send(b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n")
        response = client.read_response()
        assert response.status == 405
        assert "GET" in (response.header("allow") or "")
        client.expect_closed()


def test_a_server_that_is_not_there(iocproxy: Any, iocproxy_origin_factory: Any) -> None:
    from iocproxy.testing import RawClient

    origin = iocproxy_origin_factory()
    url = origin.url
    origin.stop()
    proxy = iocproxy(upstream=url)
    with RawClient(proxy.address) as client:
        for _ in range(2):
            response = client.request("POST", "/", body=b"hello")
            assert (response.status, response.header("proxy-status")) == (502, "iocproxy; error=connection_refused")
