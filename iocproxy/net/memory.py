"""Keeping the read buffers of asyncio's transports out of mmap.

The selector transport receives into a fresh 256 KiB buffer for every read. glibc takes a block of that size from the
kernel by mmap and gives it back by munmap, page faults included: 25 to 30 µs for each read, more than everything else
that a small request costs. The threshold adapts itself (mallopt(3), M_MMAP_THRESHOLD): freeing one mapped block raises
it to that block's size, and from then on such buffers come from the heap. So one block of 1 MiB is made and dropped.

Elsewhere (Windows, macOS, musl) this costs one allocation and changes nothing.
"""

from __future__ import annotations

#: Larger than any buffer that asyncio reads into, and below glibc's upper bound for the threshold (32 MiB).
_BLOCK = 1024 * 1024


def keep_buffers_on_the_heap() -> None:
    """Call once before serving; calling again is harmless."""
    bytes(_BLOCK)
