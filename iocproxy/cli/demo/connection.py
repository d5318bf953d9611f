"""One connection to the demo's origin: HTTP/1.1 with keep-alive, one request at a time, and the WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import cast

import httptools

from iocproxy.cli.demo import websocket
from iocproxy.cli.demo.messages import Answer, Request
from iocproxy.cli.demo.routes import Site
from iocproxy.link import Link
from iocproxy.message import reason_phrase

#: Of a request's head, in bytes; what is larger did not come from iocproxy, which would not have let it through.
LARGEST_HEAD = 1 << 20

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class OriginConnection(asyncio.Protocol):
    """The methods named ``on_…`` are httptools' callbacks, all of them called within `data_received`.

    `on_made` and `on_closed` are told when it begins and when it is over. Bodies are counted, not kept.
    """

    def __init__(
        self,
        site: Site,
        on_made: Callable[[OriginConnection], None],
        on_closed: Callable[[OriginConnection], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._site = site
        self._on_made = on_made
        self._on_closed = on_closed
        self._link: Link
        self._parser = httptools.HttpRequestParser(self)
        self._request = Request()
        self._head_size = 0  # bytes
        self._pieces: Iterator[bytes] | None = None  # of the answer under way
        self._delayed: asyncio.TimerHandle | None = None
        self._echo: websocket.Echo | None = None
        self._full = False  # the link asked for no more
        self._last = False  # close after this answer

    def abort(self) -> None:
        self._link.abort()

    # ── the connection ───────────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._link = cast("Link", transport)
        self._on_made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._delayed is not None:
            self._delayed.cancel()
        self._pieces = None
        self._on_closed(self)

    def data_received(self, data: bytes) -> None:
        if self._echo is not None:
            self._feed_echo(data)
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # What follows the head is no HTTP: either the WebSocket's, or of a protocol that we did not take up.
            self._upgraded(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._link.write(_BAD_REQUEST)
            self._link.close()

    def _upgraded(self, rest: bytes) -> None:
        if self._echo is not None:
            self._feed_echo(rest)
        else:
            self._link.pause_reading()

    def pause_writing(self) -> None:
        self._full = True
        if self._echo is not None:
            self._link.pause_reading()

    def resume_writing(self) -> None:
        self._full = False
        if self._echo is not None:
            self._link.resume_reading()
        else:
            self._send_on()

    # ── a request arrives ────────────────────────────────────────────────────────────────────────────────────────

    def on_message_begin(self) -> None:
        if self._pieces is not None or self._delayed is not None:
            self._link.abort()  # pipelined; iocproxy does not, and nobody else should be here
        self._request = Request()
        self._head_size = 0

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        self._request.target += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        self._request.fields.append((name, value.strip()))

    def on_headers_complete(self) -> None:
        self._request.method = self._parser.get_method().decode("ascii")
        if self._request.headers.get("expect", "").lower() == "100-continue":
            self._link.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        self._request.body_size += len(body)

    def on_message_complete(self) -> None:
        request = self._request
        self._last = not self._parser.should_keep_alive() or self._parser.should_upgrade()
        if request.path == "/ws" and request.headers.get("upgrade", "").lower() == "websocket":
            self._open_websocket(request)
            return
        answer = self._site.answer(request)
        if answer.delay:
            self._delayed = self._loop.call_later(answer.delay, self._respond, request, answer)
        else:
            self._respond(request, answer)

    def _count(self, size: int) -> None:
        self._head_size += size
        if self._head_size > LARGEST_HEAD:
            self._link.abort()

    # ── and is answered ──────────────────────────────────────────────────────────────────────────────────────────

    def _respond(self, request: Request, answer: Answer) -> None:
        self._delayed = None
        fields = [("Content-Type", answer.content_type), ("Content-Length", str(answer.length)), *answer.fields]
        if self._last:
            fields.append(("Connection", "close"))
        self._write_head(answer.status, fields)
        self._pieces = iter(() if request.method == "HEAD" else answer.pieces)
        self._send_on()

    def _send_on(self) -> None:
        """Write until the link is full or the answer has ended."""
        while self._pieces is not None and not self._full:
            piece = next(self._pieces, None)
            if piece is not None:
                self._link.write(piece)
                continue
            self._pieces = None
            if self._last:
                self._link.close()

    def _open_websocket(self, request: Request) -> None:
        key = request.headers.get("sec-websocket-key", "").encode("latin-1")
        accept = websocket.accept_key(key).decode("ascii")
        self._write_head(101, [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept)])
        self._echo = websocket.Echo()

    def _feed_echo(self, data: bytes) -> None:
        assert self._echo is not None
        answer = self._echo.feed(data)
        if answer:
            self._link.write(answer)
        if self._echo.closed:
            self._link.close()

    def _write_head(self, status: int, fields: list[tuple[str, str]]) -> None:
        lines = [f"HTTP/1.1 {status} {reason_phrase(status).decode('ascii')}"]
        lines += [f"{name}: {value}" for name, value in fields]
        self._link.write("\r\n".join((*lines, "", "")).encode("latin-1"))
