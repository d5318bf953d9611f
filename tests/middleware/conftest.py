"""User middleware in modules of their own, as users write it."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

_numbers = itertools.count()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Call it with source code: a module that can be imported, by a name that no other test uses."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(source: str) -> str:
        name = f"iocproxy_test_middleware_{next(_numbers)}"
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return make
