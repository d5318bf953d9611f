"""docs/windows.md lists every reason for which a test is skipped on Windows, in the very words, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
LANE = ROOT / "tests/windows"  # its own tests are skipped everywhere but there
BENCH = ROOT / "tests/bench"


def reasons() -> Iterator[str]:
    """Of each `skipif` and `skip` in the tests; of an f-string, what comes before its first value."""
    for file in (ROOT / "tests").rglob("*.py"):
        if LANE in file.parents or BENCH in file.parents:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called in {"pytest.mark.skipif", "pytest.mark.skip"}:
                (said,) = (keyword.value for keyword in node.keywords if keyword.arg == "reason")
            elif called == "pytest.skip":
                said = node.args[0]
            else:
                continue
            words = said.values[0] if isinstance(said, ast.JoinedStr) else said
            assert isinstance(words, ast.Constant), f"{file}:{node.lineno}: a reason that cannot be read here"
            yield str(words.value).removesuffix(": ")


def test_every_reason_is_listed_and_no_other() -> None:
    page = (ROOT / "docs/windows.md").read_text(encoding="utf-8")
    section = page.partition("## What the test lane cannot show")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `(.+?)` \|", section, re.MULTILINE)
    assert len(listed) == len(set(listed))
    # A machine without IPv6 may be of any kind; the lane has it.
    assert set(listed) == {reason for reason in reasons() if "IPv6" not in reason}
