"""Names to addresses without waiting on the loop's thread, and without anybody else having to wait.

Theory of operation
-------------------
`getaddrinfo` blocks, for half a minute and more when a name server is silent, and nothing can cancel it. So each lookup
has a thread to itself, a daemon that nobody ever joins: when the proxy stops, or the interpreter exits, a lookup that
hangs is left behind. The executor for CPU work would be the wrong place: a few such lookups would fill it, and keep
handshakes and the stop waiting.

* One lookup at a time for a name. Whoever asks meanwhile waits for the same answer; giving up (a timeout, a client that
  left) concerns one asker only, the lookup goes on and its answer is kept.
* At most `LOOKUPS` threads; names beyond that wait for one to end, in order. Names come from the configuration, so
  there are never more askers' names than it has.
* Answers are kept for a short time, failures shorter still. `getaddrinfo` does not tell how long an answer may be kept
  (the TTL), so the times are fixed.

All but `_look_up` runs on the loop's thread. A resolver belongs to one loop and one proxy.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from iocproxy.clock import Clock

from .connect_errors import told_as
from .lookup import Target, lookup

#: How long an answer is kept, in seconds: addresses, and "there is no such name".
KEPT = 5.0
KEPT_FAILURE = 1.0

#: Lookups under way at once.
LOOKUPS = 32


class _Answer(NamedTuple):
    until: float  #: the time up to which it is good
    found: list[Target] | OSError


class Resolver:
    """Looks up host names for one proxy, from its making to `close`; see the top of the file."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        now: Clock | None = None,
        ask: Callable[[str, int], list[Target]] = lookup,
    ) -> None:
        """`now` is what the times go by, the loop's own clock unless given. `ask` finds the addresses of a name: it is
        called in threads, may block, and raises OSError."""
        self._loop = loop
        self._now = now or loop.time
        self._ask_system = ask
        self._kept: dict[str, _Answer] = {}
        self._asked: dict[str, asyncio.Future[list[Target] | OSError]] = {}
        self._queue: deque[tuple[str, int]] = deque()
        self._running = 0
        self._closed = False

    async def resolve(self, host: str, port: int) -> list[Target]:
        """The TCP addresses of `host` in the system's order of preference, at least one.

        A literal IP address is never looked up. Raises `socket.gaierror` (an OSError) for a name without an address,
        OSError when it could not be looked up. May take as long as the system likes: the caller sets a time limit.
        """
        try:
            return lookup(host, port, socket.AI_NUMERICHOST | socket.AI_NUMERICSERV)
        except socket.gaierror:
            pass
        kept = self._kept.get(host)
        if kept is not None and kept.until > self._now():
            found = kept.found
        else:
            # shielded: the answer is for others, too
            found = await asyncio.shield(self._ask(host, port))
        if isinstance(found, OSError):
            raise told_as(found, found.strerror or str(found))
        return [(family, (sockaddr[0], port, *sockaddr[2:])) for family, sockaddr in found]

    def close(self) -> None:
        """Forget everything; whoever still waits gets an OSError. Threads under way end by themselves."""
        self._closed = True
        self._queue.clear()
        self._kept.clear()
        for asked in self._asked.values():
            asked.set_result(OSError(errno.ECANCELED, "the proxy is stopping"))
        self._asked.clear()

    def __repr__(self) -> str:
        return f"<Resolver kept={len(self._kept)} asked={len(self._asked)} running={self._running}>"

    def _ask(self, host: str, port: int) -> asyncio.Future[list[Target] | OSError]:
        """What the lookup of this name will give, begun now if it is not under way."""
        if (asked := self._asked.get(host)) is not None:
            return asked
        answer = self._asked[host] = self._loop.create_future()
        if self._closed:
            answer.set_result(OSError(errno.ECANCELED, "the proxy is stopping"))
            del self._asked[host]
        elif self._running < LOOKUPS:
            self._start(host, port)
        else:
            self._queue.append((host, port))
        return answer

    def _start(self, host: str, port: int) -> None:
        self._running += 1
        thread = threading.Thread(
            target=_look_up,
            args=(self._ask_system, host, port, self._loop, self._done),
            name="iocproxy-lookup",
            daemon=True,
        )
        try:
            thread.start()
        except RuntimeError as failure:  # the system has no more threads
            self._loop.call_soon(self._done, host, OSError(errno.ENOMEM, f"no thread to look up {host}: {failure}"))

    def _done(self, host: str, found: list[Target] | OSError) -> None:
        self._running -= 1
        if self._closed:
            return
        now = self._now()
        self._kept = {name: answer for name, answer in self._kept.items() if answer.until > now}
        if not isinstance(found, OSError):
            self._kept[host] = _Answer(now + KEPT, found)
        elif isinstance(found, socket.gaierror):  # what failed for want of files is not the name's fault
            self._kept[host] = _Answer(now + KEPT_FAILURE, found)
        self._asked.pop(host).set_result(found)
        if self._queue:
            self._start(*self._queue.popleft())


def _look_up(
    ask: Callable[[str, int], list[Target]],
    host: str,
    port: int,
    loop: asyncio.AbstractEventLoop,
    done: Callable[[str, list[Target] | OSError], None],
) -> None:
    """What a thread runs."""
    found: list[Target] | OSError
    try:
        found = ask(host, port)
    except socket.gaierror as failure:
        found = _shortage() or told_as(failure, failure.strerror or str(failure))
    except OSError as failure:
        found = told_as(failure, failure.strerror or str(failure))
    except Exception as failure:  # noqa: BLE001 - whoever waits has to hear of it
        found = OSError(errno.EINVAL, f"looking up {host} failed: {failure!r}")
    try:
        loop.call_soon_threadsafe(done, host, found)
    except RuntimeError:  # the loop is closed, and everybody gone with it
        pass


def _shortage() -> OSError | None:
    """Why this process cannot open a socket, None when it can.

    glibc says "Name or service not known" also where it had no file left to read /etc/hosts or ask a name server with.
    """
    try:
        socket.socket().close()
    except OSError as failure:
        return told_as(failure, failure.strerror or str(failure))
    return None
