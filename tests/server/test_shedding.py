"""Who goes first when there is no room, and how often anybody is looked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from iocproxy.config import Timeouts
from iocproxy.server.shedding import Shedding
from iocproxy.telemetry import Counters

TIMEOUTS = Timeouts(request_header=15, keep_alive=75, tls_handshake=10)


@dataclass(eq=False)
class Connection:
    """As far as shedding looks at one. `age` is how long ago it began to wait for what it waits for."""

    name: str
    age: float
    requests: int = 0
    idle: bool = True
    in_head: bool = False
    blocked: bool = False
    to_be_read: int = 0
    unread: bool = False
    waits: float = 15.0
    closed: bool = False
    timer: Any = field(init=False)

    def __post_init__(self) -> None:
        self.timer = SimpleNamespace(when=1_000.0 + self.waits - self.age)

    @property
    def rules(self) -> Any:
        return SimpleNamespace(min_body_rate=240)

    def shed(self) -> None:
        self.closed = True


class Handshake:
    """The link of a connection that is in its handshake."""

    info = None

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


def kept(name: str, age: float) -> Connection:
    return Connection(name, age, requests=3, waits=75.0)


def head(name: str, age: float) -> Connection:
    return Connection(name, age, idle=False, in_head=True)


def busy(name: str, **also: Any) -> Connection:
    return Connection(name, 500.0, requests=1, idle=False, waits=inf, **also)


class Case:
    def __init__(self, *connections: Connection) -> None:
        self.now = 1_000.0
        self.open: dict[Any, Any] = dict.fromkeys(connections)
        self.counters = Counters()
        self.events = structlog.testing.LogCapture()
        self.subject = Shedding(
            self.open,
            timeouts=TIMEOUTS,
            now=lambda: self.now,
            counters=self.counters,
            log=structlog.wrap_logger(None, processors=[self.events]),
        )

    def shed(self, why: Any = "total") -> list[str]:
        """Who was told to go by one call, one after the other as they would be gone."""
        before = set(self.subject.leaving)
        done = self.subject.make_room(why)
        gone = [each.name for each in self.open if each in self.subject.leaving and each not in before]
        assert done is bool(gone)
        return gone


def test_the_order() -> None:
    """One at a time: who never asked anything, the longest silent first; then the longest idle."""
    case = Case(
        kept("kept 70 s", 70),
        kept("kept 1 s", 1),
        Connection("silent 3 s", 3),
        Connection("silent 9 s", 9),
        Connection("new", 0.9),
        head("head 6 s", 6),
        head("head 0.9 s", 0.9),
        busy("busy"),
        kept("kept 2 s, reads a response", 2),
    )
    list(case.open)[-1].blocked = True
    order = []
    while gone := case.shed():
        order += gone
        for each in case.open:
            assert each.closed is (each in case.subject.leaving)
    assert order == ["silent 9 s", "head 6 s", "silent 3 s", "kept 70 s", "kept 1 s"]
    assert case.counters.shed == {"total": 5, "files": 0, "memory": 0}


def reader(name: str, age: float) -> Connection:
    return Connection(name, age, requests=1, idle=False, blocked=True, to_be_read=500_000, waits=30.0)


def test_who_reads_next_to_nothing_is_the_last_to_go() -> None:
    """For five seconds of looks, none further from the next than ten."""
    still, slow, slower, steady = (reader(name, age) for age, name in enumerate(("still", "slow", "slower", "steady")))
    case = Case(still, slow, slower, steady)
    assert case.shed() == []  # the first look
    gone: list[str] = []
    for _ in range(5):
        case.now += 1.0
        slow.to_be_read -= 300
        slower.to_be_read -= 200
        steady.to_be_read -= 50_000
        gone += case.shed()
    assert gone == ["slower"]  # by its deadline before "still"
    assert case.shed() == ["still"]
    idle = kept("idle", 1)
    case.open[idle] = None
    case.now += 0.5
    assert case.shed() == ["idle"]
    assert set(case.subject.readers) == {slow, steady}


def test_a_reader_is_watched_without_a_gap_and_for_one_pause() -> None:
    gap, anew, more = reader("gap", 0), reader("anew", 1), reader("more", 2)
    case = Case(gap)
    assert case.shed() == []
    case.now += 10.0  # who needed no room for so long knows nothing of the meantime
    assert case.shed() == []
    case = Case(anew, more)
    assert case.shed() == []
    for _ in range(8):
        case.now += 1.0
        anew.timer.when += 1.0  # it took everything in between, and was given more
        more.to_be_read += 10
        assert case.shed() == []
    case.now += 5.0
    assert case.shed() == ["more"]


def test_a_handshake_that_takes_long_is_broken_off() -> None:
    case = Case()
    new, old = Connection("new", 0.5, waits=10.0), Connection("old", 1.5, waits=10.0)
    case.open.update({new: Handshake(), old: Handshake()})
    assert case.shed() == ["old"]
    assert case.open[old].closed
    assert not old.closed  # it is the link that is closed: it knows how
    assert case.shed() == []


def test_a_batch_is_a_part_of_those_that_are_open() -> None:
    case = Case(*(kept(str(number), 75 - number / 1_000) for number in range(500)))
    assert case.shed() == [str(number) for number in range(10)]
    assert case.shed("files") == [str(number) for number in range(10, 20)]
    many = Case(*(kept(str(number), 50) for number in range(20_000)))
    assert len(many.shed("memory")) == 64
    assert many.counters.shed == {"total": 0, "files": 0, "memory": 64}


def test_who_is_full_of_active_clients_is_not_looked_through_for_each_newcomer() -> None:
    case = Case(busy("a"), busy("b"))
    assert case.shed() == []
    idle = kept("idle", 10)
    case.open[idle] = None
    case.now += 0.09
    assert case.shed() == []
    case.now += 0.02
    assert case.shed() == ["idle"]


def test_an_episode_is_told_of_once() -> None:
    case = Case(*(kept(str(number), 30) for number in range(50)))
    for _ in range(5):
        case.shed()
        case.now += 1.0
    said = case.events.entries
    assert [(event["event"], event["log_level"], event["reason"], event["connections"]) for event in said] == [
        ("connections_shed", "warning", "total", 1)
    ]
    assert said[0]["open"] == 50
    case.shed("files")
    case.now += 6.0
    case.shed()
    assert [(event["reason"], event["connections"]) for event in said[1:]] == [("files", 1), ("total", 5)]


@pytest.mark.parametrize("grace", [2.0, 0.5])
def test_a_deadline_shorter_than_the_grace_is_left_to_itself(grace: float) -> None:
    case = Case(Connection("silent", 0.0, waits=grace))
    case.subject._timeouts = Timeouts(request_header=grace)
    assert case.shed() == []
