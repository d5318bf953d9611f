"""Which of the operator's pages a client gets."""

from __future__ import annotations

import pytest

from iocproxy.exchange.pages import NO_PAGES, ErrorPages, Page

A404, A4XX, A5XX = Page(b"text/html", b"a404"), Page(b"application/json", b"a4xx"), Page(b"text/plain", b"a5xx")
B404, B502, B5XX = Page(b"text/html", b"b404"), Page(b"application/json", b"b502"), Page(b"text/html", b"b5xx")
PAGES = ErrorPages({"404": A404, "4xx": A4XX, "5xx": A5XX}, {"404": B404, "502": B502, "5xx": B5XX})


@pytest.mark.parametrize(
    ("status", "for_people", "for_programs"),
    [
        (404, A404, A4XX),  # the status before its class, and the one that can be read
        (400, A4XX, A4XX),
        (502, A5XX, B502),  # the route's class before the status of all routes
        (503, A5XX, None),
        (302, None, None),
    ],
)
def test_the_route_first_and_the_status_before_its_class(
    status: int, for_people: Page | None, for_programs: Page | None
) -> None:
    assert PAGES.find(status, as_json=False) is for_people
    assert PAGES.find(status, as_json=True) is for_programs


def test_the_pages_of_all_routes_fill_what_a_route_leaves_open() -> None:
    pages = ErrorPages({"404": A404}, {"404": B404, "502": B502})
    assert pages.find(404, as_json=False) is A404
    assert pages.find(502, as_json=False) is B502


def test_none() -> None:
    assert NO_PAGES.find(404, as_json=False) is None
    assert ErrorPages({}, {}).find(502, as_json=True) is None
