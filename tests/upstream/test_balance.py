"""Whose turn it is: smooth weighted round robin."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iocproxy.upstream.group import UpstreamGroup, smooth_order


@pytest.mark.parametrize(
    ("weighted", "order"),
    [
        ([("a", 1)], "a"),
        ([("a", 7)], "a"),
        ([("a", 1), ("b", 1), ("c", 1)], "abc"),
        ([("a", 2), ("b", 1)], "aba"),
        ([("a", 4), ("b", 2)], "aba"),
        ([("a", 5), ("b", 1), ("c", 1)], "aabacaa"),
        ([("a", 1), ("b", 3)], "babb"),
    ],
)
def test_one_round(weighted: list[tuple[str, int]], order: str) -> None:
    assert "".join(smooth_order(weighted)) == order


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_in_one_round_each_stands_as_often_as_its_weight(weights: list[int]) -> None:
    order = smooth_order(list(enumerate(weights)))
    counts = Counter(order)
    factor = sum(weights) // len(order)
    assert [counts[index] * factor for index in range(len(weights))] == weights


@given(st.lists(st.integers(1, 30), min_size=2, max_size=5))
def test_the_turns_are_spread_over_the_round(weights: list[int]) -> None:
    """What each is owed after k turns, k * weight / total, is never more than a turn ahead of what it got, and never
    more than len(weights) - 1 turns behind (the debts add up to nothing, and no one is a whole turn in credit)."""
    total = sum(weights)
    counts = Counter[int]()
    for taken, server in enumerate(smooth_order(list(enumerate(weights))), 1):
        counts[server] += 1
        for index, weight in enumerate(weights):
            owed = taken * weight - total * counts[index]
            assert -total < owed < (len(weights) - 1) * total


def test_the_round_goes_on_and_on() -> None:
    group = UpstreamGroup("g", [("a", 2), ("b", 1)])
    assert [group.pick([]) for _ in range(7)] == list("abaabaa")


def test_a_server_that_was_tried_is_passed_over() -> None:
    group = UpstreamGroup("g", [("a", 2), ("b", 1), ("c", 1)])
    assert group.pick(["a"]) in {"b", "c"}
    assert group.pick(["a", "b"]) == "c"
    assert group.pick(["a", "b", "c"]) is None


def test_the_only_server() -> None:
    group = UpstreamGroup("g", [("a", 3)])
    assert group.pick([]) == group.pick([]) == "a"
    assert group.pick(["a"]) is None
    assert group.servers == ("a",)
    assert repr(group) == "<UpstreamGroup g servers=1>"
