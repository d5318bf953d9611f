"""The signals that ask a process for something, brought to the event loop."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType

#: Ctrl+C; what service managers send; on Windows also Ctrl+Break.
STOPPING: tuple[signal.Signals, ...]
#: What asks for new log files after the old ones were renamed; nginx' choice. Windows has nothing of the kind.
REOPENING: tuple[signal.Signals, ...]
#: What asks for the certificates to be read again. It is also what a terminal says when it goes away.
RENEWING: tuple[signal.Signals, ...]
if sys.platform == "win32":
    STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGBREAK)
    REOPENING = ()
    RENEWING = ()
else:
    STOPPING = (signal.SIGINT, signal.SIGTERM)
    REOPENING = (signal.SIGUSR1,)
    RENEWING = (signal.SIGHUP,)


@contextmanager
def signals(
    *, stop: Callable[[str], None], reopen: Callable[[str], None], renew: Callable[[str], None]
) -> Iterator[None]:
    """Within it, each of `STOPPING` calls `stop` with its name, each of `REOPENING` calls `reopen` and each of
    `RENEWING` calls `renew`, on the running loop, between two callbacks.

    For the main thread only, where Python handles signals; elsewhere ValueError or RuntimeError. On leaving, the
    handlers are those from before.
    """
    loop = asyncio.get_running_loop()
    calls = {
        **dict.fromkeys(STOPPING, stop),
        **dict.fromkeys(REOPENING, reopen),
        **dict.fromkeys(RENEWING, renew),
    }
    before = {number: signal.getsignal(number) for number in calls}
    _prepare()
    for number, call in calls.items():
        _install(loop, number, partial(call, number.name))
    try:
        yield
    finally:
        for number, handler in before.items():
            if sys.platform != "win32":
                loop.remove_signal_handler(number)
            # None: set by somebody other than Python, who cannot be asked.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


if sys.platform == "win32":

    def _prepare() -> None:
        # The loop's self-pipe is Python's wake-up descriptor. When it takes no more bytes it holds some already and
        # the loop is about to wake up; asyncio leaves it to Python to complain about that on standard error.
        signal.set_wakeup_fd(signal.set_wakeup_fd(-1), warn_on_full_buffer=False)

    def _install(loop: asyncio.AbstractEventLoop, number: signal.Signals, call: Callable[[], None]) -> None:
        # Proactor has no `add_signal_handler`; a loop that waits for I/O is woken by the descriptor above.
        def handler(_number: int, _frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(call)

        signal.signal(number, handler)

else:

    def _prepare() -> None:
        """The loop has done so itself."""

    def _install(loop: asyncio.AbstractEventLoop, number: signal.Signals, call: Callable[[], None]) -> None:
        loop.add_signal_handler(number, call)
