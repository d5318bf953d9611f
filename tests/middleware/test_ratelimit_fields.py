"""RateLimit and RateLimit-Policy, read back as the structured fields they are."""

from __future__ import annotations

import pytest

from iocproxy.config.limit_values import Rate, Rates
from iocproxy.limits import Windows
from iocproxy.message import Fields
from iocproxy.middleware.rate_storage import Left
from iocproxy.middleware.ratelimit_fields import Policies, add_to_response, quoted, ratelimit_fields


def test_one_window() -> None:
    policies = Policies("requests", Rates([Rate(300, 10.0)]))
    assert policies.text == '"requests";q=300;w=10'
    assert policies.left([Left(42, 2.5)]) == '"requests";r=42;t=3'
    assert policies.left([Left(300, 0.0)]) == '"requests";r=300'


def test_the_tick_that_a_time_is_rounded_up_to_is_not_told() -> None:
    windows = Windows([(300, 10.0)])
    now = 1_000.0000003
    windows.check(b"a", now)
    more_in = windows.peek(b"a", now, 300)
    assert more_in > 10.0
    assert Policies("requests", Rates([Rate(300, 10.0)])).left([Left(299, more_in)]) == '"requests";r=299;t=10'


def test_several_windows_are_several_policies() -> None:
    policies = Policies("requests /v1/", Rates([Rate(20, 0.5), Rate(600, 60.0)]))
    assert policies.text == '"requests /v1/-500ms";q=20;w=1, "requests /v1/-60s";q=600;w=60'
    assert (
        policies.left([Left(0, 0.25), Left(580, 59.5)])
        == '"requests /v1/-500ms";r=0;t=1, "requests /v1/-60s";r=580;t=60'
    )


def test_both_fields_or_none() -> None:
    assert ratelimit_fields([]) == []
    a, b = (Policies(name, Rates([Rate(1, 1.0)])) for name in "ab")
    assert ratelimit_fields([(a, [Left(1, 0.0)]), (b, [Left(0, 1.0)])]) == [
        ("RateLimit-Policy", '"a";q=1;w=1, "b";q=1;w=1'),
        ("RateLimit", '"a";r=1, "b";r=0;t=1'),
    ]


def test_quoting() -> None:
    """RFC 8941 section 3.3.3."""
    assert quoted('a "b" \\c') == '"a \\"b\\" \\\\c"'


OURS = [("RateLimit-Policy", '"a";q=1;w=1'), ("RateLimit", '"a";r=1')]
OURS_SENT: Fields = [(b"RateLimit-Policy", b'"a";q=1;w=1'), (b"RateLimit", b'"a";r=1')]


@pytest.mark.parametrize(
    ("upstream", "kept"),
    [
        ([(b"X", b"y")], [(b"X", b"y")]),
        ([(b"ratelimit", b'"up";r=3')], [(b"ratelimit", b'"up";r=3')]),
        (
            [(b"RateLimit", b"limit=100, remaining=50, reset=5"), (b"RateLimit-Limit", b"100")],
            [(b"RateLimit-Limit", b"100")],
        ),
        ([(b"RateLimit-Policy", b"100;w=60")], []),
    ],
)
def test_ours_come_behind_those_of_the_upstream(upstream: Fields, kept: Fields) -> None:
    add_to_response(upstream, OURS)
    assert upstream == [*kept, *OURS_SENT]
