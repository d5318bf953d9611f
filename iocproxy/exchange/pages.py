"""The operator's own pages for errors that the proxy answers with. They go out as they are, with nothing put in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

JSON = b"application/json"


class Page(NamedTuple):
    content_type: bytes
    body: bytes


class ErrorPages:
    """Finds the page for a status. Immutable.

    Each table holds pages under ``404`` or ``4xx``, as text. An earlier table goes before a later one, and in each the
    exact status before its class.
    """

    __slots__ = ("_tables",)

    def __init__(self, *tables: Mapping[str, Page]) -> None:
        self._tables = tuple(dict(table) for table in tables if table)

    def find(self, status: int, *, as_json: bool) -> Page | None:
        """The page for a client, None where the built-in one is to be given.

        With `as_json` only JSON will do: a program that asked for it cannot read a page for people. The other way round
        whatever there is will do, because the operator of an interface may give JSON to everybody.
        """
        for table in self._tables:
            for key in (str(status), f"{status // 100}xx"):
                page = table.get(key)
                if page is not None and (not as_json or page.content_type == JSON):
                    return page
        return None


NO_PAGES = ErrorPages()
