"""aiohttp's server: what every origin of these tests answers.

python aiohttp_app.py KEEP_ALIVE_SECONDS [CERTIFICATE KEY]
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import ssl
import sys

from aiohttp import WSMsgType, web

LARGE = bytes(range(251)) * 4000


async def hello(_: web.Request) -> web.Response:
    return web.Response(text="hello, world\n")


async def large(_: web.Request) -> web.Response:
    return web.Response(body=LARGE)


async def stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    for start in range(0, len(LARGE), 50_000):
        await response.write(LARGE[start : start + 50_000])
    return response


async def packed(_: web.Request) -> web.Response:
    return web.Response(body=gzip.compress(LARGE, mtime=0), headers={"Content-Encoding": "gzip"})


async def sink(request: web.Request) -> web.Response:
    digest, size = hashlib.sha256(), 0
    async for data in request.content.iter_any():
        digest.update(data)
        size += len(data)
    return web.Response(text=f"{size} {digest.hexdigest()}")


async def empty(_: web.Request) -> web.Response:
    return web.Response(status=204)


async def moved(_: web.Request) -> web.Response:
    raise web.HTTPFound("/hello")


async def unavailable(_: web.Request) -> web.Response:
    return web.Response(status=503, text="not now\n", headers={"Retry-After": "7"})


async def websocket(request: web.Request) -> web.WebSocketResponse:
    response = web.WebSocketResponse(max_msg_size=0)
    await response.prepare(request)
    async for message in response:
        if message.type is WSMsgType.TEXT:
            await response.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await response.send_bytes(message.data)
    return response


async def main(keep_alive: float, *pair: str) -> None:
    app = web.Application()
    for name, handler in (
        *(("hello", hello), ("large", large), ("stream", stream), ("gzip", packed), ("empty", empty)),
        *(("moved", moved), ("unavailable", unavailable), ("ws", websocket)),
    ):
        app.router.add_get(f"/{name}", handler)
    app.router.add_post("/sink", sink)
    runner = web.AppRunner(app, keepalive_timeout=keep_alive)
    await runner.setup()
    context = None
    if pair:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*pair)
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    print("listening on", runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


asyncio.run(main(float(sys.argv[1]), *sys.argv[2:]))
