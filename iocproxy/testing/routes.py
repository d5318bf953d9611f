"""What an origin answers unless told otherwise: a little httpbin.

==========================  ==========================================================================
``/status/NNN``             that status, an empty body
``/bytes/N``                `pattern(N)`, with Content-Length
``/stream/N?chunk=K``       `pattern(N)` chunked, K bytes a chunk (64 KiB unless given)
``/until-close/N``          `pattern(N)`, delimited by the end of the connection
``/delay/SECONDS``          the echo, later
``/sink``                   reads the body however long it is; JSON of its ``length`` and ``sha256``
``/ws``                     a WebSocket that echoes
anything else               the echo: JSON of ``method``, ``target``, ``version``, ``headers``, ``body``
==========================  ==========================================================================
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from iocproxy.testing import websocket

if TYPE_CHECKING:
    from iocproxy.testing.received import Exchange

_PERIOD = bytes(range(251))  # prime: a block that is shifted or repeated is never in place again
_BLOCK = _PERIOD * 261


def pattern(size: int) -> bytes:
    """The same `size` bytes every time: octet i is i modulo 251."""
    return b"".join(_pieces(size, len(_BLOCK)))


def _pieces(size: int, step: int) -> Iterator[bytes]:
    doubled = _BLOCK * (step // len(_BLOCK) + 2)
    for start in range(0, size, step):
        shift = start % len(_PERIOD)
        yield doubled[shift : shift + min(step, size - start)]


def answer(exchange: Exchange) -> None:
    """Answer one request as the table above says."""
    _, first, *rest = exchange.request.path.split("/", 2)
    argument = rest[0] if rest else ""
    route = _ROUTES.get(first)
    if route is None:
        exchange.read_body()
        _echo(exchange)
    else:
        route(exchange, argument)


def _echo(exchange: Exchange) -> None:
    request = exchange.request
    exchange.respond_json(
        {
            "method": request.method.decode("latin-1"),
            "target": request.target.decode("latin-1"),
            "version": request.version,
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers],
            "body": request.body.decode("latin-1"),
        }
    )


def _status(exchange: Exchange, argument: str) -> None:
    exchange.read_body()
    exchange.respond(int(argument))


def _bytes(exchange: Exchange, argument: str) -> None:
    exchange.read_body()
    size = int(argument)
    exchange.send_head(200, [("Content-Type", "application/octet-stream"), ("Content-Length", argument)])
    if exchange.has_body():
        for piece in _pieces(size, len(_BLOCK)):
            exchange.send(piece)


def _stream(exchange: Exchange, argument: str) -> None:
    exchange.read_body()
    step = int(parse_qs(exchange.request.query).get("chunk", ["65536"])[0])
    exchange.send_head(200, [("Content-Type", "application/octet-stream"), ("Transfer-Encoding", "chunked")])
    if exchange.has_body():
        for piece in _pieces(int(argument), step):
            exchange.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        exchange.send(b"0\r\n\r\n")


def _until_close(exchange: Exchange, argument: str) -> None:
    exchange.read_body()
    exchange.send_head(200, [("Content-Type", "application/octet-stream"), ("Connection", "close")])
    if exchange.has_body():
        for piece in _pieces(int(argument), len(_BLOCK)):
            exchange.send(piece)
    exchange.close()


def _delay(exchange: Exchange, argument: str) -> None:
    exchange.read_body()
    if not exchange.stopping.wait(float(argument)):
        _echo(exchange)


def _sink(exchange: Exchange, _: str) -> None:
    digest = hashlib.sha256()
    for data in exchange.iter_body():
        digest.update(data)
    exchange.respond_json({"length": exchange.request.body_length, "sha256": digest.hexdigest()})


def _websocket(exchange: Exchange, _: str) -> None:
    exchange.read_body()
    websocket.echo(exchange)


_ROUTES: dict[str, Callable[[Exchange, str], None]] = {
    "status": _status,
    "bytes": _bytes,
    "stream": _stream,
    "until-close": _until_close,
    "delay": _delay,
    "sink": _sink,
    "ws": _websocket,
}
