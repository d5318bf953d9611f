"""The rows of the table: what is done to a proxy, what one unit is, and what the budget allows.

A measurement returns one number per round: microseconds of the proxy's CPU time per unit, or memory, or latency.  Each
also checks that the work was done, and raises :class:`load.http.WrongAnswerError` otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from harness import host, procfs
from load import bulk, handshakes, idle, latency, refusals, wrk
from load.http import Connection, WrongAnswerError, get, put
from peers.base import Peer, Refuse, Site
from peers.origin import BODIES, Origin

MEGABYTE = 1 << 20
CONNECTIONS = 64
IDLE_PLAIN = 5_000
IDLE_TLS = 1_000
MANY_OPEN = 10_000
KNOWN_CLIENTS = 100_000
_SETTLED_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Running:
    """A started proxy, ready for a load."""

    peer: Peer
    site: Site
    pid: int
    origin: Origin

    def cpu_of(self, work: Callable[[], float]) -> float:
        """Microseconds of the process tree's CPU time per unit, where ``work`` returns how many units it did."""
        before = procfs.cpu_seconds(self.pid)
        units = work()
        return (procfs.cpu_seconds(self.pid) - before) / units * 1e6


class Kind(Enum):
    """How a row is read."""

    RATIO = "ratio"
    """Cells are ratios to nginx in the same round; so is the budget."""
    ABSOLUTE = "absolute"
    """Cells and budget are in the row's unit."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row."""

    name: str
    title: str
    unit: str
    kind: Kind
    must: float
    """The budget: no more than this, for iocproxy."""
    measure: Callable[[Running, float], float]
    """One round that lasts about so many seconds."""
    quick: bool = False
    """Whether a quick run includes it."""
    refuse: Refuse | None = None
    """What the proxy is set up to refuse the client."""
    known: int = 0
    """How many clients the proxy has seen before the first round."""
    fresh: bool = False
    """Whether every round wants a new process, because memory once used is never given back."""
    most_rounds: int = 1_000


def keep_alive(
    path: str, connections: int = CONNECTIONS, *, tls: bool = False, close: bool = False
) -> Callable[[Running, float], float]:
    """CPU per request with wrk."""

    def measure(proxy: Running, seconds: float) -> float:
        port = proxy.site.ecdsa_port if tls else proxy.site.plain_port
        return proxy.cpu_of(
            lambda: (
                wrk.load(
                    port, path, length=BODIES[path], connections=connections, seconds=seconds, tls=tls, close=close
                ).requests
            )
        )

    return measure


def megabyte_bodies(*, tls: bool = False) -> Callable[[Running, float], float]:
    """CPU per megabyte that arrived, unfinished bodies included: a body is a long time at this size."""

    def measure(proxy: Running, seconds: float) -> float:
        port = proxy.site.ecdsa_port if tls else proxy.site.plain_port
        return proxy.cpu_of(
            lambda: (
                wrk.load(port, "/1m", length=BODIES["/1m"], connections=8, seconds=seconds, tls=tls).bytes / MEGABYTE
            )
        )

    return measure


def download(proxy: Running, seconds: float) -> float:
    """CPU per megabyte of 100 MB responses."""
    return proxy.cpu_of(lambda: bulk.download(proxy.site.plain_port, seconds) / MEGABYTE)


def upload(proxy: Running, seconds: float) -> float:
    """CPU per megabyte of 100 MB requests."""
    return proxy.cpu_of(lambda: bulk.upload(proxy.site.plain_port, proxy.origin, seconds) / MEGABYTE)


def full_handshake(kind: str) -> Callable[[Running, float], float]:
    """CPU per connection with a full handshake and no request."""

    def measure(proxy: Running, seconds: float) -> float:
        port = proxy.site.ecdsa_port if kind == "ecdsa" else proxy.site.rsa_port
        context = proxy.site.certificates.client_context()
        return proxy.cpu_of(lambda: handshakes.handshakes(port, context, seconds))

    return measure


