"""Settings as they were given, mappings and models alike, read without asking whether they are right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from iocproxy.config.values import RefusedError, Server, read_server_url

T = TypeVar("T")


def get(table: Any, key: str, default: Any = None) -> Any:
    """`default` also where `table` is none."""
    if isinstance(table, Mapping):
        return table.get(key, default)
    return getattr(table, key, default) if isinstance(table, BaseModel) else default


def items(table: Any, key: str) -> Iterator[tuple[int, Any]]:
    """The elements of an array below `key`, numbered; none where there is no array."""
    found = get(table, key)
    yield from enumerate(found if isinstance(found, list | tuple) else ())


def attempt(read: Callable[[Any], T], value: Any) -> T | None:
    """None where the value is refused."""
    try:
        return read(value)
    except RefusedError:
        return None


def readable_server(item: Any) -> Server | None:
    """An element of an upstream's `servers`, with weight 1."""
    url = item if isinstance(item, str | Server) else get(item, "url")
    return url._replace(weight=1) if isinstance(url, Server) else attempt(read_server_url, url)
