"""Who takes a place in the table of the request limits."""

from __future__ import annotations

from iocproxy.clock import ManualClock
from iocproxy.limits import NetworkSet, WindowLimit
from iocproxy.message import Client, Request
from iocproxy.middleware.request_limits import RequestLimits, RequestWindow


def request(address: str) -> Request:
    client = Client(address, 1, address.encode(), "127.0.0.1:80")
    return Request("GET", b"/", 11, [], b"a", client, "http")


def test_an_exempt_client_takes_no_place() -> None:
    """Each place is a client that can be remembered; `limits.max_clients` is how many there are."""
    window = WindowLimit(1, 10.0, max_clients=10)
    limits = RequestLimits(
        RequestWindow(window, dry_run=False),
        {},
        NetworkSet(["127.0.0.0/8"]),
        ManualClock(),
        lambda request, dry_run: None,
    )
    for number in range(5):
        assert limits.on_request(request(f"127.0.0.{number}")) is None
        assert limits.on_request(request(f"127.0.0.{number}")) is None
    assert (len(window), window.admitted) == (0, 0)
    assert limits.on_request(request("192.0.2.1")) is None
    refused = limits.on_request(request("192.0.2.1"))
    assert refused is not None
    assert refused.status == 429
    assert len(window) == 1
