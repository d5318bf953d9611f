"""Which line of a TOML text a key stands on.

tomli hands out values without places. Rather than guess with a regular expression, which a multi-line string that
holds ``[table]`` fools, the text is walked once by TOML's own grammar (https://toml.io/en/v1.1.0), reading keys and
stepping over values. Only a text that tomli has accepted comes here, so the walk refuses nothing and keeps no values.

Keys are recorded under their full path, with an index for each element of an array::

    [[listeners]]                       ("listeners", 0)                                 line 1
    bind = "127.0.0.1:0"                ("listeners", 0, "bind")                         line 2
    [listeners.tls]                     ("listeners", 0, "tls")                          line 3
    certificates = [
      { cert = "a.pem" },               ("listeners", 0, "tls", "certificates", 0, "cert")   line 5
    ]
"""

from __future__ import annotations

import re

import tomli

#: A key path: names of keys, indexes of array elements.
Loc = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}(?!")'
    r"|'''.*?'{3,5}(?!')"
    r'|"(?:[^"\\]|\\.)*"'
    r"|'[^']*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\r\n]*")


class Lines:
    """The line (1-based) of every key and array element of `text`, which must be valid TOML."""

    def __init__(self, text: str) -> None:
        self._text = text.replace("\r\n", "\n")
        self._at = 0
        self._line = 1
        self._counted = 0  # `_line` is the line of this offset
        self._found: dict[Loc, int] = {}
        self._tables: dict[Loc, int] = {}  # how many [[tables]] a path has so far
        self._document()

    def of(self, loc: Loc) -> int | None:
        """The line of `loc`, or of the innermost thing around it that has one: for a missing key, its table."""
        for end in range(len(loc), 0, -1):
            line = self._found.get(loc[:end])
            if line is not None:
                return line
        return None

    def of_path(self, path: str) -> int | None:
        """As `of`, for a key path as `spell` writes it."""
        # A whole part must end there: `upstreams.ap` is not around `upstreams.app`.
        around = [loc for loc in self._found if f"{path}.".startswith((f"{spell(loc)}.", f"{spell(loc)}["))]
        return self.of(max(around, key=len)) if around else None

    # Each step below starts at `_at` and leaves it behind what it has read.

    def _document(self) -> None:
        table: Loc = ()
        self._skip(_BLANK)
        while self._at < len(self._text):
            if self._text.startswith("[[", self._at):
                table = self._header(2)
            elif self._text[self._at] == "[":
                table = self._header(1)
            else:
                self._pair(table)
            self._skip(_BLANK)

    def _header(self, brackets: int) -> Loc:
        line = self._here()
        self._at += brackets
        names = self._key()
        self._at += brackets
        loc: Loc = ()
        for name in names[:-1]:
            loc = self._last((*loc, name), line)
        loc = (*loc, names[-1])
        if brackets == 1:
            # `[a.b]` may follow `[[a]]` but is never itself an array: no index to add
            self._found.setdefault(loc, line)
            return loc
        count = self._tables.get(loc, 0)
        self._tables[loc] = count + 1
        self._found.setdefault(loc, line)
        loc = (*loc, count)
        self._found[loc] = line
        return loc

    def _last(self, loc: Loc, line: int) -> Loc:
        """The table that a name within a header means: the newest of an array of tables."""
        self._found.setdefault(loc, line)
        count = self._tables.get(loc)
        return loc if count is None else (*loc, count - 1)

    def _pair(self, table: Loc) -> None:
        line = self._here()
        loc = table
        for name in self._key():
            loc = (*loc, name)
            self._found.setdefault(loc, line)
        self._at += 1  # "="
        self._skip(_SPACE)
        self._value(loc)

    def _key(self) -> list[str]:
        """Dotted names, up to the ``=`` or ``]`` that follows."""
        names: list[str] = []
        while True:
            self._skip(_SPACE)
            pattern = _STRING if self._text[self._at] in "\"'" else _BARE_KEY
            written = self._take(pattern)
            names.append(_unquoted(written) if pattern is _STRING else written)
            self._skip(_SPACE)
            if self._text[self._at] != ".":
                return names
            self._at += 1

    def _value(self, loc: Loc) -> None:
        start = self._text[self._at]
        if start == "[":
            self._enclosed("]", loc, array=True)
        elif start == "{":
            self._enclosed("}", loc, array=False)
        else:
            self._skip(_STRING if start in "\"'" else _SCALAR)

    def _enclosed(self, end: str, loc: Loc, *, array: bool) -> None:
        index = 0
        self._at += 1
        self._skip(_BLANK)
        while self._text[self._at] != end:
            if array:
                self._found[*loc, index] = self._here()
                self._value((*loc, index))
                index += 1
            else:
                self._pair(loc)
            self._skip(_BLANK)
            if self._text[self._at] == ",":
                self._at += 1
                self._skip(_BLANK)
        self._at += 1

    def _here(self) -> int:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise ValueError(f"not TOML at offset {self._at}")
        self._at = match.end()
        return match[0]

    def _skip(self, pattern: re.Pattern[str]) -> None:
        self._take(pattern)


def _unquoted(written: str) -> str:
    key: str = tomli.loads(f"key = {written}")["key"]
    return key


def spell(loc: Loc) -> str:
    """A key path as a person writes it: ``listeners[0].tls``, ``upstreams."my app".servers``."""
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if _BARE_KEY.fullmatch(part) else '"' + part.replace("\\", "\\\\").replace('"', '\\"') + '"'
            text += f".{name}" if text else name
    return text
