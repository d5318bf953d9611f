"""Denials and penalties without a proxy around them: what is counted, to the letter, and at which moment."""

from __future__ import annotations

from typing import Any

import pytest
import structlog

from iocproxy.clock import ManualClock
from iocproxy.limits import ClientKeys, NetworkSet, Windows, window
from iocproxy.message import Client, Request, Response
from iocproxy.middleware import Chain
from iocproxy.middleware.decisions import Decisions
from iocproxy.middleware.denials import BY_PROGRAM, Doorman, Penalties, Penalty
from iocproxy.middleware.guard import Guard
from iocproxy.telemetry import Counters

KEYS = ClientKeys()


class Gate:
    """A doorman with some penalties, and what the log says."""

    def __init__(self, *penalties: tuple[str, set[int], str, float, bool], max_clients: int = 1_000) -> None:
        self.clock = ManualClock()
        self.events: list[dict[str, Any]] = []
        log = structlog.wrap_logger(
            None, processors=[self._take], wrapper_class=structlog.make_filtering_bound_logger(0)
        )
        decisions = Decisions(self._now, log)
        self.counters = Counters()
        reasons = {name: decisions.of(name, "penalties", window=60.0) for name in (BY_PROGRAM,)}
        made = []
        for name, statuses, rate, seconds, dry_run in penalties:
            reasons[name] = decisions.of(name, "penalties", window=seconds, dry_run=dry_run)
            limit, _, window = rate.partition("/")
            windows = Windows([(int(limit), float(window))], max_clients=max_clients)
            made.append(Penalty(name, frozenset(statuses), windows, seconds, dry_run))
        self.doorman = Doorman(
            reasons,
            KEYS,
            NetworkSet(["192.0.2.200"]),
            NetworkSet(["192.0.2.201"]),
            max_clients=max_clients,
            clock=self._now,
            counters=self.counters,
        )
        self.penalties = Penalties(made, self.doorman, None, self._now)
        self.chain = Chain([self.doorman, self.penalties])
        self.doorman.begin = lambda: self.chain.screen(self.doorman.screen)

    def _now(self) -> float:
        return self.clock()  # which a test may replace

    def _take(self, _logger: object, _level: str, event: Any) -> Any:
        self.events.append(event)
        raise structlog.DropEvent

    def ask(self, address: str, status: int) -> int:
        """One request that is answered with `status` unless it is denied; what it was answered with."""
        client = Client(address, 1, KEYS.key(address), "127.0.0.1:80")
        request = Request("GET", b"/", 11, [], b"a", client, "http")
        for hook in self.chain.on_request:
            said = hook(request)
            if isinstance(said, Response):
                status = said.status
                break
        self.penalties.on_ended(client, request, status)
        return status

    def enters(self, address: str) -> bool:
        return self.doorman.on_connect(Client(address, 1, KEYS.key(address), "127.0.0.1:80")) is None


def test_an_answer_of_the_denial_itself_feeds_no_penalty() -> None:
    """Without that rule a client that keeps asking would be denied for ever, as 429 is a 4xx."""
    gate = Gate(("errors", set(range(400, 500)) - {499}, "2/3600", 60.0, False))
    assert [gate.ask("192.0.2.1", 404), gate.ask("192.0.2.1", 404)] == [404, 404]
    for _ in range(100):
        assert gate.ask("192.0.2.1", 200) == 429
        gate.clock.advance(0.5)
    gate.clock.advance(10.0)
    assert gate.ask("192.0.2.1", 200) == 200
    assert gate.ask("192.0.2.1", 404) == 404  # it begins anew: the one before the last would be the third
    assert gate.ask("192.0.2.1", 200) == 200
    assert gate.doorman.total == {BY_PROGRAM: 0, "errors": 1}


def test_not_even_where_its_time_ends_between_answer_and_end() -> None:
    gate = Gate(("errors", {429}, "1/3600", 60.0, False))
    gate.ask("192.0.2.1", 429)
    start = gate.clock.now
    moments = iter([start + 59.9, start + 59.9, start + 59.9])
    gate.clock = lambda: next(moments, start + 60.1)  # type: ignore[assignment]
    assert gate.ask("192.0.2.1", 200) == 429
    assert not gate.doorman.denied(KEYS.key("192.0.2.1"))
    assert gate.doorman.total["errors"] == 1


def test_what_was_under_way_counts_for_nothing() -> None:
    gate = Gate(("guessing", {401}, "2/60", 10.0, False))
    for _ in range(2):
        gate.ask("192.0.2.1", 401)
    client = Client("192.0.2.1", 1, KEYS.key("192.0.2.1"), "127.0.0.1:80")
    for _ in range(5):  # requests that began before, and end now
        gate.penalties.on_ended(client, Request("GET", b"/", 11, [], b"a", client, "http"), 401)
    gate.clock.advance(10.0)
    assert gate.ask("192.0.2.1", 401) == 401
    assert gate.ask("192.0.2.1", 200) == 200
    assert [event["event"] for event in gate.events] == ["client_denied"]


