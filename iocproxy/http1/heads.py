"""Cutting a head out of the byte stream, within limits.

The head ends at the first CRLF CRLF. llhttp refuses bare CR and bare LF, so a head that passes it cannot have ended
earlier for anybody who reads strictly. The buffer never holds more than `max_head` bytes and one read.
"""

from __future__ import annotations

from typing import NamedTuple


class HeadLimits(NamedTuple):
    """Octets and counts that a head may not exceed; the same limits hold in both directions."""

    max_request_line: int = 8 * 1024
    max_head: int = 32 * 1024
    max_fields: int = 100


class HeadTooLarge(Exception):  # noqa: N818 - told to the caller, who turns it into a ProxyError of its side
    """More than `max_head` octets without an empty line, or nothing but empty lines; the argument says which."""


class BareLineFeed(Exception):  # noqa: N818 - as above
    """An LF without its CR in an incomplete head: some would take it for the end of a line (RFC 9112 section 2.2)."""


#: How many empty lines may precede a request. RFC 9112 section 2.2 asks for one; a stream of them is an attack.
MAX_EMPTY_LINES = 4


_CR = 0x0D

BARE_LINE_FEED = "a bare LF in the head"


def has_bare_line_feed(head: bytes) -> bool:
    return head.count(b"\n") != head.count(b"\r\n")


class HeadBuffer:
    """Collects bytes until a head is complete.

    `take(data)` returns ``(head, rest)``: the head with its final empty line, and what follows it, which may be
    empty; or None while the head is incomplete, when everything given so far is kept. Raises `HeadTooLarge`, and
    `BareLineFeed` for a head that, as it looks, would never be complete.
    Up to `empty_lines` of them before a head are dropped.
    """

    __slots__ = ("_empty_lines", "_kept", "_max_head", "_searched", "_skipped")

    def __init__(self, limits: HeadLimits, *, empty_lines: int = 0) -> None:
        self._max_head = limits.max_head
        self._empty_lines = empty_lines
        self._skipped = 0
        self._kept = b""
        self._searched = 0

    def take(self, data: bytes) -> tuple[bytes, bytes] | None:
        if self._kept:
            data = self._kept + data
        if self._empty_lines and data.startswith(b"\r"):
            data = self._skip(data)
        # The terminator may straddle two reads: begin three octets before what is new.
        end = data.find(b"\r\n\r\n", self._searched)
        if 0 <= end <= self._max_head - 4:
            self._kept = b""
            self._searched = 0
            self._skipped = 0
            end += 4
            return data[:end], data[end:]
        if end >= 0 or len(data) > self._max_head:
            self._kept = data[: self._max_head]
            if has_bare_line_feed(self._kept):
                raise BareLineFeed(BARE_LINE_FEED)
            raise HeadTooLarge(f"a head of more than {self._max_head} octets")
        self._kept = data
        at = data.find(b"\n", self._searched)
        while at >= 0:
            if at == 0 or data[at - 1] != _CR:
                raise BareLineFeed(BARE_LINE_FEED)
            at = data.find(b"\n", at + 1)
        self._searched = max(0, len(data) - 3)
        return None

    def _skip(self, data: bytes) -> bytes:
        while data.startswith(b"\r\n"):
            self._skipped += 1
            if self._skipped > self._empty_lines:
                raise HeadTooLarge("too many empty lines before a request")
            data = data[2:]
        self._searched = 0
        return data

    @property
    def kept(self) -> bytes:
        """What has arrived of an incomplete head."""
        return self._kept

    def __repr__(self) -> str:
        return f"<HeadBuffer {len(self._kept)}/{self._max_head}>"
