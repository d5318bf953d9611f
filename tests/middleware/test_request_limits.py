"""The guard of requests: who takes a place, what is given back and when, and what stays off the hot path."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iocproxy.clock import ManualClock
from iocproxy.config.limit_values import Key, KeyPart, Rate, Rates, read_key
from iocproxy.limits import ConcurrencyLimit, NetworkSet, Windows
from iocproxy.message import Client, Request, Response
from iocproxy.middleware import Chain
from iocproxy.middleware.decisions import Decisions
from iocproxy.middleware.guard import Refusal
from iocproxy.middleware.rate_storage import Answer, LocalRates, Question, RateStorage
from iocproxy.middleware.ratelimit_fields import Policies
from iocproxy.middleware.request_keys import key_reader
from iocproxy.middleware.request_limits import Plan, RequestLimit, RequestLimits
from iocproxy.telemetry import Counters, library_logger

BY_ADDRESS = Key([KeyPart("address")])


def request(address: str = "192.0.2.1", *fields: tuple[bytes, bytes], route: str = "/", method: str = "GET") -> Request:
    client = Client(address, 1, address.encode(), "127.0.0.1:80")
    made = Request(method, b"/", 11, list(fields), b"a", client, "http")
    made.route = route
    return made


class Bench:
    """Limits, and a guard that holds them."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.counters = Counters()
        self.decisions = Decisions(self.clock, library_logger())
        self.windows: dict[str, Windows] = {}
        self.concurrent: dict[str, ConcurrencyLimit] = {}

    def limit(
        self,
        name: str,
        *rates: tuple[int, float],
        concurrent: int | None = None,
        key: str | list[str] = "address",
        missing: str = "address",
        status: int = 429,
        told: bool = False,
        dry_run: bool = False,
    ) -> RequestLimit:
        if rates:
            self.windows[name] = Windows(rates, max_clients=10)
        if concurrent is not None:
            self.concurrent[name] = ConcurrencyLimit(concurrent, None)
        return RequestLimit(
            decided=self.decisions.of(name, "requests", window=10.0, dry_run=dry_run),
            windows=self.windows.get(name),
            concurrent=self.concurrent.get(name),
            key=key_reader(read_key(key), missing),
            by_address=read_key(key) == BY_ADDRESS,
            status=status,
            policies=Policies(name, Rates(Rate(*rate) for rate in rates)) if told else None,
            dry_run=dry_run,
        )

    def guard(self, *limits: RequestLimit, rates: RateStorage | None = None, **plan: Any) -> RequestLimits:
        exempt = NetworkSet(["127.0.0.0/8"])
        rates = LocalRates(self.clock) if rates is None else rates
        return RequestLimits(Plan(limits, **plan), {}, exempt, rates, self.clock, self.counters)

    def open(self, name: str) -> int:
        return self.concurrent[name].open

    def refused(self) -> dict[str, int]:
        return {name: each["refused"] for name, each in self.decisions.stats().items() if each["refused"]}

    def would_refuse(self) -> dict[str, int]:
        return {name: each["would_refuse"] for name, each in self.decisions.stats().items() if each["would_refuse"]}


@pytest.fixture
def bench() -> Bench:
    return Bench()


def status(guard: RequestLimits, asked: Request) -> int:
    """200: let pass."""
    said = guard.on_request(asked)
    assert said is None or isinstance(said, Refusal)
    return 200 if said is None else said.status


def end(guard: RequestLimits, asked: Request) -> None:
    assert guard.on_ended is not None
    guard.on_ended(asked.client, asked, 200)


@pytest.mark.parametrize("several", [False, True])
def test_an_exempt_client_takes_no_place(bench: Bench, several: bool) -> None:
    """Each place is a client that can be remembered; `limits.max_clients` is how many there are."""
    limits = [bench.limit("a", (1, 10.0))]
    if several:
        limits.append(bench.limit("b", (5, 10.0), concurrent=1, key=["method", "address"]))
    guard = bench.guard(*limits)
    for number in range(5):
        assert status(guard, request(f"127.0.0.{number}")) == 200
        assert status(guard, request(f"127.0.0.{number}")) == 200
    assert [len(windows) for windows in bench.windows.values()] == [0] * len(limits)
    assert [each.open for each in bench.concurrent.values()] == [0] * several
    assert status(guard, request()) == 200
    assert status(guard, request()) == 429
    assert len(bench.windows["a"]) == 1


# ── what is on the hot path ──────────────────────────────────────────────────────────────────────────────────────────


