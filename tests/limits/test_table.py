"""Who is forgotten when the table is full, and what becomes of newcomers that find no place."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from iocproxy.limits import WindowLimit
from iocproxy.limits.table import COLD, EXPIRED, HOT, Table

WINDOW = 10


def key(number: int) -> bytes:
    return number.to_bytes(4, "big")


class Eviction(RuleBasedStateMachine):
    """More clients than places. Whatever comes: the bound holds, and who was refused stays so until its time."""

    @initialize(limit=st.sampled_from([1, 2, 3, 16, 20, 40]), places=st.integers(1, 5))
    def start(self, limit: int, places: int) -> None:
        self.limit = limit
        self.places = places
        self.subject = WindowLimit(limit, WINDOW, max_clients=places)
        self.millis = 1_000_000
        self.refused_until: dict[bytes, float] = {}
        self.log: dict[bytes, list[int]] = {}

    @property
    def now(self) -> float:
        return self.millis / 1000

    @rule(client=st.integers(0, 9), repeated=st.integers(1, 50))
    def come(self, client: int, repeated: int) -> None:
        name = key(client)
        for _ in range(repeated):
            wait = self.subject.check(name, self.now)
            if wait:
                assert wait <= WINDOW
                self.refused_until[name] = max(self.refused_until.get(name, 0.0), self.now + wait)
                return
            assert self.now >= self.refused_until.get(name, 0.0) - 1e-6, "an offender was forgotten"
            log = [at for at in self.log.get(name, ()) if self.millis - at < WINDOW * 1000]
            self.log[name] = [*log, self.millis]
            # Every eviction of a client forgets half of its limit at most.
            allowed = self.limit + self.subject.evicted * (self.limit // 2)
            assert len(self.log[name]) <= allowed

    @rule(millis=st.one_of(st.sampled_from([1, 5_000, 9_999, 10_000, 10_001]), st.integers(0, 3_000)))
    def pass_time(self, millis: int) -> None:
        self.millis += millis

    @rule(client=st.integers(0, 9))
    def ask(self, client: int) -> None:
        before = repr(self.subject), self.subject.admitted
        assert self.subject.remaining(key(client), self.now) in range(self.limit + 1)
        assert (self.subject.peek(key(client), self.now) == 0.0) == (self.subject.remaining(key(client), self.now) > 0)
        assert (repr(self.subject), self.subject.admitted) == before

    @invariant()
    def bounded(self) -> None:
        if hasattr(self, "subject"):
            assert len(self.subject) <= self.places


TestEviction = Eviction.TestCase
TestEviction.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


def test_the_expired_go_first() -> None:
    subject = WindowLimit(10, WINDOW, max_clients=4)
    subject.check(key(0), 1_000.0)
    for client in (1, 2, 3):
        subject.check(key(client), 1_005.0)
    subject.check(key(4), 1_011.0)  # client 0 has expired, the others are cold
    assert len(subject) == 4
    assert subject.evicted == 0
    assert [subject.remaining(key(client), 1_011.0) for client in range(5)] == [10, 9, 9, 9, 9]


def test_a_cold_client_goes_before_any_hot_one() -> None:
    subject = WindowLimit(10, WINDOW, max_clients=3)
    for client, used in enumerate((6, 1, 10)):
        subject.check(key(client), 1_000.0, used)
    for newcomer in range(100, 150):
        assert subject.check(key(newcomer), 1_001.0) == 0.0
    assert [subject.remaining(key(client), 1_001.0) for client in range(3)] == [4, 10, 0]
    assert subject.evicted == 50
    assert subject.crowded == 0


def test_newcomers_share_when_all_places_are_hot() -> None:
    """Nobody who is hot is forgotten, and those without a place are limited all the same."""
    subject = WindowLimit(2, WINDOW, max_clients=3)
    for client in range(3):
        subject.check(key(client), 1_000.0, 2)
    flood = [subject.check(key(newcomer), 1_001.0) for newcomer in range(1_000, 21_000)]
    admitted = flood.count(0.0)
    assert admitted == subject.crowded == 512  # 256 groups of newcomers with the limit of 2 each
    assert len(subject) == 3
    assert subject.evicted == 0
    assert all(subject.check(key(client), 1_001.0) > 0 for client in range(3))


def test_a_newcomer_takes_its_history_along() -> None:
    subject = WindowLimit(2, WINDOW, max_clients=1)
    subject.check(key(0), 1_000.0, 2)
    assert subject.check(key(1), 1_009.0) == 0.0  # without a place
    assert subject.crowded == 1
    assert subject.check(key(1), 1_010.0) == 0.0  # client 0 has expired: the place is free
    assert subject.crowded == 1
    assert subject.check(key(1), 1_011.0) == pytest.approx(8.0)
    assert subject.check(key(1), 1_019.0) == 0.0


def test_the_table_shrinks_to_the_clients_there_are() -> None:
    subject = WindowLimit(5, WINDOW, max_clients=2_000)
    for client in range(1_000):
        subject.check(key(client), 1_000.0)
    for number in range(3_000):  # ten clients come and go at any time from here on
        subject.check(key(1_000 + number), 1_010.0 + number)
    assert len(subject) < 50
    assert subject.evicted == 0


def test_a_flood_of_addresses_keeps_the_bound_and_the_offender() -> None:
    subject = WindowLimit(20, WINDOW, max_clients=1_000)
    assert [subject.check(key(0), 1_000.0) for _ in range(20)] == [0.0] * 20
    for number in range(1, 10_001):
        assert subject.check(key(number), 1_000.0 + number / 2_000) == 0.0
    assert len(subject) == 1_000
    assert subject.evicted == 9_001
    assert subject.check(key(0), 1_009.0) == pytest.approx(1.0)


def test_the_table_by_itself() -> None:
    """States are opaque to the table: here they are their own grade."""
    table = Table(2)
    assert table.add(b"a", HOT, int)
    assert table.add(b"b", COLD, int)
    assert table.add(b"c", HOT, int)
    assert table.states == {b"a": HOT, b"c": HOT}
    assert not table.add(b"d", HOT, int)
    assert table.states == {b"a": HOT, b"c": HOT}
    table.states[b"c"] = EXPIRED
    assert table.add(b"d", HOT, int)
    assert table.states == {b"a": HOT, b"d": HOT}
    assert (len(table), table.evicted) == (2, 1)


@pytest.mark.parametrize("clients", [1, 2, 5, 100, 87_381])
def test_churn_never_loses_anybody(clients: int) -> None:
    """Through every rewrite of the dict the places and the states stay the same clients."""
    table = Table(clients)
    for number in range(clients + 2_000):
        assert table.add(key(number), COLD, lambda _: EXPIRED if len(table) == clients else COLD)
        assert len(table.states) == len(table)
    assert len(table) <= clients
    assert key(clients + 1_999) in table.states


def test_no_places_at_all() -> None:
    with pytest.raises(ValueError, match="max_clients must be at least 1"):
        WindowLimit(1, 1, max_clients=0)
