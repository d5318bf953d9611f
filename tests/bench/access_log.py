"""What the access log costs: on the event loop for each request, on its thread for each record, and to its neighbours.

    python tests/bench/access_log.py

Prints nanoseconds per `write`, microseconds per record formatted, and how late a busy event loop's timer runs while
a burst is written, beside the same loop without one. Nothing is asserted: the figures depend on the machine.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from iocproxy.message import Record
from iocproxy.telemetry import AccessLog, Counters, library_logger
from iocproxy.telemetry.requests import ConsoleFormat, JsonFormat, LineFormat

ROUNDS = 7


def record(after: float = 0.0) -> Record:
    return Record(
        finished=time.time() + after,
        client="203.0.113.7",
        method="GET",
        host="shop.example.com",
        target="/catalogue/items?page=3&sort=price",
        version=11,
        status=200,
        bytes_in=0,
        bytes_out=10_240,
        duration=0.004_217,
        upstream="10.0.0.5:9000",
        route="shop.example.com/catalogue/",
        tls_version="TLSv1.3",
        tls_resumed=True,
        error="",
    )


def best(samples: list[float], count: int) -> float:
    return min(samples) / count


def write_cost(path: Path) -> float:
    """Seconds for one `write`, the loop around it taken off."""
    one, count = record(), 10_000
    empty, full = [], []
    for _ in range(ROUNDS * 10):
        log = AccessLog(path, "json", log=library_logger(), counters=Counters())
        write = log.write
        begun = time.perf_counter()
        for _ in range(count):
            pass
        empty.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        for _ in range(count):
            write(one)
        full.append(time.perf_counter() - begun)
        log.close()
    return best(full, count) - best(empty, count)


def format_cost(form: LineFormat) -> float:
    """Seconds for one record, in slices of 200 as the thread takes them, at 20,000 requests a second."""
    records, samples = [record(number / 20_000) for number in range(200)], []
    for _ in range(ROUNDS * 50):
        begun = time.perf_counter()
        form.lines(records)
        samples.append(time.perf_counter() - begun)
    return best(samples, len(records))


def loop_delays(path: Path, burst: int) -> list[float]:
    """How long each pass of a busy event loop took, in seconds, while a burst of records was written."""

    async def busy() -> list[float]:
        counters = Counters()
        log = AccessLog(path, "json", log=library_logger(), counters=counters, interval=0.05)
        log.start()
        one, passes = record(), []
        for _ in range(burst):
            log.write(one)
        end = time.perf_counter() + 1.0
        while (begun := time.perf_counter()) < end:
            for _ in range(2_000):  # some 50 µs of Python, as a few requests are
                pass
            await asyncio.sleep(0)
            passes.append(time.perf_counter() - begun)
        await asyncio.to_thread(log.close)
        return passes

    return asyncio.run(busy())


def main() -> None:
    print(f"CPython {sys.version.split()[0]} on {sys.platform}, {os.cpu_count()} CPUs")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "access.log")
        print(f"write()                  {write_cost(path) * 1e9:8.0f} ns per record")
        for name, form in (("json", JsonFormat()), ("console", ConsoleFormat(colours=False))):
            print(f"format, {name:<16} {format_cost(form) * 1e6:8.2f} µs per record")
        for burst in (0, 65_536):
            passes = sorted(loop_delays(path, burst))
            median, p99 = statistics.median(passes), passes[int(len(passes) * 0.99)]
            figures = f"median {median * 1e6:5.0f} µs  p99 {p99 * 1e6:5.0f} µs  worst {passes[-1] * 1e3:.2f} ms"
            print(f"loop pass, burst {burst:>6}   {figures}")


if __name__ == "__main__":
    main()