def test_hooks_are_there_where_they_are_needed(bench: Bench) -> None:
    def hooks(*limits: RequestLimit) -> tuple[int, int, int]:
        chain = Chain([bench.guard(*limits)])
        assert not chain.rewrites
        return len(chain.on_request), len(chain.on_response), len(chain.on_ended)

    assert hooks(bench.limit("a", (1, 1.0)), bench.limit("b", (1, 1.0), key="host")) == (1, 0, 0)
    assert hooks(bench.limit("c", concurrent=1)) == (1, 0, 1)
    assert hooks(bench.limit("d", (1, 1.0), told=True)) == (1, 1, 1)


def test_a_plan_of_a_method_counts_for_the_hooks(bench: Bench) -> None:
    guard = bench.guard(by_method={"POST": Plan((bench.limit("a", concurrent=1),))})
    assert guard.on_ended is not None


class Unasked(LocalRates):
    def ask(self, questions: Sequence[Question]) -> Sequence[Answer]:
        raise AssertionError(questions)


def test_the_usual_limit_is_asked_without_a_detour(bench: Bench) -> None:
    guard = bench.guard(bench.limit("a", (1, 10.0)), rates=Unasked(bench.clock))
    assert [status(guard, request()) for _ in range(3)] == [200, 429, 429]
    with pytest.raises(AssertionError):
        bench.guard(bench.limit("b", (2, 10.0)), cost=2, rates=Unasked(bench.clock)).on_request(request())


# ── what is for a request ────────────────────────────────────────────────────────────────────────────────────────────


def test_the_methods_that_a_rule_names_have_a_plan_of_their_own(bench: Bench) -> None:
    every, posts = bench.limit("every", (3, 10.0)), bench.limit("posts", (1, 10.0))
    guard = bench.guard(every, by_method={"POST": Plan((every, posts))})
    assert [status(guard, request(method="POST")) for _ in range(3)] == [200, 429, 429]
    assert [status(guard, request(method="GET")) for _ in range(3)] == [200, 200, 429]
    assert bench.refused() == {"every": 1, "posts": 2}


def test_the_tightest_answers(bench: Bench) -> None:
    guard = bench.guard(bench.limit("short", (1, 5.0)), bench.limit("long", (1, 60.0), status=503))
    assert guard.on_request(request()) is None
    said = guard.on_request(request())
    assert isinstance(said, Refusal)
    assert (said.status, said.headers["Retry-After"], said.why) == (503, "60", "over the limit 'long'")
    assert bench.refused() == {"long": 1}  # one refusal, told once
    assert bench.counters.requests_limited == 1


@pytest.mark.parametrize(("code", "there"), [(429, True), (503, True), (403, False), (418, False)])
def test_retry_after_where_it_means_something(bench: Bench, code: int, there: bool) -> None:
    guard = bench.guard(bench.limit("a", (1, 5.0), status=code))
    assert guard.on_request(request()) is None
    said = guard.on_request(request())
    assert isinstance(said, Refusal)
    assert (said.status, "Retry-After" in said.headers) == (code, there)


def test_requests_without_a_key(bench: Bench) -> None:
    skip, refuse = bench.limit("a", (1, 9.0), key="header:K", missing="skip"), bench.limit("b", (5, 9.0))
    guard = bench.guard(skip, refuse)
    assert [status(guard, request()) for _ in range(3)] == [200] * 3
    assert [len(bench.windows[name]) for name in "ab"] == [0, 1]
    guard = bench.guard(bench.limit("c", (1, 9.0), key="header:K", missing="refuse"))
    assert [status(guard, request()) for _ in range(2)] == [403, 403]
    assert status(guard, request("192.0.2.1", (b"K", b"1"))) == 200
    twice = request("192.0.2.1", (b"K", b"2"), (b"K", b"2"))
    assert status(guard, twice) == 400
    assert (bench.refused(), bench.counters.requests_limited) == ({"c": 3}, 3)
    dry = bench.guard(bench.limit("d", (1, 9.0), key="header:K", missing="refuse", dry_run=True), refuse)
    assert [status(dry, request()), status(dry, twice)] == [200, 200]
    assert (bench.would_refuse(), bench.counters.dry_run_requests) == ({"d": 2}, 2)


def test_a_request_without_a_key_is_counted_nowhere(bench: Bench) -> None:
    guard = bench.guard(
        bench.limit("a", (1, 9.0), concurrent=1), bench.limit("b", (1, 9.0), key="header:K", missing="refuse")
    )
    assert [status(guard, request()) for _ in range(3)] == [403] * 3
    assert (len(bench.windows["a"]), bench.open("a")) == (0, 0)


# ── what is under way ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_place_is_given_back_when_the_request_is_over(bench: Bench) -> None:
    guard = bench.guard(bench.limit("a", concurrent=2))
    first, second, third = request(), request(), request()
    assert [status(guard, each) for each in (first, second, third)] == [200, 200, 429]
    assert status(guard, request("192.0.2.2")) == 200
    end(guard, third)  # it holds nothing
    assert bench.open("a") == 3
    first.key = b"other"  # whatever becomes of the request in the meantime
    end(guard, first)
    end(guard, first)
    assert bench.open("a") == 2
    assert [status(guard, each) for each in (third, first)] == [200, 200]
    for each in (second, third):
        end(guard, each)
    assert bench.concurrent["a"].count(b"192.0.2.1") == 0


