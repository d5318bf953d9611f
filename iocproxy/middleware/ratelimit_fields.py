"""RateLimit and RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers): what a client may do, and what is left of it.

Each window of a limit is a policy of its own, ``"requests";q=300;w=10``, and ``"requests";r=42;t=3`` is what a client
has left of it: 42 units, and more in 3 seconds. `t` is left out where nothing is used. Seconds are whole, rounded up:
who goes by them is on the safe side. A policy's name is the limit's; where a limit has several windows their length
stands behind it, ``"requests-10s"``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil

from iocproxy.config.limit_values import Rates
from iocproxy.config.values import show_duration
from iocproxy.message import Fields
from iocproxy.middleware.rate_storage import Left


class Policies:
    """The windows of one limit, as clients are told of them."""

    __slots__ = ("_lengths", "_names", "text")

    def __init__(self, name: str, rates: Rates) -> None:
        self._names = [quoted(policy) for policy in policy_names(name, rates)]
        self._lengths = [ceil(rate.window) for rate in rates]
        #: their members of RateLimit-Policy
        self.text = ", ".join(
            f"{policy};q={rate.limit};w={length}"
            for policy, rate, length in zip(self._names, rates, self._lengths, strict=True)
        )

    def left(self, windows: Sequence[Left]) -> str:
        """Their members of RateLimit.

        What was used just now counts for a window and the tick it is rounded up to; a client is told of the window."""
        return ", ".join(
            f"{policy};r={units};t={min(ceil(more_in), length)}" if more_in else f"{policy};r={units}"
            for policy, (units, more_in), length in zip(self._names, windows, self._lengths, strict=True)
        )


def policy_names(name: str, rates: Rates) -> list[str]:
    """What the windows of a limit are called, before quoting."""
    return [name] if len(rates) == 1 else [f"{name}-{show_duration(rate.window)}" for rate in rates]


def quoted(text: str) -> str:
    """A String of RFC 8941 section 3.3.3; `text` is printable ASCII."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def ratelimit_fields(told: Iterable[tuple[Policies, Sequence[Left]]]) -> list[tuple[str, str]]:
    """Both fields, for all limits that a client is to be told of; none where there are none."""
    told = list(told)
    if not told:
        return []
    return [
        ("RateLimit-Policy", ", ".join(policies.text for policies, _ in told)),
        ("RateLimit", ", ".join(policies.left(left) for policies, left in told)),
    ]


def add_to_response(fields: Fields, ours: Iterable[tuple[str, str]]) -> None:
    """Put the proxy's fields behind those of an upstream that limits its clients too: both limits hold, and the fields
    are lists. What an upstream sends in another syntax, such as an older draft's, is dropped: with it the whole list
    could not be read (RFC 8941 section 4.2)."""
    fields[:] = [
        (name, value)
        for name, value in fields
        if name.lower() not in {b"ratelimit", b"ratelimit-policy"} or value.startswith(b'"')
    ]
    fields.extend((name.encode("ascii"), value.encode("ascii")) for name, value in ours)
