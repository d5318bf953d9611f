"""Log lines, written off the hot path: for each destination one bounded queue, and one thread that empties it.

Theory of operation
-------------------
Whoever has something to say appends it to a deque: a `Record` of a request, or the finished text of an event. That
takes no lock (deque's append and popleft are atomic) and never waits for the destination, which may be a pipe that
nobody reads, a console in which somebody has selected text, or a disk that hangs. What shares a destination shares its
queue, so its lines come out in the order in which they were said.

A record wakes nobody: waking a thread costs a system call and then a fight for the GIL. The thread looks at the deque
every `interval` seconds. An event is rare and wakes it at once, since it may be the last thing that is ever said.

The thread formats and writes in slices, each one write of whole lines. Formatting holds the GIL, and what the loop
feels is the time between two releases, so a slice is about half a millisecond's work (`LineFormat.slice`) and a
wait of `_PAUSE` follows it. Measured with a burst of 65,536 records on a busy two-core machine: in one piece, the
worst pass of a loop at work took 57 and 83 ms; in slices of 100 records 6 to 21 ms, where the same loop without a
burst showed 8 to 16 ms. Smaller slices are not better: each costs the loop a fight for the GIL (at 40,000 requests a
second, slices of 400 instead of 100 records save 2 µs of 26 for each request). The wait is a real one because
``time.sleep(0)`` can have the GIL back before the loop's thread has woken up to take it; that difference was too
small to be seen among the noise.

What finds the queue full, or cannot be written, is counted (`Counters.access_dropped` and `access_lost` for requests,
`events_missing` here) and forgotten. A line says how many are missing as soon as lines get through again.

The thread is a daemon: one that hangs in a write is left behind, and the process can end without it.

Invariant: every item that was queued is in the output, counted, or still queued; after `close` returned True, nothing
is queued.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import TextIO

from structlog.typing import FilteringBoundLogger

from iocproxy.message import Record
from iocproxy.telemetry.counters import Counters
from iocproxy.telemetry.lines import Lines, LogFormat, wants_colours
from iocproxy.telemetry.requests import ConsoleFormat, JsonFormat, LineFormat

_PAUSE = 0.001  # seconds without the GIL after a slice


class Writer:
    """The queue and the thread of one destination.

    `destination` is a text stream (left open at the end) or the path of a file to append to. While `queue` items wait
    there is no room for another request, and while `events` of them are events none for another event; `interval` is
    in seconds. Nothing is opened or started before `start`. Raises ValueError for a format other than console and json.
    """

    def __init__(
        self,
        destination: TextIO | str | os.PathLike[str],
        format: LogFormat,  # noqa: A002 - the key's name in the file
        *,
        queue: int = 65_536,
        events: int = 4_096,
        interval: float = 0.2,
    ) -> None:
        self._sink: _File | _Stream
        if isinstance(destination, str | os.PathLike):
            self._sink = _File(os.fspath(destination))
            self.colours = False  #: whether lines for people are coloured
        else:
            self._sink = _Stream(destination)
            self.colours = wants_colours(destination)
        self._format: LineFormat
        if format == "json":
            self._format = JsonFormat()
        elif format == "console":
            self._format = ConsoleFormat(colours=self.colours)
        else:
            raise ValueError(f"format {format!r}: allowed are console, json")
        self.name = self._sink.name  #: what the destination is called in messages
        self.queue: deque[Record | str] = deque()  #: for the access log, which appends records to it by itself
        self.room = queue  #: how many items may wait when another request comes
        self.events_missing = 0  #: events that found no room, or were lost in writing
        self._events_room = events
        self._events_queued = 0
        self._events_told = 0
        self._counting = threading.Lock()  # for the counts of events; never held while anything waits
        self._interval = interval
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._reopening = False
        self._closing = False
        self._abandoned = False
        self.take_requests(None, Counters())
        self._lost_before: int | None = None  # access_lost when writing began to fail; None while it works

    def take_requests(self, log: FilteringBoundLogger | None, counters: Counters) -> None:
        """Whose records will be in the queue: `log` is told about trouble, `counters` count what is lost."""
        self._log = log
        self._counters = counters
        self._requests_told = counters.access_dropped

    def write(self, text: str) -> None:
        """Queue an event, finished: one line or several, without the last line feed. From any thread; never waits."""
        with self._counting:
            if self._events_queued >= self._events_room or self._closing:
                self.events_missing += 1
                return
            self._events_queued += 1
        self.queue.append(text)
        self._wake.set()

    def start(self) -> None:
        """Open the destination and start the thread; once. Raises OSError when the file cannot be opened."""
        if self._thread is not None:
            raise RuntimeError(f"started already: {self!r}")
        self._sink.open()
        self._thread = threading.Thread(target=self._run, name="iocproxy-log", daemon=True)
        self._thread.start()

    def reopen(self) -> None:
        """Have the thread open the path anew at once, after the file was renamed. Safe from any thread.

        What is queued at this moment goes to the new file. When it cannot be opened, the event log says so and the
        old file stays in use. For a stream this does nothing.
        """
        self._reopening = True
        self._wake.set()

    def close(self, timeout: float = 5.0) -> bool:
        """Write out what is queued, close the file and join the thread. What comes from now on is dropped.

        Blocks for that long (about 2 µs a queued record, `timeout` seconds at most), so not for a running loop's
        thread. False when the time was up, because nobody reads the pipe or the disk hangs: what is queued then is
        lost and counted, and the thread ends as soon as the write that holds it does. May be called again.
        """
        self._closing = True
        self._wake.set()
        thread = self._thread
        if thread is not None:
            thread.join(timeout)
            if thread.is_alive():
                self._abandoned = True
                return False
        # Only where `start` was never called, or somebody was queueing on another thread while this one closed.
        self._counters.access_dropped += self._forget(self.queue)
        self.queue.clear()
        return True

    def __repr__(self) -> str:
        state = "closed" if self._closing else "running" if self._thread is not None else "new"
        return f"<Writer {self.name} {state} queued={len(self.queue)}>"

    def _forget(self, items: Iterable[Record | str]) -> int:
        """Count the events among `items`, which are lost; returns how many records there are."""
        kinds = [isinstance(item, str) for item in items]
        with self._counting:
            self.events_missing += sum(kinds)
        return len(kinds) - sum(kinds)

    # everything below runs on the writer's own thread

    def _run(self) -> None:
        try:
            closing = False
            while not closing:
                self._wake.wait(self._interval)
                self._wake.clear()
                closing = self._closing  # read before the queue: what was queued before `close` is still written
                if self._reopening:
                    self._reopening = False
                    self._reopen()
                self._write_queued()
        finally:
            self._counters.access_lost += self._forget(self.queue)
            self.queue.clear()
            self._sink.close()

    def _write_queued(self) -> None:
        """Write what is queued now; what comes meanwhile is for the next round, so that `reopen` is seen to."""
        # What is missing by now is told behind what was queued before it.
        requests = self._counters.access_dropped - self._requests_told
        events = self.events_missing - self._events_told
        left = len(self.queue)
        while left and not self._abandoned:
            size = min(left, self._format.slice)
            left -= size
            items = [self.queue.popleft() for _ in range(size)]
            if self._events_queued:
                with self._counting:
                    self._events_queued -= sum(isinstance(item, str) for item in items)
            if not self._put(partial(self._format.lines, items)):
                self._counters.access_lost += self._forget(items)
            if left and not self._closing:
                time.sleep(_PAUSE)
        if self._say_missing("requests_not_logged", requests):
            self._requests_told += requests
        if self._say_missing("events_not_logged", events):
            self._events_told += events

    def _say_missing(self, event: str, count: int) -> bool:
        missing = count and not self._abandoned
        return bool(missing and self._put(partial(self._format.missing, event, count, time.time())))

    def _put(self, lines: Callable[[], str]) -> bool:
        """Format and write `lines`; False when they are lost."""
        try:
            self._sink.write(lines())
        except Exception as exc:  # noqa: BLE001 - whatever it was, the proxy serves on and the next slice is tried
            if self._lost_before is None:
                self._lost_before = self._counters.access_lost
                self._tell("access_log_failed", exc)
            return False
        if self._lost_before is not None:
            lost, self._lost_before = self._counters.access_lost - self._lost_before, None
            self._tell("access_log_recovered", lost=lost)
        return True

    def _reopen(self) -> None:
        try:
            self._sink.open()
        except OSError as exc:
            self._tell("access_log_reopen_failed", exc)

    def _tell(self, event: str, exc: Exception | None = None, **values: object) -> None:
        if self._log is None:
            return
        # The host program's own handlers run inside this call; what they raise must not end the thread.
        with contextlib.suppress(Exception):
            if exc is None:
                self._log.info(event, destination=self.name, **values)
            else:
                self._log.error(event, destination=self.name, error=f"{type(exc).__name__}: {exc}", **values)


class _Stream:
    """A stream that belongs to somebody else."""

    def __init__(self, stream: TextIO) -> None:
        self.name = str(getattr(stream, "name", "stream"))
        self._lines = Lines(stream)

    def open(self) -> None: ...

    def write(self, text: str) -> None:
        self._lines.write(text)

    def close(self) -> None: ...


class _File:
    """A file of our own, opened to append and written without a buffer.

    One write call a slice, of whole lines: on POSIX several processes may append to the same file and their lines
    stay whole. Readable by the owner and the group only, since it says who visited what.
    """

    def __init__(self, path: str) -> None:
        self.name = path
        self._file: io.FileIO | None = None
        self._torn = False

    def open(self) -> None:
        """Open the path, and only then close what was open before. Raises OSError."""
        file = io.FileIO(self.name, "a", opener=lambda path, flags: os.open(path, flags, 0o640))
        self.close()
        self._file, self._torn = file, False

    def write(self, text: str) -> None:
        """Raises OSError; what part of the lines got out before it is followed by a line feed next time."""
        assert self._file is not None, "open comes first"
        rest = memoryview((("\n" if self._torn else "") + text + "\n").encode("utf-8", "backslashreplace"))
        while rest:
            written = self._file.write(rest)  # short when the disk is full: the next call raises ENOSPC
            self._torn = True
            rest = rest[written:]
        self._torn = False

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
