"""The access log as a member of the chain: every record goes to the log's writer thread."""

from __future__ import annotations

from iocproxy.telemetry import AccessLog


class AccessRecords:
    """`on_complete` is the log's own `write`: nothing stands between."""

    __slots__ = ("on_complete",)

    def __init__(self, log: AccessLog) -> None:
        self.on_complete = log.write
