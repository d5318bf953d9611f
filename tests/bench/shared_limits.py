"""What it costs a request to be counted in Redis, beside being counted in the proxy.

    python tests/bench/shared_limits.py [--seconds S] [--rounds N]

A limit that is never reached, with `limits.storage` in memory and in a Redis on this machine; requests go to nginx.
With 1, 16 and 64 connections: requests a second, CPU time of the proxy and of Redis for each, and how many one call
decided; then the median and p99 of an answer's time (1 connection). The last rows are a client over its limit. The
proxy has a core of its own. Linux, with `nginx`, `wrk` and `redis-server`; nothing is asserted about the figures.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import redis

from harness import host, process, procfs
from load import wrk
from load.http import Connection, get
from peers import origin

CONFIG = """\
limits.connections.rate = false
limits.requests.rate = "{rate}"
limits.storage = "{storage}"
{redis}
http.max_requests = false
upstreams.origin.servers = ["http://127.0.0.1:{origin}"]
logging.access = false
[[listeners]]
bind = "127.0.0.1:{port}"
"""
NEVER = "1000000/1s"
CONNECTIONS = 1, 16, 64


@dataclass(frozen=True)
class Row:
    storage: str
    connections: int
    requests: float  #: a second
    cpu: float  #: µs of the proxy for one
    redis: float  #: µs of Redis for one
    together: float  #: requests decided by one call


@contextmanager
def proxy(directory: Path, core: int, origin_port: int, redis_port: int, *, shared: bool, rate: str) -> Iterator[Proxy]:
    (port,) = host.free_ports(1)
    file = directory / "iocproxy.toml"
    storage = f"redis://127.0.0.1:{redis_port}" if shared else "memory"
    patience = 'limits.redis.timeout = "1s"' if shared else ""
    file.write_text(CONFIG.format(rate=rate, storage=storage, redis=patience, origin=origin_port, port=port))
    command = [sys.executable, "-m", "iocproxy", "serve", "--config", str(file)]
    with process.running(command, core=core, log=directory / "iocproxy.log", ports=[port]) as pid:
        yield Proxy(port, pid)


class Proxy(NamedTuple):
    port: int
    pid: int


def latency(port: int, seconds: float) -> tuple[float, float]:
    """Median and p99 of requests one after the other, in µs."""
    taken = []
    until = time.perf_counter() + seconds
    with Connection(port) as connection:
        while (begun := time.perf_counter()) < until:
            connection.exchange(get("/13"), length=13)
            taken.append((time.perf_counter() - begun) * 1e6)
    return statistics.median(taken), sorted(taken)[int(len(taken) * 0.99)]


def measure(
    at: Proxy, redis_pid: int, client: redis.Redis, storage: str, connections: int, seconds: float, refused: bool
) -> Row:
    def calls() -> int:
        return int(client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0))

    before = procfs.cpu_seconds(at.pid), procfs.cpu_seconds(redis_pid), calls()
    begun = time.perf_counter()
    done = wrk.load(
        at.port, "/13", length=0 if refused else 13, connections=connections, seconds=seconds, refused=refused
    )
    taken = time.perf_counter() - begun
    after = procfs.cpu_seconds(at.pid), procfs.cpu_seconds(redis_pid), calls()
    cpu, theirs, trips = (late - early for early, late in zip(before, after, strict=True))
    count = done.requests
    return Row(
        storage, connections, count / taken, cpu / count * 1e6, theirs / count * 1e6, count / trips if trips else 0
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    load_core, proxy_core = host.cores()
    rows: list[Row] = []
    waits: dict[str, list[tuple[float, float]]] = {}
    with ExitStack() as stack:
        directory = stack.enter_context(host.scratch())
        upstream = stack.enter_context(origin.running(directory, load_core))
        stack.enter_context(host.pinned(load_core))
        (redis_port,) = host.free_ports(1)
        command = [
            "redis-server",
            "--port",
            str(redis_port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            str(directory),
        ]
        redis_pid = stack.enter_context(
            process.running(command, core=load_core, log=directory / "redis.log", ports=[redis_port])
        )
        client = stack.enter_context(redis.Redis(port=redis_port))
        for _ in range(options.rounds):
            for rate in (NEVER, "1/1d"):
                refused = rate != NEVER
                for shared in (False, True):
                    storage = f"{'redis' if shared else 'memory'}{', over the limit' if refused else ''}"
                    with proxy(directory, proxy_core, upstream.port, redis_port, shared=shared, rate=rate) as at:
                        if refused:
                            client.flushall()
                            with Connection(at.port) as connection:
                                connection.exchange(get("/13"), length=13)
                        else:
                            waits.setdefault(storage, []).append(latency(at.port, options.seconds))
                        rows += [
                            measure(at, redis_pid, client, storage, count, options.seconds, refused)
                            for count in (CONNECTIONS if not refused else CONNECTIONS[-1:])
                        ]
    print("| storage | connections | requests/s | proxy: CPU µs a request | Redis: CPU µs a request | in one call |")
    print("|---|---|---|---|---|---|")
    for storage, connections in dict.fromkeys((row.storage, row.connections) for row in rows):
        mine = [row for row in rows if (row.storage, row.connections) == (storage, connections)]
        rate, cpu, theirs, together = (
            statistics.median(getattr(row, name) for row in mine) for name in ("requests", "cpu", "redis", "together")
        )
        print(f"| {storage} | {connections} | {rate:,.0f} | {cpu:.0f} | {theirs:.1f} | {together:.1f} |")
    print()
    for storage, several in waits.items():
        median, p99 = (statistics.median(each) for each in zip(*several, strict=True))
        print(f"{storage}: one after the other, {median:.0f} µs, p99 {p99:.0f} µs")


if __name__ == "__main__":
    main()
