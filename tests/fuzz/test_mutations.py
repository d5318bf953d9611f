"""A few cases of the mutation fuzzer, always the same ones, and the corpus; what runs for longer is in README.md."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fuzzing.campaign import run_cases
from fuzzing.octets import LETTERS, try_input

CORPUS = sorted(Path(__file__).with_name("corpus").iterdir())

#: Wine does the same ten to twenty times slower.
CASES = 100 if sys.platform == "win32" else 600


@pytest.mark.parametrize("what", ["requests", "responses", "readers"])
def test_mutated_messages(what: str) -> None:
    run_cases(what, "bounded", range(CASES))


def test_the_corpus() -> None:
    assert {path.read_bytes()[0] for path in CORPUS} >= set(LETTERS)
    for path in CORPUS:
        try_input(path.read_bytes())
