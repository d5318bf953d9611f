"""X-Request-ID: which one a request gets."""

from __future__ import annotations

import re

import pytest

from iocproxy.exchange.request_ids import MAX_LENGTH, RequestIds, is_request_id

MADE = re.compile(r"[0-9a-f]{32}")

GOOD = [b"a", b"6f1c0e5a-9a83-4a3b-8a43-1f0a7d3f6a55", b"|trace.span.", b"!#$%&'*+-.^_`|~", b"x" * MAX_LENGTH]
BAD = [b"", b" ", b"a b", b"a,b", b"a, b", b'"a"', b"a\x00", b"a=b", b"\xe4", b"<script>", b"x" * (MAX_LENGTH + 1)]


@pytest.mark.parametrize("value", GOOD)
def test_a_token_is_kept_from_whoever_may_choose(value: bytes) -> None:
    assert is_request_id(value)
    assert RequestIds(keep=True).choose(value, trusted=False) == value.decode()
    assert RequestIds(keep=False).choose(value, trusted=True) == value.decode()
    assert MADE.fullmatch(RequestIds(keep=False).choose(value, trusted=False))


@pytest.mark.parametrize("value", [None, *BAD])
def test_anything_else_is_replaced(value: bytes | None) -> None:
    assert value is None or not is_request_id(value)
    for keep in (True, False):
        for trusted in (True, False):
            assert MADE.fullmatch(RequestIds(keep=keep).choose(value, trusted=trusted))


def test_no_two_are_the_same() -> None:
    ids, others = RequestIds(keep=False), RequestIds(keep=False)
    made = [each.choose(None, trusted=False) for each in (ids, others) for _ in range(1000)]
    assert len(set(made)) == len(made)
    assert all(map(MADE.fullmatch, made))
