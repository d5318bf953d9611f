"""What became of TLS sessions at one listener, as plain integers.

OpenSSL counts too (`ssl.SSLContext.session_stats`), but for each context and for as long as it lives: a renewed
certificate has a new one, which begins at nought. And it does not count tickets that it cannot read as misses. So what
can be seen from outside is counted here, and what only OpenSSL knows is added up over the contexts that were.
"""

from __future__ import annotations

from collections.abc import Mapping

from iocproxy.message import TlsInfo


class SessionCounters:
    """Counts since start, never reset; what `Proxy.stats()` says of a listener with TLS."""

    __slots__ = ("_retired", "full", "missed", "resumed")

    def __init__(self) -> None:
        self.full = 0  #: full handshakes
        self.resumed = 0  #: handshakes that took up an earlier session
        self.missed = 0  #: full handshakes of clients that would have taken one up
        self._retired: dict[str, int] = {}

    def handshake(self, tls: TlsInfo) -> None:
        """One was completed."""
        if tls.resumed:
            self.resumed += 1
        else:
            self.full += 1
            self.missed += tls.offered

    def retire(self, stats: Mapping[str, int]) -> None:
        """Keep the counts of contexts that nobody will ask any more: their `session_stats`, added up."""
        for name in _OPENSSL.values():
            self._retired[name] = self._retired.get(name, 0) + stats.get(name, 0)

    def snapshot(self, stats: Mapping[str, int]) -> dict[str, int]:
        """The present values, by name; `stats` is the sum of `session_stats` of the contexts in use."""
        counted = {name: self._retired.get(key, 0) + stats.get(key, 0) for name, key in _OPENSSL.items()}
        return {
            "handshakes_full": self.full,
            "handshakes_resumed": self.resumed,
            "sessions_missed": self.missed,
            **counted,
            "sessions_cached": stats.get("number", 0),  # what was cached elsewhere is gone
        }

    def __repr__(self) -> str:
        return f"<SessionCounters full={self.full} resumed={self.resumed} missed={self.missed}>"


#: Our names for what OpenSSL alone can count, and its own.
_OPENSSL = {"sessions_expired": "timeouts", "sessions_pushed_out": "cache_full"}
