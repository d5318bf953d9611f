"""Rates, keys and names of limits: what reads, what it becomes, and why other things are refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iocproxy.config.limit_values import (
    Key,
    KeyPart,
    Rate,
    Rates,
    read_key,
    read_limit_name,
    read_method,
    read_prefix,
    read_rates,
    read_status,
    show_key,
    show_rates,
    show_status,
)
from iocproxy.config.values import RefusedError


@pytest.mark.parametrize(
    ("given", "read", "shown"),
    [
        ("300/10s", [(300, 10.0)], "300/10s"),
        (["600/1m", "20/1s"], [(20, 1.0), (600, 60.0)], ["20/1s", "600/60s"]),
        ([Rate(20, 1.0)], [(20, 1.0)], "20/1s"),
        (Rate(20, 1.0), [(20, 1.0)], "20/1s"),
        (Rates([Rate(20, 1.0)]), [(20, 1.0)], "20/1s"),
        (False, [], False),
        (None, [], False),
        (Rates(), [], False),
    ],
)
def test_rates(given: Any, read: list[tuple[int, float]], shown: Any) -> None:
    rates = read_rates(given)
    assert rates == tuple(Rate(*each) for each in read)
    assert show_rates(rates) == shown
    assert read_rates(show_rates(rates)) == read_rates(rates) == rates


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (True, ""),
        ("20", ""),
        (20, ""),
        ([], "must have at least one rate, or be false"),
        (["20/1s", "x"], ""),
        (["1/1s", "3/2s", "5/4s", "8/8s", "14/16s"], "must have at most 4 rates"),
        (["20/1s", "30/1s"], "two rates for one window: 20/1s and 30/1s"),
        (["20/1s", "20/1m"], "20/1s has no effect beside 20/60s"),
        (["20/1s", "10/1m"], "20/1s has no effect beside 10/60s"),
        (["20/1s", "1200/1m"], "1200/60s has no effect beside 20/1s"),
        ("0/10s", "the count must be 1 to 1000000"),
        ("5/0s", "the window must be 50ms to 1d"),
        ("5/2d", "the window must be 50ms to 1d"),
    ],
)
def test_rates_that_are_refused(given: Any, why: str) -> None:
    with pytest.raises(RefusedError) as refused:
        read_rates(given)
    assert str(refused.value) == why


def test_a_longer_window_may_hold_just_less_than_the_shorter_ones_in_it() -> None:
    assert read_rates(["20/1s", "1199/1m"]) == (Rate(20, 1.0), Rate(1199, 60.0))
    assert read_rates(["20/1s", "21/1m"]) == (Rate(20, 1.0), Rate(21, 60.0))


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ("address", [("address", "")]),
        ("header:X-Api-Key", [("header", "x-api-key")]),
        ("cookie:Session", [("cookie", "Session")]),
        ("query:api_key", [("query", "api_key")]),
        (["path:1", "method"], [("path", "1"), ("method", "")]),
        ([KeyPart("host")], [("host", "")]),
    ],
)
def test_keys(given: Any, parts: list[tuple[str, str]]) -> None:
    key = read_key(given)
    assert key == tuple(KeyPart(*part) for part in parts)
    assert read_key(show_key(key)) == read_key(key) == key


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("adress", ""),
        ("header", ""),
        ("header:", ""),
        ("header:a b", ""),
        ("path:0", ""),
        ("path:100", ""),
        ([], ""),
        (7, ""),
        (["host", "host"], "the same part twice"),
        (["everyone", "host"], '"everyone" stands alone'),
        (["host", "method", "route", "address", "path:1"], "must have at most 4 parts"),
    ],
)
def test_keys_that_are_refused(given: Any, why: str) -> None:
    with pytest.raises(RefusedError) as refused:
        read_key(given)
    assert str(refused.value) == why


@given(st.lists(st.sampled_from(["address", "host", "header:a", "path:2", "cookie:b"]), min_size=1, unique=True))
def test_a_key_reads_back(parts: list[str]) -> None:
    if len(parts) <= 4:
        assert str(Key(read_key(parts))) == " + ".join(parts)


@pytest.mark.parametrize("name", ["logins", "a", "Api.v1_x-2"])
def test_names(name: str) -> None:
    assert read_limit_name(name) == name


@pytest.mark.parametrize("name", ["", "1a", "a b", "a" * 65, "é", 3, "requests", "connections"])
def test_names_that_are_refused(name: Any) -> None:
    with pytest.raises(RefusedError):
        read_limit_name(name)


@pytest.mark.parametrize(("given", "read", "shown"), [(404, "404", 404), ("404", "404", 404), ("4xx", "4xx", "4xx")])
def test_statuses(given: Any, read: str, shown: Any) -> None:
    assert read_status(given) == read
    assert show_status(read) == shown


@pytest.mark.parametrize("given", [100, 600, "1xx", "40x", True, 404.0, None, "4XX"])
def test_statuses_that_are_refused(given: Any) -> None:
    with pytest.raises(RefusedError):
        read_status(given)


@pytest.mark.parametrize("given", ["get", "", "GET ", 1, "G3T"])
def test_methods_that_are_refused(given: Any) -> None:
    assert read_method("M-SEARCH") == "M-SEARCH"
    with pytest.raises(RefusedError):
        read_method(given)


@pytest.mark.parametrize("given", ["", "a b", "a{b}", "é", "x" * 65, None])
def test_prefixes_that_are_refused(given: Any) -> None:
    assert read_prefix("shop:") == "shop:"
    with pytest.raises(RefusedError):
        read_prefix(given)
