"""What a protocol writes to: the part of `asyncio.Transport` that iocproxy relies on, and nothing more.

A client or upstream connection is a plain `asyncio.Protocol`. What it gets in `connection_made` is a `Link`: the
event loop's own transport on a plain connection (no wrapper, no extra call), or the TLS layer, which is a protocol
towards the socket and a `Link` towards the connection above it.
"""

from __future__ import annotations

from typing import Any, Protocol


class Link(Protocol):
    """A byte stream in both directions with flow control; the methods mean what they mean on `asyncio.Transport`.

    A protocol above a `Link` may rely on more than asyncio promises: `data_received` always brings `bytes`,
    `eof_received` is called at most once, and pausing and resuming reading within one loop iteration is safe on
    every event loop.
    """

    def write(self, data: bytes) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def get_write_buffer_size(self) -> int: ...
    def get_extra_info(self, name: str, default: Any = None) -> Any: ...
    def can_write_eof(self) -> bool: ...
    def write_eof(self) -> None: ...
    def is_closing(self) -> bool: ...

    def close(self) -> None:
        """Write out what is buffered, then close. May never finish towards a peer that does not read."""
        ...

    def abort(self) -> None:
        """Close at once; what is buffered is lost."""
        ...


class Timer(Protocol):
    """One deadline that can be moved. Whoever makes it says what happens when it passes."""

    @property
    def when(self) -> float:
        """The loop time at which it expires, `inf` when it is not armed."""
        ...

    def arm(self, seconds: float) -> None:
        """Expire `seconds` from now; replaces an earlier deadline."""
        ...

    def cancel(self) -> None: ...

    def drop(self) -> None:
        """Cancel for good, and let go of whoever is called: it need not be armed again, and calls nobody if it is."""
        ...
