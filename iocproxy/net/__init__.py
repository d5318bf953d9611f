"""Sockets, accepting, connecting, deadlines: everything that faces asyncio's transports and the operating system.

What asyncio does differently on Windows ends here, so that the protocols above see one behaviour (`iocproxy.link`).
"""

from __future__ import annotations
