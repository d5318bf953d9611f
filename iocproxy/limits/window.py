"""A sliding window per client that never admits too much, in one packed integer per client.

Theory of operation
-------------------
The promise: for every t, the half-open interval [t, t + window) holds at most `limit` admitted units of one client.
So a unit counts against its client for exactly `window` seconds, and at the very moment they are over it no longer
does. The weighted two-bucket counter cannot keep this promise; docs/design/limits.md works an example.

A log of times keeps it, but needs a time per unit. Here one time stands for a *batch* of units: that of the last
one. Batches are filled one after another, `batch` units each, and only the newest may be partly filled. The whole
batch counts until its last unit leaves the window, so nothing is ever forgotten too soon, and at any moment only the
oldest batch that still counts can hold units that need not: at most `batch - 1` of them. With

    batch = ceil(limit / 16)        slots = ceil(limit / batch) <= 16

a client is refused early by at most batch - 1 < limit / 16 units, and up to a limit of 16 (batch = 1) not at all.

When all slots are in use, the newest batch has room for `gate = limit - (slots - 1) * batch` units (1 to batch)
before the limit is reached. One more needs the oldest batch to have left the window. Hence the whole rule:

    going from `gate` to `gate + 1` units in the newest batch needs the oldest time to be expired;
    no other step needs anything.

(If the oldest has expired once, so it stays while the batch fills up; then the times shift by one place, the oldest
falls out, and the next in age is what the next gate asks for.) A check is one comparison, whatever the limit.

A client's state is one int, read from its top:

    epoch | t[slots-1] ... t[1] t[0] | fill

t[0] is the newest batch's time, `fill` its units (1 to batch; no field where batch is 1). Times are whole ticks since
the epoch's base; the epoch makes an old state recognisable before its short times could be mistaken for new ones. An
epoch lasts longer than the window, so a state is of this epoch, or of the last one and moved here by a subtraction
(`_settle`), or expired as a whole. 0 in a time field is a time that has always expired.

Ticks are decimal (1 us or coarser, at most 2.4e-6 of the window), so that clean times and windows fall on
ticks. A unit's time is rounded up to a tick and the time of a check is never rounded up: rounding can delay, never
admit. Two readings of a clock that differ by less than eight units in the last place of a float are one time: without
that, 1000.1 + 10 would not be ten seconds after 1000.1. That, some 1e-12 s, is the only tolerance.

Time never goes back here: an earlier `now` than one seen before is taken for the latest one seen.
"""

from __future__ import annotations

from iocproxy.limits.table import COLD, EXPIRED, HOT, Table

_SLOTS = 16  # the promised 1/16
_STATE_BITS = 384  # for all times of a client; with epoch and fill, 14 digits of 30 bits: an int of 80 bytes
_TIME_BITS = 40
_FINEST = 6  # decimal places of a tick, in seconds
_CROWD = 256

_UP = 1 + 2**-50
_DOWN = 1 - 2**-50
_NEAR = 1 + 2**-52  # nearer than _UP, so that `now` and a wait add up to what _UP lets through
_CEIL = 1 - 2**-30  # int(x * _DOWN + _CEIL) is x rounded up, for x >= 0


