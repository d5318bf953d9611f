"""The limits at accept: the whole proxy, one client's connections at a time, one client's connections in a window.

They run before TLS, so a refused connection costs an accept and a close. A client that one of them refuses is not
counted by the next.
"""

from __future__ import annotations

from collections.abc import Callable

from iocproxy.clock import Clock
from iocproxy.limits import ConcurrencyLimit, NetworkSet, Windows
from iocproxy.message import Client
from iocproxy.middleware.guard import Guard


class ConnectionLimits(Guard):
    """Refuses with a word that says which limit it was: "total", "client" or "rate".

    `refused` is told the client and the word; with `dry_run` that is all that happens.
    """

    __slots__ = ("_clock", "_concurrency", "_dry_run", "_exempt", "_held", "_refused", "_windows")

    def __init__(
        self,
        concurrency: ConcurrencyLimit,
        windows: Windows | None,
        exempt: NetworkSet,
        clock: Clock,
        *,
        dry_run: bool,
        refused: Callable[[Client, str], None],
    ) -> None:
        self._concurrency = concurrency
        self._windows = windows
        self._exempt = exempt
        self._clock = clock
        self._dry_run = dry_run
        self._refused = refused
        #: clients whose place has to be given back; a connection let through by `dry_run` may hold none
        self._held: set[Client] = set()

    def on_connect(self, client: Client) -> str | None:
        if client.address in self._exempt:
            return None
        why: str | None = self._concurrency.acquire(client.key)
        if why is None:
            if self._windows is None or not self._windows.check(client.key, self._clock()):
                self._held.add(client)
                return None
            self._concurrency.release(client.key)
            why = "rate"
        self._refused(client, why)
        return None if self._dry_run else why

    def on_disconnect(self, client: Client) -> None:
        if client in self._held:
            self._held.remove(client)
            self._concurrency.release(client.key)
