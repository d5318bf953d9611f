"""Which handshakes leave the loop for the executor. docs/design/tls-pipeline.md has the figures behind it.

The step of a handshake that signs takes from 0.2 ms (P-256) to 4 ms (RSA-4096), in which the loop serves nobody.
Handing it to a thread and back costs 50 µs where the thread has to be woken, and next to nothing where it works anyway.
So under "auto" the loop takes what comes singly, and hands over what would make those who wait for the loop wait for
more than `PER_TURN` of it in one turn: the threads run on other processors if there are any, and if not, the system
lets the loop have its share. What takes longer than that is always handed over.
"""

from __future__ import annotations

import asyncio
from math import inf

#: How much of it the loop takes in one turn, in microseconds.
PER_TURN = 900

#: The step that signs, in microseconds: OpenSSL 3.0 on x86-64, where P-384 has no code of its own.
_STEP = {
    "ecdsa-secp256r1": 200,
    "ed25519": 200,
    "ed448": 350,
    "ecdsa-secp521r1": 400,
    "ecdsa-secp384r1": 700,
    "rsa-1024": 300,
    "rsa-2048": 450,
}


#: The step that looks at a client's certificate, in microseconds: two or three signatures, and keys to be read.
_VERIFY = 700


def verify_cost(policy: str = "auto") -> float:
    """As `step_cost`, of the step that a client's certificate comes with."""
    return _by_policy(_VERIFY, policy)


def step_cost(key_type: str, policy: str = "auto") -> float:
    """What a certificate's handshakes cost the loop, in microseconds; 0 where it takes them all, infinite for none.

    `key_type` is as `Certificate` has it, `policy` "auto", "always" (handed over) or "never".
    """
    return _by_policy(_STEP.get(key_type, inf), policy)


def _by_policy(cost: float, policy: str) -> float:
    if policy == "auto":
        return cost
    return inf if policy == "always" else 0


class Turns:
    """Counts what is spent on handshakes in one turn of one loop."""

    __slots__ = ("_left", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._left: float = PER_TURN

    def take(self, cost: float) -> bool:
        """Whether the loop is to spend `cost` microseconds in this turn; if so they are counted."""
        if cost > self._left:
            return False
        if cost and self._left == PER_TURN:
            self._loop.call_soon(self._next)
        self._left -= cost
        return True

    def _next(self) -> None:
        self._left = PER_TURN