def test_a_request_that_never_came_here_gives_nothing_back(bench: Bench) -> None:
    guard = bench.guard(bench.limit("a", concurrent=1))
    assert status(guard, request()) == 200
    end(guard, request())
    assert guard.on_ended is not None
    guard.on_ended(request().client, None, 400)
    assert bench.open("a") == 1


def test_who_is_refused_for_what_is_under_way_is_counted_nowhere(bench: Bench) -> None:
    limits = [
        bench.limit("a", (5, 10.0), concurrent=3),
        bench.limit("b", concurrent=2, key="everyone", status=503),
        bench.limit("c", (5, 10.0)),
    ]
    guard = bench.guard(*limits)
    assert [status(guard, request()) for _ in range(5)] == [200, 200, 503, 503, 503]
    assert (bench.open("a"), bench.open("b")) == (2, 2)
    assert bench.windows["c"].members[0].remaining(b"192.0.2.1", bench.clock()) == 3
    said = guard.on_request(request())
    assert isinstance(said, Refusal)
    assert "Retry-After" not in said.headers  # nobody knows
    assert said.why == "too many requests under way for the limit 'b'"
    assert bench.refused() == {"b": 4}


def test_who_is_over_a_rate_is_not_under_way(bench: Bench) -> None:
    guard = bench.guard(bench.limit("a", (1, 10.0), concurrent=5))
    asked = request()
    assert [status(guard, each) for each in (asked, request(), request())] == [200, 429, 429]
    assert bench.open("a") == 1
    end(guard, asked)
    assert bench.open("a") == 0


def test_a_dry_run_of_what_is_under_way(bench: Bench) -> None:
    guard = bench.guard(bench.limit("a", (3, 10.0), concurrent=1, dry_run=True), bench.limit("b", (4, 10.0)))
    asked = [request() for _ in range(5)]
    assert [status(guard, each) for each in asked] == [200] * 4 + [429]
    # the second and the third for what is under way, the fourth for the rate: each told once
    assert (bench.would_refuse(), bench.counters.dry_run_requests) == ({"a": 3}, 3)
    for each in asked:
        end(guard, each)
    assert bench.open("a") == 0


# ── a storage that has to be waited for ──────────────────────────────────────────────────────────────────────────────