class WindowLimit:
    """At most `limit` units per client in any `window` seconds. `now` is in seconds, 0 or more, from any fixed start.

    At most `max_clients` clients are remembered; who is forgotten, and when, is told in table.py. While the table has
    no place for newcomers they are counted together, in 256 groups by a hash of the key: still never more than
    `limit` each, but they share it. A newcomer that gets a place later takes its group's count along.
    """

    __slots__ = (
        "_base",
        "_batch",
        "_crowd",
        "_end",
        "_epoch",
        "_fill_bits",
        "_fill_mask",
        "_first",
        "_floor",
        "_fresh",
        "_gate",
        "_half",
        "_head_mask",
        "_keep_mask",
        "_latest",
        "_masks",
        "_oldest_at",
        "_previous",
        "_ready",
        "_repeat",
        "_scale",
        "_scale_down",
        "_scale_near",
        "_scale_up",
        "_shift",
        "_slots",
        "_stamp",
        "_states",
        "_table",
        "_ticks",
        "_time_bits",
        "_time_mask",
        "admitted",
        "crowded",
        "limit",
        "refused",
        "window",
    )

    def __init__(self, limit: int, window: float, *, max_clients: int = 100_000) -> None:
        """Raises ValueError for a limit or `max_clients` below 1, or a window that is not positive and finite."""
        if limit < 1:
            raise ValueError(f"a limit must be at least 1, not {limit}")
        if not 0 < window < float("inf"):
            raise ValueError(f"a window must be a positive number of seconds, not {window}")
        self.limit = limit
        self.window = window
        self.admitted = 0  #: checks admitted
        self.refused = 0  #: checks refused
        self.crowded = 0  #: checks admitted of newcomers that found no place in the table
        self._table = Table(max_clients)
        self._states = self._table.states
        self._crowd: dict[int, int] = {}

        self._batch = -(-limit // _SLOTS)
        self._slots = -(-limit // self._batch)
        self._gate = limit - (self._slots - 1) * self._batch
        self._half = limit // (2 * self._batch)  # t[_half] in the window: more than half of the limit may be used

        self._fill_bits = 0 if self._batch == 1 else self._batch.bit_length()
        self._time_bits = min(_TIME_BITS, _STATE_BITS // self._slots)
        self._fill_mask = (1 << self._fill_bits) - 1
        self._time_mask = (1 << self._time_bits) - 1
        self._head_mask = (1 << self._fill_bits + self._time_bits) - 1  # t[0] and fill
        self._oldest_at = self._fill_bits + (self._slots - 1) * self._time_bits
        self._masks = [(1 << n * self._time_bits) - 1 for n in range(self._slots + 1)]
        self._repeat = [mask // self._time_mask for mask in self._masks]  # 1 in each of n time fields
        self._keep_mask = self._masks[self._slots - 1]

        places = _FINEST
        while 2 * (window * 10.0**places + 8) > self._time_mask:
            places -= 1
        self._scale = 10.0**places  # ticks per second
        self._scale_up = self._scale * _UP
        self._scale_down = self._scale * _DOWN
        self._scale_near = self._scale * _NEAR
        self._ticks = max(1, int(window * self._scale_down + _CEIL))

        self._latest = 0.0
        self._end = 0.0  # when the epoch ends: the first call begins epoch 1
        self._epoch = 0
        self._base = 0
        self._shift = 0
        self._ready = 0  # a time t of this epoch has expired when t <= now * _scale_up - _ready
        self._floor = 0  # the epoch, as it stands above the oldest time
        self._stamp = 1  # the epoch, as it stands in a state; above 0, the state of a client that was forgiven
        self._previous = 0
        self._fresh = 0  # the state of a client without history: a full batch at time 0
        self._first = 0  # and after its first unit, but for the time of it

    # -- the questions -------------------------------------------------------------------------------------------

    def check(self, key: bytes, now: float, cost: int = 1) -> float:
        """Count `cost` units for the client if its limit allows: all of them, or none.

        0.0: admitted and counted. Otherwise refused and not counted, and the answer is the seconds (> 0) after which
        the same check gets through if nothing else comes in between. Raises ValueError for a cost that is not 1 to
        `limit`, or a `now` that is no time.
        """
        # :: Step 1: time, and the epoch it is in
        if not self._latest <= now < self._end:
            seen = self._see(now)
            wait = self.check(key, seen, cost)
            return wait + (seen - now) if wait else 0.0
        self._latest = now

        # :: Step 2: the usual case, a single unit of a client known in this epoch, without a call
        state = self._states.get(key)
        if state is None:
            return self._check_newcomer(key, now, cost)
        if cost == 1 and state >= self._stamp:
            line = now * self._scale_up - self._ready
            head = state & self._head_mask if self._fill_bits else 1
            fill = head & self._fill_mask or 1
            if fill == self._gate:
                oldest = (state >> self._oldest_at) - self._floor
                if oldest > line:
                    self.refused += 1
                    return self._wait(oldest, now)
                if not self._fill_bits:
                    self._states[key] = (
                        ((state & self._keep_mask) << self._time_bits)
                        + self._stamp
                        + (int(now * self._scale_down + _CEIL) - self._base)
                    )
                    self.admitted += 1
                    return 0.0
            elif fill != self._batch and head >> self._fill_bits > line:
                tick = int(now * self._scale_down + _CEIL) - self._base
                self._states[key] = state + ((tick << self._fill_bits) + fill + 1 - head)
                self.admitted += 1
                return 0.0

        # :: Step 3: everything else
        wait, state = self._advance(self._settle(state), now, cost)
        if wait:
            self.refused += 1
            return wait
        self._states[key] = state
        self.admitted += 1
        return 0.0

    def peek(self, key: bytes, now: float, cost: int = 1) -> float:
        """What `check` would answer; nothing is counted."""
        if cost == 1 and self._latest <= now < self._end:  # the usual case, as in `check`
            state = self._states.get(key)
            if state is not None and state >= self._stamp:
                self._latest = now
                if (state & self._fill_mask or 1) != self._gate:
                    return 0.0
                oldest = (state >> self._oldest_at) - self._floor
                return self._wait(oldest, now) if oldest > now * self._scale_up - self._ready else 0.0
        seen = self._see(now)
        wait = self._advance(self._known(key), seen, cost)[0]
        return wait + (seen - now) if wait else 0.0

    def remaining(self, key: bytes, now: float) -> int:
        """How many units the client could use at once now: the largest cost that `peek` admits, 0 for none."""
        line = self._see(now) * self._scale_up - self._ready
        state = self._known(key)
        live = self._live(state, line)
        if not live:
            return self.limit
        fill = state & self._fill_mask or 1
        return self._gate + (self._slots - live) * self._batch - fill

    def forget(self, key: bytes) -> None:
        """Forgive what the client has used. Its place in the table is reused like that of an expired client."""
        if key in self._states:
            self._states[key] = 0

    def holds(self, key: bytes) -> bool:
        """Whether the client has a place in the table, and so a count of its own."""
        return key in self._states

    def __len__(self) -> int:
        """How many clients have a place in the table."""
        return len(self._table)

    @property
    def evicted(self) -> int:
        """Clients forgotten, for want of room, while something of theirs was still in the window (half at most)."""
        return self._table.evicted

    def __repr__(self) -> str:
        return f"<WindowLimit {self.limit}/{self.window:g}s {len(self)} clients, {self.refused} refused>"

    # -- one state -----------------------------------------------------------------------------------------------

    def _advance(self, state: int, now: float, cost: int) -> tuple[float, int]:
        """(0.0, the state with `cost` more units) or (seconds to wait, the state as it was). Of this epoch only."""
        if not 1 <= cost <= self.limit:
            raise ValueError(f"a cost is 1 to the limit of {self.limit}, not {cost}")
        line = now * self._scale_up - self._ready
        head = state & self._head_mask
        if head >> self._fill_bits <= line:
            # Nothing counts any more. A partly filled batch must not pass its dead units on to the next window.
            state = self._fresh
            head = state & self._head_mask
        fill = state & self._fill_mask or 1
        end = fill + cost

        # :: Step 1: the last gate on the way decides, for it asks for the newest time
        gate = (end - self._gate - 1) // self._batch  # gates lie at _gate, _gate + _batch, ...; this is the last passed
        if gate > 0 or (gate == 0 and fill <= self._gate):
            oldest = (state >> self._oldest_at - gate * self._time_bits) & self._time_mask
            if oldest > line:
                return self._wait(oldest, now), state

        # :: Step 2: the newest batch takes what it has room for, then new ones are begun
        tick = int(now * self._scale_down + _CEIL) - self._base
        if fill < self._batch:
            state += (tick << self._fill_bits) - (head - fill)
        begun = (end - 1) // self._batch
        if not begun:
            return 0.0, state + cost
        times = (state & self._stamp - 1) >> self._fill_bits
        times = (times << begun * self._time_bits | tick * self._repeat[begun]) & self._masks[self._slots]
        fill = end - begun * self._batch if self._fill_bits else 0
        return 0.0, self._stamp | times << self._fill_bits | fill

    def _wait(self, oldest: int, now: float) -> float:
        """Seconds from `now` until a time has expired, in whole ticks: so that a clean wait is a clean number."""
        return (oldest + self._ready - int(now * self._scale_near)) / self._scale

    def _live(self, state: int, line: float) -> int:
        """How many times of a state lie beyond `line`. Times fall from t[0] on, so the first that many."""
        low, high = 0, self._slots
        while low < high:
            middle = (low + high) // 2
            if (state >> self._fill_bits + middle * self._time_bits) & self._time_mask > line:
                low = middle + 1
            else:
                high = middle
        return low

    def _settle(self, state: int) -> int:
        """The state as it reads in this epoch."""
        if state >= self._stamp:
            return state
        if state < self._previous:
            return self._fresh
        live = self._live(state, self._shift)
        if not live:
            return self._fresh
        times = (state >> self._fill_bits & self._masks[live]) - self._shift * self._repeat[live]
        return self._stamp | times << self._fill_bits | state & self._fill_mask

    def _grade(self, state: int) -> int:
        """What the table may do with it now (see table.py)."""
        if state < self._stamp:
            state = self._settle(state)
        line = self._latest * self._scale_up - self._ready
        if (state & self._head_mask) >> self._fill_bits <= line:
            return EXPIRED
        middle = (state >> self._fill_bits + self._half * self._time_bits) & self._time_mask
        return COLD if middle <= line else HOT

    # -- newcomers -----------------------------------------------------------------------------------------------

    def _check_newcomer(self, key: bytes, now: float, cost: int) -> float:
        if cost == 1 and not self._crowd:  # nothing can stand against it: no need to ask
            state = self._first + (int(now * self._scale_down + _CEIL) - self._base << self._fill_bits)
        else:
            wait, state = self._advance(self._known(key), now, cost)
            if wait:
                self.refused += 1
                return wait
        self.admitted += 1
        if not self._table.add(key, state, self._grade):
            self._crowd[hash(key) % _CROWD] = state
            self.crowded += 1
        return 0.0

    def _known(self, key: bytes) -> int:
        """The state that counts for a key: its own, else that of its group among the newcomers without a place."""
        state = self._states.get(key)
        if state is None:
            state = self._crowd.get(hash(key) % _CROWD, 0)
        return self._settle(state)

    # -- time ----------------------------------------------------------------------------------------------------

    def _see(self, now: float) -> float:
        """Take note of the time; the answer is what counts as now. Raises ValueError for what is no time."""
        if not now * self._scale < 2.0**53:
            raise ValueError(f"not a time in seconds: {now}")
        now = max(now, self._latest)
        self._latest = now
        if now >= self._end:
            self._begin_epoch(now)
        return now

    def _begin_epoch(self, now: float) -> None:
        """A new base, one window back: what still counts has a time above 0, and 0 has expired."""
        base = int(now * self._scale_up) - self._ticks
        self._shift = base - self._base
        self._base = base
        self._end = (base + self._time_mask - 1) / self._scale
        self._ready = base + self._ticks
        self._epoch += 1
        self._floor = self._epoch << self._time_bits
        self._previous = self._stamp
        self._stamp = self._floor << self._oldest_at
        self._fresh = self._stamp | (self._batch if self._fill_bits else 0)
        self._first = self._stamp | (1 if self._fill_bits else 0)
