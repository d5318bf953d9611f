from __future__ import annotations

import iocproxy.telemetry
from iocproxy.errors import HandshakeFailure, ProxyHeaderFailure, TlsFailure
from iocproxy.telemetry import Counters


def test_exports() -> None:
    assert iocproxy.telemetry.__all__ == [
        "AccessLog",
        "Counters",
        "LogFormat",
        "Logger",
        "Writer",
        "library_logger",
        "stream_logger",
    ]


def test_every_counter_is_in_the_snapshot_once() -> None:
    counters = Counters()
    counters.responses = [0, 1001, 1002, 1003, 1004, 1005]
    apart = {"handshakes_failed", "proxy_protocol_failures", "responses", "sessions", "shed", "tls_failed"}
    names = [name for name in Counters.__slots__ if name not in apart]
    for number, name in enumerate(names, start=1):
        assert getattr(counters, name) == 0
        setattr(counters, name, number)
    counters.handshakes_failed = {failure: 2000 + at for at, failure in enumerate(HandshakeFailure)}
    counters.tls_failed = {failure: 3000 + at for at, failure in enumerate(TlsFailure)}
    counters.proxy_protocol_failures = {failure: 4000 + at for at, failure in enumerate(ProxyHeaderFailure)}
    counters.shed = {"total": 5000, "files": 5001, "memory": 5002}
    flat: dict[str, int] = {}
    snapshot = counters.snapshot()
    assert snapshot.pop("connections_shed") == counters.shed
    assert snapshot.pop("responses") == {"1xx": 1001, "2xx": 1002, "3xx": 1003, "4xx": 1004, "5xx": 1005}
    assert snapshot.pop("handshakes_failed") == sum(counters.handshakes_failed.values())
    assert snapshot.pop("handshake_failures") == {str(each): n for each, n in counters.handshakes_failed.items()}
    assert snapshot.pop("tls_failures") == {str(each): n for each, n in counters.tls_failed.items()}
    assert snapshot.pop("proxy_protocol_failures") == {
        str(each): n for each, n in counters.proxy_protocol_failures.items()
    }
    for name, value in snapshot.items():
        if isinstance(value, dict):
            prefix = {"connections_refused": "refused", "dry_run": "dry_run"}[name]
            flat.update({f"{prefix}_{key}": count for key, count in value.items()})
        else:
            flat[name] = value
    assert flat == {name: number for number, name in enumerate(names, start=1)}


def test_the_snapshot_is_the_callers_own() -> None:
    counters = Counters()
    first = counters.snapshot()
    counters.requests += 1
    counters.responses[2] += 1
    assert first == Counters().snapshot()
    assert counters.snapshot()["requests"] == 1


def test_a_misspelt_counter_is_refused() -> None:
    try:
        Counters().requets = 1  # type: ignore[attr-defined]
    except AttributeError:
        return
    raise AssertionError("an attribute that nobody reads was accepted")
