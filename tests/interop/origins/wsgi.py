"""For gunicorn: what every origin of these tests answers, as a WSGI application."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable
from typing import Any

LARGE = bytes(range(251)) * 4000


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    digest, size = hashlib.sha256(), 0
    while path == "/sink" and (data := environ["wsgi.input"].read(65_536)):
        digest.update(data)
        size += len(data)
    status, headers, pieces = {
        "/hello": ("200 OK", {"Content-Type": "text/plain"}, [b"hello, world\n"]),
        "/large": ("200 OK", {}, [LARGE]),
        "/stream": ("200 OK", {}, [LARGE[start : start + 50_000] for start in range(0, len(LARGE), 50_000)]),
        "/gzip": ("200 OK", {"Content-Encoding": "gzip"}, [gzip.compress(LARGE, mtime=0)]),
        "/sink": ("200 OK", {}, [f"{size} {digest.hexdigest()}".encode()]),
        "/empty": ("204 No Content", {}, []),
        "/moved": ("302 Found", {"Location": "/hello"}, [b"moved\n"]),
        "/unavailable": ("503 Service Unavailable", {"Retry-After": "7"}, [b"not now\n"]),
    }.get(path, ("404 Not Found", {}, [b"not found\n"]))
    if path != "/stream" and not status.startswith("204"):
        headers["Content-Length"] = str(sum(map(len, pieces)))
    start_response(status, list(headers.items()))
    return [] if environ["REQUEST_METHOD"] == "HEAD" else pieces
