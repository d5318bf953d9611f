"""docs/configuration.md, written from the models: every key with its type, default, example and meaning."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from iocproxy.config.describe import is_array, is_named, not_yet, said, section_of
from iocproxy.config.model import Config
from iocproxy.config.schema import written_default

_INTRODUCTION = """\
# Configuration

<!-- Written by `python -m iocproxy.config.reference` from the models in iocproxy/config; do not edit by hand. -->

A configuration is a [TOML](https://toml.io) file, by default `iocproxy.toml` in the current directory. `iocproxy init`
writes one to start from, `iocproxy check` reports everything that is wrong with one, and `iocproxy schema` prints a
JSON schema with which an editor checks and completes the file while it is written.

Only `[[listeners]]` and `[upstreams.NAME]` are needed; everything else has a default. A key that is not listed here is
a fault, and so is one that is not available yet, unless it has the value shown as its default.

- **Durations** are a number with a unit: `"500ms"`, `"5s"`, `"2m"`, `"1h"`, `"1d"`. A bare number means seconds.
- **Sizes** are a whole number with a unit: `"512B"`, `"8KiB"`, `"1MiB"`, `"1GiB"`. A bare number means bytes.
- **Rates** are a count and a duration: `"300/10s"` is at most 300 in any 10 seconds. The count is 1 to 1,000,000, the
  duration 50ms to 1d.
- **Files** given by a relative path are looked up from the directory of the configuration file.

The same in Python, where a table is a mapping or an instance of its class, and a duration may be a `timedelta` too:

```python
from iocproxy import Config

config = Config(
    listeners=[{"bind": "127.0.0.1:8080"}],
    upstreams={"app": {"servers": ["http://127.0.0.1:9000"]}},
    timeouts={"connect": "3s"},
)
```

Whatever is wrong raises `ConfigError`, whose `faults` list every fault with its key path and, for a file, its line.
"""


def reference_markdown() -> str:
    """The whole page, ending in a newline."""
    return "\n".join([_INTRODUCTION, *_chapters(Config, "")])


def _chapters(model: type[BaseModel], path: str) -> Iterator[str]:
    """One chapter for each table below `model`, which stands at `path`, in the order of the file."""
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        if section is None:
            continue
        inner = f"{path}.{name}" if path else name
        if is_named(field):
            inner += ".NAME"
        heading = f"[[{inner}]]" if is_array(field) else f"[{inner}]"
        if any(key.examples for key in section.model_fields.values()):
            yield _chapter(heading, section, field)
        yield from _chapters(section, inner)


def _chapter(heading: str, section: type[BaseModel], field: FieldInfo) -> str:
    lines = [f"{'##' if '.' not in heading.replace('.NAME', '') else '###'} `{heading}`", ""]
    if not_yet(field) is not None:
        lines += ["**Not available yet.**", ""]
    lines += [" ".join((section.__doc__ or "").split()), ""]
    lines += ["| Key | Type | Default | Example | Meaning |", "|---|---|---|---|---|"]
    lines += [_row(name, key) for name, key in section.model_fields.items() if key.examples]
    return "\n".join([*lines, ""])


def _row(name: str, field: FieldInfo) -> str:
    default = written_default(field)
    if field.is_required():
        shown = "required"
    elif default is None:
        shown = "none"
    else:
        shown = f"`{_toml(default)}`"
    meaning = field.description or ""
    mark = not_yet(field)
    if mark is not None:
        meaning += f" **Not available yet**: {mark.said}."
    example = f"`{name} = {_toml((field.examples or [''])[0])}`"
    cells = (f"`{name}`", said(field), shown, example, meaning)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _toml(value: Any) -> str:
    """A value on one line, as the file writes it."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key} = {_toml(item)}' for key, item in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return json.dumps(value, ensure_ascii=False)  # TOML agrees with JSON on texts, numbers and booleans
