"""From pydantic's errors to ours: the key path as the file spells it, what stands there, what may stand there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, NoReturn

from pydantic import BaseModel, ValidationError

from iocproxy.config import source
from iocproxy.config.describe import field_at, said, section_at
from iocproxy.config.lines import Loc, spell
from iocproxy.config.source import Source
from iocproxy.config.values import show
from iocproxy.errors import ConfigError, Fault


class Problem(NamedTuple):
    """A `Fault` before it is known where its key stands."""

    loc: Loc
    found: str
    allowed: str


def raise_faults(problems: Iterable[Problem]) -> NoReturn:
    """Raise ConfigError with every problem, in the order of the file where there is one."""
    origin = source.current()
    faults = []
    for loc, found, allowed in problems:
        file, line = (origin.file, origin.lines.of(loc)) if origin else (None, None)
        faults.append(Fault(spell(loc), found, allowed, file, line))
    raise ConfigError(in_order(faults)) from None


def in_order(faults: Iterable[Fault]) -> list[Fault]:
    """In the order of the file; what has no line in it stays as it was, behind."""
    return sorted(faults, key=lambda fault: (fault.line is None, fault.line or 0))


def place(fault: Fault, origin: Source | None) -> Fault:
    """`fault`, found after the models were made, with the file and line of its key path."""
    if origin is None:
        return fault
    return replace(fault, file=origin.file, line=origin.lines.of_path(fault.path))


def problems_of(error: ValidationError, root: type[BaseModel], settings: Mapping[str, Any]) -> list[Problem]:
    """One problem for each of pydantic's. `settings` is what was validated against `root`."""
    problems = []
    for item in error.errors(include_url=False):
        loc = _existing(item["loc"], settings)
        kind, found = item["type"], item["input"]
        if kind == "extra_forbidden":
            problems.append(_unknown(loc, section_at(root, loc[:-1])))
        elif kind == "missing":
            problems.append(Problem(loc, "missing", f"must be {said(field_at(root, loc))}"))
        elif kind == "value_error":
            shown = "(not shown)" if loc[-1:] == ("password",) else show(found)
            problems.append(Problem(loc, shown, str(item["ctx"]["error"])))
        else:
            problems.append(Problem(loc, show(found), _EXPECTED.get(kind, item["msg"])))
    return problems


_EXPECTED = dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "must be a table")


def _existing(loc: Loc, settings: Any) -> Loc:
    """`loc` without what validation added: a server given as a plain URL has no key `url` in the file."""
    if loc[-1:] == ("[key]",):  # pydantic's mark for a fault in the name of a table
        return loc[:-1]
    at = settings
    for depth, part in enumerate(loc):
        if isinstance(at, Mapping):
            at = at.get(part)
        elif isinstance(at, list | tuple) and isinstance(part, int):
            at = at[part]
        else:
            return loc[:depth]
    return loc


def _unknown(loc: Loc, section: type[BaseModel]) -> Problem:
    allowed = list(section.model_fields)
    hint = did_you_mean(str(loc[-1]), allowed)
    return Problem(loc, "unknown key", f"{hint}allowed: {', '.join(allowed)}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``did you mean "x"? `` for the closest of `known`, "" when none is close."""
    close = difflib.get_close_matches(word, list(known), 1)
    return f'did you mean "{close[0]}"? ' if close else ""
