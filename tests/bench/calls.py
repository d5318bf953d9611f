"""Count the calls that one proxied keep-alive request costs the proxy's event loop.

    python tests/bench/calls.py [--requests N] [--tls] [--top N] [--json FILE]

Where no clock can be trusted (Windows in an emulator, a busy machine) this number still compares two versions of the
code exactly.  The proxy is embedded in this process with every default feature on, its origin and the client are plain
blocking sockets in threads of their own, and ``sys.setprofile`` counts events on the loop's thread alone: ``call``,
every entry into a Python function, each resumption of a coroutine included, and ``c_call``, every C function that
Python code calls.  The budget is about the sum of both; a bare asyncio forwarder on Linux takes 48, 22 of them Python.

Requests go one at a time, so nothing is shared between them: each pays for all of its turns of the event loop.  Under
load several requests share a turn, and the number per request is lower.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import ssl
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import trustme

# this checkout's, whatever else is installed
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from iocproxy import Config, Proxy

BODY = b"Hello, World!"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\n" + BODY
REQUEST = b"GET /13 HTTP/1.1\r\nHost: localhost\r\nUser-Agent: calls\r\nAccept: */*\r\n\r\n"
WARM_UP = 50
MUST = 260
"""The budget on Windows' ProactorEventLoop; PERFORMANCE.md of the project says why there is one."""
TIMEOUT_SECONDS = 30.0


@dataclass(slots=True)
class Tally:
    """Counts of one thread's profile events; install ``event`` with ``sys.setprofile`` on that thread."""

    calls: int = 0
    c_calls: int = 0
    functions: Counter[CodeType] = field(default_factory=Counter)

    def event(self, frame: FrameType, kind: str, argument: object) -> None:
        """One profile event."""
        if kind == "call":
            self.calls += 1
            self.functions[frame.f_code] += 1
        elif kind == "c_call":
            self.c_calls += 1


def serve_origin(listener: socket.socket) -> None:
    """Answer every request on every connection with thirteen bytes, until the listener is closed."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    received = b""
    with closing(connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            try:
                more = connection.recv(65_536)
                if not more:
                    return
                received += more
                while (end := received.find(b"\r\n\r\n")) >= 0:
                    received = received[end + 4 :]
                    connection.sendall(ANSWER)
            except ConnectionError:
                return


def request(connection: socket.socket, times: int) -> None:
    """Ask ``times`` times, one after the other; an answer other than 200 with the body is an error."""
    for _ in range(times):
        connection.sendall(REQUEST)
        received = b""
        while not received.endswith(b"\r\n\r\n" + BODY):
            more = connection.recv(65_536)
            if not more:
                raise ConnectionError(f"closed after {received!r}")
            received += more
        if not received.startswith(b"HTTP/1.1 200 "):
            raise ConnectionError(f"not 200: {received!r}")


def connect(port: int, context: ssl.SSLContext | None) -> socket.socket:
    """A client connection to the proxy."""
    raw = socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(raw, server_hostname="localhost") if context else raw


def settings(directory: Path, origin_port: int, authority: trustme.CA) -> dict[str, Any]:
    """A configuration with a plain and a TLS listener and every default feature on; no limit is ever reached."""
    issued = authority.issue_cert("localhost", key_type=trustme.KeyType.ECDSA)
    key = directory / "site.key"
    certificate = directory / "site.pem"
    issued.private_key_pem.write_to_path(str(key))
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    tls = {"certificates": [{"cert": str(certificate), "key": str(key)}]}
    return {
        "http": {"max_requests": False},
        "listeners": [{"bind": "127.0.0.1:0"}, {"bind": "127.0.0.1:0", "tls": tls}],
        "limits": {
            "exempt": [],
            "connections": {"rate": "1000000/1s"},
            "requests": {"rate": "1000000/1s"},
        },
        "upstreams": {"origin": {"servers": [f"http://127.0.0.1:{origin_port}"]}},
        "logging": {"format": "json", "access": True, "access_file": str(directory / "access.log")},
    }


async def count(requests: int, *, tls: bool) -> Tally:
    """Run the proxy and ``requests`` requests through it; returns what the loop's thread called meanwhile."""
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    context = None
    if tls:
        context = ssl.create_default_context()
        authority.configure_trust(context)
    tally = Tally()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        threading.Thread(target=serve_origin, args=(listener,), daemon=True).start()
        config = Config(**settings(Path(place), listener.getsockname()[1], authority))
        async with Proxy(config) as proxy:
            port = proxy.addresses[1 if tls else 0].port
            with closing(await asyncio.to_thread(connect, port, context)) as client:
                await asyncio.to_thread(request, client, WARM_UP)
                sys.setprofile(tally.event)
                try:
                    await asyncio.to_thread(request, client, requests)
                finally:
                    sys.setprofile(None)
    return tally


def report(tally: Tally, requests: int, top: int) -> str:
    """The figures as text, with the functions called most often."""
    loop = "ProactorEventLoop" if sys.platform == "win32" else "the selector event loop"
    where = f"CPython {sys.version.split()[0]} on {loop}"
    python, c = tally.calls / requests, tally.c_calls / requests
    lines = [
        f"{python + c:.1f} calls per keep-alive request: {python:.1f} of Python functions, {c:.1f} of C functions",
        f"{requests} requests, {where}; on Windows no more than {MUST}",
    ]
    for code, calls in tally.functions.most_common(top):
        path = Path(code.co_filename)
        lines.append(
            f"{calls / requests:8.2f}  {path.parent.name}/{path.name}:{code.co_firstlineno} {code.co_qualname}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Count and print; 0 whatever the number is, an exception when a request failed."""
    parser = argparse.ArgumentParser(prog="tests/bench/calls.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=1_000, metavar="N", help="requests counted (default 1000)")
    parser.add_argument("--tls", action="store_true", help="the client speaks TLS 1.3")
    parser.add_argument("--top", type=int, default=0, metavar="N", help="list the N functions called most often")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    options = parser.parse_args(arguments)
    tally = asyncio.run(count(options.requests, tls=options.tls))
    print(report(tally, options.requests, options.top))
    if options.json:
        figures = {"calls": tally.calls / options.requests, "c_calls": tally.c_calls / options.requests}
        options.json.write_text(json.dumps({**figures, "requests": options.requests, "tls": options.tls}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
