"""Denying for a time through a real proxy, because of answers and by program."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from iocproxy.testing import Certificates, ManualClock, Origin, ProxyFactory, RawClient, RunningProxy, Send, WaitFor
from iocproxy.testing.patience import PATIENCE

GUESSING = {"name": "guessing", "statuses": [401, 404], "rate": "3/1m", "deny": "10m"}
LIMITS: dict[str, Any] = {"penalties": [GUESSING]}


@pytest.fixture
def origin(iocproxy_origin: Origin) -> Origin:
    return iocproxy_origin


def refused(address: tuple[str, int], source: str = "127.0.0.1") -> bool:
    """Whether a new connection is closed without a byte, whatever the client says."""
    try:
        sock = socket.create_connection(address, PATIENCE, (source, 0))
    except ConnectionError:
        return True
    with sock, contextlib.suppress(ConnectionError):
        sock.settimeout(PATIENCE)
        sock.sendall(b"GET /status/204 HTTP/1.1\r\nHost: a\r\n\r\n")
        return sock.recv(1) == b""
    return True


def ask(client: RawClient, status: int, chain: str | None = None) -> int:
    headers = [] if chain is None else [("X-Forwarded-For", chain)]
    return client.request("GET", f"/status/{status}", headers=headers).status


def pass_time(proxy: RunningProxy, clock: ManualClock, seconds: float) -> None:
    """Let time pass once all answers are counted: one is here before the call that gave it is over."""
    proxy.stats()  # is asked on the loop's thread, after that
    clock.advance(seconds)


def test_who_gets_too_many_answers_of_a_kind_is_denied(
    iocproxy: ProxyFactory, origin: Origin, iocproxy_clock: ManualClock
) -> None:
    proxy = iocproxy(upstream=origin, clock=iocproxy_clock, limits=LIMITS)
    with RawClient(proxy.address) as client, RawClient(proxy.address) as open_before:
        assert ask(open_before, 204) == 204
        assert [ask(client, status) for status in (401, 403, 204, 404, 401)] == [401, 403, 204, 404, 401]
        pass_time(proxy, iocproxy_clock, 100.5)
        answer = client.request("GET", "/status/204")
        assert answer.status == 429
        assert answer.header("Retry-After") == "500"
        assert ask(client, 204) == 429  # the connection goes on
        assert ask(open_before, 204) == 429
        assert refused(proxy.address)
        with RawClient(proxy.address, source=("127.0.0.2", 0)) as other:
            assert ask(other, 204) == 204
        stats = proxy.stats()
        assert stats["connections_refused"]["denied"] == 1
        assert stats["requests_limited"] == 3
        assert stats["limits"]["guessing"] == {"scope": "penalties", "refused": 4, "would_refuse": 0}
        assert stats["denials"] == {"now": 1, "dry_run": 0, "evicted": 0, "by": {"denials": 0, "guessing": 1}}
        pass_time(proxy, iocproxy_clock, 499.4)
        assert ask(client, 204) == 429
        pass_time(proxy, iocproxy_clock, 0.2)
        assert ask(client, 204) == 204  # whoever waits as long as was said gets through
    with RawClient(proxy.address) as client:
        assert ask(client, 401) == 401
    assert proxy.stats()["denials"]["now"] == 0
    (event,) = proxy.events("client_denied")
    assert (event["level"], event["limit"], event["client"], event["seconds"]) == (
        "info",
        "guessing",
        "127.0.0.1",
        600.0,
    )
    assert {record.error for record in proxy.records if record.status == 429} == {
        "client: denied for a time: 'guessing'"
    }


def test_over_tls(
    iocproxy: ProxyFactory, origin: Origin, iocproxy_clock: ManualClock, iocproxy_certificates: Certificates
) -> None:
    proxy = iocproxy(upstream=origin, tls=True, clock=iocproxy_clock, limits=LIMITS)
    with RawClient(proxy.tls_address, tls=iocproxy_certificates) as client:
        assert [ask(client, 401) for _ in range(3)] == [401] * 3
        assert ask(client, 204) == 429
    assert refused(proxy.tls_address)
    assert proxy.stats()["handshakes_full"] == 1
    pass_time(proxy, iocproxy_clock, 601)
    with RawClient(proxy.tls_address, tls=iocproxy_certificates) as client:
        assert ask(client, 204) == 204


def test_pipelined_requests(iocproxy: ProxyFactory, origin: Origin, iocproxy_clock: ManualClock) -> None:
    proxy = iocproxy(upstream=origin, clock=iocproxy_clock, limits=LIMITS)
    wire = b"".join(b"GET /status/%d HTTP/1.1\r\nHost: a\r\n\r\n" % status for status in (401, 404, 401, 200, 200))
    with RawClient(proxy.address) as client:
        client.send(wire + b"GET /status/200 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert [client.read_response().status for _ in range(6)] == [401, 404, 401, 429, 429, 429]
        client.expect_closed()


def test_the_proxy_s_own_answers_count(iocproxy: ProxyFactory, origin: Origin, iocproxy_clock: ManualClock) -> None:
    """No route, a limit's 429, and what could not be read as a request."""
    penalties = [
        {"name": "garbage", "statuses": [400], "rate": "2/1m", "deny": "1m"},
        {"name": "lost", "statuses": [404], "rate": "2/1m", "deny": "2m"},
        {"name": "hammering", "statuses": [429], "rate": "2/1m", "deny": "3m"},
    ]
    proxy = iocproxy(
        upstreams={"app": {"servers": [origin.url]}},
        routes=[{"path": "/status/204", "upstream": "app"}],
        clock=iocproxy_clock,
        limits={"penalties": penalties, "requests": {"rate": "1/1s"}},
    )

    def denied_for(sources: str, send: bytes, count: int) -> str:
        for _ in range(count):
            with RawClient(proxy.address, source=(sources, 0)) as client:
                client.send(send)
                client.read_response()
        assert refused(proxy.address, sources)
        limit: str = proxy.events("client_denied")[-1]["limit"]
        return limit

    assert denied_for("127.0.0.2", b"GET / HTTP/1.1\r\nHost: a\r\nBad Field: x\r\n\r\n", 2) == "garbage"
    assert denied_for("127.0.0.3", b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n", 2) == "lost"
    assert denied_for("127.0.0.4", b"GET /status/204 HTTP/1.1\r\nHost: a\r\n\r\n", 3) == "hammering"
    assert [event["seconds"] for event in proxy.events("client_denied")] == [60.0, 120.0, 180.0]


def test_a_class_of_statuses_and_a_denial_that_ends(
    iocproxy: ProxyFactory, origin: Origin, iocproxy_clock: ManualClock
) -> None:
    """The 429s of a denial are 4xx as well, and must not make it last for ever."""
    penalty = {"name": "errors", "statuses": ["4xx"], "rate": "2/1h", "deny": "1m"}
    proxy = iocproxy(upstream=origin, clock=iocproxy_clock, limits={"penalties": [penalty]})
    with RawClient(proxy.address) as client:
        assert [ask(client, 404), ask(client, 410)] == [404, 410]
        for _ in range(11):
            assert ask(client, 204) == 429
            assert refused(proxy.address)
            pass_time(proxy, iocproxy_clock, 5)
        pass_time(proxy, iocproxy_clock, 5)
        assert [ask(client, status) for status in (204, 404, 204)] == [204, 404, 204]
        assert ask(client, 404) == 404
        assert ask(client, 204) == 429
    assert proxy.stats()["denials"]["by"]["errors"] == 2


def test_a_client_that_goes_away_was_not_answered(
    iocproxy: ProxyFactory, origin: Origin, iocproxy_clock: ManualClock
) -> None:
    gate = threading.Event()
    origin.on("GET", "/held", [WaitFor(gate), Send(b"HTTP/1.1 204 No Content\r\n\r\n")])
    penalties = [
        {"name": "errors", "statuses": ["4xx"], "rate": "1/1h", "deny": "1m"},
        {"name": "leaving", "statuses": [499], "rate": "2/1h", "deny": "1m"},
    ]
    proxy = iocproxy(upstream=origin, clock=iocproxy_clock, limits={"penalties": penalties})
    for number in range(2):
        assert not refused(proxy.address)
        with RawClient(proxy.address) as client:
            client.send(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
            origin.wait_for_requests(2 * number + 2)
            client.reset()
        proxy.wait_for_records(2 * number + 2)
    gate.set()
    assert refused(proxy.address)
    assert [event["limit"] for event in proxy.events("client_denied")] == ["leaving"]


def test_dry_run(iocproxy: ProxyFactory, origin: Origin, iocproxy_clock: ManualClock) -> None:
    proxy = iocproxy(upstream=origin, clock=iocproxy_clock, limits={"penalties": [{**GUESSING, "dry_run": True}]})
    with RawClient(proxy.address) as client:
        assert [ask(client, 401) for _ in range(4)] == [401] * 4
    assert not refused(proxy.address)
    stats = proxy.stats()
    assert stats["dry_run"] == {"connections": 1, "requests": 2}
    assert stats["denials"] == {"now": 0, "dry_run": 1, "evicted": 0, "by": {"denials": 0, "guessing": 1}}
    assert stats["limits"]["guessing"]["would_refuse"] == 3
    assert len(proxy.events("client_would_be_denied")) == 1
    assert not proxy.events("client_denied")


def test_exempt_clients_are_never_denied(iocproxy: ProxyFactory, origin: Origin, iocproxy_clock: ManualClock) -> None:
    limits = {**LIMITS, "exempt": ["127.0.0.2"], "ipv4_prefix": 24}
    proxy = iocproxy(upstream=origin, clock=iocproxy_clock, limits=limits)
    with RawClient(proxy.address, source=("127.0.0.2", 0)) as exempt, RawClient(proxy.address) as client:
        assert [ask(exempt, 401) for _ in range(5)] == [401] * 5
        assert [ask(client, 401) for _ in range(4)] == [401, 401, 401, 429]
        assert refused(proxy.address, "127.0.0.3")  # one client with the last one
        assert ask(exempt, 204) == 204  # who is exempt does not answer for its network
    assert not refused(proxy.address, "127.0.0.2")


# ── who is who ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_behind_a_trusted_proxy_the_real_client_is_denied(
    iocproxy: ProxyFactory, origin: Origin, iocproxy_clock: ManualClock
) -> None:
    proxy = iocproxy(
        upstream=origin, clock=iocproxy_clock, server={"trusted_proxies": ["127.0.0.1", "10.0.0.0/8"]}, limits=LIMITS
    )
    with RawClient(proxy.address) as client:
        assert [ask(client, 401, "192.0.2.1") for _ in range(4)] == [401, 401, 401, 429]
        assert ask(client, 204, "192.0.2.1, 10.1.2.3") == 429
        assert ask(client, 204, "192.0.2.2") == 204
        assert ask(client, 204, "192.0.2.1, 192.0.2.2") == 204  # what stands further left may be made up
        assert [ask(client, 401, "2001:db8::1") for _ in range(4)] == [401, 401, 401, 429]
        assert ask(client, 204, "2001:db8::2") == 429  # one /64 is one client
        assert ask(client, 204) == 204  # the trusted proxy itself
    assert not refused(proxy.address)
    assert [event["client"] for event in proxy.events("client_denied")] == ["192.0.2.1", "2001:db8::1"]


def test_nobody_gets_a_trusted_proxy_denied(
    iocproxy: ProxyFactory, origin: Origin, iocproxy_clock: ManualClock
) -> None:
    """What cannot be read has no real client, and may have been passed on in good faith."""
    penalty = {"name": "errors", "statuses": ["4xx"], "rate": "1/1h", "deny": "1h"}
    proxy = iocproxy(
        upstream=origin,
        clock=iocproxy_clock,
        server={"trusted_proxies": ["127.0.0.1"]},
        limits={"penalties": [penalty]},
    )
    for _ in range(3):
        with RawClient(proxy.address) as client:
            client.send(b"nonsense\r\n\r\n")
            assert client.read_response().status == 400
    with RawClient(proxy.address) as client:
        assert [ask(client, 404), ask(client, 204)] == [404, 204]
        assert ask(client, 404, "unknown") == 404
        assert ask(client, 204, "192.0.2.1") == 204


def test_a_made_up_address_neither_denies_others_nor_helps(
    iocproxy: ProxyFactory, origin: Origin, iocproxy_clock: ManualClock
) -> None:
    proxy = iocproxy(upstream=origin, clock=iocproxy_clock, server={"trusted_proxies": ["127.0.0.1"]}, limits=LIMITS)
    with RawClient(proxy.address, source=("127.0.0.2", 0)) as liar:
        assert [ask(liar, 401, "192.0.2.1") for _ in range(3)] == [401] * 3
        assert ask(liar, 204, "192.0.2.9") == 429
        assert liar.request("GET", "/status/204", headers=[("Forwarded", "for=192.0.2.9")]).status == 429
        assert liar.request("GET", "/status/204", headers=[("X-Real-IP", "192.0.2.9")]).status == 429
    with RawClient(proxy.address) as trusted:
        assert ask(trusted, 204, "192.0.2.1") == 204
    assert [event["client"] for event in proxy.events("client_denied")] == ["127.0.0.2"]


def test_an_access_list_s_answers_feed_no_penalty(
    iocproxy: ProxyFactory, origin: Origin, iocproxy_clock: ManualClock
) -> None:
    """It would take places in the table of those that are denied, for nothing."""
    penalty = {"name": "errors", "statuses": ["4xx"], "rate": "1/1h", "deny": "1h"}
    proxy = iocproxy(
        upstream=origin,
        clock=iocproxy_clock,
        server={"trusted_proxies": ["127.0.0.1"]},
        limits={"penalties": [penalty], "access": {"deny": ["192.0.2.0/24"]}},
    )
    with RawClient(proxy.address) as client:
        assert [ask(client, 204, "192.0.2.1") for _ in range(3)] == [403] * 3
    assert proxy.stats()["denials"]["by"]["errors"] == 0


# ── by program ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_program_denies_and_pardons(iocproxy: ProxyFactory, origin: Origin, iocproxy_clock: ManualClock) -> None:
    proxy = iocproxy(upstream=origin, clock=iocproxy_clock)
    with RawClient(proxy.address) as client:
        assert ask(client, 204) == 204
        proxy.deny("127.0.0.1", 90.5)
        answer = client.request("GET", "/status/204")
        assert (answer.status, answer.header("Retry-After")) == (429, "91")
        assert refused(proxy.address)
        proxy.deny("127.0.0.1", 10.0)  # it is denied for longer already
        pass_time(proxy, iocproxy_clock, 11)
        assert ask(client, 204) == 429
        assert proxy.pardon("127.0.0.1")
        assert not proxy.pardon("127.0.0.1")
        assert ask(client, 204) == 204
    assert not refused(proxy.address)
    assert [event["event"] for event in proxy.log if event["event"].startswith("client_")] == [
        "client_denied",
        "client_pardoned",
    ]
    assert proxy.stats()["denials"] == {"now": 0, "dry_run": 0, "evicted": 0, "by": {"denials": 1}}


def test_a_pardon_forgets_what_was_counted(iocproxy: ProxyFactory, origin: Origin, iocproxy_clock: ManualClock) -> None:
    proxy = iocproxy(upstream=origin, clock=iocproxy_clock, limits=LIMITS)
    with RawClient(proxy.address) as client:
        assert [ask(client, 401) for _ in range(2)] == [401] * 2
        assert not proxy.pardon("127.0.0.1")
        assert [ask(client, 401) for _ in range(2)] == [401] * 2
        assert [ask(client, status) for status in (401, 204)] == [401, 429]
        assert proxy.pardon("127.0.0.1")
        assert ask(client, 204) == 204


def test_requests_that_wait_for_a_middleware_go_on_behind_it(
    iocproxy: ProxyFactory, origin: Origin, iocproxy_clock: ManualClock, tmp_path: Any, monkeypatch: Any
) -> None:
    """Somebody is denied for the first time while hooks are being waited for: none is run twice or left out."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "iocproxy_test_waiting_hooks.py").write_text(
        "import asyncio\n"
        "seen, gate = [], None\n"
        "class First:\n"
        "    async def on_request(self, request):\n"
        "        global gate\n"
        "        seen.append('first')\n"
        "        gate = asyncio.Event()\n"
        "        await gate.wait()\n"
        "class Second:\n"
        "    def on_request(self, request): seen.append('second')\n"
    )
    import iocproxy_test_waiting_hooks as hooks  # type: ignore[import-not-found]

    name = "iocproxy_test_waiting_hooks"
    proxy = iocproxy(
        upstream=origin,
        clock=iocproxy_clock,
        middleware=[{"use": f"{name}:First"}, {"use": f"{name}:Second"}],
    )
    with RawClient(proxy.address) as client:
        client.send(b"GET /status/204 HTTP/1.1\r\nHost: a\r\n\r\n")
        proxy.wait_for(lambda _: hooks.gate is not None)
        proxy.deny("127.0.0.2", 60.0)
        proxy._on_loop(lambda _: hooks.gate.set())
        assert client.read_response().status == 204
        assert hooks.seen == ["first", "second"]
        proxy.deny("127.0.0.1", 60.0)
        assert ask(client, 204) == 429
        assert hooks.seen == ["first", "second"]


@pytest.mark.parametrize(
    "call",
    [
        lambda proxy: proxy.deny("127.0.0.0/8", 1.0),
        lambda proxy: proxy.deny("127.0.0.1", 0.0),
        lambda proxy: proxy.pardon("nobody"),
        lambda proxy: proxy.pardon("127.0.0.0/31"),
    ],
)
def test_what_a_program_may_not(iocproxy: ProxyFactory, origin: Origin, call: Callable[[RunningProxy], object]) -> None:
    proxy = iocproxy(upstream=origin)
    with pytest.raises(ValueError, match=r"."):
        call(proxy)


def test_a_request_under_way_is_not_touched(iocproxy: ProxyFactory, origin: Origin) -> None:
    gate = threading.Event()
    origin.on("GET", "/held", [WaitFor(gate), Send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")])
    proxy = iocproxy(upstream=origin)
    with RawClient(proxy.address) as client:
        client.send(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
        origin.wait_for_requests(1)
        proxy.deny("127.0.0.1", 60.0)
        gate.set()
        assert client.read_response().body == b"ok"
        assert ask(client, 204) == 429


def test_a_redirecting_listener_turns_away_as_well(iocproxy: ProxyFactory, origin: Origin) -> None:
    proxy = iocproxy(
        listeners=[{"bind": "127.0.0.1:0", "https_redirect": True}], upstreams={"app": {"servers": [origin.url]}}
    )
    with RawClient(proxy.address) as client:
        assert ask(client, 204) == 308
        proxy.deny("127.0.0.1", 60.0)
        assert ask(client, 204) == 429
