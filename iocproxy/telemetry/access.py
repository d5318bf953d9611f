"""The access log: one line a request, written off the hot path.

Theory of operation
-------------------
`write` runs on the event loop for every request, so it does no more than append the record to a deque. It takes no
lock (deque's append and popleft are atomic) and wakes nobody: waking a thread costs a system call and then a fight
for the GIL. Instead one thread looks at the deque every `interval` seconds and on `close`.

The thread formats and writes in slices, each one write of whole lines. Formatting holds the GIL, and what the loop
feels is the time between two releases, so a slice is about half a millisecond's work (`RequestFormat.slice`) and a
wait of `_PAUSE` follows it. Measured with a burst of 65,536 records on a busy two-core machine: in one piece, the
worst pass of a loop at work took 57 and 83 ms; in slices of 100 records 6 to 21 ms, where the same loop without a
burst showed 8 to 16 ms. Smaller slices are not better: each costs the loop a fight for the GIL (at 40,000 requests a
second, slices of 400 instead of 100 records save 2 µs of 26 for each request). The wait is a real one because
``time.sleep(0)`` can have the GIL back before the loop's thread has woken up to take it; that difference was too
small to be seen among the noise.

The queue is bounded. A record that finds it full (a disk that hangs, a pipe that nobody reads) is counted in
`Counters.access_dropped` and forgotten, and a line in the log says how many are missing. A slice that cannot be
written is counted in `Counters.access_lost`, reported once to the event log, and once more when writing works again.

Invariant: every record given to `write` is in the output, in `access_dropped`, in `access_lost`, or still queued;
after `close` returned True, nothing is queued.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TextIO

from iocproxy.message import Record
from iocproxy.telemetry.counters import Counters
from iocproxy.telemetry.lines import Lines, wants_colours
from iocproxy.telemetry.log import LogFormat, Logger
from iocproxy.telemetry.requests import ConsoleFormat, JsonFormat, RequestFormat

_PAUSE = 0.001  # seconds without the GIL after a slice


class AccessLog:
    """A bounded queue of records and the thread that writes them to `destination`.

    `destination` is a text stream (left open at the end, and shared line by line with a `stream_logger` on the same
    stream) or the path of a file to append to. `log` is told about trouble; `counters` counts what was not written.
    `queue` is in records, `interval` in seconds. Nothing is opened or started before `start`.
    Raises ValueError for a format other than console and json.
    """

    def __init__(
        self,
        destination: TextIO | str | os.PathLike[str],
        format: LogFormat,  # noqa: A002 - the key's name in the file
        *,
        log: Logger,
        counters: Counters,
        queue: int = 65_536,
        interval: float = 0.2,
    ) -> None:
        self._sink: _File | _Stream
        if isinstance(destination, str | os.PathLike):
            self._sink = _File(os.fspath(destination))
            colours = False
        else:
            self._sink = _Stream(destination)
            colours = wants_colours(destination)
        self._format: RequestFormat
        if format == "json":
            self._format = JsonFormat()
        elif format == "console":
            self._format = ConsoleFormat(colours=colours)
        else:
            raise ValueError(f"format {format!r}: allowed are console, json")
        self._log = log
        self._counters = counters
        self._queue: deque[Record] = deque()
        self._room = queue
        self._interval = interval
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._reopening = False
        self._closing = False
        self._abandoned = False
        self._dropped_told = counters.access_dropped
        self._lost_before: int | None = None  # access_lost when writing began to fail; None while it works

    def write(self, record: Record) -> None:
        """Queue one record. For the event loop's thread; never blocks and never raises."""
        queue = self._queue
        if len(queue) < self._room:
            queue.append(record)
        else:
            self._counters.access_dropped += 1

    def start(self) -> None:
        """Open the destination and start the thread; once. Raises OSError when the file cannot be opened."""
        if self._thread is not None:
            raise RuntimeError(f"started already: {self!r}")
        self._sink.open()
        self._thread = threading.Thread(target=self._run, name="iocproxy-access-log")
        self._thread.start()

    def reopen(self) -> None:
        """Have the thread open the path anew at once, after the file was renamed. Safe from any thread.

        Records that are queued at this moment go to the new file. When it cannot be opened, the event log says so
        and the old file stays in use. For a stream this does nothing.
        """
        self._reopening = True
        self._wake.set()

    def close(self, timeout: float = 5.0) -> bool:
        """Write out what is queued, close the file and join the thread. Records written from now on are dropped.

        Blocks for that long (about 2 µs a queued record, `timeout` seconds at most), so a running loop calls it from
        its executor. False when the time was up, because nobody reads the pipe or the disk hangs: what is queued then
        is lost and counted, and the thread ends as soon as the write that holds it does. May be called again.
        """
        self._room = 0
        self._closing = True
        self._wake.set()
        thread = self._thread
        if thread is not None:
            thread.join(timeout)
            if thread.is_alive():
                self._abandoned = True
                return False
        # Only where `start` was never called, or `write` ran on another thread while this one closed.
        self._counters.access_dropped += len(self._queue)
        self._queue.clear()
        return True

    def __repr__(self) -> str:
        state = "closed" if self._closing else "running" if self._thread is not None else "new"
        return f"<AccessLog {self._sink.name} {state} queued={len(self._queue)}>"

    # everything below runs on the log's own thread

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
            self._counters.access_lost += len(self._queue)
            self._queue.clear()
            self._sink.close()

    def _write_queued(self) -> None:
        """Write what is queued now; what comes meanwhile is for the next round, so that `reopen` is seen to."""
        queue = self._queue
        left = len(queue)
        while left and not self._abandoned:
            size = min(left, self._format.slice)
            left -= size
            records = [queue.popleft() for _ in range(size)]
            self._put(partial(self._format.requests, records), size)
            if left and not self._closing:
                time.sleep(_PAUSE)
        dropped = self._counters.access_dropped - self._dropped_told
        if dropped and not self._abandoned and self._put(partial(self._format.dropped, dropped, time.time()), 0):
            self._dropped_told += dropped

    def _put(self, lines: Callable[[], str], records: int) -> bool:
        """Format and write the lines of so many `records`; False when they are lost."""
        try:
            self._sink.write(lines())
        except Exception as exc:  # noqa: BLE001 - whatever it was, the proxy serves on and the next slice is tried
            if self._lost_before is None:
                self._lost_before = self._counters.access_lost
                self._tell("access_log_failed", exc)
            self._counters.access_lost += records
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
        # The host program's own handlers run inside this call; what they raise must not end the thread.
        with contextlib.suppress(Exception):
            if exc is None:
                self._log.info(event, destination=self._sink.name, **values)
            else:
                error = f"{type(exc).__name__}: {exc}"
                self._log.error(event, destination=self._sink.name, error=error, **values)


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
