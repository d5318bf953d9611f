"""The access log: one line a request.

`write` runs on the event loop for every request, so it does no more than append the record to the queue of a `Writer`,
whose thread formats it. The queue is bounded: a record that finds it full is counted in `Counters.access_dropped`.
"""

from __future__ import annotations

import os
from typing import TextIO

from iocproxy.message import Record
from iocproxy.telemetry.counters import Counters
from iocproxy.telemetry.lines import LogFormat
from iocproxy.telemetry.log import Logger
from iocproxy.telemetry.writer import Writer


class AccessLog:
    """Puts records on the queue of a `Writer`.

    `destination` is a text stream (left open at the end), the path of a file to append to, or the `Writer` that the
    events go through as well: then the lines of both come in the order of what happened, in the format of that writer,
    and starting and closing it is its owner's. `log` is told about trouble; `counters` count what was not written.
    `queue` is in records, `interval` in seconds. Nothing is opened or started before `start`.
    Raises ValueError for a format other than console and json.
    """

    def __init__(
        self,
        destination: TextIO | str | os.PathLike[str] | Writer,
        format: LogFormat,  # noqa: A002 - the key's name in the file
        *,
        log: Logger,
        counters: Counters,
        queue: int = 65_536,
        interval: float = 0.2,
    ) -> None:
        self._shared = isinstance(destination, Writer)
        self._writer = (
            destination
            if isinstance(destination, Writer)
            else Writer(destination, format, queue=queue, interval=interval)
        )
        self._writer.take_requests(log, counters)
        self._counters = counters
        self._queue = self._writer.queue
        self._room = self._writer.room
        self._closed = False

    def write(self, record: Record) -> None:
        """Queue one record. For the event loop's thread; never blocks and never raises."""
        queue = self._queue
        if len(queue) < self._room:
            queue.append(record)
        else:
            self._counters.access_dropped += 1

    def start(self) -> None:
        """Open the destination and start the thread; once. Raises OSError when the file cannot be opened."""
        if not self._shared:
            self._writer.start()

    def reopen(self) -> None:
        """Open the path anew, after the file was renamed; see `Writer.reopen`."""
        self._writer.reopen()

    def close(self, timeout: float = 5.0) -> bool:
        """Write out what is queued and end the thread; see `Writer.close`. Records written from now on are dropped."""
        self._room = 0
        return self._shared or self._writer.close(timeout)

    def __repr__(self) -> str:
        return repr(self._writer).replace("Writer", "AccessLog", 1)
