"""A client connection that keeps to a bandwidth. Where none is configured anywhere, nobody has one of these.

Theory of operation
-------------------
Each direction has a `Pace` (limits/pace.py), which is told of every read and every write and says when there was too
much. Then whoever sends is not read from for a while, and nothing else happens: nothing is kept back, and nobody waits.

* **receive**: reading from the client pauses. This is one more reason (`PACED`) in `_pauses` beside those that a
  `ClientConnection` has, and undoing one leaves the others standing.
* **send**: the upstream is held, as by a client that does not read. `blocked` says so to the exchange and keeps the
  next request from beginning, so that small responses, which come in one read, are paced as well. It has two
  reasons, `_full` (the client does not read) and `_throttled` (this one), and is undone when both are gone.

What is counted is what the connection reads and writes: heads, framing and bodies, and inside TLS, not around it.
A read is counted when it has been processed, so that a body that came with its head counts for its route.

Time in which we do not read is not held against the client. A body's deadline knows of pauses (`_unpause`). Between
requests and within a head there is no deadline during a pause, and a whole one after it: a client that gets another
one has sent on at the full rate meanwhile, and heads are short. A tunnel that is paused is not idle.

A rate is the connection's own until the route of a request is known, then the route's until the request is over. Who
is exempt is asked for each request, by its real address.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from iocproxy.client.connection import PACED, ClientConnection, State
from iocproxy.http1.request import RequestHead
from iocproxy.limits import NetworkSet, Pace
from iocproxy.link import Timer
from iocproxy.message import Client
from iocproxy.routing import Rules
from iocproxy.telemetry.counters import Counters

_HEAD, _BODY, _TUNNEL, _LINGER, _CLOSED = State.HEAD, State.BODY, State.TUNNEL, State.LINGER, State.CLOSED


class Pacing(NamedTuple):
    """What the paced connections of a proxy share."""

    exempt: NetworkSet  #: networks that no bandwidth holds for
    counters: Counters


class PacedConnection(ClientConnection):
    """As `ClientConnection`; the bandwidth is that of its `rules`."""

    __slots__ = (
        "_make_timer",
        "_pacing",
        "_receive_timer",
        "_receiving",
        "_send_timer",
        "_sending",
        "_throttled",
        "_usual",
    )

    def __init__(
        self,
        client: Client,
        *others: Any,
        pacing: Pacing,
        rules: Rules,
        timer: Callable[[Callable[[], None]], Timer],
        **settings: Any,
    ) -> None:
        super().__init__(client, *others, rules=rules, timer=timer, **settings)
        self._pacing = pacing
        self._make_timer = timer
        #: what holds while no route is known: (receive, send)
        self._usual = (0, 0) if client.address in pacing.exempt else (rules.receive, rules.send)
        self._receiving, self._sending = Pace(self._usual[0]), Pace(self._usual[1])
        self._throttled = False  # the upstream is held for the bandwidth
        self._receive_timer: Timer | None = None  # made when first needed
        self._send_timer: Timer | None = None

    # ── what passes ──────────────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._state is not _CLOSED:
            self.write = self._write_paced

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        wait = self._receiving.took(len(data), self._loop.time())
        if wait and self._state is not _LINGER and self._state is not _CLOSED:
            self._pause_receiving(wait)

    def _write_paced(self, data: bytes) -> None:
        assert self._link is not None
        self._link.write(data)
        wait = self._sending.took(len(data), self._loop.time())
        if wait and self._state is not _LINGER and self._state is not _CLOSED:
            self._pause_sending(wait)

    # ── pausing ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _pause_receiving(self, wait: float) -> None:
        timer = self._receive_timer
        if timer is None:
            timer = self._receive_timer = self._make_timer(self._receive_on)
        timer.arm(wait)
        if not self._pauses & PACED:
            self._pacing.counters.paced += 1
            self._pause(PACED)
            self._arm_waiting()

    def _receive_on(self) -> None:
        self._unpause(PACED)
        self._arm_waiting()

    def _pause_sending(self, wait: float) -> None:
        timer = self._send_timer
        if timer is None:
            timer = self._send_timer = self._make_timer(self._send_on)
        timer.arm(wait)
        if not self._throttled:
            self._pacing.counters.paced += 1
            self._throttled = True
            if not self.blocked:
                self.blocked = True
                if self._exchange is not None:
                    self._exchange.client_blocked()

    def _send_on(self) -> None:
        self._throttled = False
        if self._full or self._state is _LINGER or self._state is _CLOSED:
            return
        self._arm_waiting()
        self._writable()

    def _end_pacing(self) -> None:
        """Nothing that passes now is worth waiting for."""
        if self._throttled:
            self._throttled = False
            self.blocked = self._full
        self._unpause(PACED)
        for timer in (self._receive_timer, self._send_timer):
            if timer is not None:
                timer.cancel()

    # ── what else happens to the connection ──────────────────────────────────────────────────────────────────────

    def resume_writing(self) -> None:
        if self._throttled:
            self._full = False
            self._arm()
            self._arm_waiting()
        else:
            super().resume_writing()

    def exchange_over(self, *, keep_alive: bool) -> None:
        self._change(*self._usual)
        super().exchange_over(keep_alive=keep_alive)
        if self._throttled or self._pauses & PACED:
            self._arm_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._receive_timer, self._send_timer):
            if timer is not None:
                timer.drop()
        self._receive_timer = self._send_timer = None
        super().connection_lost(exc)

    def _begin(self, head: RequestHead, rest: bytes) -> None:
        exempt, forwarding = self._pacing.exempt, self.forwarding
        address = forwarding.real_address(head) if forwarding.trusted else self.client.address
        free = address in exempt
        super()._begin(head, rest)
        if self._exchange is not None:
            rules = self.rules
            self._change(*((0, 0) if free else (rules.receive, rules.send)))
        if self._state is _BODY and self._pauses & PACED:
            self._paused_at = self._loop.time()  # the pause is older than the body

    def _incomplete_head(self) -> None:
        super()._incomplete_head()
        if self._throttled or self._pauses & PACED:  # what was read ahead is looked at during a pause
            self._arm_waiting()

    def _change(self, receive: int, send: int) -> None:
        if receive != self._receiving.rate:
            self._receiving.change(receive)
        if send != self._sending.rate:
            self._sending.change(send)

    def _arm_waiting(self) -> None:
        """The deadline where the next word is the client's, or anybody's: between requests and within a head there is
        none during a pause; that of a tunnel begins anew."""
        if self._full:  # `response_write` runs
            return
        timeouts = self.rules.timeouts
        if self._state is _TUNNEL:
            self.timer.arm(timeouts.tunnel_idle)
        elif self._state is _HEAD:
            if self._throttled or self._pauses & PACED:
                self.timer.cancel()
            else:
                self.timer.arm(timeouts.request_header if self._heads.kept else self._keep_alive)

    def _expired(self) -> None:
        if self._state is _TUNNEL and not self._full and (self._throttled or self._pauses & PACED):
            self.timer.arm(self.rules.timeouts.tunnel_idle)
        else:
            super()._expired()

    def _linger(self, *, complete: bool) -> None:
        self._end_pacing()
        super()._linger(complete=complete)
