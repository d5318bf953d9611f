"""Print the table of CPU and memory per unit: iocproxy beside nginx, HAProxy and Caddy. See README.md here.

    python tests/bench/run.py [--quick] [--scenario NAME…] [--proxies NAME…] [--rounds N] [--seconds S] [--json FILE]

Exit status: 0 whatever the figures are; 1 when a proxy failed, answered wrongly or lost a byte; 2 when nothing could be
measured; 130 after Ctrl+C.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

if sys.platform != "linux":
    sys.exit("The benchmark reads /proc and pins processes to cores: Linux only. tests/bench/calls.py runs everywhere.")

from harness import certificates, host, table
from harness.rounds import Bench, Column
from harness.scenarios import SCENARIOS, Scenario
from load import wrk
from peers import origin
from peers.base import Peer
from peers.caddy import Caddy
from peers.haproxy import Haproxy
from peers.iocproxy import Iocproxy
from peers.nginx import Nginx

PEERS: tuple[Peer, ...] = (Nginx(), Haproxy(), Caddy(), Iocproxy())
ROUNDS, SECONDS = 5, 2.0
QUICK_ROUNDS, QUICK_SECONDS, QUICK_TOTAL_SECONDS = 3, 0.4, 50.0
"""A quick run leaves out rounds after the first when the machine is too slow for all of them."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tests/bench/run.py", description=(__doc__ or "").splitlines()[0])
    names = [scenario.name for scenario in SCENARIOS]
    proxies = [peer.name for peer in PEERS]
    parser.add_argument("--quick", action="store_true", help="fewer, shorter rounds and scenarios: about a minute")
    parser.add_argument("--scenario", nargs="+", metavar="NAME", choices=names, help=f"only these: {', '.join(names)}")
    parser.add_argument(
        "--proxies", nargs="+", metavar="NAME", choices=proxies, help=f"only these: {', '.join(proxies)}"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help=f"rounds per scenario (default {ROUNDS})")
    parser.add_argument("--seconds", type=float, metavar="S", help=f"length of one measurement (default {SECONDS:g})")
    parser.add_argument("--spread", action="store_true", help="show the smallest and largest round beside each median")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round's value there as well")
    options = parser.parse_args(arguments)
    if options.rounds is None:
        options.rounds = QUICK_ROUNDS if options.quick else ROUNDS
    if options.seconds is None:
        options.seconds = QUICK_SECONDS if options.quick else SECONDS
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds and --seconds must be positive")
    return options


def choose_scenarios(options: argparse.Namespace) -> list[Scenario]:
    """The rows that were asked for, in the order of the table."""
    if options.scenario:
        return [scenario for scenario in SCENARIOS if scenario.name in options.scenario]
    return [scenario for scenario in SCENARIOS if scenario.quick or not options.quick]


def choose_peers(options: argparse.Namespace, notes: list[str]) -> list[Peer]:
    """The columns that were asked for and that can run here; each one that cannot leaves a note."""
    chosen = []
    for peer in PEERS:
        if options.proxies and peer.name not in options.proxies:
            continue
        if reason := peer.missing():
            notes.append(f"{peer.name} skipped: {reason}.")
        else:
            chosen.append(peer)
    return chosen


def tell(text: str) -> None:
    """Say on the terminal how far we are; a log needs no progress."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def measure(
    options: argparse.Namespace, scenarios: Sequence[Scenario], peers: Sequence[Peer]
) -> dict[str, dict[str, Column]]:
    """Run everything; all processes and files are gone afterwards, however it ends."""
    load_core, proxy_core = host.cores()
    with host.scratch() as directory, host.pinned(load_core):
        material = directory / "certificates"
        material.mkdir()
        issued = certificates.issue(material)
        with origin.running(directory / "origin", load_core) as source:
            bench = Bench(directory, source, issued, proxy_core, options.seconds)
            began = time.monotonic()
            # each scenario may use its share of the time and what those before it have left
            share = QUICK_TOTAL_SECONDS / len(scenarios) if options.quick else math.inf
            return {
                scenario.name: bench.run(scenario, peers, options.rounds, began + share * number, tell)
                for number, scenario in enumerate(scenarios, start=1)
            }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    options = parse(arguments)
    # Debian puts nginx and HAProxy where the PATH of a plain user does not look
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])
    for program in ("nginx", wrk.PROGRAM):
        if shutil.which(program) is None:
            print(
                f"{program} is needed (nginx is the origin, wrk the load generator) and is not installed.",
                file=sys.stderr,
            )
            return 2
    notes: list[str] = []
    scenarios, peers = choose_scenarios(options), choose_peers(options, notes)
    if not peers:
        print("\n".join([*notes, "No proxy to measure."]), file=sys.stderr)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    host.raise_file_limit()
    started = time.monotonic()
    columns = measure(options, scenarios, peers)
    tell("")
    names = [peer.name for peer in peers]
    rows = {scenario.name: table.summary(scenario, columns[scenario.name]) for scenario in scenarios}
    report = {"host": describe_host(), "versions": {peer.name: peer.version() for peer in peers}}
    print(table.render(rows, names, spread=options.spread))
    print()
    print(explain(options, report, peers, time.monotonic() - started))
    broken = [
        f"BROKEN {name} in {scenario}: {column.broken[:600]}"
        for scenario, row in columns.items()
        for name, column in row.items()
        if column.broken
    ]
    print("\n".join([*notes, *broken]))
    if options.json:
        options.json.write_text(
            json.dumps({**report, "rounds": options.rounds, "seconds": options.seconds, "scenarios": rows}, indent=1)
        )
    return 1 if broken else 0


def describe_host() -> str:
    """Cores and interpreter, for whoever compares two tables."""
    load_core, proxy_core = host.cores()
    shared = ", ONE core for both: figures mean little" if load_core == proxy_core else ""
    return (
        f"{os.cpu_count()} cores (load and origin on {load_core}, proxy on {proxy_core}{shared}), "
        f"{platform.python_implementation()} {platform.python_version()}, Linux {platform.release()}, "
        f"at most {host.file_limit()} open files"
    )


def explain(options: argparse.Namespace, report: dict[str, Any], peers: Sequence[Peer], took: float) -> str:
    """The lines below the table."""
    refusals = "; ".join(f"{peer.name}: {peer.refuses or 'has no limit per client'}" for peer in peers)
    return "\n".join(
        [
            "CPU time (user + system) of the proxy's processes per unit, × nginx in the same round; lower is better.",
            f"Medians of up to {options.rounds} interleaved rounds of {options.seconds:g} s; {took:.0f} s in all.",
            f"{table.MISSED} iocproxy is over its budget.",
            f"Refused connection: {refusals}.",
            f"Host: {report['host']}.",
            f"Versions: {'; '.join(report['versions'].values())}.",
        ]
    )


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """Unwind, once: whoever presses Ctrl+C again must not interrupt the stopping of our processes."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)
