"""`ConcurrencyLimit`: what is open now, per client and in all."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iocproxy.limits import ConcurrencyLimit


def test_the_client_then_the_total() -> None:
    subject = ConcurrencyLimit(2, 3)
    assert [subject.acquire(b"a") for _ in range(3)] == [None, None, "client"]
    assert [subject.acquire(b"b"), subject.acquire(b"b")] == [None, "total"]
    assert subject.acquire(b"a") == "client"  # both are reached: the client is named
    subject.release(b"a")
    assert subject.acquire(b"c") is None
    assert (subject.open, subject.count(b"a"), len(subject)) == (3, 1, 3)
    assert (subject.admitted, subject.refused_client, subject.refused_total) == (4, 2, 1)
    assert repr(subject) == "<ConcurrencyLimit 2 per key, 3 in all, 3 open>"


def test_none_is_no_bound() -> None:
    subject = ConcurrencyLimit(None, None)
    assert {subject.acquire(b"a") for _ in range(1_000)} == {None}
    assert subject.count(b"a") == 1_000


def test_a_release_too_many_changes_nothing() -> None:
    subject = ConcurrencyLimit(1, 1)
    subject.acquire(b"a")
    with pytest.raises(ValueError, match="released more often"):
        subject.release(b"b")
    subject.release(b"a")
    with pytest.raises(ValueError, match="released more often"):
        subject.release(b"a")
    assert (subject.open, len(subject)) == (0, 0)


def test_bounds_may_change_while_open() -> None:
    subject = ConcurrencyLimit(3, None)
    for _ in range(3):
        subject.acquire(b"a")
    subject.limit_per_key = 1
    subject.release(b"a")
    assert subject.acquire(b"a") == "client"
    subject.total = 2
    assert subject.acquire(b"b") == "total"


@pytest.mark.parametrize(("per_key", "total"), [(0, None), (None, 0), (-1, 5)])
def test_nonsense_is_refused(per_key: int | None, total: int | None) -> None:
    with pytest.raises(ValueError, match="must be at least 1 or None"):
        ConcurrencyLimit(per_key, total)


@given(
    st.one_of(st.none(), st.integers(1, 4)),
    st.one_of(st.none(), st.integers(1, 8)),
    st.lists(st.tuples(st.booleans(), st.sampled_from([b"a", b"b", b"c"])), max_size=60),
)
def test_against_a_count(per_key: int | None, total: int | None, steps: list[tuple[bool, bytes]]) -> None:
    subject = ConcurrencyLimit(per_key, total)
    held: Counter[bytes] = Counter()
    for come, name in steps:
        if come:
            full = per_key is not None and held[name] >= per_key
            all_full = total is not None and held.total() >= total
            assert subject.acquire(name) == ("client" if full else "total" if all_full else None)
            held[name] += not (full or all_full)
        elif held[name]:
            subject.release(name)
            held[name] -= 1
        assert (subject.open, subject.count(name), len(subject)) == (held.total(), held[name], len(+held))
