"""The TLS session of one upstream server, kept so that its next connection resumes it.

Theory of operation
-------------------
Reading `SSLObject.session` has a price: CPython leaks the session each time up to 3.13.0, 3.11 for good (its issue
116810; 6.6 KB), and copies it by way of DER, 120 µs (docs/design/tls-pipeline.md). So it is read as seldom as possible:

* Only on a connection whose handshake was a full one, as an earlier session that was resumed can be resumed again.
* Only when there is no session to offer: of a hundred connections opened at once, the first hands in its own.
* Only when data has come: the tickets of TLS 1.3 follow the handshake (RFC 8446 section 4.6.1). By then the handshake
  was verified too.
* A session that ends (expired, refused, or useless from the start) before `WORTH` connections were opened with it
  was a bad bargain, and after each bad bargain in a row nothing is read for longer, up to `LONGEST_PAUSE`. So a server
  that never resumes, or takes each ticket but once, costs eleven readings in its first quarter of an hour and then one
  in ten minutes.

A resumed handshake sends no certificate, so none is verified. That is right only because the session comes out of a
verified handshake with the same server, by the same name and under the same context (which OpenSSL insists on): one
`KeptSession` belongs to one `UpstreamServer`, and must never be shared between two that verify differently.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable

#: So many connections opened with one session make up for having read it.
WORTH = 16

#: After the first bad bargain, in seconds; doubled after each further one in a row.
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 600.0


class KeptSession:
    """`clock` gives seconds that never go back. For each connection: `offer`, then one of `opened` and `drop`, and
    where `opened` said so, `take`."""

    __slots__ = (
        "_clock",
        "_expires",
        "_not_before",
        "_pause",
        "_served",
        "_session",
        "handshakes_full",
        "handshakes_resumed",
    )

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._session: ssl.SSLSession | None = None
        self._expires = 0.0
        self._served = 0  # connections that resumed it
        self._pause = 0.0
        self._not_before = float("-inf")  # when the next may be read
        self.handshakes_full = 0
        self.handshakes_resumed = 0

    def offer(self) -> ssl.SSLSession | None:
        """What a new connection should offer to resume; None for nothing."""
        if self._session is not None and self._clock() >= self._expires:
            self._end()
        return self._session

    def opened(self, offered: ssl.SSLSession | None, *, resumed: bool) -> bool:
        """A handshake has succeeded. True when the connection is to call `take` as soon as it has received data."""
        if resumed:
            self.handshakes_resumed += 1
            if offered is self._session:
                self._served += 1
            return False
        self.handshakes_full += 1
        if offered is not None:
            self.drop(offered)  # refused: its time is over on the other side, or that has new keys
        return self._wanted()

    def take(self, connection: ssl.SSLObject) -> ssl.SSLSession | None:
        """Keep the session of a connection that has received data, unless another was faster; returns what was kept."""
        if not self._wanted():
            return None
        session = connection.session
        lifetime = 0 if session is None else _lifetime(session, connection.version())
        self._served = 0
        if lifetime > 0:
            self._session = session
            self._expires = self._clock() + lifetime
        else:
            self._end()
        return self._session

    def drop(self, offered: ssl.SSLSession) -> None:
        """Offer this one no more: its connection failed, or offered it and did not resume it.

        RFC 5246 section 7.2 wants it where a fatal alert ended the connection. And no session may keep a server from
        being reached, whatever it is that goes wrong with it there.
        """
        if offered is self._session:
            self._end()

    def drop_any(self) -> None:
        """Offer none for now: a connection got no answer in time, for all one knows because of what it offered."""
        if self._session is not None:
            self._end()

    def _wanted(self) -> bool:
        return self._session is None and self._clock() >= self._not_before

    def _end(self) -> None:
        self._session = None
        if self._served >= WORTH:
            self._pause = 0.0
        else:
            self._pause = min(max(FIRST_PAUSE, 2 * self._pause), LONGEST_PAUSE)
            self._not_before = self._clock() + self._pause

    def __repr__(self) -> str:
        kept = "none" if self._session is None else f"served {self._served}"
        return f"<KeptSession {kept} full={self.handshakes_full} resumed={self.handshakes_resumed}>"


def _lifetime(session: ssl.SSLSession, version: str | None) -> float:
    """For how many seconds it can be resumed; 0 for not at all."""
    if session.has_ticket:
        # RFC 8446 section 4.6.1: no more than seven days, and 0 is not at all. RFC 5077 section 3.3: 0 says nothing.
        hint = session.ticket_lifetime_hint
        if hint or version == "TLSv1.3":
            return min(session.timeout, hint, 604_800)
        return session.timeout
    # Without a ticket, TLS 1.3 has nothing to resume by, TLS 1.2 the identifier.
    return session.timeout if session.id and version != "TLSv1.3" else 0
