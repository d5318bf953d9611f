"""A few cases of the mutation fuzzer, always the same ones; `run.py` beside this file runs others, for hours."""

from __future__ import annotations

import sys

import pytest
from fuzzing.campaign import run_cases

#: Wine does the same ten to twenty times slower.
CASES = 40 if sys.platform == "win32" else 600


@pytest.mark.parametrize("what", ["requests", "responses", "readers"])
def test_mutated_messages(what: str) -> None:
    run_cases(what, "bounded", range(CASES))
