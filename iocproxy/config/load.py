"""From a TOML file or text to a `Config`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

import tomli

from iocproxy.config.faults import in_order, place
from iocproxy.config.lines import Lines
from iocproxy.config.model import Config
from iocproxy.config.parts import Parts
from iocproxy.config.source import Source, reading
from iocproxy.errors import ConfigError, Fault

#: Finds the faults of what the sections of a configuration name.
Further: TypeAlias = Callable[[Parts], Iterable[Fault]]


def load_config(path: str | os.PathLike[str], *, further: Further | None = None) -> Config:
    """Read a TOML file (UTF-8). Relative paths in it count from its directory.

    Raises ConfigError with every fault, each with file, line and key path. Whether the files it names exist is seen
    by those who load them. When there are faults, `further` is asked for those of what can be read, to be told
    together.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")  # Windows editors put a byte order mark in front
    except OSError as error:
        fault = Fault("", f"cannot be read: {error.strerror or error}", "a readable TOML file", os.fspath(path))
    except UnicodeDecodeError:
        fault = Fault("", "not UTF-8", "a TOML file saved as UTF-8", os.fspath(path))
    else:
        return parse_config(text, os.fspath(path), further=further)
    raise ConfigError([fault])


def parse_config(text: str, file: str | os.PathLike[str] | None = None, *, further: Further | None = None) -> Config:
    """The configuration in a TOML text. `file` names it in faults, and its directory is where relative paths count
    from; without it that is the current directory. `further` is as for `load_config`. Raises ConfigError with every
    fault."""
    name = None if file is None else os.fspath(file)
    text = text.removeprefix("\ufeff")
    try:
        settings, lines = tomli.loads(text), Lines(text)
    except tomli.TOMLDecodeError as error:
        fault = _syntax_fault(str(error), text, name)
    except RecursionError:
        fault = Fault("", "arrays or tables nested too deeply", "", name)
    else:
        base = Path.cwd() if name is None else Path(name).absolute().parent
        source = Source(name, base, lines)
        with reading(source):
            try:
                return Config(**settings)
            except ConfigError as error:
                if further is None:
                    raise
                more = [place(fault, source) for fault in further(Parts.of(settings))]
                raise ConfigError(in_order([*error.faults, *more])) from None
    raise ConfigError([fault])


_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def _syntax_fault(message: str, text: str, file: str | None) -> Fault:
    """tomli tells the place in its message; only newer versions have attributes for it too."""
    place = _PLACE.search(message)
    if place is None:
        return Fault("", f"not TOML: {message}", "", file)
    line = int(place[1]) if place[1] else text.rstrip().count("\n") + 1
    where = f" (column {place[2]})" if place[2] else " (at the end)"
    return Fault("", f"not TOML: {message[: place.start()]}{where}", "", file, line)
