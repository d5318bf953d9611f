"""An exchange between sides that are none: faults of the proxy's own, and what only happens at the wrong moment."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import structlog

from iocproxy.config import Config
from iocproxy.exchange.pages import NO_PAGES
from iocproxy.exchange.service import Service
from iocproxy.exchange.shared import Goal
from iocproxy.http1.heads import HeadLimits
from iocproxy.http1.request import RequestHeadParser
from iocproxy.http1.response import ResponseHeadParser
from iocproxy.limits import ClientKeys, NetworkSet
from iocproxy.message import Client
from iocproxy.middleware import Chain
from iocproxy.net.tasks import Tasks
from iocproxy.routing import Route, compile_rules
from iocproxy.telemetry.counters import Counters

LIMITS = HeadLimits()
HEAD = RequestHeadParser(LIMITS).parse(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
CONFIG = Config(listeners=[{"bind": "127.0.0.1:0"}], upstreams={"a": {"servers": ["http://127.0.0.1:9"]}})
RULES = compile_rules(CONFIG.http, CONFIG.timeouts, CONFIG.limits.bandwidth, CONFIG.http)


class Side:
    """A client that takes everything."""

    scheme, draining, blocked, requests, rules = "http", False, False, 1, RULES

    def __init__(self, service: Service) -> None:
        self.client = Client("127.0.0.1", 1, b"k", "127.0.0.1:80")
        self.forwarding = service.connected(self.client, "http")
        self.host_check = None
        self.strict = b""
        self.written = b""
        self.answered = asyncio.Event()
        self.over: list[bool] = []

    def write(self, data: bytes) -> None:
        self.written += data
        self.answered.set()

    def exchange_over(self, *, keep_alive: bool) -> None:
        self.over.append(keep_alive)

    def hold(self) -> None: ...
    def unhold(self) -> None: ...


class Lease:
    reused, blocked = True, False

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: self.calls.append(name)


def service(routes: Any, *members: object) -> Service:
    log = structlog.wrap_logger(logging.getLogger("iocproxy.test"))
    return Service(
        routes=routes,
        chain=Chain(members),
        keys=ClientKeys(32, 64),
        trusted=NetworkSet(()),
        forwarded=False,
        request_ids=None,
        pages=NO_PAGES,
        counters=Counters(),
        tasks=Tasks(log),
        log=log,
        now=lambda: 0.0,
    )


class Broken:
    def find(self, host: bytes, target: bytes) -> Any:
        raise RuntimeError("a bug")


async def test_a_fault_of_our_own_is_a_500_and_nothing_stays_open() -> None:
    broken = service(Broken())
    side = Side(broken)
    assert broken.begin(side, HEAD, b"", done=True, trailers=[]) is None  # type: ignore[arg-type]
    assert side.written.startswith(b"HTTP/1.1 500 ")
    assert side.over == [True]
    assert (broken.counters.requests, broken.counters.requests_open) == (1, 0)


async def test_a_response_that_waited_for_a_middleware_goes_on_only_if_the_client_reads() -> None:
    """What became blocked meanwhile says so when it no longer is; the lease stays held until then."""

    class Slow:
        async def on_response(self, request: Any, response: Any) -> None:
            await asyncio.sleep(0)

    for blocked in (False, True):
        lease = Lease()
        server = SimpleNamespace(name="s", authority=b"s", idle=lambda _, lease=lease: lease)
        goal = Goal(SimpleNamespace(name="a", pick=lambda tried, server=server: server), RULES)  # type: ignore[arg-type]
        working = service(SimpleNamespace(find=lambda *_, goal=goal: Route("/", "", "/", goal)), Slow())
        side = Side(working)
        exchange: Any = working.begin(side, HEAD, b"", done=True, trailers=[])  # type: ignore[arg-type]
        head = ResponseHeadParser(LIMITS).parse(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "GET")
        exchange.response(head, b"some", done=False, trailers=[])
        assert lease.calls == ["start", "hold"]
        side.blocked = blocked
        await side.answered.wait()
        await asyncio.sleep(0)
        assert ("unhold" in lease.calls) is not blocked
        exchange.client_unblocked()
        assert "unhold" in lease.calls
        exchange.client_lost(None)
