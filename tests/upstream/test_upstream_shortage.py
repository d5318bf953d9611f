"""Nothing left to connect with: that is the proxy's fault, and no server's."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from iocproxy.testing.patience import PATIENCE

ROOT = Path(__file__).parents[2]

OUT_OF_FILES = """
    import contextlib, os, resource
    from iocproxy.testing import Origin, RawClient, RunningProxy
    from iocproxy import Config

    @contextlib.contextmanager
    def no_files():
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.open(os.devnull, os.O_RDONLY)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    with contextlib.ExitStack() as stack:
        origins = [stack.enter_context(Origin()) for _ in range(2)]
        servers = [{address!r}.format(port=origin.address[1]) for origin in origins]
        config = Config(listeners=[{{"bind": "127.0.0.1:0"}}], upstreams={{"app": {{"servers": servers}}}})
        proxy = stack.enter_context(RunningProxy(config))
        client = stack.enter_context(RawClient(proxy.address))
        other = stack.enter_context(RawClient(proxy.address))
        proxy.wait_for(lambda it: it.stats()["connections_open"] == 2)
        with no_files():
            for each in (client, other):
                answer = each.request("GET", "/status/204")
                assert answer.status == 503, answer
                assert answer.header("Proxy-Status") == "iocproxy; error=proxy_internal_error", answer
        for record in proxy.wait_for_records(2):
            assert (record.status, record.upstream) == (503, ""), record
            assert record.error.startswith("proxy: "), record
            assert "oo many open files" in record.error, record
        stats = proxy.stats()
        assert (stats["upstream_connect_shortages"], stats["upstream_connect_failures"]) == (2, 0), stats
        assert proxy.events("upstream_skipped") == []
        shortages = proxy.events("connect_shortage")
        assert {{event["level"] for event in shortages}} == {{"warning"}}, shortages
        assert len(shortages) == len({{event["server"] for event in shortages}}) == 2, shortages
        assert client.request("GET", "/status/204").status == 204
        assert [len(origin.requests) for origin in origins] in ([0, 1], [1, 0])
    print("served again")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on open files to lower")
@pytest.mark.parametrize("address", ["http://127.0.0.1:{port}", "http://localhost:{port}"], ids=["address", "name"])
def test_out_of_files_is_answered_503_and_blames_no_server(address: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(OUT_OF_FILES).format(address=address)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE * 2,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("served again\n", "")
