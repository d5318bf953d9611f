"""What clients that never finish their TLS handshake cost the others, and the proxy.

    python tests/bench/stalled.py [--stalled N]

5,000 connections, or as many as there may be, say nothing, half a hello, or a hello to whose answer nothing follows.
Before and meanwhile: median and p99 of a request on an established connection, and of a new connection with its full
handshake and first request. Then memory per stalled one, and how long after the timeout of 10 s the last was closed.
The proxy has a core of its own. Linux, with `nginx`; nothing is asserted about the figures.
"""

from __future__ import annotations

import argparse
import selectors
import socket
import ssl
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

from harness import host, process, procfs
from load.http import Connection, get
from offload import issue
from peers import origin

TIMEOUT = 10.0
EACH = 100
"""Of one client: what `limits.connections.concurrent` allows by default."""

CONFIG = """\
limits.connections.rate = false
limits.requests.rate = false
http.max_requests = false
upstreams.origin.servers = ["http://127.0.0.1:{origin}"]
timeouts.tls_handshake = "10s"
logging.access = false
[[listeners]]
bind = "127.0.0.1:{port}"
[listeners.tls]
certificates = [{{ cert = "{cert}", key = "{cert}.key" }}]
"""


def first_flight(context: ssl.SSLContext) -> bytes:
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def timed(work: Callable[[], None], times: int) -> str:
    """Median and p99 of so many in a row, in ms."""
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        taken.append((time.perf_counter() - begun) * 1e3)
    return f"{statistics.median(taken):.2f} | {sorted(taken)[int(times * 0.99)]:.2f}"


def others(port: int, context: ssl.SSLContext) -> str:
    with Connection(port, context) as kept:
        established = timed(lambda: kept.exchange(get("/13"), length=13), 2_000)

    def visit() -> None:
        with Connection(port, context) as new:
            new.exchange(get("/13"), length=13)

    return f"{established} | {timed(visit, 500)}"


def stall(port: int, hello: bytes, count: int, stack: ExitStack) -> dict[socket.socket, float]:
    opened = {}
    for number in range(count):
        sock = socket.create_connection(("127.0.0.1", port), 10, (f"127.0.1.{1 + number // EACH}", 0))
        stack.enter_context(sock)
        sock.sendall((b"", hello[: len(hello) // 2], hello)[number % 3])
        opened[sock] = time.monotonic()
    return opened


def closed(opened: dict[socket.socket, float]) -> float:
    """Wait for all of them; the longest that one was open, in seconds."""
    longest, left = 0.0, len(opened)
    with selectors.DefaultSelector() as selector:
        for sock in opened:
            selector.register(sock, selectors.EVENT_READ)
        while left:
            for key, _ in selector.select(2 * TIMEOUT):
                if not key.fileobj.recv(65536):  # type: ignore[union-attr]
                    selector.unregister(key.fileobj)
                    longest = max(longest, time.monotonic() - opened[key.fileobj])  # type: ignore[index]
                    left -= 1
    return longest


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stalled", type=int, default=5_000)
    host.raise_file_limit()
    count = min(parser.parse_args().stalled, host.file_limit() - 500)
    load_core, proxy_core = host.cores()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with ExitStack() as stack:
        directory = stack.enter_context(host.scratch())
        cert = issue(directory)["ECDSA P-256"]
        upstream = stack.enter_context(origin.running(directory, load_core))
        stack.enter_context(host.pinned(load_core))
        (port,) = host.free_ports(1)
        config = directory / "iocproxy.toml"
        config.write_text(CONFIG.format(origin=upstream.port, port=port, cert=cert))
        command = [sys.executable, "-m", "iocproxy", "serve", "--config", str(config)]
        pid = stack.enter_context(process.running(command, core=proxy_core, log=directory / "log", ports=[port]))
        others(port, context)
        print("| stalled | request: median ms | p99 ms | new connection: median ms | p99 ms |")
        print("|---|---|---|---|---|")
        print(f"| 0 | {others(port, context)} |", flush=True)
        before = procfs.rss_bytes(pid)
        opened = stall(port, first_flight(context), count, stack)
        print(f"| {count} | {others(port, context)} |", flush=True)
        grown = procfs.rss_bytes(pid) - before
        longest = closed(opened)
        print(f"\n{grown / count / 1024:.1f} KiB of memory for each; the last was closed after {longest:.2f} s.")


if __name__ == "__main__":
    main()
