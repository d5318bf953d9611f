"""A request as the demo's origin sees it, and what it answers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from iocproxy.message import Fields, Headers


@dataclass(slots=True)
class Request:
    """One request, head and body read; of the body only the size is kept."""

    method: str = ""
    target: str = ""
    fields: Fields = field(default_factory=list)
    body_size: int = 0

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def headers(self) -> Headers:
        return Headers(self.fields)


@dataclass(frozen=True, slots=True)
class Answer:
    """`pieces` together are `length` bytes; `delay` is how many seconds to wait before the first."""

    status: int
    content_type: str
    length: int
    pieces: Iterable[bytes]
    fields: tuple[tuple[str, str], ...] = ()
    delay: float = 0.0