class Slow(LocalRates):
    """Answers when it is told to."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.go = asyncio.Event()

    def ask(self, questions: Sequence[Question]) -> Any:
        async def later() -> Sequence[Answer]:
            await self.go.wait()
            return super(Slow, self).ask(questions)

        return later()

    def shortcut(self, windows: Windows) -> Any:
        del windows


async def _result(waiting: object) -> Refusal | None:
    assert isinstance(waiting, Awaitable)
    found = await waiting
    assert found is None or isinstance(found, Refusal)
    return found


async def test_a_storage_may_take_its_time(bench: Bench) -> None:
    slow = Slow(bench.clock)
    guard = bench.guard(bench.limit("a", (1, 10.0), concurrent=2, told=True), rates=slow)
    asked = [request() for _ in range(3)]
    first, second, third = map(guard.on_request, asked)
    assert isinstance(third, Refusal)  # what is under way is known here
    slow.go.set()
    assert await _result(first) is None
    assert bench.open("a") == 2
    refused = await _result(second)
    assert refused is not None
    assert (refused.status, refused.headers["RateLimit"]) == (429, '"a";r=0;t=10')
    assert bench.open("a") == 1
    for each in asked:
        end(guard, each)
    assert bench.open("a") == 0


async def test_a_client_that_leaves_while_the_storage_is_asked_leaves_nothing_behind(bench: Bench) -> None:
    slow = Slow(bench.clock)
    guard = bench.guard(bench.limit("a", (1, 10.0), concurrent=1), rates=slow)
    asked = request()
    task = asyncio.ensure_future(_result(guard.on_request(asked)))
    await asyncio.sleep(0)
    assert bench.open("a") == 1
    task.cancel()
    end(guard, asked)
    assert bench.open("a") == 0
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.open("a") == 0


# ── what clients are told ────────────────────────────────────────────────────────────────────────────────────────────


def told(guard: RequestLimits, asked: Request) -> tuple[str, str] | None:
    response = Response(200)
    assert guard.on_response is not None
    guard.on_response(asked, response)
    if "RateLimit" not in response.headers:
        return None
    return response.headers["RateLimit-Policy"], response.headers["RateLimit"]


def test_fields_of_those_limits_that_have_it_switched_on(bench: Bench) -> None:
    guard = bench.guard(
        bench.limit("quiet", (100, 10.0)),
        bench.limit("pair", (2, 1.0), (50, 60.0), told=True),
        bench.limit("dry", (1, 0.5), told=True, dry_run=True),
    )
    asked = request()
    assert guard.on_request(asked) is None
    assert told(guard, asked) == (
        '"pair-1s";q=2;w=1, "pair-60s";q=50;w=60, "dry";q=1;w=1',
        '"pair-1s";r=1;t=1, "pair-60s";r=49;t=60, "dry";r=0;t=1',
    )
    end(guard, asked)
    assert told(guard, asked) is None
    assert told(guard, request()) is None


ENDINGS: list[Callable[[Bench], RequestLimit]] = [
    lambda bench: bench.limit("a", (2, 10.0), concurrent=1, told=True),
    lambda bench: bench.limit("a", (2, 10.0), concurrent=1, dry_run=True, told=True),
]


@pytest.mark.parametrize("limit", ENDINGS)
def test_nothing_is_remembered_of_a_request_that_is_over(bench: Bench, limit: Callable[[Bench], RequestLimit]) -> None:
    guard = bench.guard(limit(bench), bench.limit("b", (5, 10.0)))
    for _ in range(10):
        asked = request()
        guard.on_request(asked)
        guard.on_request(other := request())
        end(guard, asked)
        end(guard, other)
    assert not guard._running  # a leak would not be seen from outside


# ── anything at all, in any order ────────────────────────────────────────────────────────────────────────────────────

ADDRESSES, TOKENS = st.sampled_from(["192.0.2.1", "192.0.2.2"]), st.sampled_from([b"", b"1", b"2"])
BEGIN = st.tuples(st.just("begin"), ADDRESSES, TOKENS, st.sampled_from(["GET", "PUT"]))
STEPS = st.lists(BEGIN | st.tuples(st.just("end"), st.integers(0, 9)) | st.tuples(st.just("wait"), st.integers(1, 9)))


class Model:
    """What the limits of the test below should do, by a log of everything."""

    def __init__(self) -> None:
        self.admitted: list[tuple[float, str, bytes, str]] = []
        self.under_way: list[tuple[Request, str, bytes]] = []

    def counts(self, now: float, window: float, wanted: Callable[[str, bytes, str], bool]) -> list[float]:
        return [at for at, *who in self.admitted if now - at < window and wanted(*who)]

    def verdict(self, now: float, address: str, token: bytes, method: str) -> tuple[int, float]:
        """The status, 200 for none, and the wait."""
        if not token and method == "PUT":
            return 403, 0.0
        if sum(each == address for _, each, _ in self.under_way) >= 2:
            return 503, 0.0
        own = self.counts(now, 10, lambda each, *_: each == address)
        waits = [own[len(own) - 5] + 10 - now if len(own) >= 5 else 0.0]
        if method == "PUT":
            by_token = self.counts(now, 20, lambda _, each, which: each == token and which == "PUT")
            waits.append(by_token[len(by_token) - 3] + 20 - now if len(by_token) >= 3 else 0.0)
        return (429, max(waits)) if any(waits) else (200, 0.0)


@given(STEPS)
def test_all_limits_together_against_a_log(steps: list[tuple[Any, ...]]) -> None:
    bench, model = Bench(), Model()
    every = bench.limit("every", (5, 10.0))
    puts = bench.limit("puts", (3, 20.0), key="header:T", missing="refuse")
    places = bench.limit("places", concurrent=2, status=503)
    dry = bench.limit("dry", (1, 60.0), concurrent=1, key="everyone", dry_run=True)
    guard = bench.guard(every, places, dry, by_method={"PUT": Plan((every, places, dry, puts))})
    for what, *how in steps:
        if what == "wait":
            bench.clock.advance(how[0])
        elif what == "end":
            if model.under_way:
                end(guard, model.under_way.pop(how[0] % len(model.under_way))[0])
        else:
            address, token, method = how
            asked = request(address, *([(b"T", token)] if token else []), method=method)
            expected, wait = model.verdict(bench.clock(), address, token, method)
            said = guard.on_request(asked)
            assert said is None or isinstance(said, Refusal)
            assert (200 if said is None else said.status) == expected
            if said is None:
                model.admitted.append((bench.clock(), address, token, method))
                model.under_way.append((asked, address, token))
            else:
                assert said.headers.get("Retry-After") == (str(ceil(wait)) if wait else None)
                end(guard, asked)
        assert bench.open("places") == len(model.under_way)
        assert bench.open("dry") <= min(1, len(model.under_way))
    for asked, *_ in model.under_way:
        end(guard, asked)
    assert (bench.open("places"), bench.open("dry"), len(guard._running)) == (0, 0, 0)
