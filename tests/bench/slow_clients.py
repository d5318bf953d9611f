"""What ordinary clients notice of slowhttptest.

    python tests/bench/slow_clients.py [--connections N] [--proxies NAME...]

Six clients ask on kept connections and four with a connection for each request, 190 requests a second together, while
slowhttptest sends heads slowly, sends bodies slowly, reads slowly, or asks for a thousand ranges, from one address that
is limited by nothing but deadlines. Each cell is the median and p99 of their requests in ms, and how many failed. The
proxies have their default deadlines, of which hardly any passes in the seconds that are measured. Linux, with
`nginx` and `slowhttptest`; nothing is asserted about the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import ssl
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from harness import host, process
from harness.certificates import issue
from load.http import Connection, WrongAnswerError, get
from peers import base, iocproxy, nginx, origin

SECONDS = 6
KEPT, FRESH = 6, 4
KEPT_EVERY, FRESH_EVERY = 0.04, 0.1
PEERS: dict[str, type[base.Peer]] = {"iocproxy": iocproxy.Iocproxy, "nginx": nginx.Nginx}
ATTACKS: dict[str, list[str]] = {
    "none": [],
    "slow heads": ["-H", "-i", "1", "-u", "{url}/13"],
    "slow bodies": ["-B", "-i", "1", "-s", "100000", "-x", "8", "-u", "{url}/upload/slow"],
    "slow readers": ["-X", "-w", "64", "-y", "512", "-n", "1", "-z", "5", "-u", "{url}/1m"],
    "ranges": ["-R", "-t", "HEAD", "-u", "{url}/10k"],
}


class Clients:
    """Ordinary ones, who ask all the time; `taken` are seconds."""

    def __init__(self, port: int, context: ssl.SSLContext | None) -> None:
        self._port, self._context = port, context
        self._over = threading.Event()
        self._failed = 0
        self._taken: list[float] = []
        work = [self._keep] * KEPT + [self._come_anew] * FRESH
        self._threads = [
            threading.Thread(target=each, args=(f"127.0.0.{2 + number}",)) for number, each in enumerate(work)
        ]

    def run(self, seconds: float) -> str:
        for thread in self._threads:
            thread.start()
        try:
            time.sleep(seconds)
        finally:
            self._over.set()
            for thread in self._threads:
                thread.join()
        if not self._taken:
            return f"{self._failed} failed"
        p99 = sorted(self._taken)[int(len(self._taken) * 0.99)]
        figures = f"{statistics.median(self._taken) * 1e3:.1f} / {p99 * 1e3:.1f}"
        return figures + (f", {self._failed} failed" if self._failed else "")

    def _keep(self, source: str) -> None:
        while not self._over.is_set():
            with self._counted(), Connection(self._port, self._context, source=source) as kept:
                while not self._over.wait(KEPT_EVERY):
                    self._ask(kept, time.perf_counter())

    def _come_anew(self, source: str) -> None:
        while not self._over.wait(FRESH_EVERY):
            begun = time.perf_counter()
            with self._counted(), Connection(self._port, self._context, source=source) as new:
                self._ask(new, begun)

    def _ask(self, connection: Connection, begun: float) -> None:
        connection.exchange(get("/13"), length=13)
        self._taken.append(time.perf_counter() - begun)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except (OSError, WrongAnswerError):
            self._failed += 1


@contextlib.contextmanager
def attacked(options: list[str], url: str, connections: int, core: int) -> Iterator[None]:
    """At the lowest priority: slowhttptest polls without a pause, and would take a core from those measured."""
    if not options:
        yield
        return
    command = ["nice", "-n", "19", "slowhttptest", "-c", str(connections), "-r", "500", "-l", str(4 * SECONDS)]
    command += [option.format(url=url) for option in options]
    with host.pinned(core):
        attacker = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        attacker.kill()
        attacker.wait()


def measure(
    peer: base.Peer, site: base.Site, *, tls: bool, attack: str, connections: int, cores: tuple[int, int]
) -> str:
    """The cell of one proxy under one attack, the proxy started for it."""
    load_core, proxy_core = cores
    context = site.certificates.client_context() if tls else None
    port = site.ecdsa_port if tls else site.plain_port
    url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    site.directory.mkdir()
    command, log = peer.command(site), site.directory / "log"
    with (
        process.running(command, core=proxy_core, log=log, ports=site.ports, environment=peer.environment(site)),
        attacked(ATTACKS[attack], url, connections, load_core),
    ):
        return Clients(port, context).run(SECONDS)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--connections", type=int, default=1_000)
    parser.add_argument("--proxies", nargs="+", choices=list(PEERS), default=list(PEERS))
    options = parser.parse_args()
    for program in ("slowhttptest", "nginx"):
        if shutil.which(program) is None:
            sys.exit(f"{program} is not installed")
    host.raise_file_limit()
    cores = host.cores()
    columns = [(name, tls) for name in options.proxies for tls in (False, True)]
    with ExitStack() as stack:
        directory: Path = stack.enter_context(host.scratch())
        certificates = issue(directory)
        upstream = stack.enter_context(origin.running(directory, cores[0]))
        print("| attack |", " | ".join(name + (", TLS" if tls else "") for name, tls in columns), "|")
        print("|---" * (1 + len(columns)) + "|")
        for attack in ATTACKS:
            row = []
            for name, tls in columns:
                site = base.Site(
                    directory / f"{attack}-{name}-{tls}".replace(" ", "-"),
                    upstream.port,
                    *host.free_ports(3),
                    certificates,
                    host.file_limit(),
                )
                row.append(
                    measure(PEERS[name](), site, tls=tls, attack=attack, connections=options.connections, cores=cores)
                )
            print(f"| {attack} |", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    main()
