"""Limits that several proxies share, as clients meet them: real proxies, a real Redis, real sockets."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from iocproxy import ConfigError
from iocproxy.cli.app import app
from iocproxy.testing import Certificates, Origin, ProxyFactory, RawClient, RunningProxy
from iocproxy.testing.patience import PATIENCE

GET = b"GET /status/204 HTTP/1.1\r\nHost: a.test\r\n\r\n"
SHARED = {"requests": {"rate": "5/1m"}}

Share = Callable[..., RunningProxy]


@pytest.fixture
def share(iocproxy: ProxyFactory, iocproxy_origin: Origin) -> Share:
    """Starts a proxy whose limits are kept in that Redis; `redis` is the table, with time enough to answer."""

    def start(at: Any, limits: Any = SHARED, redis: Any = None, **settings: Any) -> RunningProxy:
        storage = {"storage": getattr(at, "url", at), "redis": {"timeout": "1s", **(redis or {})}}
        settings.setdefault("upstream", iocproxy_origin)
        return iocproxy(limits={**limits, **storage}, **settings)

    return start


def statuses(proxy: RunningProxy, count: int, source: str = "127.0.0.1") -> list[int]:
    with RawClient(proxy.address, source=(source, 0)) as client:
        return [client.request("GET", "/status/204").status for _ in range(count)]


def up(proxy: RunningProxy) -> bool:
    return bool(proxy.stats()["storage"]["up"])


def down(proxy: RunningProxy) -> bool:
    return not up(proxy)


# ── one limit ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_two_proxies_enforce_one_limit(share: Share, redis_server: Any) -> None:
    one, two = share(redis_server), share(redis_server)
    assert statuses(one, 3) == [204] * 3
    assert statuses(two, 3) == [204, 204, 429]
    assert statuses(one, 1) == [429]
    assert statuses(two, 1, "127.0.0.2") == [204]
    assert (one.stats()["requests_limited"], two.stats()["requests_limited"]) == (1, 1)
    assert one.stats()["limits"]["requests"]["refused"] == 1
    (told,) = one.events("limit_refused")
    assert (told["limit"], told["client"]) == ("requests", "127.0.0.1")


def test_exactly_so_many_under_load(share: Share, redis_server: Any) -> None:
    proxies = [share(redis_server, {"requests": {"rate": "100/1m"}}) for _ in range(2)]

    def load(number: int) -> list[int]:
        return statuses(proxies[number % 2], 30)

    with ThreadPoolExecutor(8) as executor:
        said = [status for some in executor.map(load, range(8)) for status in some]
    # Above 16 a limit may refuse early, by less than 1/16 of it; it never admits more. Who comes one after the other
    # in one window is not refused early at all.
    assert said.count(204) == 100
    assert said.count(429) == 140
    # and Redis was not asked about what a proxy knew itself
    assert sum(proxy.stats()["storage"]["decided"] for proxy in proxies) <= 240


def test_rules_and_what_is_left(share: Share, redis_server: Any) -> None:
    limits = {
        "requests": {"rate": ["3/1m", "100/1h"], "ratelimit_fields": True},
        "rules": [
            {"name": "writes", "methods": ["POST"], "rate": "1/1m", "key": "header:X-Key", "status": 503},
            {"name": "trial", "rate": "1/1m", "key": "everyone", "dry_run": True},
        ],
    }
    one, two = share(redis_server, limits), share(redis_server, limits)
    post = b"POST /echo HTTP/1.1\r\nHost: a.test\r\nX-Key: %b\r\nContent-Length: 0\r\n\r\n"
    with RawClient(one.address) as first, RawClient(two.address) as second:
        said = []
        for client, sent in (
            (first, post % b"mine"),
            (second, post % b"mine"),  # refused by one limit, and counted by none
            (second, post % b"other"),
            (first, GET),
            (second, GET),
        ):
            client.send(sent)
            response = client.read_response()
            left = re.findall(r'"requests-\w+";r=(\d+)', response.header("ratelimit") or "")
            said.append((response.status, left))
    assert said == [
        (200, ["2", "99"]),
        (503, ["2", "99"]),
        (200, ["1", "98"]),
        (204, ["0", "97"]),
        (429, ["0", "97"]),
    ]
    refused = {name: (each["refused"], each["would_refuse"]) for name, each in two.stats()["limits"].items()}
    assert refused["writes"] == refused["requests"] == (1, 0)
    assert refused["trial"] == (0, 1)


@pytest.mark.parametrize("piecewise", [False, True])
def test_the_answer_says_how_long(share: Share, redis_server: Any, piecewise: bool) -> None:
    one, two = share(redis_server, {"requests": {"rate": "1/2s"}}), share(redis_server, {"requests": {"rate": "1/2s"}})
    assert statuses(one, 1) == [204]
    with RawClient(two.address) as client:
        (client.send_slowly if piecewise else client.send)(GET)
        response = client.read_response()
        assert response.status == 429
        wait = int(response.header("retry-after") or "")
        assert 1 <= wait <= 2
        time.sleep(wait)  # what a client is told to do
        client.send(GET)
        assert client.read_response().status == 204


def test_pipelined_requests_are_answered_in_order(share: Share, redis_server: Any) -> None:
    proxy = share(redis_server)
    with RawClient(proxy.address) as client:
        client.send(GET * 7)
        assert [client.read_response().status for _ in range(7)] == [204] * 5 + [429] * 2


def test_a_body_waits_with_its_request(share: Share, redis_server: Any, iocproxy_origin: Origin) -> None:
    proxy = share(redis_server)
    body = b"x" * 300_000
    with RawClient(proxy.address) as client:
        client.send(b"POST /echo HTTP/1.1\r\nHost: a.test\r\nContent-Length: 300000\r\n\r\n" + body)
        assert client.read_response().status == 200
    assert iocproxy_origin.requests[0].body == body


def test_the_rate_of_connections_is_shared(share: Share, redis_server: Any) -> None:
    limits = {"connections": {"rate": "3/1m", "concurrent": 10}}
    one, two = share(redis_server, limits), share(redis_server, limits)
    assert statuses(one, 2) == statuses(two, 2) == [204, 204]
    assert statuses(one, 2) == [204, 204]
    for proxy in (two, one):
        with contextlib.suppress(ConnectionError), socket.create_connection(proxy.address, PATIENCE) as sock:
            sock.settimeout(PATIENCE)
            assert sock.recv(1) == b""
        assert proxy.wait_for(lambda proxy: proxy.stats()["connections_refused"]["rate"]) == 1
        proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 0)
    assert one.stats()["limits"]["connections rate"]["refused"] == 1


@pytest.mark.parametrize("piecewise", [False, True])
def test_a_connection_goes_by_its_proxy_header(share: Share, redis_server: Any, piecewise: bool) -> None:
    settings = {
        "listeners": [{"bind": "127.0.0.1:0", "proxy_protocol": True}],
        "server": {"trusted_proxies": ["127.0.0.0/8"]},
    }
    limits = {"connections": {"rate": "1/1m", "concurrent": 10}}
    one, two = share(redis_server, limits, **settings), share(redis_server, limits, **settings)
    for proxy, client_address, served in (
        (one, b"192.0.2.1", True),
        (two, b"192.0.2.2", True),
        (two, b"192.0.2.1", False),
    ):
        with RawClient(proxy.address) as client:
            sent = b"PROXY TCP4 " + client_address + b" 192.0.2.9 1 2\r\n" + GET
            with contextlib.suppress(ConnectionError):  # refused before all of it was sent
                (client.send_slowly if piecewise else client.send)(sent)
            if served:
                assert client.read_response().status == 204
            else:
                with contextlib.suppress(ConnectionError):
                    assert client.sock.recv(1) == b""
    assert two.wait_for(lambda proxy: proxy.stats()["connections_refused"]["rate"]) == 1


def test_the_place_of_a_refused_connection_is_given_back(share: Share, redis_server: Any) -> None:
    limits = {"connections": {"rate": "1/1m", "concurrent": 2}}
    one, two = share(redis_server, limits), share(redis_server, limits)
    assert statuses(one, 1) == [204]
    for _ in range(5):  # more than there are places
        with contextlib.suppress(ConnectionError), socket.create_connection(two.address, PATIENCE) as sock:
            sock.settimeout(PATIENCE)
            assert sock.recv(1) == b""
    refused = two.wait_for(lambda proxy: (said := proxy.stats()["connections_refused"])["rate"] == 5 and said)
    assert refused["concurrent"] == 0


def test_dry_run_lets_everybody_pass(share: Share, redis_server: Any) -> None:
    limits = {
        "requests": {"rate": "1/1m", "dry_run": True},
        "connections": {"rate": "1/1m", "concurrent": 5, "dry_run": True},
    }
    proxy = share(redis_server, limits)
    assert statuses(proxy, 2) + statuses(proxy, 1) == [204] * 3
    assert proxy.stats()["dry_run"] == {"connections": 1, "requests": 2}


def test_a_listener_that_sends_everybody_on_waits_as_well(share: Share, redis_server: Any) -> None:
    listeners = [{"bind": "127.0.0.1:0", "https_redirect": True}]
    one, two = (share(redis_server, {"requests": {"rate": "3/1m"}}, listeners=listeners) for _ in range(2))
    post = b"POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello"
    for proxy, expected in ((one, [308, 308]), (two, [308, 429, 429])):
        with RawClient(proxy.address) as client:
            for status in expected:
                client.send(post)
                assert client.read_response().status == status
    with RawClient(one.address) as client:  # in pieces, and with a body that is still coming
        client.send_slowly(post[:-3])
        assert client.read_response().status == 429
        client.expect_closed()
    assert [record.status for record in one.wait_for_records(3)] == [308, 308, 429]
    assert one.stats()["requests_open"] == 0


# ── slow, or gone ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("on_failure", "said"), [("local", [204] * 5 + [429]), ("allow", [204] * 6), ("deny", [503] * 6)]
)
def test_what_happens_without_it(share: Share, redis_server: Any, on_failure: str, said: list[int]) -> None:
    proxy = share(redis_server, redis={"on_failure": on_failure})
    redis_server.kill()
    assert statuses(proxy, 6) == said
    assert statuses(proxy, 6) == (said if on_failure != "local" else [429] * 6)
    (failed,) = proxy.events("limits_storage_failed")
    assert failed["address"] == redis_server.url
    assert not proxy.events("limits_storage_back")
    storage = proxy.stats()["storage"]
    assert (storage["up"], storage["failures"], storage["undecided"]) == (False, 1, 12)
    assert storage["reason"]
    redis_server.start()
    proxy.wait_for(up)
    assert len(proxy.events("limits_storage_back")) == 1
    assert statuses(proxy, 1, "127.0.0.2") == [204]
    assert proxy.stats()["storage"]["undecided"] == 12


def test_denied_is_an_error_of_the_proxys_own(share: Share, redis_server: Any) -> None:
    proxy = share(
        redis_server, {**SHARED, "connections": {"rate": "50/1m", "concurrent": 10}}, redis={"on_failure": "deny"}
    )
    redis_server.kill()
    with RawClient(proxy.address) as client:  # the connection is let in, or nobody would see the answer
        for _ in range(2):
            client.send(GET)
            response = client.read_response()
            assert (response.status, response.header("retry-after")) == (503, "1")
            assert response.header("proxy-status") is not None
    assert proxy.stats()["requests_limited"] == 0
    assert proxy.wait_for_records(1)[0].error.endswith("the limits' storage cannot be asked")


def test_a_dry_run_denies_nobody(share: Share, redis_server: Any) -> None:
    limits = {"requests": {"rate": "1/1m", "dry_run": True}}
    proxy = share(redis_server, limits, redis={"on_failure": "deny"})
    redis_server.kill()
    assert statuses(proxy, 2) == [204] * 2


def test_nobody_waits_longer_than_it_says(share: Share, redis_server: Any) -> None:
    """Redis stands still under load: all that wait are let go when the time is over, and nobody waits after that."""
    proxy = share(redis_server, {"requests": {"rate": "100000/1m"}}, redis={"timeout": "100ms"})
    slowest, stop = [0.0] * 4, threading.Event()

    def load(number: int) -> int:
        count = 0
        with RawClient(proxy.address) as client:
            while not stop.is_set():
                begun = time.monotonic()
                assert client.request("GET", "/status/204").status == 204
                slowest[number] = max(slowest[number], time.monotonic() - begun)
                count += 1
        return count

    with ThreadPoolExecutor(4) as executor:
        try:
            counts = [executor.submit(load, number) for number in range(4)]
            proxy.wait_for(lambda proxy: proxy.stats()["requests"] > 100)
            with redis_server.stopped():
                proxy.wait_for(down)
                before = proxy.stats()["requests"]
                proxy.wait_for(lambda proxy: proxy.stats()["requests"] > before + 200)
            proxy.wait_for(up)
            redis_server.restart()
            proxy.wait_for(up)
            before = proxy.stats()["requests"]
            proxy.wait_for(lambda proxy: proxy.stats()["requests"] > before + 100)
        finally:
            stop.set()
        assert all(count.result() for count in counts)
    assert max(slowest) < 1.0  # the timeout, and what a busy machine adds
    failures, backs = proxy.events("limits_storage_failed"), proxy.events("limits_storage_back")
    assert len(failures) == len(backs) == proxy.stats()["storage"]["failures"]
    assert failures[0]["reason"] == "no answer within 100 ms"


def test_a_client_that_leaves_while_it_waits(share: Share, redis_server: Any) -> None:
    proxy = share(redis_server)
    with redis_server.stopped():
        with RawClient(proxy.address) as client:
            client.send(GET)
            proxy.wait_for(lambda proxy: proxy.stats()["requests_open"] == 1)
            client.reset()
        proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 0)
        assert proxy.wait_for_records(1)[0].status == 499
        assert proxy.stats()["requests_open"] == 0
        assert up(proxy)  # it was gone before the second was over


def test_stopped_while_somebody_waits(share: Share, redis_server: Any) -> None:
    limits = {**SHARED, "connections": {"rate": "50/1m", "concurrent": 10}}
    proxy = share(redis_server, limits)
    with RawClient(proxy.address) as client:
        client.send(GET)
        assert client.read_response().status == 204
        with redis_server.stopped():
            client.send(GET)
            proxy.wait_for(lambda proxy: proxy.stats()["requests_open"] == 1)
            with socket.create_connection(proxy.address, PATIENCE) as sock:  # waits at the door
                proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 2)
                proxy.stop()
                sock.settimeout(PATIENCE)
                with contextlib.suppress(ConnectionError):
                    assert sock.recv(1) == b""
    assert proxy.problems == []
    assert proxy.stats()["connections_open"] == 0


def test_stopped_while_it_is_gone(share: Share, redis_server: Any) -> None:
    proxy = share(redis_server)
    redis_server.kill()
    assert statuses(proxy, 1) == [204]
    proxy.stop()
    assert proxy.problems == []


# ── at start ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def fault(start: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as raised:
        start()
    (found,) = raised.value.faults
    assert found.path == "limits.storage"
    return str(found)


def test_nobody_there(share: Share) -> None:
    with socket.socket() as sock:  # bound, and not listening
        sock.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{sock.getsockname()[1]}"
        said = fault(lambda: share(f"redis://me:secret@{address}/3", timeouts={"connect": "1s"}))
    assert said.startswith(f"limits.storage: redis://{address}/3 cannot be used: ")
    assert said.endswith('allowed: "memory", or "redis://[USER:PASSWORD@]HOST[:PORT][/DB]" of a server that answers')
    assert "secret" not in said


def test_nobody_answers(share: Share) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"redis://127.0.0.1:{server.getsockname()[1]}/0"
        assert "no answer within 0.3 s" in fault(lambda: share(url, timeouts={"connect": "300ms"}))


def test_passwords(share: Share, redis_factory: Any) -> None:
    server = redis_factory(requirepass="p@ss/w:rd")
    at = f"127.0.0.1:{server.port}"
    assert "Authentication required" in fault(lambda: share(f"redis://{at}"))
    said = fault(lambda: share(f"redis://:guess@{at}"))
    assert re.search("WRONGPASS|invalid username-password", said)
    assert "guess" not in said
    proxy = share(f"redis://:p%40ss%2Fw%3Ard@{at}")
    assert statuses(proxy, 6) == [204] * 5 + [429]
    assert proxy.stats()["storage"]["address"] == f"redis://{at}/0"
    allowed = ["+evalsha", "+eval", "+get", "+set", "+time", "+select", "+ping"]  # as docs/shared-limits.md says
    server.command("ACL", "SETUSER", "iocproxy", "on", ">secret", *allowed, "~*")
    assert statuses(share(f"redis://iocproxy:secret@{at}/1"), 1) == [204]
    server.command("ACL", "SETUSER", "iocproxy", "resetkeys", "~other:*")
    assert "permission" in fault(lambda: share(f"redis://iocproxy:secret@{at}"))
    server.command("ACL", "SETUSER", "iocproxy", "resetkeys", "~mine:*")
    assert statuses(share(f"redis://iocproxy:secret@{at}", redis={"prefix": "mine:"}), 1) == [204]


def test_a_database_that_is_not_there(share: Share, redis_server: Any) -> None:
    assert "out of range" in fault(lambda: share(f"redis://127.0.0.1:{redis_server.port}/99"))
    assert statuses(share(f"redis://127.0.0.1:{redis_server.port}/5"), 1) == [204]
    with redis_server.client() as client:
        assert set(client.info("keyspace")) == {"db5"}


def test_with_tls(share: Share, redis_factory: Any, iocproxy_certificates: Certificates) -> None:
    try:
        server = redis_factory(iocproxy_certificates)
    except RuntimeError:
        pytest.skip("this redis-server has no TLS")
    ca = str(iocproxy_certificates.ca)
    assert "certificate verify failed" in fault(lambda: share(server))
    proxy = share(server, redis={"ca": ca})
    assert statuses(proxy, 6) == [204] * 5 + [429]
    assert proxy.stats()["storage"]["address"] == server.url
    with server.stopped():  # it will not say goodbye
        assert statuses(proxy, 1, "127.0.0.2") == [204]
        assert not up(proxy)
    proxy.wait_for(up)
    with server.stopped():
        begun = time.monotonic()
        proxy.stop()
        assert time.monotonic() - begun < PATIENCE / 2
    plain = server.url.replace("rediss:", "redis:")
    fault(lambda: share(plain, timeouts={"connect": "1s"}))
    localhost = server.url.replace("127.0.0.1", "localhost")
    assert statuses(share(localhost, redis={"ca": ca}), 1, "127.0.0.3") == [204]


def test_an_authority_that_cannot_be_read(share: Share, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        share("rediss://127.0.0.1:1", redis={"ca": str(tmp_path / "none.pem")})
    assert [each.path for each in raised.value.faults] == ["limits.redis.ca"]


def test_without_the_package(share: Share, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)  # as if it were not installed
    assert 'pip install "iocproxy[redis]"' in fault(lambda: share("redis://127.0.0.1:1"))


def test_check_asks_as_a_start_does(redis_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (
        'listeners = [{ bind = "127.0.0.1:0" }]\nupstreams.app.servers = ["http://127.0.0.1:9"]\n'
        f'[limits]\nstorage = "redis://:secret@127.0.0.1:{redis_server.port}/3"\n'
    )
    Path("iocproxy.toml").write_text(text.replace(":secret@", ""), encoding="utf-8")
    result = CliRunner().invoke(app, ["check"])
    assert result.exit_code == 0, result.output
    assert f"through redis://127.0.0.1:{redis_server.port}/3, under iocproxy:" in result.stdout
    redis_server.kill()
    Path("iocproxy.toml").write_text(text + "[timeouts]\nconnect = '1s'\n", encoding="utf-8")
    result = CliRunner().invoke(app, ["check"])
    assert result.exit_code == 2
    assert f"iocproxy.toml:4: limits.storage: redis://127.0.0.1:{redis_server.port}/3 cannot be used" in result.stderr
    assert "secret" not in result.output


def test_nothing_of_redis_is_imported_where_it_is_not_used() -> None:
    code = "import sys, iocproxy.server.proxy; sys.exit('redis' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)


def test_what_is_counted_in_memory_has_no_storage(iocproxy: ProxyFactory, iocproxy_origin: Origin) -> None:
    assert iocproxy(upstream=iocproxy_origin).stats()["storage"] == {}
