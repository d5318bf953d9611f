"""For uvicorn: what every origin of these tests answers, as an ASGI application."""

from __future__ import annotations

import gzip
import hashlib
from typing import Any

LARGE = bytes(range(251)) * 4000


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await echo(receive, send)
    elif scope["type"] == "http":
        await answer(scope["path"], receive, send)


async def answer(path: str, receive: Any, send: Any) -> None:
    digest, size, more = hashlib.sha256(), 0, path == "/sink"
    while more:
        event = await receive()
        digest.update(event.get("body", b""))
        size += len(event.get("body", b""))
        more = event.get("more_body", False)
    status, headers, pieces = {
        "/hello": (200, {"content-type": "text/plain"}, [b"hello, world\n"]),
        "/large": (200, {}, [LARGE]),
        "/stream": (200, {}, [LARGE[start : start + 50_000] for start in range(0, len(LARGE), 50_000)]),
        "/gzip": (200, {"content-encoding": "gzip"}, [gzip.compress(LARGE, mtime=0)]),
        "/sink": (200, {}, [f"{size} {digest.hexdigest()}".encode()]),
        "/empty": (204, {}, []),
        "/moved": (302, {"location": "/hello"}, [b"moved\n"]),
        "/unavailable": (503, {"retry-after": "7"}, [b"not now\n"]),
    }.get(path, (404, {}, [b"not found\n"]))
    if path != "/stream" and status != 204:
        headers["content-length"] = str(sum(map(len, pieces)))
    fields = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body"})


async def echo(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({**event, "type": "websocket.send"})
