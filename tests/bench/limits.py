"""What a rate-limit check costs: microseconds, bytes a client, and a flood of addresses through a full table.

    python tests/bench/limits.py

Times are the best of several rounds; nothing is asserted about them.
"""

from __future__ import annotations

import gc
import platform
import random
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from iocproxy.config.limit_values import read_key
from iocproxy.limits import (
    AccessMap,
    ClientKeys,
    ConcurrencyLimit,
    Denials,
    Networks,
    NetworkSet,
    WindowLimit,
    Windows,
)
from iocproxy.limits.access import read_network
from iocproxy.message import Client, Request
from iocproxy.middleware.decisions import Decisions
from iocproxy.middleware.rate_storage import LocalRates
from iocproxy.middleware.request_keys import key_reader
from iocproxy.middleware.request_limits import Plan, RequestLimit, RequestLimits
from iocproxy.telemetry import Counters, library_logger

LIMITS = [(10, 10.0), (60, 10.0), (300, 10.0), (10_000, 60.0)]
ROUNDS = 4
SLICES, SLICE = 600, 500


def clients(count: int, width: int = 4) -> list[bytes]:
    return [number.to_bytes(width, "big") for number in range(count)]


def best(calls: int, run: Callable[[], object]) -> float:
    """Microseconds a call, `run` making `calls` of them; the best of several runs."""
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times) / calls * 1e6


def check_cost(limit: int, window: float, count: int, *, refused: bool) -> float:
    """Microseconds a check of known clients in turn, all admitted or all refused, the loop around it included.

    The best of many short slices: what other programs do to a shared machine stays out.
    """
    subject, names = WindowLimit(limit, window), clients(count)
    for name in names:
        subject.check(name, 1_000.0, limit if refused else 1)
    step = 0.0 if refused else window / limit / count * 1.1
    check, now, lowest = subject.check, 1_000.5, float("inf")
    for turn in range(SLICES):
        part = [names[(turn * SLICE + place) % count] for place in range(SLICE)]
        start = time.perf_counter()
        for name in part:
            check(name, now)
            now += step
        lowest = min(lowest, time.perf_counter() - start)
    assert subject.refused == (SLICES * SLICE if refused else 0)
    return lowest / SLICE * 1e6


def memory(limit: int, window: float, width: int, count: int = 100_000) -> float:
    """Bytes a client with its whole history in use: key, state, dict and ring."""
    gc.collect()
    tracemalloc.start()
    subject = WindowLimit(limit, window, max_clients=count)
    for number in range(count):  # the keys are made here, so that they count
        name = number.to_bytes(width, "big")
        subject.check(name, 1_000.0, limit)
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(subject) == count
    return used / count


