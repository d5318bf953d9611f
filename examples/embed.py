"""A proxy inside an asyncio program that has work of its own.

    python examples/embed.py
    curl http://127.0.0.1:8080/hello

The program is an application with three parts on one event loop: a server from the standard library (in a thread,
as it blocks), a job that reports once in a while, and the proxy, through which clients reach the server. Ctrl+C ends
all three; requests that are in flight then are completed first.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from iocproxy import Config, Proxy, Record


class Application(BaseHTTPRequestHandler):
    """Says who asked: behind the proxy, the address stands in X-Forwarded-For."""

    protocol_version = "HTTP/1.1"  # with keep-alive, so that the proxy can use its connections again

    def do_GET(self) -> None:
        body = f"{self.path} for {self.headers['X-Forwarded-For']}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class named it
        """The proxy knows more about each request than we do; see `count`."""


@contextlib.contextmanager
def application() -> Iterator[str]:
    """Serve the application on a free port within the block; the URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Application)
    server.daemon_threads = True  # a keep-alive connection does not hold the program up
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


async def main(listen: str, every: float) -> None:
    visits: Counter[str] = Counter()

    def count(record: Record) -> None:
        # Called on the event loop's thread when a request has ended: keep it short.
        visits[f"{record.status} {record.target}"] += 1

    with application() as url:
        config = Config(
            listeners=[{"bind": listen}],
            upstreams={"app": {"servers": [url]}},
            limits={"requests": {"rate": "100/1s"}},
            logging={"access": False},  # `count` sees every request
        )
        async with Proxy(config, on_record=count) as proxy:
            print(f"listening on http://{proxy.addresses[0]}", flush=True)
            while True:  # the program's own work
                await asyncio.sleep(every)
                print(f"{proxy.stats()['requests']} requests: {dict(visits)}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A proxy inside an asyncio program.")
    parser.add_argument("--listen", default="127.0.0.1:8080", metavar="HOST:PORT")
    parser.add_argument("--every", default=5.0, type=float, metavar="SECONDS", help="between two reports")
    given = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(given.listen, given.every))
    print("stopped")
