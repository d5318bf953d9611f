"""Which certificates are to be warned of because their time is nearly over, or over."""

from __future__ import annotations

import datetime
from collections.abc import Iterable

from iocproxy.tls import Certificate

#: How often the same certificate is warned of.
_EVERY = datetime.timedelta(days=1)


class ExpiryWarnings:
    """Those that expire `within` that time; each is named once a day."""

    def __init__(self, within: datetime.timedelta) -> None:
        self._within = within
        self._said: dict[bytes, datetime.datetime] = {}

    def due(self, certificates: Iterable[Certificate], now: datetime.datetime) -> list[Certificate]:
        """The ones to be named at the time `now`. They count as named then."""
        found = []
        # What was named more than a day ago would be named again anyway.
        self._said = {digest: when for digest, when in self._said.items() if abs(now - when) < _EVERY}
        for certificate in certificates:
            if certificate.not_after - now <= self._within and certificate.digest not in self._said:
                self._said[certificate.digest] = now
                found.append(certificate)
        return found

    def __repr__(self) -> str:
        return f"<ExpiryWarnings within={self._within.days} days, said={len(self._said)}>"