def test_only_the_statuses_that_it_names_count() -> None:
    gate = Gate(("guessing", {401}, "2/60", 10.0, False), ("broken", {500}, "1/60", 20.0, False))
    for status in (200, 403, 404, 499, 0, 101, 401):
        assert gate.ask("192.0.2.1", status) == status
    assert gate.enters("192.0.2.1")
    gate.ask("192.0.2.1", 500)
    assert not gate.enters("192.0.2.1")
    assert (
        gate.events[0] | {"event": "client_denied", "limit": "broken", "client": "192.0.2.1", "seconds": 20.0}
        == (gate.events[0])
    )


def test_two_penalties_for_one_answer_and_the_longer_stands() -> None:
    gate = Gate(("short", {401}, "1/60", 10.0, False), ("long", {401}, "1/60", 30.0, False))
    gate.ask("192.0.2.1", 401)
    assert gate.doorman.denials.left(KEYS.key("192.0.2.1"), gate.clock()) == 30.0
    assert [event["limit"] for event in gate.events if event["event"] == "client_denied"] == ["short", "long"]


def test_retry_after_is_true() -> None:
    gate = Gate(("guessing", {401}, "1/60", 10.0, False))
    gate.clock.advance(0.25)
    gate.ask("192.0.2.1", 401)
    client = Client("192.0.2.1", 1, KEYS.key("192.0.2.1"), "127.0.0.1:80")
    for waited, said in ((0.0, "10"), (0.3, "10"), (8.0, "2"), (1.6, "1")):
        gate.clock.advance(waited)
        refusal = gate.doorman.screen(Request("GET", b"/", 11, [], b"a", client, "http"))
        assert refusal is not None
        assert refusal.headers["Retry-After"] == said
    gate.clock.advance(1.0)
    assert gate.ask("192.0.2.1", 200) == 200


def test_over_days_and_with_a_clock_that_steps_back() -> None:
    gate = Gate(("slow", {404}, "3/86400", 7 * 86_400.0, False))
    for _ in range(2):
        gate.ask("192.0.2.1", 404)
        gate.clock.advance(43_200.0)
    gate.clock.advance(0.1)
    gate.ask("192.0.2.1", 404)  # the first is more than a day old
    assert gate.enters("192.0.2.1")
    gate.ask("192.0.2.1", 404)
    assert not gate.enters("192.0.2.1")
    gate.clock.now -= 3600.0
    assert not gate.enters("192.0.2.1")
    gate.clock.now += 3600.0 + 7 * 86_400.0 - 0.1
    assert not gate.enters("192.0.2.1")
    gate.clock.now += 0.2
    assert gate.enters("192.0.2.1")
    gate.clock.now -= 86_400.0
    assert gate.enters("192.0.2.1")  # over is over


def test_dry_run_counts_what_it_would_refuse_and_denies_nobody() -> None:
    gate = Gate(("dry", {401}, "2/60", 10.0, True), ("wet", {401}, "5/60", 10.0, False))
    for _ in range(4):
        assert gate.ask("192.0.2.1", 401) == 401
    assert gate.enters("192.0.2.1")
    assert gate.counters.dry_run_requests == 2
    assert gate.counters.dry_run_connections == 1
    assert gate.doorman.stats() == {"now": 0, "dry_run": 1, "evicted": 0, "by": {BY_PROGRAM: 0, "dry": 1, "wet": 0}}
    assert gate.ask("192.0.2.1", 401) == 401  # the fifth, of the penalty that means it
    assert not gate.enters("192.0.2.1")
    assert [event["event"] for event in gate.events] == [
        "client_would_be_denied",
        "limit_would_refuse",
        "client_denied",
        "limit_refused",
    ]


def test_exempt_and_trusted_clients_are_spared() -> None:
    gate = Gate(("guessing", {401, 400}, "1/60", 10.0, False))
    for address in ("192.0.2.200", "192.0.2.201"):
        assert gate.ask(address, 401) == 401
        assert gate.enters(address)
        gate.penalties.on_ended(Client(address, 1, KEYS.key(address), "127.0.0.1:80"), None, 400)
        assert gate.enters(address)
    assert len(gate.doorman.denials) == 0


def test_what_could_not_be_read_counts_for_who_is_connected() -> None:
    gate = Gate(("garbage", {400}, "2/60", 10.0, False))
    client = Client("192.0.2.1", 1, KEYS.key("192.0.2.1"), "127.0.0.1:80")
    gate.penalties.on_ended(client, None, 400)
    assert gate.enters("192.0.2.1")
    gate.penalties.on_ended(client, None, 400)
    assert not gate.enters("192.0.2.1")


