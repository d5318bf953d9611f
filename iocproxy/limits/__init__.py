"""Limits per client: sliding windows, connections at once, bandwidth, and the keys and networks they go by.

Pure: nothing here reads a clock, opens a socket, logs or awaits. Time is an argument, in seconds.
"""

from __future__ import annotations

from iocproxy.limits.access import AccessMap, Networks
from iocproxy.limits.concurrency import ConcurrencyLimit, Refused
from iocproxy.limits.denials import Denials
from iocproxy.limits.keys import ClientKeys, NetworkSet
from iocproxy.limits.pace import Pace
from iocproxy.limits.window import WindowLimit
from iocproxy.limits.windows import Windows

__all__ = [
    "AccessMap",
    "ClientKeys",
    "ConcurrencyLimit",
    "Denials",
    "NetworkSet",
    "Networks",
    "Pace",
    "Refused",
    "WindowLimit",
    "Windows",
]