def flood(addresses: int, places: int, limit: int, window: float, rate: int) -> str:
    """Distinct addresses, one check each, through a smaller table that holds one offender."""
    subject = WindowLimit(limit, window, max_clients=places)
    offender = b"offender"
    subject.check(offender, 1_000.0, limit)
    names = clients(addresses)
    start = time.process_time()
    for number, name in enumerate(names):
        subject.check(name, 1_000.0 + number / rate)
    spent = time.process_time() - start
    passed = addresses / rate
    still_refused = subject.check(offender, 1_000.0 + passed) > 0
    fate = "kept" if still_refused else "expired" if passed >= window else "LOST"
    gc.collect()
    tracemalloc.start()
    sized = WindowLimit(limit, window, max_clients=places)
    for number in range(addresses // 4):
        sized.check(number.to_bytes(4, "big"), 1_000.0 + number / rate)
    used = tracemalloc.get_traced_memory()[0] / places
    tracemalloc.stop()
    return (
        f"{addresses:,} addresses in {passed:g} s through {places:,} places: {len(subject):,} kept, "
        f"{subject.evicted:,} evicted, {subject.refused} refused, offender {fate}, "
        f"{spent / addresses * 1e6:.2f} us a check, {used:.0f} bytes a place"
    )


def lookups() -> list[str]:
    keys, addresses = ClientKeys(), [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(50_000)]
    ipv6 = [f"2001:db8:{n >> 8:x}:{n & 255:x}::1" for n in range(20_000)]
    few = NetworkSet(["127.0.0.0/8", "10.0.0.0/8", "::1/128"])
    many = NetworkSet([f"{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}.0/25" for n in range(0, 1_600_000, 16)])
    hit = addresses[:1_000] * 20
    return [
        f"key, cached                     {best(len(hit), lambda: [keys.key(a) for a in hit]):.2f}",
        f"key, new IPv4 address           {best(len(addresses), lambda: [keys.key(a) for a in addresses]):.2f}",
        f"key, new IPv6 address           {best(len(ipv6), lambda: [keys.key(a) for a in ipv6]):.2f}",
        f"in 3 networks, cached           {best(len(hit), lambda: [a in few for a in hit]):.2f}",
        f"in 3 networks, new address      {best(len(addresses), lambda: [a in few for a in addresses]):.2f}",
        f"in 100,000 networks, new address {best(len(addresses), lambda: [a in many for a in addresses]):.2f}",
    ]


def request_limit(name: str, key: str = "address", *, concurrent: int | None = None) -> RequestLimit:
    """A limit that never refuses."""
    return RequestLimit(
        decided=Decisions(time.monotonic, library_logger()).of(name, "requests", window=10.0),
        windows=Windows([(1_000_000, 10.0)]),
        concurrent=ConcurrencyLimit(concurrent, None) if concurrent is not None else None,
        key=key_reader(read_key(key), "address"),
        by_address=key == "address",
        status=429,
        policies=None,
        dry_run=False,
    )


def judged(*limits: RequestLimit) -> float:
    """Microseconds for what `RequestLimits` does with one request, admitted: its key, its windows and the clock."""
    clock = time.monotonic
    guard = RequestLimits(Plan(limits), {}, NetworkSet(), LocalRates(clock), clock, Counters())
    client = Client("192.0.2.1", 1, b"\xc0\0\2\1", "127.0.0.1:80")
    fields = [(b"Accept", b"*/*"), (b"X-Api-Key", b"0123456789abcdef"), (b"Cookie", b"a=b; sid=0123456789abcdef")]
    requests = [Request("GET", b"/shops/42?key=abc", 11, fields, b"a.example", client, "http") for _ in range(200)]
    lowest = float("inf")
    for _ in range(SLICES):
        start = time.perf_counter()
        for request in requests:
            guard.on_request(request)
        lowest = min(lowest, time.perf_counter() - start)
        if guard.on_ended is not None:
            for request in requests:
                guard.on_ended(client, request, 200)
    return lowest / len(requests) * 1e6


def requests_judged() -> list[str]:
    one, two = request_limit("one"), request_limit("two")
    rows = {
        "one by address": [one],
        "one by address, concurrent": [request_limit("three", concurrent=1_000_000)],
        "one by header": [request_limit("four", "header:X-Api-Key")],
        "one by cookie": [request_limit("five", "cookie:sid")],
        "one by query": [request_limit("six", "query:key")],
        "one by path": [request_limit("seven", "path:2")],
        "two by address": [one, two],
        "one by address, one by header": [one, request_limit("eight", "header:X-Api-Key")],
    }
    return [f"request, {what:<30} {judged(*limits):.2f}" for what, limits in rows.items()]


def networks(count: int, version: int) -> list[str]:
    """As block lists have them: mostly single addresses and small networks, in no order."""
    dice = random.Random(count)
    if version == 4:
        return [f"{dice.randrange(1, 224)}.{dice.randrange(256)}.{dice.randrange(256)}.{dice.randrange(8) * 32}/"
                f"{dice.choice([27, 28, 32])}" for _ in range(count)]  # fmt: skip
    return [f"2{dice.randrange(4096):03x}:{dice.randrange(65536):x}:{dice.randrange(65536):x}::/"
            f"{dice.choice([48, 56, 64])}" for _ in range(count)]  # fmt: skip


def built(make: Callable[[], object]) -> tuple[object, float, float]:
    """What `make` makes, the best of the seconds that it takes, and the bytes that stay."""
    times = []
    for _ in range(ROUNDS):
        gc.collect()
        start = time.process_time()
        made = make()
        times.append(time.process_time() - start)
        del made
    gc.collect()
    tracemalloc.start()
    made = make()
    gc.collect()
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return made, min(times), used


def access(version: int, count: int = 100_000) -> Iterable[str]:
    texts = networks(count, version)
    if version == 4:
        asked = [f"{n % 223 + 1}.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(20_000)]
    else:
        asked = [f"2{n & 4095:03x}:{n:x}::1" for n in range(20_000)]
    yield f"{count:,} IPv{version} networks            build s   MB   new address us   remembered us"
    kept, seconds, used = built(lambda: Networks(map(read_network, texts)))
    assert isinstance(kept, Networks)
    subject, more, edges = built(lambda: AccessMap([], [kept], otherwise=True))
    assert isinstance(subject, AccessMap)
    new = best(len(asked), lambda: [subject.allows(address) for address in asked])
    hit = asked[:1_000] * 20
    known = best(len(hit), lambda: [subject.allows(address) for address in hit])
    size = (used + edges) / 1e6
    yield f"  AccessMap                           {seconds + more:.2f}    {size:.1f}   {new:.2f}   {known:.2f}"
    for name, make, question in (
        ("pytricia", lambda library: _pytricia(library, texts, version), "get"),
        ("radix", lambda library: _radix(library, texts), "search_best"),
    ):
        try:
            library = import_module(name)
        except ImportError:
            yield f"  {name}: not installed"
            continue
        before = _resident()
        start = time.process_time()
        made = make(library)
        seconds, grown = time.process_time() - start, _resident() - before
        ask = getattr(made, question)
        cost = best(len(asked), lambda ask=ask: [ask(address) for address in asked])
        yield f"  {name:<34}  {seconds:.2f}    {grown / 1e6:.1f}   {cost:.2f}"


def _pytricia(library: object, texts: list[str], version: int) -> object:
    made = library.PyTricia(32 if version == 4 else 128)  # type: ignore[attr-defined]
    for text in texts:
        made.insert(text, False)
    return made


def _radix(library: object, texts: list[str]) -> object:
    made = library.Radix()  # type: ignore[attr-defined]
    for text in texts:
        made.add(text).data["allowed"] = False
    return made


def _resident() -> int:
    """Bytes of this process in memory; 0 where that cannot be read like this."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except OSError:
        return 0


def denials(count: int = 100_000) -> Iterable[str]:
    names, now = clients(count), 1_000.0
    subject = Denials(count)
    start = time.process_time()
    for number, name in enumerate(names):
        subject.deny(name, now, 600.0 + number % 1_000, "x")
    filled = (time.process_time() - start) / count * 1e6
    known = best(count, lambda: [subject.left(name, now) for name in names])
    others = clients(2 * count)[count:]
    unknown = best(count, lambda: [subject.left(name, now) for name in others])
    start, worst = time.process_time(), 0.0
    for name in others:
        before = time.perf_counter()
        subject.deny(name, now, 700.0, "x")
        worst = max(worst, time.perf_counter() - before)
    pushed = (time.process_time() - start) / count * 1e6
    gc.collect()
    tracemalloc.start()
    sized = Denials(count)
    for number in range(count):
        sized.deny(number.to_bytes(4, "big"), now, 600.0 + number % 1_000, "x")
    used = tracemalloc.get_traced_memory()[0] / count
    tracemalloc.stop()
    yield f"denying, {count:,} places           {filled:.2f}, into a full table {pushed:.2f} (worst {worst * 1e6:.0f})"
    yield f"asking, denied / not denied       {known:.2f} / {unknown:.2f}"
    yield f"bytes a client that is denied     {used:.0f}"


def main() -> None:
    print(f"CPython {platform.python_version()}, best of {ROUNDS} rounds, times in microseconds\n")
    print(
        "limit            admitted, 100 / 100,000 clients   refused, 100 / 100,000   "
        "bytes a client, IPv4 / IPv6 / hashed key"
    )
    for limit, window in LIMITS:
        cost = [check_cost(limit, window, count, refused=no) for no in (False, True) for count in (100, 100_000)]
        size = [memory(limit, window, width) for width in (4, 8, 16)]
        sizes = " / ".join(f"{used:.0f}" for used in size)
        print(
            f"{limit:>6}/{window:<5g}s        {cost[0]:6.2f} / {cost[1]:.2f}                  "
            f"{cost[2]:6.2f} / {cost[3]:.2f}              {sizes}"
        )
    print()
    print("\n".join(lookups()))
    print()
    print("\n".join(requests_judged()))
    for version in (4, 6):
        print("\n".join(access(version)))
    print()
    print("\n".join(denials()))
    print()
    print(flood(1_000_000, 100_000, 300, 10.0, 200_000))
    print(flood(1_000_000, 100_000, 300, 10.0, 20_000))


if __name__ == "__main__":
    main()
