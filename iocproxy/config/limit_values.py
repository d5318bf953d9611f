"""Reading the values that limits are made of: rates, and what a limit counts by."""

from __future__ import annotations

import re
from itertools import pairwise
from math import ceil
from typing import Any, NamedTuple

from pydantic_core import CoreSchema, core_schema

from iocproxy.config.values import RefusedError, read_duration, read_whole, show_duration

MAX_RATE = 1_000_000
MIN_WINDOW, MAX_WINDOW = 0.05, 86_400.0

#: Windows that one limit may have at a time, and parts that one key may be put together from.
MAX_WINDOWS = 4
MAX_PARTS = 4

_RATE = re.compile(r"([0-9]{1,15})/(.+)")
_NAME = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}"
_KEY_PART = re.compile(
    rf"(?P<plain>address|certificate|everyone|host|method|route)"
    rf"|(?P<named>header|cookie|query):(?P<name>{_NAME})"
    rf"|path:(?P<segment>[1-9][0-9]?)"
)


class Rate(NamedTuple):
    """At most `limit` events in any interval of `window` seconds."""

    limit: int
    window: float

    def __str__(self) -> str:
        return f"{self.limit}/{show_duration(self.window)}"


class _Written:
    """Lets pydantic write a default as the file does."""

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> CoreSchema:
        del source, handler
        return core_schema.any_schema(serialization=core_schema.plain_serializer_function_ser_schema(_show))


class Rates(_Written, tuple[Rate, ...]):
    """The windows of one limit, the shortest first; all of them hold. Empty: no limit."""

    __slots__ = ()

    def __str__(self) -> str:
        return ", ".join(map(str, self))


class KeyPart(NamedTuple):
    """One thing that requests are told apart by. `name` is the field's, cookie's or parameter's, or the number of the
    path's segment; "" for the other kinds."""

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind


class Key(_Written, tuple[KeyPart, ...]):
    """What a limit counts by: the parts together tell clients apart."""

    __slots__ = ()

    def __str__(self) -> str:
        return " + ".join(map(str, self))


def read_rate(value: Any) -> Rate:
    """A `Rate`, from "300/10s": 1 to 1,000,000 events in 50ms to 1d."""
    if isinstance(value, Rate):
        limit, window = read_whole(value.limit), read_duration(value.window)
    elif isinstance(value, str) and (match := _RATE.fullmatch(value)):
        limit, window = int(match[1]), read_duration(match[2])
    else:
        raise RefusedError
    if not 1 <= limit <= MAX_RATE:
        raise RefusedError(f"the count must be 1 to {MAX_RATE}")
    if not MIN_WINDOW <= window <= MAX_WINDOW:
        raise RefusedError("the window must be 50ms to 1d")
    return Rate(limit, window)


def read_rates(value: Any) -> Rates:
    """One rate or several, in any order. A window that could never be the one that refuses is a mistake."""
    if value is None or value is False:
        return Rates()
    if isinstance(value, Rate) or not isinstance(value, list | tuple):
        return Rates((read_rate(value),))
    if not value and not isinstance(value, Rates):
        raise RefusedError("must have at least one rate, or be false")
    if len(value) > MAX_WINDOWS:
        raise RefusedError(f"must have at most {MAX_WINDOWS} rates")
    rates = Rates(sorted(map(read_rate, value), key=lambda rate: rate.window))
    for shorter, longer in pairwise(rates):
        if shorter.window == longer.window:
            raise RefusedError(f"two rates for one window: {shorter} and {longer}")
        if longer.limit <= shorter.limit:
            raise RefusedError(f"{shorter} has no effect beside {longer}")
        if longer.limit >= shorter.limit * ceil(longer.window / shorter.window):
            raise RefusedError(f"{longer} has no effect beside {shorter}")
    return rates


def read_needed_rates(value: Any) -> Rates:
    """As `read_rates`, of a limit that cannot be switched off."""
    rates = read_rates(value)
    if not rates:
        raise RefusedError
    return rates


def show_rates(rates: Rates) -> str | list[str] | bool:
    """As the file holds them."""
    written = [str(rate) for rate in rates]
    return written if len(written) > 1 else written[0] if written else False


def read_key(value: Any) -> Key:
    """The parts of a key, from "address" or ["header:X-Api-Key", "path:1"]."""
    if isinstance(value, str | KeyPart):
        return Key((_read_part(value),))
    if not isinstance(value, list | tuple) or not value:
        raise RefusedError
    if len(value) > MAX_PARTS:
        raise RefusedError(f"must have at most {MAX_PARTS} parts")
    parts = Key(map(_read_part, value))
    if len(set(parts)) < len(parts):
        raise RefusedError("the same part twice")
    if len(parts) > 1 and KeyPart("everyone") in parts:
        raise RefusedError('"everyone" stands alone')
    return parts


def _read_part(value: Any) -> KeyPart:
    match = _KEY_PART.fullmatch(str(value)) if isinstance(value, str | KeyPart) else None
    if match is None:
        raise RefusedError
    if match["plain"]:
        return KeyPart(match["plain"])
    if match["segment"]:
        return KeyPart("path", match["segment"])
    name = match["name"]
    return KeyPart(match["named"], name.lower() if match["named"] == "header" else name)


def show_key(key: Key) -> str | list[str]:
    """As the file holds it."""
    return str(key[0]) if len(key) == 1 else [str(part) for part in key]


def _show(value: Rates | Key) -> str | list[str] | bool:
    return show_rates(value) if isinstance(value, Rates) else show_key(value)


_LIMIT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")

#: What the built-in limits are called in the counters.
BUILT_IN = frozenset({"access", "bandwidth", "connections", "denials", "handshakes", "requests"})


def read_limit_name(value: Any) -> str:
    """The name of a limit of the operator's own; it stands in counters, log lines and RateLimit fields."""
    if not isinstance(value, str) or not _LIMIT_NAME.fullmatch(value):
        raise RefusedError
    if value in BUILT_IN:
        raise RefusedError("a built-in limit has this name")
    return value


_STATUS = re.compile(r"[2345](?:[0-9][0-9]|xx)")


def read_status(value: Any) -> str:
    """A status or a class of them, from 404, "404" or "4xx"."""
    text = str(value) if not isinstance(value, bool) and isinstance(value, int | str) else ""
    if not _STATUS.fullmatch(text):
        raise RefusedError
    return text


def show_status(status: str) -> int | str:
    return int(status) if status.isdigit() else status


_METHOD = re.compile(r"[A-Z][A-Z-]{0,31}")


def read_method(value: Any) -> str:
    """Methods are upper case (RFC 9110 section 9.1 tells cases apart)."""
    if not isinstance(value, str) or not _METHOD.fullmatch(value):
        raise RefusedError
    return value


_PREFIX = re.compile(r"[!-z|~]{1,64}")


def read_prefix(value: Any) -> str:
    """The beginning of keys in Redis; braces would choose the slot of a cluster."""
    if not isinstance(value, str) or not _PREFIX.fullmatch(value):
        raise RefusedError
    return value
