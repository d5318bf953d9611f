"""Which kind of event loop this is."""

from __future__ import annotations

import asyncio
import sys


def is_proactor(loop: asyncio.AbstractEventLoop) -> bool:
    """True for Windows' ProactorEventLoop (I/O completion ports), which has no `add_reader`."""
    return sys.platform == "win32" and isinstance(loop, asyncio.ProactorEventLoop)
