"""A listening socket that keeps accepting, whatever happens."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from structlog.typing import FilteringBoundLogger

from .accept_errors import lost_in_queue
from .accept_proactor import ProactorAccept
from .accept_selector import SelectorAccept
from .address import Address
from .loops import is_proactor
from .tasks import Tasks

#: Accepting pauses this long (seconds) after an error that is likely to come again, doubling up to the second figure.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 1.0
#: Errors less than this far apart (seconds) are one episode and logged once.
EPISODE = 10.0


class Listener:
    """Hands each accepted socket to `on_accept`, from `start` to `close`.

    `on_accept(sock, address)` owns the socket, which is not set up yet (`sockets.prepare_client`), so that a refusal
    costs nothing but a `close`. It must not block. If it raises, that is logged and that socket closed.

    The counts only grow: `accepted`; `lost`, connections gone before they could be accepted; `paused`, how often
    accepting was paused for want of files or memory.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_accept: Callable[[socket.socket, Address], None],
        *,
        tasks: Tasks,
        log: FilteringBoundLogger,
        on_shortage: Callable[[], object] | None = None,
    ) -> None:
        """`sock` is non-blocking and listening (`sockets.bind_listener`) and is the listener's to close from now on.

        `on_shortage` is called whenever accepting pauses for want of files or memory; it must not raise.
        """
        self.address = Address.of(sock.getsockname())
        self.accepted = 0
        self.lost = 0
        self.paused = 0
        self._sock = sock
        self._on_accept = on_accept
        self._on_shortage = on_shortage
        self._tasks = tasks
        self._log = log
        self._accept: SelectorAccept | ProactorAccept | None = None
        self._pause = FIRST_PAUSE
        self._last_trouble = float("-inf")
        self._closed = False

    def start(self) -> None:
        """Begin to accept on the running loop. Raises RuntimeError once closed."""
        if self._closed:
            raise RuntimeError(f"{self!r} was closed")
        if self._accept is None:
            self._accept = self._choose(asyncio.get_running_loop())
        self._accept.start()

    #: After `pause`: accept again.
    resume = start

    def pause(self) -> None:
        """Stop accepting and keep the socket open: clients queue up to the backlog."""
        if self._accept is not None:
            self._accept.stop()

    def close(self) -> None:
        """Stop accepting and close the socket; clients still queued are reset. May be called twice."""
        self._closed = True
        self.pause()
        self._sock.close()

    def _choose(self, loop: asyncio.AbstractEventLoop) -> SelectorAccept | ProactorAccept:
        if is_proactor(loop):
            return ProactorAccept(
                loop, self._sock, self._admit, self._failed, tasks=self._tasks, name=f"accept {self.address}"
            )
        return SelectorAccept(loop, self._sock, self._admit, self._failed)

    def _admit(self, sock: socket.socket, sockaddr: tuple[Any, ...]) -> None:
        self.accepted += 1
        self._pause = FIRST_PAUSE
        try:
            self._on_accept(sock, Address.of(sockaddr))
        except Exception as exc:  # noqa: BLE001 - the listener lives on
            sock.close()
            self._log.error("accept_callback_failed", listener=str(self.address), error=repr(exc), exc_info=exc)

    def _failed(self, exc: Exception) -> float:
        """Count and log an error from accept; returns the seconds to wait before the next attempt."""
        if lost_in_queue(exc):
            self.lost += 1
            return 0.0
        self.paused += 1
        if self._on_shortage is not None:
            self._on_shortage()
        now = asyncio.get_running_loop().time()
        if now - self._last_trouble > EPISODE:
            self._log.warning("accept_paused", listener=str(self.address), error=str(exc), seconds=self._pause)
        self._last_trouble = now
        pause, self._pause = self._pause, min(self._pause * 2, LONGEST_PAUSE)
        return pause

    def __repr__(self) -> str:
        state = "closed" if self._closed else "idle" if self._accept is None else "started"
        return f"<Listener {self.address} {state} accepted={self.accepted} lost={self.lost} paused={self.paused}>"
