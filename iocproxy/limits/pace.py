"""How long to pause so that a stream of octets keeps to a rate, however large the pieces are that it comes in.

Every octet costs 1/rate seconds of the time in which it may pass. What has passed is paid for up to a moment, `_paid`:
as long as that lies in the past the stream flows, and when it lies ahead there is a debt, and the stream is to pause
until then. Nothing can be taken back: the piece that makes the debt passes whole, so the debt is at most one piece.

Time that goes by unused is kept, but not for longer than the burst. It is a quarter of a second, so that whoever waits
by a clock that ticks every 0.1 s loses nothing; where that would be less than 16 KiB it is the time of 16 KiB, so that
a head and a small body pass at once.

So an interval of t seconds sees at most t times the rate, the burst, and the one piece that makes the debt.

A debt is in seconds, not in octets: when the rate changes, what has passed stays paid for at the rate it passed at, and
nobody gets rid of a debt, or of a burst that was used, by going back and forth between two rates.
"""

from __future__ import annotations

from math import inf

#: The burst: so many seconds of the rate, or so many octets, whichever is more.
BURST_SECONDS = 0.25
BURST_OCTETS = 16 * 1024


class Pace:
    """One direction of one connection. `rate` is in octets a second, 0 for no bound; it changes by `change`."""

    __slots__ = ("_burst", "_paid", "rate")

    def __init__(self, rate: int) -> None:
        """Raises ValueError for a rate below 0."""
        self._paid = -inf
        self.change(rate)

    def change(self, rate: int) -> None:
        """From now on `rate` holds. Raises ValueError for one below 0."""
        if rate < 0:
            raise ValueError(f"a rate is at least 0, not {rate}")
        self.rate = rate
        self._burst = max(BURST_SECONDS, BURST_OCTETS / rate) if rate else 0.0  # in seconds

    def took(self, octets: int, now: float) -> float:
        """Note that `octets` passed at `now`. Returns for how many seconds to pause, 0.0 for not at all.

        Who takes more before that time is over is told the whole debt again.
        """
        if not self.rate:
            return 0.0
        self._paid = paid = max(self._paid, now - self._burst) + octets / self.rate
        return max(0.0, paid - now)

    def __repr__(self) -> str:
        return f"<Pace {f'{self.rate} octets/s' if self.rate else 'unbounded'}>"