def resumed_handshake(proxy: Running, seconds: float) -> float:
    """CPU per connection that resumes a session and makes no request."""
    port = proxy.site.ecdsa_port
    context = proxy.site.certificates.client_context()
    session = handshakes.obtain_session(port, context)
    return proxy.cpu_of(lambda: handshakes.handshakes(port, context, seconds, session))


def refusal(proxy: Running, seconds: float) -> float:
    """CPU per connection of a client that is over its limit."""
    refusals.spend_the_allowance(proxy.site.plain_port)
    return proxy.cpu_of(lambda: refusals.refused(proxy.site.plain_port, seconds))


def refused_requests(*, tls: bool = False) -> Callable[[Running, float], float]:
    """CPU per request that is answered with 429, of a client over its limit."""

    def measure(proxy: Running, seconds: float) -> float:
        port = proxy.site.ecdsa_port if tls else proxy.site.plain_port
        with Connection(port, proxy.site.certificates.client_context() if tls else None) as connection:
            connection.socket.sendall(get("/13"))
            connection.skip_body(connection.read_head()[1])
        return proxy.cpu_of(
            lambda: (
                wrk.load(
                    port, "/13", length=0, connections=CONNECTIONS, seconds=seconds, tls=tls, refused=True
                ).requests
            )
        )

    return measure


