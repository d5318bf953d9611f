"""The sketch of who is refused most, against exact counts."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iocproxy.limits.offenders import Offender, Offenders


@given(st.lists(st.integers(0, 30)), st.integers(1, 8))
def test_no_count_is_too_low_nor_too_high_by_more_than_it_says(refusals: list[int], places: int) -> None:
    subject = Offenders(places)
    exact: Counter[str] = Counter()
    for number in refusals:
        exact[str(number)] += 1
        subject.refused(str(number))
    found = subject.top(places)
    assert len(found) == len(subject) == min(places, len(exact))
    assert [each.refused for each in found] == sorted((each.refused for each in found), reverse=True)
    for each in found:
        assert each.refused - each.error <= exact[each.name] <= each.refused
    assert sum(each.refused for each in found) == len(refusals)
    names = {each.name for each in found}
    assert all(name in names for name, count in exact.items() if count > len(refusals) / places)


def test_a_flood_of_newcomers_does_not_hide_the_worst() -> None:
    subject = Offenders(64)
    for number in range(20_000):
        subject.refused(f"192.0.2.{number}")
        if number % 20 == 0:
            subject.refused("198.51.100.1")
    first = subject.top(1)[0]
    assert first.name == "198.51.100.1"
    assert first.refused - first.error <= 1_000 <= first.refused
    assert len(subject) == 64


def test_ties_are_in_the_order_of_names() -> None:
    subject = Offenders(3)
    for name in "cabab":
        subject.refused(name)
    assert subject.top(2) == [Offender("a", 2, 0), Offender("b", 2, 0)]


def test_no_places_at_all() -> None:
    with pytest.raises(ValueError, match="places must be at least 1"):
        Offenders(0)
