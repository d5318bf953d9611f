"""Reading the error pages that a configuration names."""

from __future__ import annotations

import json
from pathlib import Path

from iocproxy.config import Errors
from iocproxy.config.shapes import PAGE_SUFFIXES
from iocproxy.errors import Fault
from iocproxy.exchange.pages import JSON, Page

#: Octets a page may have: it is kept in memory, and sent to whoever provokes the error.
MAX_PAGE = 64 * 1024

_TYPES = dict(zip(PAGE_SUFFIXES, (b"text/html; charset=utf-8", JSON, b"text/plain; charset=utf-8"), strict=True))


def load_pages(errors: Errors, path: str, faults: list[Fault]) -> dict[str, Page]:
    """The pages of one table, whose key path is `path`. What cannot be used is appended to `faults`. Reads files."""
    pages = {}
    for status, file in errors.pages.items():
        page = _load(file, f"{path}.pages.{status}", faults)
        if page is not None:
            pages[status] = page
    return pages


def _load(file: Path, path: str, faults: list[Fault]) -> Page | None:
    found, allowed = "", ""
    try:
        with file.open("rb") as opened:
            body = opened.read(MAX_PAGE + 1)
    except OSError as error:
        found, allowed = f"{file} cannot be read ({error.strerror or error})", "a readable file"
    else:
        content_type = _TYPES[file.suffix]
        if len(body) > MAX_PAGE:
            found, allowed = f"{file} is too large", "at most 64KiB"
        elif not _is_utf8(body):
            found, allowed = f"{file} is not UTF-8", "a file saved as UTF-8"
        elif content_type == JSON and not _is_json(body):
            found, allowed = f"{file} is not JSON", "JSON, or another suffix"
        else:
            return Page(content_type, body)
    faults.append(Fault(path, found, allowed))
    return None


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True