def idle_memory(count: int, *, tls: bool) -> Callable[[Running, float], float]:
    """KiB of resident memory per idle connection; a short run takes fewer connections."""

    def measure(proxy: Running, seconds: float) -> float:
        port = proxy.site.ecdsa_port if tls else proxy.site.plain_port
        context = proxy.site.certificates.client_context() if tls else None
        connections = host.connections_at_most(count if seconds >= 1.0 else count // 4)
        # what the first connections bring in once (code, pools) is not the price of a connection
        with idle.held(port, 50, context):
            pass
        before = _settled_rss(proxy.pid)
        with idle.held(port, connections, context):
            return (_settled_rss(proxy.pid) - before) / connections / 1024

    return measure


def _settled_rss(pid: int) -> int:
    """Resident memory, once it has stopped moving for a tenth of a second (or after two seconds)."""
    deadline = time.monotonic() + 2.0
    last = procfs.rss_bytes(pid)
    while True:
        time.sleep(0.1)
        now = procfs.rss_bytes(pid)
        if abs(now - last) < _SETTLED_BYTES or time.monotonic() > deadline:
            return now
        last = now


def added_latency(proxy: Running, seconds: float) -> float:
    """Milliseconds between the 99th percentiles with the proxy and without it, one right after the other."""
    direct = latency.percentile(latency.latencies(proxy.origin.port, seconds), 99)
    through = latency.percentile(latency.latencies(proxy.site.plain_port, seconds), 99)
    return (through - direct) * 1e3


def many_open(proxy: Running, seconds: float) -> float:
    """How many times the CPU of a request grows beside thousands of idle connections, each of another client."""
    busy = keep_alive("/13")
    alone = busy(proxy, seconds)
    with idle.held(proxy.site.plain_port, host.connections_at_most(MANY_OPEN), one_client=False):
        return busy(proxy, seconds) / alone


def warm_up(proxy: Running) -> None:
    """Some requests that nobody counts: caches fill, upstream connections open, code is loaded."""
    for port, context in (
        (proxy.site.plain_port, None),
        (proxy.site.ecdsa_port, proxy.site.certificates.client_context()),
    ):
        with Connection(port, context) as connection:
            for _ in range(200):
                connection.exchange(get("/13"), length=13)


def verify(proxy: Running) -> None:
    """Every byte must come through as it is, both ways; the loads themselves count bytes only."""
    with Connection(proxy.site.plain_port) as connection:
        for path in ("/13", "/10k", "/1m"):
            connection.socket.sendall(get(path))
            status, length = connection.read_head()
            if status != 200 or connection.read_body(length) != proxy.origin.body(path):
                raise WrongAnswerError(f"GET {path}: status {status}, {length} bytes, not what the origin has")
        content = proxy.origin.body("/1m")
        connection.socket.sendall(put("/upload/check", len(content)) + content)
        status, length = connection.read_head()
        connection.skip_body(length)
        if status != 201 or proxy.origin.take_upload("check") != content:
            raise WrongAnswerError(f"PUT of 1 MB: status {status}, or the origin stored something else")


SCENARIOS = (
    Scenario("small", "13-byte body, keep-alive, 64 connections", "µs", Kind.RATIO, 2.2, keep_alive("/13"), quick=True),
    Scenario("10k", "10 KB body, keep-alive, 64 connections", "µs", Kind.RATIO, 1.8, keep_alive("/10k"), quick=True),
    Scenario("1m", "1 MB bodies, 8 connections (per MB)", "µs", Kind.RATIO, 1.0, megabyte_bodies(), quick=True),
    Scenario("download", "100 MB download (per MB)", "µs", Kind.RATIO, 1.0, download, quick=True),
    Scenario("upload", "100 MB upload (per MB)", "µs", Kind.RATIO, 1.0, upload),
    Scenario("connect", "new connection per request", "µs", Kind.RATIO, 3.5, keep_alive("/13", close=True), quick=True),
    Scenario("tls", "TLS 1.3 keep-alive, 13 bytes", "µs", Kind.RATIO, 1.8, keep_alive("/13", tls=True), quick=True),
    Scenario("1m-tls", "1 MB bodies over TLS (per MB)", "µs", Kind.RATIO, 1.3, megabyte_bodies(tls=True)),
    Scenario("ecdsa", "full handshake, ECDSA P-256", "µs", Kind.RATIO, 1.5, full_handshake("ecdsa"), quick=True),
    Scenario("rsa", "full handshake, RSA-2048", "µs", Kind.RATIO, 1.3, full_handshake("rsa")),
    Scenario("resumed", "resumed handshake", "µs", Kind.RATIO, 1.6, resumed_handshake, quick=True),
    Scenario(
        "refusal", "refused connection", "µs", Kind.ABSOLUTE, 60.0, refusal,
        quick=True, refuse=Refuse.CONNECTIONS,
    ),
    Scenario(
        "refusal-known", "refused connection beside 100,000 known clients", "µs", Kind.ABSOLUTE, 60.0, refusal,
        refuse=Refuse.CONNECTIONS, known=KNOWN_CLIENTS,
    ),
    Scenario(
        "429", "request refused, keep-alive, 64 connections", "µs", Kind.ABSOLUTE, 40.0,
        refused_requests(), quick=True, refuse=Refuse.REQUESTS,
    ),
    Scenario(
        "429-tls", "request refused over TLS 1.3", "µs", Kind.ABSOLUTE, 60.0,
        refused_requests(tls=True), refuse=Refuse.REQUESTS,
    ),
    Scenario(
        "429-known", "request refused beside 100,000 known clients", "µs", Kind.ABSOLUTE, 40.0,
        refused_requests(), refuse=Refuse.REQUESTS, known=KNOWN_CLIENTS,
    ),
    Scenario(
        "idle", "idle connection, plain, memory", "KiB", Kind.ABSOLUTE, 6.0,
        idle_memory(IDLE_PLAIN, tls=False), quick=True, fresh=True, most_rounds=2,
    ),
    Scenario(
        "idle-tls", "idle connection, TLS, memory", "KiB", Kind.ABSOLUTE, 40.0,
        idle_memory(IDLE_TLS, tls=True), fresh=True, most_rounds=2,
    ),
    Scenario("latency", "p99 latency added at 1,000 requests/s", "ms", Kind.ABSOLUTE, 2.0, added_latency),
    Scenario(
        "many", "CPU per request with 10,000 connections more", "×", Kind.ABSOLUTE, 1.15, many_open, most_rounds=3
    ),
)  # fmt: skip
"""In the order of the table."""
