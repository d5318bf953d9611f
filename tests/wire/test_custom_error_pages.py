"""Error pages of the operator's own: which answers they replace, byte for byte, and which they do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from iocproxy.testing import Origin, RawClient

HTML = "<!doctype html><title>Fehler: ä</title>\n".encode()
CLASS = b"<p>something else\n"
PROGRAM = b'{"code": 7}\n'
TEXT = b"plain\n"
BAD = b"nonsense\r\n\r\n"


@pytest.fixture
def pages(tmp_path: Path) -> dict[str, str]:
    """The files by their name."""
    files = {"a.html": HTML, "class.html": CLASS, "a.json": PROGRAM, "a.txt": TEXT}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    return {name: str(tmp_path / name) for name in files}


def errors(pages: dict[str, str], **wanted: str) -> dict[str, Any]:
    """``_404="a.html"`` as a section of the configuration."""
    return {"pages": {status.lstrip("_"): pages[name] for status, name in wanted.items()}}


def test_the_whole_answer(any_front: Any, pages: dict[str, str]) -> None:
    front = any_front(errors=errors(pages, _502="a.html"))
    front.origin.on("*", "/bad", BAD)
    with front.client() as client:
        client.send(b"GET /bad HTTP/1.1\r\nHost: a.test\r\n\r\n")
        response = client.read_response()
        date = response.header("date").encode()
        assert response.raw == (
            b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html; charset=utf-8\r\nCache-Control: no-store\r\n"
            b"Proxy-Status: iocproxy; error=http_protocol_error\r\nContent-Length: 41\r\nDate: %b\r\n\r\n%b"
            % (date, HTML)
        )
        # the same without its content, and the connection goes on
        head = client.request("HEAD", "/bad")
        assert (head.status, head.body, head.header("content-length")) == (502, b"", "41")
        assert client.request("GET", "/bytes/1").body == b"\x00"
    assert [record.bytes_out for record in front.proxy.wait_for_records(3)] == [41, 0, 1]


@pytest.mark.parametrize(
    ("name", "content_type", "content"),
    [
        ("a.html", "text/html; charset=utf-8", HTML),
        ("a.json", "application/json", PROGRAM),
        ("a.txt", "text/plain; charset=utf-8", TEXT),
    ],
)
def test_the_type_goes_by_the_suffix(
    front: Any, pages: dict[str, str], name: str, content_type: str, content: bytes
) -> None:
    started = front(errors=errors(pages, _5xx=name))
    started.origin.on("*", "/bad", BAD)
    with started.client() as client:
        response = client.request("GET", "/bad")
    assert (response.header("content-type"), response.body) == (content_type, content)


@pytest.mark.parametrize("name", ["a.html", "a.txt", "a.json"])
def test_who_asks_for_json_gets_json(front: Any, pages: dict[str, str], name: str) -> None:
    started = front(errors=errors(pages, _502=name))
    started.origin.on("*", "/bad", BAD)
    with started.client() as client:
        response = client.request("GET", "/bad", headers=[("Accept", "application/json")])
    assert response.header("content-type") == "application/json"
    assert response.header("proxy-status") == "iocproxy; error=http_protocol_error"
    said = json.loads(response.body)
    assert said == {"code": 7} if name == "a.json" else said["status"] == 502


def test_people_and_programs_have_their_own(front: Any, pages: dict[str, str]) -> None:
    started = front(errors=errors(pages, _502="a.html", _5xx="a.json"))
    started.origin.on("*", "/bad", BAD)
    with started.client() as client:
        assert client.request("GET", "/bad").body == HTML
        assert client.request("GET", "/bad", headers=[("Accept", "application/json")]).body == PROGRAM


def test_a_route_goes_before_all_routes(front: Any, pages: dict[str, str]) -> None:
    started = front(
        errors=errors(pages, _502="a.html", _4xx="class.html"),
        routes=[
            {"path": "/plain", "upstream": "origin"},
            {"path": "/own", "upstream": "origin", "errors": errors(pages, _5xx="a.txt")},
        ],
    )
    started.origin.on("*", "/*", BAD)
    with started.client() as client:
        assert client.request("GET", "/plain").body == HTML
        assert client.request("GET", "/own").body == TEXT
        missed = client.request("GET", "/elsewhere")  # no route: those of all routes
        assert (missed.status, missed.body) == (404, CLASS)
        assert missed.header("proxy-status") == "iocproxy; error=destination_not_found"


def test_what_the_upstream_answers_is_its_own(front: Any, pages: dict[str, str]) -> None:
    started = front(errors=errors(pages, _4xx="a.html", _5xx="a.html"))
    with started.client() as client:
        for status in (404, 502):
            response = client.request("GET", f"/status/{status}")
            assert response.status == status
            assert response.body != HTML
            assert response.header("via")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"HEAD / HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n", 405),
        (b"GET /%b HTTP/1.1\r\nHost: a.test\r\n\r\n" % (b"x" * 9000), 414),
        (b"GET / HTTP/1.1\r\nHost: a.test\r\nX: %b\r\n\r\n" % (b"x" * 40_000), 431),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_page_of_all_routes(
    front: Any, pages: dict[str, str], sent: bytes, status: int
) -> None:
    started = front(errors=errors(pages, _4xx="class.html"), routes=[{"upstream": "origin"}])
    with started.client() as client:
        client.send(sent)
        response = client.read_response(sent.partition(b" ")[0])
        assert (response.status, response.header("connection")) == (status, "close")
        assert response.body == (b"" if sent.startswith(b"HEAD") else CLASS)
        assert response.header("content-length") == str(len(CLASS))
        assert response.header("allow") is not None or status != 405
        client.expect_closed()


def test_the_limits_429(front: Any, pages: dict[str, str], iocproxy_clock: Any) -> None:
    started = front(limits={"requests": {"rate": "1/10s"}}, errors=errors(pages, _429="a.html"), clock=iocproxy_clock)
    with started.client() as client:
        assert client.request("GET", "/bytes/1").status == 200
        response = client.request("GET", "/bytes/1")
        assert (response.status, response.body) == (429, HTML)
        assert response.header("content-type") == "text/html; charset=utf-8"
        assert response.header("retry-after") == "10"
        assert response.header("cache-control") == "no-store"
        assert response.header("content-length") == str(len(HTML))
        assert client.request("HEAD", "/bytes/1").body == b""
        asked = client.request("GET", "/bytes/1", headers=[("Accept", "application/json")])
        assert (asked.status, asked.header("content-type")) == (429, "application/json")
        assert json.loads(asked.body)["message"] == "Too many requests. Please slow down."


def test_nothing_of_the_request_is_put_into_it(front: Any, tmp_path: Path) -> None:
    page = b"<p>{status} %(path)s ${host} {{host}} %s\n"
    (tmp_path / "a.html").write_bytes(page)
    started = front(errors={"pages": {"4xx": str(tmp_path / "a.html")}}, routes=[{"host": "a", "upstream": "origin"}])
    with started.client() as client:
        assert client.request("GET", "/<script>", headers=[("Host", "evil.test")]).body == page


def test_a_server_that_is_not_there(iocproxy: Any, iocproxy_origin_factory: Any, pages: dict[str, str]) -> None:
    origin: Origin = iocproxy_origin_factory()
    url = origin.url
    origin.stop()
    proxy = iocproxy(upstream=url, errors=errors(pages, _502="a.html"))
    with RawClient(proxy.address) as client:
        for _ in range(2):
            response = client.request("POST", "/", body=b"hello")
            assert (response.status, response.body) == (502, HTML)
            assert response.header("proxy-status") == "iocproxy; error=connection_refused"


def test_paths_count_from_the_configuration(iocproxy: Any, pages: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "iocproxy.toml"
    file.write_text(
        '[[listeners]]\nbind = "127.0.0.1:0"\n[upstreams.app]\nservers = ["http://127.0.0.1:9"]\n'
        '[[routes]]\nhost = "a.test"\nupstream = "app"\n[errors.pages]\n404 = "a.html"\n'
    )
    del pages
    proxy = iocproxy(file)
    with RawClient(proxy.address) as client:
        assert client.request("GET", "/", headers=[("Host", "b.test")]).body == HTML
