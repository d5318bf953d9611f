"""The limits at accept: the whole proxy, one client's connections at a time, one client's connections in a window.

They run before TLS, so a refused connection costs an accept and a close. A client that one of them refuses is not
counted by the next.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from iocproxy.clock import Clock
from iocproxy.limits import ConcurrencyLimit, NetworkSet, Windows
from iocproxy.message import Client
from iocproxy.middleware.guard import Guard
from iocproxy.middleware.rate_storage import Question
from iocproxy.middleware.shared_windows import SharedWindows

#: What is said in place of a refusal where a place is about to become free: the client is to wait and ask again.
WAIT = "wait"


class ConnectionLimits(Guard):
    """Refuses with a word that says which limit it was: "total", "client" or "rate".

    `refused` is told the client and the word; with `dry_run` that is all that happens. `make_room` is asked before the
    total refuses anybody; where it says that somebody is about to leave, the word is `WAIT`.
    """

    __slots__ = ("_clock", "_concurrency", "_dry_run", "_exempt", "_held", "_refused", "_windows", "make_room")

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
        self.make_room: Callable[[], bool] | None = None
        #: clients whose place has to be given back; a connection let through by `dry_run` may hold none
        self._held: set[Client] = set()

    def on_connect(self, client: Client) -> str | Awaitable[str | None] | None:
        if client.address in self._exempt:
            return None
        why: str | None = self._concurrency.acquire(client.key)
        if why is None:
            if self._windows is None or not self._windows.check(client.key, self._clock()):
                self._held.add(client)
                return None
            return self._too_fast(client)
        return self._too_many(client, why)

    def _too_many(self, client: Client, why: str) -> str | None:
        """The client has no place."""
        if why == "total" and self.make_room is not None and not self._dry_run:
            # Who is over its rate would only be refused in the end: nobody is closed for it.
            if self._windows is not None and self._windows.peek(client.key, self._clock()):
                why = "rate"
            elif self.make_room():
                return WAIT
        self._refused(client, why)
        return None if self._dry_run else why

    def _too_fast(self, client: Client) -> str | None:
        """The client has a place, and is over its rate."""
        self._concurrency.release(client.key)
        self._refused(client, "rate")
        return None if self._dry_run else "rate"

    def on_disconnect(self, client: Client) -> None:
        if client in self._held:
            self._held.remove(client)
            self._concurrency.release(client.key)


class SharedConnectionLimits(ConnectionLimits):
    """The same, with a rate that several proxies count together. Who waits to be decided has a place already."""

    __slots__ = ("_name", "_shared")

    def __init__(
        self,
        shared: SharedWindows,
        name: str,
        concurrency: ConcurrencyLimit,
        windows: Windows | None,
        exempt: NetworkSet,
        clock: Clock,
        *,
        dry_run: bool,
        refused: Callable[[Client, str], None],
    ) -> None:
        super().__init__(concurrency, windows, exempt, clock, dry_run=dry_run, refused=refused)
        self._shared = shared
        self._name = name

    def on_connect(self, client: Client) -> str | Awaitable[str | None] | None:
        windows = self._windows
        if windows is None or client.address in self._exempt:
            return super().on_connect(client)
        why = self._concurrency.acquire(client.key)
        if why is not None:
            return self._too_many(client, why)
        said = self._shared.ask_one(Question(self._name, windows, client.key, 1, binding=True, tell=False))
        if isinstance(said, float):
            return self._decide(client, said)
        return self._decide_later(client, said)

    async def _decide_later(self, client: Client, said: Awaitable[float]) -> str | None:
        try:
            wait = await said
        except BaseException:
            self._concurrency.release(client.key)
            raise
        return self._decide(client, wait)

    def _decide(self, client: Client, wait: float) -> str | None:
        if wait:
            return self._too_fast(client)
        self._held.add(client)
        return None
