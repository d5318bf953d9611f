"""Access lists: who is not to come at all is refused at accept, before the limits; who came in before a list changed,
or comes through a trusted proxy, is answered 403.

They are no limit, so `limits.exempt` opens nothing that they close.
"""

from __future__ import annotations

from typing import Protocol

from iocproxy.limits import AccessMap
from iocproxy.message import Client, Request
from iocproxy.middleware.decisions import Decided
from iocproxy.middleware.guard import Guard, Refusal
from iocproxy.telemetry import Counters


class Lists(Protocol):
    """Where the map that holds now is kept; it may be another one at any time."""

    map: AccessMap


class AccessGuard(Guard):
    """Refuses connections with the word "denied". With `dry_run` it only tells."""

    __slots__ = ("_counters", "_decided", "_dry_run", "_lists")

    def __init__(self, lists: Lists, decided: Decided, counters: Counters, *, dry_run: bool) -> None:
        self._lists = lists
        self._decided = decided
        self._counters = counters
        self._dry_run = dry_run

    def on_connect(self, client: Client) -> str | None:
        if self._lists.map.allows(client.address):
            return None
        self._decided.refuse(client.key, client.address, listener=client.listener)
        if self._dry_run:
            self._counters.dry_run_connections += 1
            return None
        return "denied"

    def on_request(self, request: Request) -> Refusal | None:
        allows, client = self._lists.map.allows, request.client
        welcome = request.address is client.address or allows(client.address)
        if welcome and allows(request.address):
            return None
        self._decided.refuse(request.key, request.address, route=request.route)
        if self._dry_run:
            self._counters.dry_run_requests += 1
            return None
        # Whoever is connected himself has nothing more to say here; others come through the same trusted proxy.
        return Refusal(403, "denied by an access list", closes=not allows(client.address))

    def denies(self, address: str) -> bool:
        """Whether its requests are answered by this guard."""
        return not (self._dry_run or self._lists.map.allows(address))
