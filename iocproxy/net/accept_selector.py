"""Accepting on a selector loop: take what is queued, a batch at a time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

#: Connections taken per wake-up at most, so that a flood of them does not starve those being served.
BATCH = 64


class SelectorAccept:
    """Accepts under `add_reader` from `start` to `stop`, which may alternate.

    `accepted` is handed each socket (blocking, not set up) with its address; `failed` is told of each error and
    returns how many seconds to wait before the next attempt. Neither may raise; both may call `stop`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        accepted: Callable[[socket.socket, tuple[Any, ...]], None],
        failed: Callable[[Exception], float],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._accepted = accepted
        self._failed = failed
        self._running = False
        #: how many to take per wake-up: learning that there are no more costs an exception and a system call, a fifth
        #: of a whole accept, so that only those who keep coming in numbers are taken in numbers
        self._batch = 1
        self._wait: asyncio.TimerHandle | None = None

    def start(self) -> None:
        if not self._running:
            self._running = True
            self._loop.add_reader(self._sock, self._ready)

    def stop(self) -> None:
        if not self._running:
            return
        self._running = False
        if self._wait is not None:
            self._wait.cancel()
            self._wait = None
        else:
            self._loop.remove_reader(self._sock)

    def _ready(self) -> None:
        for taken in range(self._batch):
            try:
                sock, sockaddr = self._sock.accept()
            except BlockingIOError:
                self._batch = max(1, taken)
                return
            except Exception as exc:  # noqa: BLE001 - an accept error never ends the listener
                if delay := self._failed(exc):
                    self._loop.remove_reader(self._sock)
                    self._wait = self._loop.call_later(delay, self._go_on)
                    return
            else:
                self._accepted(sock, sockaddr)
                if not self._running:
                    return
        self._batch = min(self._batch * 2, BATCH)

    def _go_on(self) -> None:
        self._wait = None
        self._loop.add_reader(self._sock, self._ready)