def test_in_a_full_table_nobody_pays_for_others() -> None:
    """Newcomers that find no place are counted together elsewhere; here that would deny the wrong one."""
    gate = Gate(("guessing", {401}, "4/60", 10.0, False), max_clients=4)
    for number in range(4):
        for _ in range(3):
            gate.ask(f"192.0.2.{number}", 401)
    for number in range(2_000):
        assert gate.ask(f"198.51.{number >> 8}.{number & 255}", 401) == 401
    assert len(gate.doorman.denials) == 0
    gate.ask("192.0.2.3", 401)
    assert not gate.enters("192.0.2.3")  # its own count was never lost


def test_who_gets_a_place_does_not_inherit_what_others_did() -> None:
    gate = Gate(("guessing", {401}, "4/60", 10.0, False), max_clients=1)
    for _ in range(3):
        gate.ask("192.0.2.1", 401)  # takes the only place
    gate.clock.advance(30.0)
    for _ in range(3):
        gate.ask("192.0.2.2", 401)
    gate.clock.advance(31.0)  # the place is free again, and the count of those without one still alive
    group = hash(KEYS.key("192.0.2.2")) % window._CROWD
    numbers = (f"10.0.{number >> 8}.{number & 255}" for number in range(65_536))
    other = next(address for address in numbers if hash(KEYS.key(address)) % window._CROWD == group)
    for _ in range(4):
        gate.ask(other, 401)
        assert gate.enters(other)
    gate.ask(other, 401)
    assert not gate.enters(other)


def test_a_flood_of_clients_is_bounded_in_memory_and_in_the_log() -> None:
    gate = Gate(("guessing", {401}, "1/60", 600.0, False), max_clients=100)
    for number in range(5_000):
        gate.ask(f"10.0.{number >> 8}.{number & 255}", 401)
    assert len(gate.doorman.denials) == 100
    assert gate.doorman.total["guessing"] == 5_000
    assert len(gate.events) <= 20


@pytest.mark.parametrize(
    ("client", "seconds", "why"),
    [
        (
            "192.0.2.0/24",
            1.0,
            "is not one client, which is an IPv4 /32 or an IPv6 /64; networks belong into the access",
        ),
        ("2001:db8::/48", 1.0, "is not one client"),
        ("2001:db8::/65", 1.0, "is not one client"),
        ("192.0.2.1/24", 1.0, "host bits set"),
        ("localhost", 1.0, "not an IP address"),
        ("", 1.0, "not an IP address"),
        ("192.0.2.200", 1.0, "exempt or a trusted proxy"),
        ("192.0.2.201", 1.0, "exempt or a trusted proxy"),
        ("192.0.2.1", 0.0, "more than 0 and at most 2592000 s"),
        ("192.0.2.1", -1.0, "more than 0"),
        ("192.0.2.1", float("inf"), "more than 0"),
        ("192.0.2.1", float("nan"), "more than 0"),
    ],
)
def test_who_cannot_be_denied(client: str, seconds: float, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Gate().doorman.deny_client(client, seconds)


@pytest.mark.parametrize(
    ("denied", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1/32", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1/128", "192.0.2.1"),
        ("2001:db8::/64", "2001:db8::7"),
        ("2001:db8::1", "2001:db8::7"),
        ("2001:db8::1/128", "2001:db8::7"),
    ],
)
def test_a_client_by_program(denied: str, address: str) -> None:
    gate = Gate()
    gate.doorman.deny_client(denied, 10.0)
    assert not gate.enters(address)
    assert gate.doorman.pardon_client(denied)
    assert not gate.doorman.pardon_client(denied)
    assert gate.enters(address)
    assert [event["event"] for event in gate.events] == ["client_denied", "limit_refused", "client_pardoned"]


# ── the chain ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Named(Guard):
    def __init__(self, name: str, seen: list[str]) -> None:
        self.name, self.seen = name, seen

    def on_request(self, request: Request) -> None:
        self.seen.append(self.name)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_screen_comes_first_and_moves_nobody(number: int) -> None:
    seen: list[str] = []
    chain = Chain([Named(str(each), seen) for each in range(number)])
    places = chain.on_request
    answer = Response(429, [], b"")
    said: list[Response | None] = [None]

    def screen(request: Request) -> Response | None:
        seen.append("screen")
        return said[0]

    chain.screen(screen)
    assert chain.on_request[1:] == places[1:]
    assert len(chain.on_request) == max(len(places), 1)
    assert chain.guards[0] is screen
    assert not chain.rewrites
    client = Client("192.0.2.1", 1, b"", "127.0.0.1:80")
    request = Request("GET", b"/", 11, [], b"a", client, "http")
    assert [hook(request) for hook in chain.on_request] == [None] * max(number, 1)
    assert seen == ["screen", *map(str, range(number))]
    said[0] = answer
    assert chain.on_request[0](request) is answer
