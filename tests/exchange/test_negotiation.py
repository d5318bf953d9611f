"""The form of an error by what the client accepts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iocproxy.exchange.negotiation import Form, accepted, wanted_form

HTML, JSON, PROBLEM = Form.HTML, Form.JSON, Form.PROBLEM


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        # nothing said, or nothing that we have
        (b"", HTML),
        (b"image/png", HTML),
        (b"application/json;q=0", HTML),
        (b"text/html;q=0", HTML),
        # browsers
        (b"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8", HTML),
        # libraries
        (b"*/*", HTML),
        (b"application/json, text/plain, */*", JSON),
        (b"text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", HTML),
        # by name
        (b"application/json", JSON),
        (b"Application/JSON; q=0.9", JSON),
        (b"text/json", JSON),
        (b"application/vnd.github+json", JSON),
        (b"application/problem+json", PROBLEM),
        (b"application/json, application/problem+json", PROBLEM),
        (b"application/problem+json, application/json", PROBLEM),
        (b"text/html, application/problem+json", HTML),
        (b"application/json, text/html", HTML),
        # wildcards
        (b"application/*", JSON),
        (b"text/*", HTML),
        (b"text/html;q=0, */*", JSON),
        (b"*/*, application/json", JSON),  # the name before the wildcard
        (b"*/*, text/html;q=0.5", JSON),  # the name decides, and the rest is for the wildcard
        # weights
        (b"text/html;q=0.2, application/json;q=0.3", JSON),
        (b"text/html; q=0.3, application/json; q=0.2", HTML),
        (b"application/problem+json;q=0.5, application/json;q=0.6", JSON),
        (b"application/problem+json;q=0, application/json", JSON),
        (b"application/json;q=0.5, */*;q=0.1", JSON),
        (b"application/json;q=0.5, */*", HTML),
        (b"text/html;level=1;q=0.2;x=y, application/json;charset=utf-8;q=0.3", JSON),
        (b"text/html;q=1.000, application/json;q=1.", HTML),
        # what cannot be read is stepped over
        (b"application/json;q=2, text/html;q=0.1", HTML),
        (b"application/json;q=0.1234", HTML),
        (b"application/json;q=-1", HTML),
        (b"application/json;q=nan", HTML),
        (b"application/json;q", HTML),
        (b";q=1, json, /, */, /*, application/problem+json", PROBLEM),
        (b'application/json;x="a,b"', JSON),
        (b"a/b" + b" ;x" * 600 + b";q=5, application/json", JSON),
        (b"a/b, " * 1_000 + b"application/json", HTML),  # too far behind
    ],
)
def test_the_form(accept: bytes, wanted: Form) -> None:
    assert wanted_form(accept) is wanted


_PIECES = st.sampled_from(
    [
        b"text/html",
        b"application/json",
        b"application/problem+json",
        b"*/*",
        b";q=",
        b"0.5",
        b"1",
        b",",
        b";",
        b" ",
        b"=",
    ]
)


@given(st.binary(max_size=300) | st.lists(_PIECES | st.binary(max_size=3), max_size=30).map(b"".join))
def test_whatever_it_says_there_is_a_form(accept: bytes) -> None:
    assert wanted_form(accept) in Form


@given(st.lists(_PIECES, max_size=30).map(b"".join))
def test_nobody_gets_problem_details_without_naming_them(accept: bytes) -> None:
    assert wanted_form(accept) is not PROBLEM or b"application/problem+json" in accept


def test_several_fields_are_one_list() -> None:
    fields = [(b"accept", b"text/plain"), (b"X", b"y"), (b"ACCEPT", b"application/problem+json")]
    assert accepted(fields) == b"text/plain, application/problem+json"
    assert accepted([(b"X-Accept", b"application/json")]) == b""
