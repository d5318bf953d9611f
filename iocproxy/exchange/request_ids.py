"""X-Request-ID: one name for a request in the logs of everybody it passes.

It is made here, or kept from a client who may choose it. What is kept goes into logs and other people's programs, so it
is a token of bounded length and nothing else; anything longer or stranger is replaced, never repaired.
"""

from __future__ import annotations

import os
import re

#: The field's name in lower case.
NAME = b"x-request-id"

#: Octets an id that somebody else chose may have.
MAX_LENGTH = 128

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}")  # RFC 9110 section 5.6.2

_BATCH = 256  # ids made at a time: asking the system for each costs more than the rest of it


def is_request_id(value: bytes) -> bool:
    """True for a token of at most 128 octets."""
    return _TOKEN.fullmatch(value) is not None


class RequestIds:
    """Gives each request its id: 32 hexadecimal digits from the system's random numbers, unless one is kept.

    A trusted proxy's is kept, and with `keep` everybody's.
    """

    __slots__ = ("_keep", "_made")

    def __init__(self, *, keep: bool) -> None:
        self._keep = keep
        self._made: list[str] = []

    def choose(self, said: bytes | None, *, trusted: bool) -> str:
        """The id for a request whose client said `said`, None when it said nothing."""
        if said is not None and (trusted or self._keep) and is_request_id(said):
            return said.decode("ascii")
        made = self._made
        if not made:
            digits = os.urandom(16 * _BATCH).hex()
            made.extend(digits[at : at + 32] for at in range(0, len(digits), 32))
        return made.pop()
