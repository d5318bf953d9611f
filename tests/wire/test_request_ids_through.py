"""X-Request-ID: what the origin is sent, and that the log has the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

TRUSTED = {"trusted_proxies": ["127.0.0.0/8"]}
MADE = re.compile(r"[0-9a-f]{32}")


def asked(front: Any, *said: bytes) -> bytes:
    """The lines of the request as the origin got it, after a request with these X-Request-ID."""
    with front.client() as client:
        lines = b"".join(b"x-request-id: %b\r\n" % each for each in said)
        client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\nA: 1\r\n%bB: 2\r\n\r\n" % lines)
        assert client.read_response().status == 200
    return bytes(front.origin.requests[-1].raw)


def test_left_alone_it_passes_like_any_other_field(any_front: Any) -> None:
    front = any_front()
    assert b"\r\nA: 1\r\nx-request-id: a b\r\nx-request-id: c\r\nB: 2\r\n" in asked(front, b"a b", b"c")
    assert b"request-id" not in asked(front).lower()
    assert [record.request_id for record in front.proxy.wait_for_records(2)] == ["", ""]


@pytest.mark.parametrize(
    ("mode", "server", "said"),
    [
        ("make", {}, []),
        ("make", {}, [b"abc"]),
        ("make", TRUSTED, []),
        ("make", TRUSTED, [b"a b"]),
        ("make", TRUSTED, [b"x" * 129]),
        ("make", TRUSTED, [b"abc", b"abc"]),
        ("keep", {}, []),
        ("keep", {}, [b""]),
        ("keep", {}, [b"abc", b"def"]),
        ("keep", {}, [b"\xe4"]),
        ("keep", {}, [b"a,b"]),
    ],
)
def test_made(front: Any, mode: str, server: dict[str, Any], said: list[bytes]) -> None:
    started = front(server=server, forwarding={"request_id": mode})
    head = asked(started, *said)
    request = started.origin.requests[0]
    made = request.header("X-Request-ID")  # one only
    assert MADE.fullmatch(made)
    assert b"\r\nA: 1\r\nB: 2\r\n" in head
    assert started.proxy.wait_for_records(1)[0].request_id == made


@pytest.mark.parametrize(("mode", "server"), [("make", TRUSTED), ("keep", {}), ("keep", TRUSTED)])
@pytest.mark.parametrize("said", [b"abc", b"x" * 128, b"|0a.1_2~"])
def test_kept(front: Any, mode: str, server: dict[str, Any], said: bytes) -> None:
    started = front(server=server, forwarding={"request_id": mode})
    for _ in range(2):  # the second time the section is known already
        asked(started, said)
    assert {request.header("X-Request-ID") for request in started.origin.requests} == {said.decode()}
    assert {record.request_id for record in started.proxy.wait_for_records(2)} == {said.decode()}


def test_every_request_of_a_pipeline_has_its_own(front: Any) -> None:
    started = front(forwarding={"request_id": "make"})
    with started.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n" * 5)
        for _ in range(5):
            assert client.read_response().status == 200
    ids = [request.header("X-Request-ID") for request in started.origin.requests]
    assert len(set(ids)) == 5
    assert [record.request_id for record in started.proxy.wait_for_records(5)] == ids


def test_naming_it_in_connection_removes_the_clients_and_not_ours(front: Any) -> None:
    started = front(forwarding={"request_id": "make"})
    with started.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: x-request-id\r\nX-Request-ID: abc\r\n\r\n")
        client.read_response()
    assert MADE.fullmatch(started.origin.requests[0].header("X-Request-ID"))


def test_what_has_no_route_has_one_and_what_cannot_be_read_has_none(front: Any) -> None:
    started = front(forwarding={"request_id": "make"}, routes=[{"path": "/a", "upstream": "origin"}])
    with started.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\nnonsense\r\n\r\n")
        assert [client.read_response().status for _ in range(2)] == [404, 400]
    missed, unread = started.proxy.wait_for_records(2)
    assert MADE.fullmatch(missed.request_id)
    assert unread.request_id == ""


def test_in_the_log(front: Any, tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    started = front(
        forwarding={"request_id": "keep"}, logging={"format": "json", "access_file": str(file), "access": True}
    )
    asked(started, b"abc")
    started.proxy.wait_for_records(1)
    started.proxy.stop()
    (line,) = file.read_text(encoding="ascii").splitlines()
    assert json.loads(line)["request_id"] == "abc"
