"""Text that may hold a client's bytes, made safe for a console, and whole lines put on a stream.

What a client sends can be written into a log: a path, a host, the message of an exception. On a terminal an escape
sequence in it moves the cursor or worse, and a line feed forges a line. So nothing that `str.isprintable` refuses
(controls C0 and C1, DEL, line and paragraph separators, bidirectional overrides, lone surrogates) is shown as it is;
it becomes the escape that Python writes in a string literal (``\\x1b``, ``\\n``, ``\\u202e``).
"""

from __future__ import annotations

import os
import re
import sys
from typing import Literal, TextIO

import structlog

LogFormat = Literal["console", "json"]

_NEEDS_QUOTES = re.compile(r"[\s=\"'\\]")


def printable(text: str) -> str:
    """`text` with every character that is not printable replaced by its escape; one line whatever it held."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def shown(value: object) -> str:
    """`value` as it stands after ``key=``: bare where nothing can be misread, else quoted with escapes.

    Bytes are read as latin-1, as everywhere in HTTP (RFC 9110 section 5.5).
    """
    if isinstance(value, bytes | bytearray):
        value = value.decode("latin-1")
    if isinstance(value, str):
        bare = value and value.isprintable() and not _NEEDS_QUOTES.search(value)
        return value if bare else repr(value)
    return printable(repr(value))


def wants_colours(stream: TextIO) -> bool:
    """True for a terminal, unless NO_COLOR is set (no-color.org).

    Never on Windows: structlog colours there through colorama, which replaces sys.stdout for the whole process.
    """
    return sys.platform != "win32" and not os.environ.get("NO_COLOR") and stream.isatty()


class Lines:
    """Puts whole lines on a text stream that others in the process write to as well.

    structlog keeps one lock for each stream that its `WriteLogger`s share. Everything of ours that writes to stdout
    goes through one of these, so lines of different origin never meet in the middle, and each call is flushed.
    """

    __slots__ = ("_encoding", "_writer")

    def __init__(self, stream: TextIO) -> None:
        self._writer = structlog.WriteLogger(stream)
        self._encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> None:
        """Write `text` (one line or several, without the last line feed) and flush.

        What the stream's encoding lacks is written as an escape. Raises OSError or, on a closed stream, ValueError.
        """
        if not text.isascii():
            text = text.encode(self._encoding, "backslashreplace").decode(self._encoding)
        self._writer.msg(text)
