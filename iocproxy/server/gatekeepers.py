"""From `[limits.access]` and `[[limits.penalties]]` to the guards that deny: the first in the chain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from iocproxy.config import Config
from iocproxy.limits import ClientKeys, NetworkSet, Windows
from iocproxy.middleware.access import AccessGuard
from iocproxy.middleware.denials import BY_PROGRAM, Doorman, Penalties, Penalty
from iocproxy.server.access_lists import AccessLists, Loaded
from iocproxy.server.surroundings import Surroundings

#: How long the log is silent about a client that an access list refuses, in seconds; the same for one that a program
#: denies, as that may be for any time.
_SILENT = 60.0


@dataclass(frozen=True, slots=True)
class Gatekeepers:
    """`lists` and `access` are None where no access list is configured."""

    lists: AccessLists | None
    access: AccessGuard | None
    doorman: Doorman
    penalties: Penalties | None

    @property
    def members(self) -> list[object]:
        """For the chain, in order."""
        return [each for each in (self.access, self.doorman, self.penalties) if each is not None]

    def deny(self, client: str, seconds: float) -> None:
        """Raises ValueError for what is not one client, or no time."""
        self.doorman.deny_client(client, seconds)

    def pardon(self, client: str) -> bool:
        """Whether it was denied. Raises ValueError for what is not one client."""
        penalties = () if self.penalties is None else self.penalties.penalties
        return self.doorman.pardon_client(client, (each.windows for each in penalties))


def gatekeepers(config: Config, loaded: Loaded | None, keys: ClientKeys, around: Surroundings) -> Gatekeepers:
    limits, decisions = config.limits, around.decisions
    lists = access = None
    if loaded is not None:
        dry_run = limits.access.dry_run
        lists = AccessLists(limits.access, loaded, executor=around.executor, log=around.log)
        decided = decisions.of("access", "access", window=_SILENT, dry_run=dry_run)
        access = AccessGuard(lists, decided, around.counters, dry_run=dry_run)
    reasons = {BY_PROGRAM: decisions.of(BY_PROGRAM, "penalties", window=_SILENT)}
    for each in limits.penalties:
        reasons[each.name] = decisions.of(each.name, "penalties", window=each.deny, dry_run=each.dry_run)
    doorman = Doorman(
        reasons,
        keys,
        NetworkSet(limits.exempt),
        NetworkSet(config.server.trusted_proxies),
        max_clients=limits.max_clients,
        clock=around.clock,
        counters=around.counters,
    )
    penalties = None
    if limits.penalties:
        penalties = Penalties(_penalties(config), doorman, access, around.clock)
    return Gatekeepers(lists, access, doorman, penalties)


def _penalties(config: Config) -> Iterator[Penalty]:
    for each in config.limits.penalties:
        statuses = frozenset[int]().union(*map(_statuses, each.statuses))
        windows = Windows(each.rate, max_clients=config.limits.max_clients)
        yield Penalty(each.name, statuses, windows, each.deny, each.dry_run)


def _statuses(given: str) -> frozenset[int]:
    """499 was answered to nobody: it is the client that left, as people do. Whoever means that says so."""
    if given.isdigit():
        return frozenset({int(given)})
    first = int(given[0]) * 100
    return frozenset(range(first, first + 100)) - {499}
