"""What is told of refusals: every one in the counters, and few in the log."""

from __future__ import annotations

from typing import Any

import structlog

from iocproxy.clock import ManualClock
from iocproxy.middleware.decisions import LINES, Decisions


def made() -> tuple[Decisions, ManualClock, list[Any]]:
    clock = ManualClock()
    events = structlog.testing.LogCapture()
    log = structlog.wrap_logger(None, processors=[events])
    return Decisions(clock, log), clock, events.entries


def test_a_client_is_told_of_once_in_a_window() -> None:
    decisions, clock, said = made()
    decided = decisions.of("requests", "requests", window=10.0)
    for _ in range(100):
        decided.refuse(b"a", "192.0.2.1", route="/")
    decided.refuse(b"b", "192.0.2.2", route="/")
    clock.advance(9.99)
    decided.refuse(b"a", "192.0.2.1", route="/")
    assert [(event["event"], event["log_level"], event["client"]) for event in said] == [
        ("limit_refused", "info", "192.0.2.1"),
        ("limit_refused", "info", "192.0.2.2"),
    ]
    assert (said[0]["limit"], said[0]["scope"], said[0]["route"]) == ("requests", "requests", "/")
    clock.advance(0.01)
    decided.refuse(b"a", "192.0.2.1", route="/")
    assert len(said) == 3
    assert decisions.stats() == {"requests": {"scope": "requests", "refused": 103, "would_refuse": 0}}
    assert decisions.offenders() == [
        {"client": "192.0.2.1", "refused": 102, "error": 0},
        {"client": "192.0.2.2", "refused": 1, "error": 0},
    ]


def test_what_is_only_tried_is_told_as_such_and_offends_nobody() -> None:
    decisions, _, said = made()
    decided = decisions.of("logins", "requests", window=10.0, dry_run=True)
    decided.refuse(b"a", "192.0.2.1")
    decided.refuse(b"a", "192.0.2.1")
    assert [event["event"] for event in said] == ["limit_would_refuse"]
    assert decisions.stats() == {"logins": {"scope": "requests", "refused": 0, "would_refuse": 2}}
    assert decisions.offenders() == []


def test_a_flood_of_clients_is_summed_up() -> None:
    decisions, clock, said = made()
    decided = decisions.of("connections rate", "connections", window=10.0)
    for number in range(25_000):
        decided.refuse(number.to_bytes(4, "big"), str(number))
    assert len(said) == LINES
    clock.advance(1.0)
    decided.refuse(b"late", "late")
    assert [event["event"] for event in said[LINES:]] == ["limit_refused_more", "limit_refused"]
    assert (said[LINES]["clients"], said[LINES]["log_level"]) == (25_000 - LINES, "warning")
    assert decisions.stats()["connections rate"]["refused"] == 25_001
    assert len(decided._told) <= 10_000


def test_counts_outlive_the_configuration_they_come_from() -> None:
    decisions, _, _ = made()
    decisions.of("requests", "requests", window=10.0).refuse(b"a", "a")
    decisions.of("requests", "requests", window=5.0).refuse(b"a", "a")
    assert decisions.stats()["requests"]["refused"] == 2
