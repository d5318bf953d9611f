"""The line of every key. In most texts here each value is the number of the line its key stands on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from iocproxy.config.lines import Lines, Loc, spell


def leaves(value: Any, loc: Loc = ()) -> Iterator[tuple[Loc, int]]:
    """Every whole number in a document with its path."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*loc, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, (*loc, index))
    elif isinstance(value, int) and not isinstance(value, bool):
        yield loc, value


def assert_numbered(text: str) -> int:
    """Every whole number in `text` is the line its key, or itself as an element, stands on. Returns how many."""
    found = dict(leaves(tomli.loads(text)))
    lines = Lines(text)
    assert {loc: lines.of(loc) for loc in found} == found
    return len(found)


DOCUMENTS = [
    "a = 1\nb = 2\n\n# c = 9\nc = 5",
    "[t] # [u]\na = 2\n[ t . 'u v' ]\na = 4\n  [\"x.y\".z]\n\ta\t=\t6\n",
    "a.b.c = 1\na . 'b' . \"d\" = 2\n'quoted key' = 3\n\"\\u00e9\" = 4\n",
    (
        "[[l]]\na = 2\n[l.t]\nb = 4\n[[l]]\na = 6\n[l.t]\nb = 8\n[[l.m]]\nc = 10\n[[l.m]]\nc = 12\n[[l.m.n]]\nd = 14\n"
        "[[l]]\na = 16\n"
    ),
    'a = """\n[t]\nb = 9\n"quoted" \\""" still\n"""\nb = 6\n',
    "a = '''\n[t]\nb = 9 ''\n'''\nb = 5\n",
    'a = """"x""""\nb = 2\nc = """"""\nd = 4\ne = \'\'\'\'y\'\'\'\'\'\nf = 6\ng = ""\nh = 8\n',
    'a = "# no [ { comment \\" = "\nb = 2\nc = \'# [ \\\'\nd = 4\n',
    "a = [1, 1,\n 2, # ] 9\n [3, [\n4]],\n { b = 5, c = { d.e = 5 } },\n]\nz = 7\n",
    'a = { b = 1, "c d" = 1, e = [1, 1], f = { g = 1 } }\nb = []\nc = {}\nd = 4\n',
    "a = [\n  # nothing\n]\nb = 4\nc = [ 'x', \"]\", '''\n]''',\n 7, ]\n",
    "t = 1979-05-27 07:32:00\nu = 1.5e3 # x\nv = inf\nw = 4\nx = false\ny = 6",
    "a = 1\r\n[t]\r\nb = 3\r\nc = '''\r\n\r\n'''\r\nd = 7\r\n",
    "[a.b.c]\nd = 2\n[a]\ne = 4\n[a.b]\nf = 6\n",
    "[[ 'a b' ]]\nx = 2\n[['a b']]\nx.y = 4\n[ 'a b' . z ]\nw = 6",
]


@pytest.mark.parametrize("text", DOCUMENTS)
def test_every_key_has_its_line(text: str) -> None:
    assert assert_numbered(text) >= 1


def test_tables_have_the_line_of_their_header() -> None:
    lines = Lines("x = 1\n[a.b]\ny = 1\n[[c]]\n[[c]]\n[c.d]\n")
    assert [lines.of(loc) for loc in [("a",), ("a", "b"), ("c",), ("c", 0), ("c", 1), ("c", 1, "d")]] == [
        2,
        2,
        4,
        4,
        5,
        6,
    ]


def test_a_missing_key_has_the_line_of_its_table() -> None:
    lines = Lines("x = 1\n[[c]]\n[[c]]\nt = [\n { a = 1 },\n {} ]\n")
    assert lines.of(("c", 1, "t", 1, "key")) == 6
    assert lines.of(("c", 1, "nothing", "at", "all")) == 3
    assert lines.of(("nothing",)) is None
    assert lines.of(()) is None
    assert Lines("").of(("a",)) is None


def test_an_inline_table_over_several_lines_as_in_toml_1_1() -> None:
    lines = Lines("a = [\n {\n  b = 3, # c = 9\n  d = 4,\n }, 5 ]\ne = 6")
    assert [lines.of(loc) for loc in [("a", 0, "b"), ("a", 0, "d"), ("a", 1), ("e",)]] == [3, 4, 5, 6]


def test_a_key_path_as_text_has_the_line_of_what_it_names() -> None:
    lines = Lines('[u.ap]\nx = 2\n[u.app]\nx = 4\n[["q r"]]\n[["q r"]]\nt = [\n { a = 8 } ]\n')
    paths = ["u.ap", "u.ap.x", "u.app", "u.app.x", "u.app.missing", "u.a", '"q r"[1]', '"q r"[1].t[0].a', "nothing", ""]
    assert [lines.of_path(path) for path in paths] == [1, 2, 3, 4, 3, 1, 6, 8, None, None]


VALUES = st.sampled_from(
    [
        "@",
        "[@, @]",
        "[\n@,\n# ]\n @ ]",
        "{ a = @, b.c = @ }",
        "[{ a = @ },\n { a = [\n@] } ]",
        "'''\n[x]\na = 9\n'''",
        '"["',
    ]
)
KEYS = st.sampled_from(["{}", "'{}'", '"{}"', "{}.x", ' {} . "y z"'])


@given(st.lists(st.tuples(st.sampled_from(["", "[{}]", "[[l]]", "[[l.m]]", "# [x]"]), KEYS, VALUES), max_size=12))
def test_documents_put_together_at_random(parts: list[tuple[str, str, str]]) -> None:
    text, in_list = "", False
    for number, (header, key, value) in enumerate(parts):
        if header == "[[l.m]]" and not in_list:
            header = "[[l]]"  # noqa: PLW2901
        in_list = in_list or header == "[[l]]"
        text += header.format(f"t{number}") + "\n"
        text += f"{key.format(f'k{number}')} = {value}\n"
    while (at := text.find("@")) >= 0:  # each becomes the number of the line it is on
        text = f"{text[:at]}{text.count(chr(10), 0, at) + 1}{text[at + 1 :]}"
    assert_numbered(text)


@pytest.mark.parametrize(
    ("loc", "text"),
    [
        (("listeners", 0, "tls", "certificates", 1, "key"), "listeners[0].tls.certificates[1].key"),
        (("upstreams", "my app", "servers", 0), 'upstreams."my app".servers[0]'),
        (("a.b", 'q"\\'), '"a.b"."q\\"\\\\"'),
        (("",), '""'),
        ((), ""),
    ],
)
def test_spell(loc: Loc, text: str) -> None:
    assert spell(loc) == text
