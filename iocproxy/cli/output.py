"""What the commands say: the one place where the command line writes to a stream.

Results and the proxy's log go to standard output, what is wrong to standard error. Every line is flushed as it comes,
so that whoever reads a pipe sees it at once, and characters that a stream's encoding lacks become escapes.

A reader that has gone (``iocproxy schema | head -1``) is no failure: what it does not want is dropped.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import threading
from typing import TextIO

from rich.console import Console
from rich.text import Text

from iocproxy.errors import ConfigError
from iocproxy.telemetry.lines import Lines, printable, wants_colours

#: How long the standard streams may take for what is left in their buffers, in seconds.
_FLUSHING = 1.0


def prepare() -> None:
    """Give a process that was started without standard streams something to write to."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - until the process ends


def say(text: str | Text) -> None:
    """A result, to standard output. Raises OSError when it cannot be written, a full disk for one."""
    _put(sys.stdout, text)


def warn(text: str | Text) -> None:
    """To standard error."""
    _put(sys.stderr, text)


def faults(error: ConfigError) -> None:
    """All of them, to standard error, one a line."""
    for fault in error.faults:
        warn(printable(str(fault)))


def settle(code: int) -> None:
    """Just before the process ends with `code`: what can no longer be flushed would make Python exit with 120 and a
    complaint, and what nobody takes would keep it from ending at all."""
    flushing = threading.Thread(target=_flush, name="iocproxy-flush", daemon=True)
    flushing.start()
    flushing.join(_FLUSHING)
    if flushing.is_alive():
        os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _put(stream: TextIO, text: str | Text) -> None:
    if isinstance(text, Text):
        text = _styled(text, colours=wants_colours(stream))
    try:
        Lines(stream).write(text)
    except OSError as error:
        if not _reader_gone(error):
            raise


def _styled(text: Text, *, colours: bool) -> str:
    buffer = io.StringIO()
    console = Console(file=buffer, force_terminal=colours, color_system="standard" if colours else None, width=10_000)
    console.print(text, end="", soft_wrap=True)
    return buffer.getvalue()


def _reader_gone(error: OSError) -> bool:
    """Whether the other end of a pipe was closed; Windows' C runtime says EINVAL for that (write, ERROR_NO_DATA)."""
    return isinstance(error, BrokenPipeError) or (sys.platform == "win32" and error.errno == errno.EINVAL)
