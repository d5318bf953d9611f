"""Who takes a place in the table of the request limits."""

from __future__ import annotations

from iocproxy.clock import ManualClock
from iocproxy.limits import NetworkSet, Windows
from iocproxy.message import Client, Request
from iocproxy.middleware.decisions import Decisions
from iocproxy.middleware.request_limits import RequestLimits, RequestWindow
from iocproxy.telemetry import Counters, library_logger


def request(address: str) -> Request:
    client = Client(address, 1, address.encode(), "127.0.0.1:80")
    return Request("GET", b"/", 11, [], b"a", client, "http")


def test_an_exempt_client_takes_no_place() -> None:
    """Each place is a client that can be remembered; `limits.max_clients` is how many there are."""
    clock = ManualClock()
    windows = Windows([(1, 10.0)], max_clients=10)
    decided = Decisions(clock, library_logger()).of("requests", "requests", window=10.0)
    limits = RequestLimits(
        RequestWindow(windows, dry_run=False, decided=decided), {}, NetworkSet(["127.0.0.0/8"]), clock, Counters()
    )
    for number in range(5):
        assert limits.on_request(request(f"127.0.0.{number}")) is None
        assert limits.on_request(request(f"127.0.0.{number}")) is None
    assert len(windows) == 0
    assert limits.on_request(request("192.0.2.1")) is None
    refused = limits.on_request(request("192.0.2.1"))
    assert refused is not None
    assert refused.status == 429
    assert len(windows) == 1
