"""What `tls.offload` does: 200 full handshakes at once, by key and policy, and an established connection meanwhile.

    python tests/bench/offload.py [--rounds N]

Printed for each: CPU of the proxy per handshake, how long the 200 take, and the p99 and the longest time that a
request on an established connection took while they were under way. The proxy runs on one core of its own, and then on
two, of which it shares one with the load. Linux, with `nginx` and `openssl`; nothing is asserted about the figures.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import selectors
import socket
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import product
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

from harness import host, process, procfs
from load.http import Connection, get
from peers import origin

KEYS = {
    "ECDSA P-256": ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
    "RSA-2048": ("-newkey", "rsa:2048"),
    "RSA-3072": ("-newkey", "rsa:3072"),
    "RSA-4096": ("-newkey", "rsa:4096"),
}
POLICIES = ("never", "always", "auto")
AT_ONCE = 200
PROBE_EVERY = 0.002
"""Seconds from one answer on the established connection to the next request."""

CONFIG = """\
limits.connections.rate = false
limits.connections.concurrent = false
limits.requests.rate = false
http.max_requests = false
upstreams.origin.servers = ["http://127.0.0.1:{origin}"]
logging.level = "warning"
logging.access = false
[[listeners]]
bind = "127.0.0.1:{plain}"
"""
LISTENER = """\
[[listeners]]
bind = "127.0.0.1:{port}"
[listeners.tls]
certificates = [{{ cert = "{cert}", key = "{cert}.key" }}]
offload = "{policy}"
"""


def issue(directory: Path) -> dict[str, Path]:
    """A self-signed certificate of each kind."""
    made = {}
    for name, options in KEYS.items():
        cert = directory / f"{name.replace(' ', '-')}.pem"
        command = ["openssl", "req", "-x509", "-nodes", *options, "-out", str(cert), "-keyout", f"{cert}.key"]
        command += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        subprocess.run(command, check=True, capture_output=True)
        made[name] = cert
    return made


def probe(port: int, pipe: Pipe) -> None:
    """Ask again and again on one connection until told to stop; then send (when asked, seconds taken) of each."""
    times = []
    with Connection(port) as connection:
        while not pipe.poll(PROBE_EVERY):
            begun = time.monotonic()
            connection.exchange(get("/13"), length=13)
            times.append((begun, time.monotonic() - begun))
    pipe.send(times)


class Handshake:
    """One client's full handshake, with the first message ready before its connection is used."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self.incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self.incoming, self._outgoing, server_hostname="localhost")
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.step()
        self.hello = self._outgoing.read()

    def step(self) -> bool:
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def finish(self) -> None:
        while not self.step():
            self.incoming.write(self.socket.recv(1 << 16))
        self.socket.sendall(self._outgoing.read())
        self.socket.close()


def burst(port: int, context: ssl.SSLContext) -> tuple[float, float]:
    """200 hellos at once; returns when they were sent and when the last of the flights had come."""
    clients = [Handshake(port, context) for _ in range(AT_ONCE)]
    with selectors.DefaultSelector() as selector:
        begun = time.monotonic()
        for client in clients:
            client.socket.sendall(client.hello)
            selector.register(client.socket, selectors.EVENT_READ, client)
        while selector.get_map():
            for key, _ in selector.select(30):
                key.data.incoming.write(key.data.socket.recv(1 << 16))
                selector.unregister(key.data.socket)
        ended = time.monotonic()
    for client in clients:
        client.finish()
    return begun, ended


def measure(pid: int, plain: int, port: int, rounds: int) -> tuple[float, float, float, float]:
    """CPU µs per handshake, ms for all of them, p99 and longest ms of the established connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    burst(port, context)
    cpu, spans = 0.0, []
    ours, theirs = multiprocessing.Pipe()
    prober = multiprocessing.Process(target=probe, args=(plain, theirs))
    prober.start()
    try:
        for _ in range(rounds):
            time.sleep(0.05)  # let what the last one left behind pass
            before = procfs.cpu_seconds(pid)
            spans.append(burst(port, context))
            cpu += procfs.cpu_seconds(pid) - before
    finally:
        ours.send("stop")
        times: Sequence[tuple[float, float]] = ours.recv()
        prober.join()
    meanwhile = sorted(
        took for begun, took in times if any(start < begun + took and begun < end for start, end in spans)
    )
    p99 = meanwhile[min(len(meanwhile) - 1, int(len(meanwhile) * 0.99))]
    each = statistics.median(end - start for start, end in spans)
    return cpu / rounds / AT_ONCE * 1e6, each * 1e3, p99 * 1e3, meanwhile[-1] * 1e3


def rows(rounds: int) -> Iterator[str]:
    load_core, proxy_core = host.cores()
    with ExitStack() as stack:
        directory = stack.enter_context(host.scratch())
        made = issue(directory)
        upstream = stack.enter_context(origin.running(directory, load_core))
        stack.enter_context(host.pinned(load_core))
        for cores in ({proxy_core}, {load_core, proxy_core}):
            plain, *ports = host.free_ports(1 + len(KEYS) * len(POLICIES))
            table = dict(zip(product(KEYS, POLICIES), ports, strict=True))
            config = directory / "iocproxy.toml"
            config.write_text(
                CONFIG.format(origin=upstream.port, plain=plain)
                + "".join(LISTENER.format(port=port, cert=made[key], policy=how) for (key, how), port in table.items())
            )
            command = [sys.executable, "-m", "iocproxy", "serve", "--config", str(config)]
            with process.running(command, core=proxy_core, log=directory / "log", ports=[plain, *ports]) as pid:
                os.sched_setaffinity(pid, cores)  # threads are born later, with what the first one has then
                for (key, how), port in table.items():
                    figures = measure(pid, plain, port, rounds)
                    yield f"| {len(cores)} | {key} | {how} | {' | '.join(f'{figure:,.1f}' for figure in figures)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print("| cores | key | offload | CPU µs per handshake | ms for 200 | p99 ms | longest ms |")
    print("|---|---|---|---|---|---|---|")
    for row in rows(rounds):
        print(row, flush=True)


if __name__ == "__main__":
    main()
