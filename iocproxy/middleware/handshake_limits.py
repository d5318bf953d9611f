"""The limit on failed handshakes: who lets one fail too often is refused at the door of every TLS listener for a while.

A handshake costs the proxy a hundred times what it costs a client to break it off. What is counted is what failed, and
nothing else; the refusal itself comes at accept and costs no more than any other there.
"""

from __future__ import annotations

from collections.abc import Callable

from iocproxy.clock import Clock
from iocproxy.limits import NetworkSet, Windows
from iocproxy.message import Client


class HandshakeLimits:
    """Refuses a client whose window is full of failures, until the oldest of them has left it.

    `refused` is told the client; with `dry_run` that is all that happens.
    """

    __slots__ = ("_clock", "_dry_run", "_exempt", "_refused", "_windows")

    def __init__(
        self,
        windows: Windows,
        exempt: NetworkSet,
        clock: Clock,
        *,
        dry_run: bool,
        refused: Callable[[Client], None],
    ) -> None:
        self._windows = windows
        self._exempt = exempt
        self._clock = clock
        self._dry_run = dry_run
        self._refused = refused

    def refuses(self, client: Client) -> bool:
        """Whether the client is to be refused; counts nothing."""
        if not len(self._windows) or not self._windows.peek(client.key, self._clock()):
            return False
        if client.address in self._exempt:  # others of its network are to blame
            return False
        self._refused(client)
        return not self._dry_run

    def failed(self, client: Client) -> None:
        """A handshake of the client has failed. Beyond the limit there is nothing left to count."""
        if client.address not in self._exempt:
            self._windows.note(client.key, self._clock())
