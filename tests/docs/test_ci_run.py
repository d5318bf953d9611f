"""The script that runs everything: what it does to the checkout, and what it says about what it leaves out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[2] / ".ci" / "run"
TOOLS = ("bash", "cat", "cut", "dirname", "env", "git", "grep", "head", "id", "mkdir", "mktemp", "rm", "tar")

pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or not RUN.exists() or shutil.which("git") is None,
    reason="what runs everything is a shell script for a clone",
)


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """The environment of one that has the tools, this Python, and nothing else: no apt, no other Python."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found, tool
        (tools / tool).symlink_to(found)
    (tools / "python3").symlink_to(sys.executable)
    (tmp_path / "temporary").mkdir()
    return {"PATH": str(tools), "HOME": str(tmp_path), "TMPDIR": str(tmp_path / "temporary")}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A project whose README has a test command of its own; every other step fails at once."""
    place = tmp_path / "project"
    (place / ".ci").mkdir(parents=True)
    shutil.copy(RUN, place / ".ci" / "run")
    (place / ".gitignore").write_text(".venv\n")
    (place / "README.md").write_text('<!-- ci:test -->\n```sh\nmkdir .venv && echo tested in "$PWD"\n```\n')
    by = ["-c", "user.name=a", "-c", "user.email=a@b.test", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "."], [*by, "commit", "-qm", "all"]):
        subprocess.run(["git", *command], cwd=place, check=True)
    return place


def test_it_leaves_the_checkout_alone_and_says_what_it_leaves_out(checkout: Path, machine: dict[str, str]) -> None:
    mine = checkout / ".venv" / "mine"
    mine.parent.mkdir()
    mine.touch()
    (checkout / "half-done.py").touch()
    done = subprocess.run(
        [checkout / ".ci" / "run"], cwd=os.sep, env=machine, capture_output=True, text=True, timeout=60, check=False
    )
    assert "not committed, not tested:\n?? half-done.py\n" in done.stdout
    assert f"tested in {machine['TMPDIR']}{os.sep}" in done.stdout
    assert "=== the README's tests: good" in done.stdout
    for version in ("3.11", "3.12", "3.13", "3.14"):
        assert f"not found, not tested: {version}\n" in done.stdout
    assert done.returncode == 1
    assert mine.exists()
    assert list(Path(machine["TMPDIR"]).iterdir()) == []
