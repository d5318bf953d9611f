"""Rounds, interleaved (nginx, haproxy, caddy, iocproxy, nginx, …): a slow minute of the machine hits all alike."""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness import host, process
from harness.certificates import Certificates
from harness.scenarios import Running, Scenario, verify, warm_up
from load import refusals, wrk
from load.http import WrongAnswerError
from peers.base import Peer, Refuse, Site
from peers.origin import Origin


@dataclass(slots=True)
class Column:
    """What one proxy gave in one scenario: a value per round, or why there is none."""

    values: list[float] = field(default_factory=list)
    broken: str | None = None
    """An error: the run fails."""
    absent: str | None = None
    """The proxy has nothing to measure here: the cell stays empty."""


@dataclass(frozen=True, slots=True)
class Bench:
    """Everything that the scenarios share."""

    directory: Path
    origin: Origin
    certificates: Certificates
    proxy_core: int
    seconds: float

    def run(
        self, scenario: Scenario, peers: Sequence[Peer], rounds: int, until: float, tell: Callable[[str], None]
    ) -> dict[str, Column]:
        """Measure ``scenario`` with every proxy; a proxy that breaks drops out and the others go on.

        No round but the first begins after ``until`` (``time.monotonic``).
        """
        columns = {peer.name: Column() for peer in peers}
        with contextlib.ExitStack() as stack:
            running: dict[str, Running] = {}
            for number in range(min(rounds, scenario.most_rounds)):
                if number and time.monotonic() > until:
                    break
                tell(f"{scenario.name}: round {number + 1}")
                for peer in peers:
                    column = columns[peer.name]
                    if column.broken or column.absent:
                        continue
                    if scenario.refuse and peer.refuses is None:
                        column.absent = "cannot refuse"
                        continue
                    try:
                        if scenario.fresh:
                            with self._started(peer, scenario) as proxy:
                                column.values.append(scenario.measure(proxy, self.seconds))
                            continue
                        if peer.name not in running:
                            running[peer.name] = stack.enter_context(self._started(peer, scenario))
                        column.values.append(scenario.measure(running[peer.name], self.seconds))
                    except (WrongAnswerError, OSError, ssl.SSLError, process.StartError) as error:
                        column.broken = f"{type(error).__name__}: {error}"
        return columns

    @contextlib.contextmanager
    def _started(self, peer: Peer, scenario: Scenario) -> Iterator[Running]:
        plain, ecdsa, rsa = host.free_ports(3)
        directory = self.directory / f"{scenario.name}-{peer.name}-{plain}"
        directory.mkdir()
        site = Site(
            directory,
            self.origin.port,
            plain,
            ecdsa,
            rsa,
            self.certificates,
            host.file_limit(),
            scenario.refuse,
        )
        command = peer.command(site)
        log = directory / "output.log"
        with process.running(
            command, core=self.proxy_core, log=log, ports=site.ports, environment=peer.environment(site)
        ) as pid:
            proxy = Running(peer, site, pid, self.origin)
            if scenario.known and scenario.refuse is Refuse.CONNECTIONS:
                refusals.make_known(site.plain_port, scenario.known)
            elif scenario.known:
                wrk.make_known(site.plain_port, "/13", scenario.known)
            if not scenario.refuse:
                warm_up(proxy)
                if not scenario.fresh:
                    verify(proxy)
            yield proxy
