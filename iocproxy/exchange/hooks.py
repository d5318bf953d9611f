"""The middleware's part in an exchange: its `on_request` and `on_response` hooks, one after the other.

Plain hooks run within the call that brought the head. One that returns an awaitable is waited for in the exchange's
task, and meanwhile nothing piles up: the exchange holds the client while it has no lease, and a response is held here,
with the upstream paused, until the last hook has seen it.

A hook that fails, in whatever way, is a fault of the proxy's own (`Exchange.hook_failed`).
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from iocproxy.exchange.rewriting import check_rewritten_request, take_over_response
from iocproxy.http1.response import ResponseHead
from iocproxy.message import Fields, Response

if TYPE_CHECKING:  # the two know each other
    from iocproxy.exchange.exchange import Exchange

T = TypeVar("T")


def run_request_hooks(exchange: Exchange, start: int = 0) -> None:
    """Call the `on_request` hooks from number `start` on, until one answers, waits or fails. After the last of them the
    exchange goes on to `choose`."""
    request, chain = exchange.request, exchange.service.chain
    following = start
    for hook in chain.on_request[start:]:
        following += 1
        try:
            said = hook(request)
        except Exception as error:  # noqa: BLE001 - user code may fail in any way
            exchange.hook_failed("on_request", error)
            return
        if said is None:
            continue
        if isinstance(said, Awaitable):
            hook_ends = functools.partial(_request_hook, exchange, said, following)
            exchange.wait(hook_ends, f"on_request {request.method}", of=said)
        else:
            exchange.answer(said)
        return
    if chain.rewrites:
        try:
            check_rewritten_request(request)
        except ValueError as error:
            exchange.hook_failed("on_request", error)
            return
    exchange.choose()


async def _request_hook(exchange: Exchange, waiting: Awaitable[Response | None], following: int) -> Callable[[], None]:
    try:
        said = await _result(waiting)
    except Exception as error:  # noqa: BLE001 - user code may fail in any way
        return functools.partial(exchange.hook_failed, "on_request", error)
    if said is None:
        return functools.partial(run_request_hooks, exchange, following)
    return functools.partial(exchange.answer, said)


class HeldResponse:
    """A response on its way through the `on_response` hooks, with what has arrived of its body.

    Whoever made it calls `run` once. It ends in `Exchange.respond`, unless a hook fails.
    """

    __slots__ = ("_exchange", "_response", "body", "done", "head", "trailers")

    def __init__(self, exchange: Exchange, head: ResponseHead, body: bytes, done: bool, trailers: Fields) -> None:
        self._exchange = exchange
        self._response = Response.passing(head.status, head.reason, head.fields)
        self.head = head
        self.body = body
        self.done = done
        self.trailers = trailers

    def run(self, start: int = 0) -> None:
        """Call the hooks from number `start` on, until one waits or fails."""
        exchange, response = self._exchange, self._response
        hooks = exchange.service.chain.on_response
        for index in range(start, len(hooks)):
            try:
                waiting = hooks[index](exchange.request, response)
            except Exception as error:  # noqa: BLE001 - user code may fail in any way
                exchange.hook_failed("on_response", error)
                return
            if waiting is not None:
                if exchange.lease is not None:
                    exchange.lease.hold()
                exchange.wait(functools.partial(self._hook, waiting, index + 1), "on_response", of=waiting)
                return
        exchange.held = None
        try:
            take_over_response(self.head, response)
        except ValueError as error:
            exchange.hook_failed("on_response", error)
            return
        exchange.respond(self.head, self.body, done=self.done, trailers=self.trailers)
        if start and exchange.lease is not None and not exchange.side.blocked:
            exchange.lease.unhold()

    async def _hook(self, waiting: Awaitable[None], following: int) -> Callable[[], None]:
        try:
            await _result(waiting)
        except Exception as error:  # noqa: BLE001 - user code may fail in any way
            return functools.partial(self._exchange.hook_failed, "on_response", error)
        return functools.partial(self.run, following)


async def _result(waiting: Awaitable[T]) -> T:
    """Await what a hook returned. A CancelledError of the hook's own making is a failure of it like any other."""
    try:
        return await waiting
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise RuntimeError("the middleware was cancelled from within") from error
