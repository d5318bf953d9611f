"""What the demo's origin answers.

====================  ====================================================================
``/``                 a page that shows the request as it arrived, and what to try
``/json``             the same as JSON
``/bytes/N``          N bytes, up to 1,000,000,000
``/slow/SECONDS``     an answer that takes its time: 3 seconds unless given, 60 at most
``/upload``           POST or PUT: JSON of how many bytes the body had
``/ws``               a page that talks to the WebSocket, which is at the same path
====================  ====================================================================
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterator
from importlib import resources

from iocproxy.cli.demo.messages import Answer, Request

MOST_BYTES = 1_000_000_000
SLOW, SLOWEST = 3.0, 60.0  # seconds

_HTML = "text/html; charset=utf-8"
_PIECE = bytes(range(32, 127)).ljust(128, b"\n") * 512  # 64 KiB of text that a terminal survives

#: The fields that iocproxy sets on every request, whatever the client sent.
_OURS = frozenset({b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port", b"via"})

_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE_FIELDS = (
    ("Content-Security-Policy", _POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
)


class Site:
    """Answers requests; the files of the pages are read once, here."""

    def __init__(self) -> None:
        self._files = {
            file.name: file.read_text("utf-8")
            for file in resources.files("iocproxy.cli.demo").joinpath("site").iterdir()
            if file.is_file()
        }

    def answer(self, request: Request) -> Answer:
        _, first, *rest = request.path.split("/", 2)
        argument = rest[0] if rest else ""
        route = _ROUTES.get(first)
        if route is not None:
            return route(self, request, argument)
        kind = _STATIC.get(first)
        if kind is not None and not rest:
            return _text(200, self._files[first], kind, (("X-Content-Type-Options", "nosniff"),))
        return _text(404, "nothing here; / says what there is\n")

    def _index(self, request: Request, argument: str) -> Answer:
        del argument
        headers = request.headers
        page = self._files["index.html"]
        shown = {
            "request-line": f"{request.method} {request.target}",
            "client": headers.get("x-forwarded-for", "a client without a proxy"),
            "scheme": headers.get("x-forwarded-proto", "http"),
            "host": headers.get("x-forwarded-host", headers.get("host", "")),
        }
        for name, value in shown.items():
            page = page.replace(f"<!--{name}-->", html.escape(value))
        rows = "\n".join(_row(name, value) for name, value in request.fields)
        return _text(200, page.replace("<!--rows-->", rows), _HTML, _PAGE_FIELDS)

    def _json(self, request: Request, argument: str) -> Answer:
        del argument
        fields = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.fields]
        seen = {"method": request.method, "target": request.target, "body_size": request.body_size, "headers": fields}
        return _text(200, json.dumps(seen, indent=2) + "\n", "application/json")

    def _bytes(self, request: Request, argument: str) -> Answer:
        del request
        size = int(argument) if argument.isascii() and argument.isdigit() and len(argument) <= 10 else -1
        if not 0 <= size <= MOST_BYTES:
            return _text(400, f"/bytes/N, with N from 0 to {MOST_BYTES}\n")
        return Answer(200, "application/octet-stream", size, _pieces(size))

    def _slow(self, request: Request, argument: str) -> Answer:
        del request
        try:
            seconds = float(argument or SLOW)
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds <= SLOWEST:
            return _text(400, f"/slow/SECONDS, from 0 to {SLOWEST:g}\n")
        return _text(200, f"this took {seconds:g} s\n", delay=seconds)

    def _upload(self, request: Request, argument: str) -> Answer:
        del argument
        if request.method not in {"POST", "PUT"}:
            return _text(405, "POST or PUT something here\n", fields=(("Allow", "POST, PUT"),))
        return _text(200, json.dumps({"bytes": request.body_size}) + "\n", "application/json")

    def _websocket(self, request: Request, argument: str) -> Answer:
        """The page; a request that asks for the WebSocket itself is the connection's to answer."""
        del request, argument
        return _text(200, self._files["ws.html"], _HTML, _PAGE_FIELDS)


_ROUTES: dict[str, Callable[[Site, Request, str], Answer]] = {
    "": Site._index,
    "json": Site._json,
    "bytes": Site._bytes,
    "slow": Site._slow,
    "upload": Site._upload,
    "ws": Site._websocket,
}
_STATIC = {
    "style.css": "text/css; charset=utf-8",
    "index.js": "text/javascript; charset=utf-8",
    "ws.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


def _text(
    status: int,
    text: str,
    content_type: str = "text/plain; charset=utf-8",
    fields: tuple[tuple[str, str], ...] = (),
    delay: float = 0.0,
) -> Answer:
    body = text.encode("utf-8")
    return Answer(status, content_type, len(body), (body,), fields, delay)


def _pieces(size: int) -> Iterator[bytes]:
    for start in range(0, size, len(_PIECE)):
        yield _PIECE[: size - start]


def _row(name: bytes, value: bytes) -> str:
    cell = html.escape(name.decode("latin-1"))
    if name.lower() in _OURS:
        cell += ' <span class="ours">set by iocproxy</span>'
    return f'<tr><th scope="row">{cell}</th><td>{html.escape(value.decode("latin-1"))}</td></tr>'
