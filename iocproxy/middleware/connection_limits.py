"""The limits at accept: the whole proxy, one client's connections at a time, one client's connections in a window.

They run before TLS, so a refused connection costs an accept and a close. A client that one of them refuses is not
counted by the next.
"""

from __future__ import annotations

from collections.abc import Callable

from iocproxy.clock import Clock
from iocproxy.limits import ConcurrencyLimit, NetworkSet, WindowLimit
from iocproxy.message import Client


class ConnectionLimits:
    """Refuses with a word that says which limit it was: "total", "client" or "rate".

    With `dry_run` nothing is refused; `would_refuse` is told the client and the word instead.
    """

    __slots__ = ("_clock", "_concurrency", "_dry_run", "_exempt", "_held", "_window", "_would_refuse")

    def __init__(
        self,
        concurrency: ConcurrencyLimit,
        window: WindowLimit | None,
        exempt: NetworkSet,
        clock: Clock,
        *,
        dry_run: bool,
        would_refuse: Callable[[Client, str], None],
    ) -> None:
        self._concurrency = concurrency
        self._window = window
        self._exempt = exempt
        self._clock = clock
        self._dry_run = dry_run
        self._would_refuse = would_refuse
        #: clients whose place has to be given back; a connection let through by `dry_run` may hold none
        self._held: set[Client] = set()

    def on_connect(self, client: Client) -> str | None:
        if client.address in self._exempt:
            return None
        refused: str | None = self._concurrency.acquire(client.key)
        if refused is None:
            if self._window is None or not self._window.check(client.key, self._clock()):
                self._held.add(client)
                return None
            self._concurrency.release(client.key)
            refused = "rate"
        if not self._dry_run:
            return refused
        self._would_refuse(client, refused)
        return None

    def on_disconnect(self, client: Client) -> None:
        if client in self._held:
            self._held.remove(client)
            self._concurrency.release(client.key)
