"""Whether a file has changed, as far as that can be seen without reading it."""

from __future__ import annotations

import time
from pathlib import Path

#: A file's state; equal to that of another time where it need not be read again.
Stamp = tuple[object, ...]

#: How long after it was written a file may be written again without showing it: FAT keeps times to 2 s.
_YOUNG = 3.0


def stamp_of(file: Path) -> Stamp:
    """Follows symbolic links, so that one which was moved shows."""
    try:
        found = file.stat()
    except OSError as error:
        return (error.errno,)
    stamp = (found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev)
    if abs(time.time() - found.st_mtime) < _YOUNG:
        return (*stamp, time.monotonic_ns())
    return stamp
