"""What the limits have decided: counters by limit, who is refused most, and a line in the log once in a while.

A flood must not become a flood of log lines. So a client is told of once in each window of the limit that refuses it,
and beyond so many lines a second for all clients together only their number is.
"""

from __future__ import annotations

from typing import Any

from structlog.typing import FilteringBoundLogger

from iocproxy.clock import Clock
from iocproxy.limits.offenders import Offenders

#: Lines a second about clients that one limit refuses; what is beyond is summed up in one.
LINES = 20

#: Clients remembered as told of; a full table is emptied, and they are told of again.
_TOLD = 10_000

#: How many of those refused most `Decisions.stats` names.
_TOP = 20


class Decisions:
    """One for each proxy; outlives what is compiled from a configuration."""

    def __init__(self, clock: Clock, log: FilteringBoundLogger) -> None:
        self._clock = clock
        self._log = log
        self._limits: dict[str, Decided] = {}
        self._offenders = Offenders()

    def of(self, name: str, scope: str, *, window: float, dry_run: bool = False) -> Decided:
        """What to tell the refusals of one limit to. A client is logged once in `window` seconds.

        `scope` is what is limited: "connections", "handshakes", "requests", "bandwidth", "access" or "penalties".
        """
        decided = Decided(name, scope, window, dry_run, self._clock, self._log, self._offenders)
        before = self._limits.get(name)
        if before is not None:
            decided.refused, decided.would_refuse = before.refused, before.would_refuse
        self._limits[name] = decided
        return decided

    def stats(self) -> dict[str, dict[str, Any]]:
        """By limit: its scope, what it refused, and what it would have refused but for `dry_run`."""
        return {
            name: {"scope": each.scope, "refused": each.refused, "would_refuse": each.would_refuse}
            for name, each in self._limits.items()
        }

    def offenders(self) -> list[dict[str, Any]]:
        """Who was refused most, by address; each count is too high by `error` at most."""
        return [
            {"client": each.name, "refused": each.refused, "error": each.error} for each in self._offenders.top(_TOP)
        ]


class Decided:
    """The refusals of one limit."""

    __slots__ = (
        "_clock",
        "_dry_run",
        "_lines",
        "_log",
        "_offenders",
        "_second",
        "_told",
        "_untold",
        "_window",
        "name",
        "refused",
        "scope",
        "would_refuse",
    )

    def __init__(
        self,
        name: str,
        scope: str,
        window: float,
        dry_run: bool,
        clock: Clock,
        log: FilteringBoundLogger,
        offenders: Offenders,
    ) -> None:
        self.name = name
        self.scope = scope
        self.refused = 0
        self.would_refuse = 0
        self._window = window
        self._dry_run = dry_run
        self._clock = clock
        self._log = log
        self._offenders = offenders
        self._told: dict[bytes, float] = {}  #: when each client was last told of
        self._second = float("-inf")  #: the second that `_lines` and `_untold` belong to
        self._lines = 0
        self._untold = 0

    def refuse(self, key: bytes, address: str, **details: Any) -> None:
        """The client with this key, at this address, was refused, or would have been but for `dry_run`.

        `details` go into the line.
        """
        if self._dry_run:
            self.would_refuse += 1
        else:
            self.refused += 1
            self._offenders.refused(address)
        now = self._clock()
        last = self._told.get(key)
        if last is not None and now - last < self._window:
            return
        if len(self._told) >= _TOLD:
            self._told.clear()
        self._told[key] = now
        self.tell("limit_would_refuse" if self._dry_run else "limit_refused", address, scope=self.scope, **details)

    def tell(self, event: str, address: str, **details: Any) -> None:
        """A line about a client, unless there are too many of them."""
        now = self._clock()
        if now - self._second >= 1.0:
            self._sum_up()
            self._second = now
        if self._lines >= LINES:
            self._untold += 1
            return
        self._lines += 1
        self._log.info(event, limit=self.name, client=address, **details)

    def _sum_up(self) -> None:
        if self._untold:
            self._log.warning("limit_refused_more", limit=self.name, scope=self.scope, clients=self._untold)
        self._lines = self._untold = 0
