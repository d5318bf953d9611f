"""Where the configuration that is being read right now comes from.

Models are made by calling them, with no room for a second argument; so whoever reads a file says so here for the
time of the call. Outside of that, paths count from the current directory and faults have no place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from iocproxy.config.lines import Lines


@dataclass(frozen=True, slots=True)
class Source:
    """A text with its name, None when it has none, and the directory its relative paths count from."""

    file: str | None
    base: Path
    lines: Lines


_SOURCE: ContextVar[Source | None] = ContextVar("iocproxy_config_source", default=None)


def current() -> Source | None:
    return _SOURCE.get()


def base_directory() -> Path:
    source = _SOURCE.get()
    return Path.cwd() if source is None else source.base


@contextmanager
def reading(source: Source) -> Iterator[None]:
    token = _SOURCE.set(source)
    try:
        yield
    finally:
        _SOURCE.reset(token)
