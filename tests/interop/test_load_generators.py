"""wrk and h2load: many requests over few connections, also pipelined. None may fail."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from iocproxy.testing import Origin

CONNECTIONS = 12
REQUESTS = 1_200

#: `wrk` says in words what went wrong, and nothing where nothing did; this says all of it.
WRK = """
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\\n{"requests": %d, "bytes": %d, "connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}\\n',
    summary.requests, summary.bytes, errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
"""

#: Three requests in one write, the next three when all are answered. No HEAD: wrk would wait for its body.
PIPELINE = """
function init(args)
  batch = wrk.format("GET", "/bytes/10") .. wrk.format("POST", "/bytes/5000", nil, "a=1")
    .. wrk.format("GET", "/stream/20")
end
function request()
  return batch
end
"""


@pytest.fixture
def quick_origin(iocproxy_origin: Origin) -> Origin:
    """`/quick` in one write: the origin is not what is tested."""
    iocproxy_origin.on("*", "/quick", b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nhello, load\n")
    return iocproxy_origin


def test_wrk(front: Any, quick_origin: Origin, run_program: Any, tmp_path: Path) -> None:
    """Pipelined over TLS, and one by one without it: a second is the shortest it takes."""
    script = PIPELINE if front.tls else ""
    file = tmp_path / "script.lua"
    file.write_text(WRK + script)
    done = run_program("wrk", "-t1", f"-c{CONNECTIONS}", "-d1s", "-s", file, f"{front.base}/quick")
    said = json.loads(done.stdout.splitlines()[-1])
    assert said.pop("requests") > CONNECTIONS, done.stdout
    assert said.pop("bytes") > 0
    assert set(said.values()) == {0}, said
    front.proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 0)
    stats = front.proxy.stats()
    # What is under way when its time is over, wrk abandons: 499
    abandoned = CONNECTIONS * (3 if script else 1)
    assert stats["responses"]["4xx"] <= abandoned
    assert {record.status for record in front.proxy.records} <= {200, 499}
    # wrk connects once more, before all others, to see whether there is anybody; and anew after `http.max_requests`
    assert stats["connections_accepted"] <= CONNECTIONS + 1 + stats["requests"] // 1000
    assert front.proxy.events("accept_paused") == []


@pytest.mark.parametrize("at_once", [1, 8], ids=["one-by-one", "pipelined"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_h2load(front: Any, quick_origin: Origin, run_program: Any, tmp_path: Path, method: str, at_once: int) -> None:
    upload = []
    if method == "POST":
        file = tmp_path / "upload"
        file.write_bytes(bytes(1000))
        upload = ["-d", file]
    done = run_program(
        *("h2load", "--h1", "-n", REQUESTS, "-c", CONNECTIONS, "-m", at_once, "-t", 1, *upload),
        f"{front.base}/quick",
    )
    said = done.stdout.decode()
    (counts,) = re.findall(r"^requests: (.*)$", said, re.MULTILINE)
    assert counts == (
        f"{REQUESTS} total, {REQUESTS} started, {REQUESTS} done, {REQUESTS} succeeded, 0 failed, 0 errored, 0 timeout"
    )
    assert f"status codes: {REQUESTS} 2xx, 0 3xx, 0 4xx, 0 5xx" in said
    records = front.proxy.wait_for_records(REQUESTS)
    assert {(record.status, record.error) for record in records} == {(200, "")}
    stats = front.proxy.stats()
    assert stats["connections_accepted"] == CONNECTIONS
    assert stats["bytes_out"] == 12 * REQUESTS
    assert stats["bytes_in"] == (1000 * REQUESTS if method == "POST" else 0)
    assert stats["upstream_connects"] <= CONNECTIONS
    assert stats["upstream_retries"] == 0
