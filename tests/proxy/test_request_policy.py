"""Every setting of the limits per request, as clients of a whole proxy meet it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from iocproxy.middleware.rate_storage import Answer, LocalRates, Question
from iocproxy.testing import (
    Certificates,
    Close,
    ExpectEnd,
    ManualClock,
    Origin,
    ProxyFactory,
    RawClient,
    RunningProxy,
    Send,
    WaitFor,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Start = Callable[..., RunningProxy]


@pytest.fixture
def origin(iocproxy_origin: Origin) -> Origin:
    return iocproxy_origin


@pytest.fixture
def limited(iocproxy: ProxyFactory, origin: Origin, iocproxy_clock: ManualClock) -> Start:
    """`limited({...}, …)`: a proxy with these `[limits]`, going by the clock of the test."""

    def start(limits: dict[str, Any], **settings: Any) -> RunningProxy:
        if "routes" in settings:
            settings["upstreams"] = {"app": {"servers": [origin.url]}}
            settings["routes"] = [{"upstream": "app", **route} for route in settings["routes"]]
        else:
            settings["upstream"] = origin
        return iocproxy(clock=iocproxy_clock, limits=limits, **settings)

    return start


def rule(name: str = "rule", **settings: Any) -> dict[str, Any]:
    return {"rules": [{"name": name, **settings}]}


def statuses(
    client: RawClient, count: int, target: str = "/status/204", method: str = "GET", **fields: str
) -> list[int]:
    headers = [(name.replace("_", "-"), value) for name, value in fields.items()]
    return [client.request(method, target, headers=headers).status for _ in range(count)]


def refusals(proxy: RunningProxy) -> dict[str, int]:
    return {name: each["refused"] for name, each in proxy.stats()["limits"].items() if each["refused"]}


# ── which limits are for a request ───────────────────────────────────────────────────────────────────────────────────


def test_a_rule_holds_beside_the_default_and_either_may_refuse(limited: Start, iocproxy_clock: ManualClock) -> None:
    limits = {"requests": {"rate": "3/10s"}, **rule("few", rate="2/10s", methods=["PUT", "DELETE"])}
    proxy = limited(limits)
    with RawClient(proxy.address) as client:
        assert statuses(client, 2, method="PUT") == [204, 204]
        assert statuses(client, 5, method="DELETE") == [429] * 5
        assert statuses(client, 2) == [204, 429]  # the refused ones were not counted: the third of three
        iocproxy_clock.advance(10)
        assert statuses(client, 4) == [204, 204, 204, 429]
    assert refusals(proxy) == {"few": 5, "requests": 2}
    told = {
        (event["limit"], event["scope"], event["client"], event["route"]) for event in proxy.events("limit_refused")
    }
    assert told == {("few", "requests", "127.0.0.1", "/"), ("requests", "requests", "127.0.0.1", "/")}
    assert proxy.stats()["requests_limited"] == 7


def test_a_rule_for_all_routes_is_one_limit_and_that_of_a_route_is_its_own(limited: Start) -> None:
    proxy = limited(
        rule("all", rate="4/10s"),
        routes=[
            {"path": "/"},
            {"path": "/status/201", "limits": rule("own", rate="1/10s")},
            {"path": "/status/202", "limits": {"requests": {"rate": "1/10s"}}},
        ],
    )
    with RawClient(proxy.address) as client:
        assert statuses(client, 3, "/status/201") == [201, 429, 429]
        assert statuses(client, 3, "/status/202") == [202, 429, 429]
        assert statuses(client, 3) == [204, 204, 429]
    assert refusals(proxy) == {"own": 2, "requests /status/202": 2, "all": 1}


def test_a_request_that_costs_more(limited: Start, iocproxy_clock: ManualClock) -> None:
    proxy = limited(
        {"requests": {"rate": "10/10s"}},
        routes=[{"path": "/"}, {"path": "/status/201", "limits": {"cost": 4}}],
    )
    with RawClient(proxy.address) as client:
        assert statuses(client, 1) == [204]
        iocproxy_clock.advance(1)
        assert statuses(client, 3, "/status/201") == [201, 201, 429]
        assert statuses(client, 2) == [204, 429]
        wait = int(client.request("GET", "/status/201").header("Retry-After") or "")
        assert wait == 10  # until the four of the second are gone; the one of the first does not make room
        iocproxy_clock.advance(wait)
        assert statuses(client, 1, "/status/201") == [201]


def test_several_windows_and_the_longest_wait(limited: Start, iocproxy_clock: ManualClock) -> None:
    proxy = limited({"requests": {"rate": ["2/1s", "3/1m"]}, **rule("slow", rate="4/1h")})
    with RawClient(proxy.address) as client:

        def wait() -> int:
            answer = client.request("GET", "/status/204")
            assert answer.status == 429
            return int(answer.header("Retry-After") or "")

        assert statuses(client, 2) == [204, 204]
        assert wait() == 1
        iocproxy_clock.advance(1)
        assert statuses(client, 1) == [204]
        assert wait() == 59
        iocproxy_clock.advance(59)
        assert statuses(client, 1) == [204]
        seconds = wait()
        assert seconds == 3540
        iocproxy_clock.advance(seconds - 0.001)
        assert wait() == 1
        iocproxy_clock.advance(0.001)
        assert statuses(client, 1) == [204]


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("key", "same", "other"),
    [
        ("host", [("/", {"Host": "a.test"}), ("/x", {"Host": "A.TEST:81"})], ("/", {"Host": "b.test"})),
        ("header:X-Api-Key", [("/", {"X-Api-Key": "1"}), ("/x", {"x-api-key": "1"})], ("/", {"X-Api-Key": "2"})),
        ("cookie:sid", [("/", {"Cookie": "a=b; sid=1"}), ("/", {"Cookie": 'sid="1"'})], ("/", {"Cookie": "sid=2"})),
        ("query:key", [("/?key=1", {}), ("/x?a&k%65y=%31", {})], ("/?key=2", {})),
        ("path:2", [("/a/1/x", {}), ("/b//%31?y", {})], ("/a/2", {})),
        (["path:1", "header:K"], [("/a", {"K": "1"}), ("/a/b", {"K": "1"})], ("/b", {"K": "1"})),
    ],
)
def test_a_key(limited: Start, origin: Origin, key: Any, same: list[Any], other: Any) -> None:
    origin.on("GET", "*", OK)
    proxy = limited(rule(rate="1/10s", key=key))

    def status(target: str, fields: dict[str, str]) -> int:
        with RawClient(proxy.address) as client:
            return client.request("GET", target, headers=fields.items()).status

    assert [status(*each) for each in [*same, other]] == [200, 429, 200]


def test_one_key_for_clients_everywhere(limited: Start) -> None:
    proxy = limited(rule(rate="2/10s", key="everyone"))
    with RawClient(proxy.address) as one, RawClient(proxy.address, source=("127.0.0.2", 0)) as other:
        assert statuses(one, 1) + statuses(other, 2) + statuses(one, 1) == [204, 204, 429, 429]


def test_by_method_and_by_route(limited: Start) -> None:
    proxy = limited(
        {
            "rules": [
                {"name": "m", "rate": "2/10s", "key": ["method", "address"]},
                {"name": "r", "rate": "3/10s", "key": "route"},
            ]
        },
        routes=[{"path": "/"}, {"path": "/status/201"}],
    )
    with RawClient(proxy.address) as client:
        assert statuses(client, 3) == [204, 204, 429]
        assert statuses(client, 2, method="PUT") == [204, 429]
        assert statuses(client, 2, "/status/201", method="PUT") == [201, 429]
    assert refusals(proxy) == {"m": 2, "r": 1}


def test_by_certificate(limited: Start, iocproxy_certificates: Certificates) -> None:
    pair = iocproxy_certificates.issue("localhost")
    tls = {
        "certificates": [{"cert": str(pair.cert), "key": str(pair.key)}],
        "client_ca": str(iocproxy_certificates.ca),
        "client_auth": "optional",
    }
    proxy = limited(rule(rate="1/10s", key="certificate", missing="refuse"), tls=tls)
    ali, bea = (iocproxy_certificates.client_certificate(name) for name in ("ali", "bea"))

    def status(certificate: Any, source: str = "127.0.0.1") -> int:
        context = iocproxy_certificates.client_context(certificate=certificate)
        with RawClient(proxy.tls_address, tls=context, source=(source, 0)) as client:
            return client.request("GET", "/status/204").status

    assert [status(ali), status(ali, "127.0.0.2"), status(bea), status(None)] == [204, 429, 204, 403]


def test_a_forwarded_address_is_believed_of_a_trusted_proxy_and_of_nobody_else(limited: Start) -> None:
    """Whatever an untrusted client makes up, in whatever field, it stays one client."""
    proxy = limited(
        {"requests": {"rate": "3/10s"}, **rule(rate="3/10s", key=["address", "method"])},
        server={"trusted_proxies": ["127.0.0.1/32"]},
    )
    with RawClient(proxy.address, source=("127.0.0.2", 0)) as liar:
        made_up = [
            {"X_Forwarded_For": "192.0.2.1"},
            {"X_Forwarded_For": "192.0.2.2, 127.0.0.1", "Forwarded": "for=192.0.2.3"},
            {"X_Real_IP": "192.0.2.4", "True_Client_IP": "192.0.2.5", "CF_Connecting_IP": "192.0.2.6"},
            {"X_Forwarded_For": "[2001:db8::1]", "Connection": "X-Forwarded-For"},
            {"Forwarded": 'for="[2001:db8::2]"'},
        ]
        assert [statuses(liar, 1, **fields)[0] for fields in made_up] == [204, 204, 204, 429, 429]
    with RawClient(proxy.address) as trusted:
        assert [statuses(trusted, 1, X_Forwarded_For=f"192.0.2.{n}")[0] for n in range(5)] == [204] * 5
        # any address of one /64 is one client
        chosen = [f"2001:db8:0:7:{n:x}:{n}:ffff:{n:x}" for n in range(1, 6)]
        assert [statuses(trusted, 1, X_Forwarded_For=address)[0] for address in chosen] == [204, 204, 204, 429, 429]


# ── where the key is missing or ambiguous ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("missing", "expected"), [("address", [204, 429, 204]), ("skip", [204, 204, 204]), ("refuse", [403, 403, 204])]
)
def test_without_a_key(limited: Start, missing: str, expected: list[int]) -> None:
    proxy = limited(rule(rate="1/10s", key="header:X-Api-Key", missing=missing))
    with RawClient(proxy.address) as client:
        assert [*statuses(client, 2), *statuses(client, 1, X_Api_Key="1")] == expected


@pytest.mark.parametrize("missing", ["address", "skip", "refuse"])
def test_an_ambiguous_key_is_refused(limited: Start, origin: Origin, missing: str) -> None:
    """A field twice: one server takes the first and another the last, and a client would have a window for each."""
    proxy = limited(rule("keys", rate="100/10s", key="header:X-Api-Key", missing=missing))
    with RawClient(proxy.address) as client:
        twice = [("X-Api-Key", "mine"), ("x-api-key", "made up")]
        answer = client.request("GET", "/status/204", headers=twice)
        assert (answer.status, answer.header("Proxy-Status")) == (400, "iocproxy; error=http_request_denied")
        assert statuses(client, 1, X_Api_Key="mine") == [204]
    assert proxy.wait_for_records(2)[0].error == "client: an ambiguous key for the limit 'keys'"
    assert len(origin.requests) == 1


def test_a_field_that_the_client_has_removed_is_missing(limited: Start, origin: Origin) -> None:
    """A field that Connection names is not passed on, so the upstream knows no key either."""
    proxy = limited(rule(rate="1/10s", key="header:X-Api-Key", missing="refuse"))
    with RawClient(proxy.address) as client:
        assert statuses(client, 1, X_Api_Key="1", Connection="X-Api-Key") == [403]
    assert not origin.requests


# ── under way ────────────────────────────────────────────────────────────────────────────────────────────────────────

HELD = b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n"


def test_so_many_under_way_and_a_place_is_free_again_when_one_is_over(limited: Start, origin: Origin) -> None:
    gate = threading.Event()
    origin.on("GET", "/held", [WaitFor(gate), Send(OK)])
    proxy = limited({"requests": {"concurrent": 2}})
    with RawClient(proxy.address) as one, RawClient(proxy.address) as two, RawClient(proxy.address) as three:
        one.send(HELD)
        two.send(HELD)
        origin.wait_for_requests(2)
        answer = three.request("GET", "/status/204")
        assert (answer.status, answer.header("Retry-After")) == (429, None)
        with RawClient(proxy.address, source=("127.0.0.2", 0)) as other:
            assert statuses(other, 1) == [204]
        gate.set()
        assert [client.read_response().status for client in (one, two)] == [200, 200]
        assert statuses(three, 5) == [204] * 5
    assert refusals(proxy) == {"requests": 1}


@pytest.mark.parametrize("how", ["client leaves", "origin breaks off", "origin refuses the connection"])
def test_a_place_is_given_back_however_it_ends(limited: Start, origin: Origin, how: str) -> None:
    gate = threading.Event()
    origin.on("GET", "/held", [WaitFor(gate), Close()])
    proxy = limited({"requests": {"concurrent": 1}})
    with RawClient(proxy.address) as client:
        if how == "origin refuses the connection":
            origin.stop()
            assert client.request("GET", "/held").status == 502
        else:
            client.send(HELD)
            origin.wait_for_requests(1)
            if how == "client leaves":
                client.reset()
                proxy.wait_for_records(1)
                gate.set()
            else:
                gate.set()
                assert client.read_response().status == 502
    with RawClient(proxy.address) as client:
        expected = [502] * 3 if how == "origin refuses the connection" else [204] * 3
        assert statuses(client, 3) == expected
    assert refusals(proxy) == {}


def test_a_place_is_given_back_when_a_middleware_answers_or_fails(
    limited: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (
        "from iocproxy import Response\n"
        "class Mine:\n"
        "    async def on_request(self, request):\n"
        "        request.key = b'x'\n"
        "        if request.target == b'/no':\n"
        "            return Response(401)\n"
        "        raise RuntimeError('no')\n"
    )
    (tmp_path / "iocproxy_test_answering.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    proxy = limited({"requests": {"concurrent": 1}}, middleware=[{"use": "iocproxy_test_answering:Mine"}])
    with RawClient(proxy.address) as client:
        assert statuses(client, 3, "/no") == [401] * 3
        assert statuses(client, 3, "/fails") == [500] * 3


def test_a_tunnel_is_under_way_until_it_ends(limited: Start, origin: Origin) -> None:
    switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
    origin.on("GET", "/tunnel", [Send(switched), ExpectEnd()])
    proxy = limited({"requests": {"concurrent": 1}})
    with RawClient(proxy.address) as tunnel, RawClient(proxy.address) as client:
        tunnel.send(b"GET /tunnel HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        assert tunnel.read_head()[0].status == 101
        assert statuses(client, 2) == [429, 429]
        tunnel.close()
        proxy.wait_for_records(3)
        assert statuses(client, 2) == [204, 204]


def test_who_is_refused_for_a_place_spends_nothing_and_the_other_way_round(limited: Start, origin: Origin) -> None:
    gate = threading.Event()
    origin.on("GET", "/held", [WaitFor(gate), Send(OK)])
    proxy = limited({"requests": {"rate": "3/10s"}, **rule("places", concurrent=1, status=503)})
    with RawClient(proxy.address) as one, RawClient(proxy.address) as two:
        one.send(HELD)
        origin.wait_for_requests(1)
        assert statuses(two, 4) == [503] * 4
        gate.set()
        assert one.read_response().status == 200
        assert statuses(two, 5) == [204, 204, 429, 429, 429]
    assert refusals(proxy) == {"places": 4, "requests": 3}


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_status_is_the_operators(limited: Start) -> None:
    proxy = limited({"requests": {"rate": "1/10s", "status": 503}, **rule(rate="2/10s", key="route", status=420)})
    with RawClient(proxy.address) as client, RawClient(proxy.address, source=("127.0.0.2", 0)) as other:
        assert statuses(client, 1) == [204]
        answer = client.request("GET", "/")
        assert (answer.status, answer.header("Retry-After")) == (503, "10")
        assert statuses(other, 1) == [204]
        with RawClient(proxy.address, source=("127.0.0.3", 0)) as third:
            answer = third.request("GET", "/")
        assert (answer.status, answer.reason, answer.header("Retry-After")) == (420, b"", None)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", "text/html; charset=utf-8"),
        ("application/json", "application/json"),
        ("application/problem+json, application/json", "application/problem+json"),
        ("application/problem+json;q=0.1, text/html;q=0.2", "text/html; charset=utf-8"),
    ],
)
def test_the_form_of_a_refusal(limited: Start, accept: str, content_type: str) -> None:
    proxy = limited({"requests": {"rate": "1/10s"}})
    with RawClient(proxy.address) as client:
        assert statuses(client, 1) == [204]
        answer = client.request("GET", "/", headers=[("Accept", accept)])
        head = client.request("HEAD", "/", headers=[("Accept", accept)])
    assert (answer.status, answer.header("Content-Type")) == (429, content_type)
    assert answer.header("Retry-After") == "10"
    assert answer.header("Proxy-Status") == "iocproxy; error=http_request_denied"
    assert (head.status, head.body, head.header("Content-Length")) == (429, b"", str(len(answer.body)))
    if content_type == "application/problem+json":
        assert json.loads(answer.body) == {
            "type": "about:blank",
            "title": "Too Many Requests",
            "status": 429,
            "detail": "Too many requests. Please slow down.",
        }


@pytest.mark.parametrize(("status", "target"), [(502, "/"), (400, "/a\x01b")])
def test_other_errors_have_these_forms_too(limited: Start, origin: Origin, status: int, target: str) -> None:
    origin.on("GET", "/", b"HTTP/9\r\n\r\n")
    proxy = limited({})
    with RawClient(proxy.address) as client:
        answer = client.request("GET", target, headers=[("Accept", "application/problem+json")])
    assert answer.status == status
    # what could not be read names no form
    expected = "application/problem+json" if status == 502 else "text/html; charset=utf-8"
    assert answer.header("Content-Type") == expected


def test_the_operators_page(limited: Start, tmp_path: Path) -> None:
    (tmp_path / "429.html").write_text("<p>slow</p>", encoding="utf-8")
    (tmp_path / "4xx.json").write_text('{"slow": true}', encoding="utf-8")
    pages = {"429": str(tmp_path / "429.html"), "4xx": str(tmp_path / "4xx.json")}
    proxy = limited({"requests": {"rate": "1/10s"}}, errors={"pages": pages})
    with RawClient(proxy.address) as client:
        assert statuses(client, 1) == [204]
        answers = {
            accept: client.request("GET", "/", headers=[("Accept", accept)])
            for accept in ("*/*", "application/json", "application/problem+json")
        }
    assert {accept: (answer.status, answer.body) for accept, answer in answers.items()} == {
        "*/*": (429, b"<p>slow</p>"),
        "application/json": (429, b'{"slow": true}'),
        "application/problem+json": (429, b'{"slow": true}'),
    }
    assert {answer.header("Retry-After") for answer in answers.values()} == {"10"}


# ── what clients are told ────────────────────────────────────────────────────────────────────────────────────────────


def test_ratelimit_fields_on_what_passes_and_on_what_does_not(limited: Start, iocproxy_clock: ManualClock) -> None:
    limits = {
        "requests": {"rate": ["2/1s", "5/1m"], "ratelimit_fields": True},
        "rules": [
            {"name": "quiet", "rate": "100/1m"},
            {"name": "keys", "rate": "10/1m", "key": "header:K", "missing": "skip", "ratelimit_fields": True},
        ],
    }
    proxy = limited(limits)
    with RawClient(proxy.address) as client:

        def told(**fields: str) -> tuple[int, str | None, str | None]:
            answer = client.request("GET", "/status/204", headers=fields.items())
            return answer.status, answer.header("RateLimit-Policy"), answer.header("RateLimit")

        policy = '"requests-1s";q=2;w=1, "requests-60s";q=5;w=60'
        assert told() == (204, policy, '"requests-1s";r=1;t=1, "requests-60s";r=4;t=60')
        iocproxy_clock.advance(0.5)
        both = policy + ', "keys";q=10;w=60'
        left = '"requests-1s";r=0;t=1, "requests-60s";r=3;t=60, "keys";r=9;t=60'
        assert told(K="1") == (204, both, left)
        assert told(K="1") == (429, both, left)
        iocproxy_clock.advance(30)
        assert told() == (204, policy, '"requests-1s";r=1;t=1, "requests-60s";r=2;t=30')


def test_ratelimit_fields_of_an_upstream_stay_beside_ours(limited: Start, origin: Origin) -> None:
    theirs = b'RateLimit: "up";r=7;t=3\r\nRateLimit-Policy: "up";q=9;w=9\r\n'
    origin.on("GET", "/", b"HTTP/1.1 200 OK\r\n" + theirs + b"Content-Length: 0\r\n\r\n")
    origin.on(
        "GET", "/old", b"HTTP/1.1 200 OK\r\nRateLimit: limit=9, remaining=7, reset=3\r\nContent-Length: 0\r\n\r\n"
    )
    proxy = limited({"requests": {"rate": "9/10s", "ratelimit_fields": True}})
    with RawClient(proxy.address) as client:
        headers = client.request("GET", "/").headers
        assert [value for name, value in headers if name == b"RateLimit"] == [b'"up";r=7;t=3', b'"requests";r=8;t=10']
        assert client.request("GET", "/old").header("RateLimit") == '"requests";r=7;t=10'


def test_no_fields_unless_they_are_switched_on(limited: Start) -> None:
    proxy = limited({"requests": {"rate": "1/10s"}, **rule(rate="5/10s")})
    with RawClient(proxy.address) as client:
        for _ in range(2):
            answer = client.request("GET", "/status/204")
            assert not [name for name, _ in answer.headers if name.lower().startswith(b"ratelimit")]


# ── dry runs, exemptions, listeners that send on ─────────────────────────────────────────────────────────────────────


def test_a_dry_run_of_one_rule_and_not_of_another(limited: Start) -> None:
    rules = [
        {"name": "tried", "rate": "1/10s", "dry_run": True},
        {"name": "keys", "concurrent": 5, "key": "header:K", "missing": "refuse", "dry_run": True},
        {"name": "real", "rate": "3/10s"},
    ]
    proxy = limited({"rules": rules})
    with RawClient(proxy.address) as client:
        assert statuses(client, 2, K="1") + statuses(client, 3) == [204, 204, 204, 429, 429]
    stats = proxy.stats()
    limits = {name: (each["refused"], each["would_refuse"]) for name, each in stats["limits"].items()}
    assert limits["tried"] == (0, 2)
    assert limits["keys"] == (0, 1)  # the third; of what the real one refuses they are told nothing
    assert limits["real"] == (2, 0)
    assert (stats["requests_limited"], stats["dry_run"]["requests"]) == (2, 2)
    assert {event["limit"] for event in proxy.events("limit_would_refuse")} == {"tried", "keys"}


def test_an_exempt_client_meets_none_of_it(limited: Start) -> None:
    proxy = limited(
        {
            "exempt": ["127.0.0.2/32"],
            "rules": [
                {"name": "keys", "rate": "1/10s", "key": "header:K", "missing": "refuse"},
                {"name": "everyone", "rate": "1/10s", "key": "everyone", "concurrent": 1, "ratelimit_fields": True},
            ],
        }
    )
    with RawClient(proxy.address, source=("127.0.0.2", 0)) as exempt, RawClient(proxy.address) as client:
        assert statuses(exempt, 5) == [204] * 5
        assert exempt.request("GET", "/status/204").header("RateLimit") is None
        assert statuses(client, 2, K="1") == [204, 429]
        assert statuses(exempt, 1) == [204]


def test_at_a_listener_that_sends_everybody_on_the_rules_for_all_hold(limited: Start) -> None:
    proxy = limited(
        {"requests": {"rate": "4/10s"}, **rule(rate="2/10s", key="path:1", concurrent=1, ratelimit_fields=True)},
        listeners=[{"bind": "127.0.0.1:0", "https_redirect": True}],
        routes=[{"path": "/", "limits": {"requests": {"rate": "1/10s"}}}],
    )
    with RawClient(proxy.address) as client:
        assert statuses(client, 3, "/a") == [308, 308, 429]
        assert statuses(client, 3, "/b") == [308, 308, 429]
        answer = client.request("GET", "/c")
        assert (answer.status, answer.header("RateLimit")) == (429, '"rule";r=2')
    assert refusals(proxy) == {"rule": 1, "requests": 2}


# ── a storage that has to be waited for ──────────────────────────────────────────────────────────────────────────────


class Later(LocalRates):
    """Answers in a later turn of the loop, as a storage elsewhere does."""

    def ask(self, questions: Sequence[Question]) -> Any:
        async def later() -> Sequence[Answer]:
            await asyncio.sleep(0)
            return super(Later, self).ask(questions)

        return later()

    def shortcut(self, windows: object) -> Any:
        del windows


@pytest.mark.parametrize(("redirect", "passes"), [(False, 200), (True, 308)])
def test_a_storage_elsewhere(
    limited: Start, origin: Origin, monkeypatch: pytest.MonkeyPatch, redirect: bool, passes: int
) -> None:
    """At each kind of listener, with bodies that come before and after the answer."""
    origin.on("POST", "/", OK)
    monkeypatch.setattr("iocproxy.server.request_limits.LocalRates", Later)
    listeners = [{"bind": "127.0.0.1:0", **({"https_redirect": True} if redirect else {})}]
    proxy = limited({"requests": {"rate": "3/10s", "concurrent": 2, "ratelimit_fields": True}}, listeners=listeners)
    sent = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    with RawClient(proxy.address) as client:
        client.send(sent * 2)
        assert [client.read_response().status for _ in range(2)] == [passes, passes]
        client.send_slowly(sent)
        assert client.read_response().status == passes
    with RawClient(proxy.address) as client:
        client.send(sent)
        answer = client.read_response()
        assert (answer.status, answer.header("Retry-After")) == (429, "10")
        assert answer.header("RateLimit") == '"requests";r=0;t=10'
    assert refusals(proxy) == {"requests": 1}
