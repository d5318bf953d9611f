"""The lines about requests of an embedded proxy, handed to the standard library's logging."""

from __future__ import annotations

import io
import logging


class LibraryStream(io.TextIOBase):
    """A text stream whose lines become records (level INFO) of ``logging.getLogger("iocproxy.access")``.

    Written by the access log's thread alone. Costs nothing but the formatting where the program has not set up
    logging for that name; who wants not even that sets ``logging.access`` to false.
    """

    def __init__(self) -> None:
        self._logger = logging.getLogger("iocproxy.access")

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        for line in text.splitlines():
            self._logger.info("%s", line)
        return len(text)
