"""Which route a host and a target find: the table of docs' rule, line by line."""

from __future__ import annotations

import itertools

import pytest

from iocproxy.routing import Route, RouteTable


def table(*wanted: str) -> RouteTable[str]:
    """Routes written as ``host/path``; the name of each is what was written."""
    routes = []
    for name in wanted:
        host, slash, path = name.partition("/")
        routes.append(Route(name, host, slash + path, name))
    return RouteTable(routes)


def found(routes: RouteTable[str], host: bytes, target: bytes) -> str | None:
    route = routes.find(host, target)
    return None if route is None else route.name


EVERYTHING = (
    "a.example.com/",
    "a.example.com/v1",
    "a.example.com/v1/deep/",
    "*.example.com/",
    "*.b.example.com/",
    "*.b.example.com/v1",
    "/",
    "/v1",
    "[::1]/",
)

CASES = [
    (b"a.example.com", b"/", "a.example.com/"),
    (b"A.EXAMPLE.COM", b"/", "a.example.com/"),
    (b"a.example.com:8443", b"/", "a.example.com/"),
    (b"a.example.com.", b"/", "a.example.com/"),
    (b"a.example.com.:80", b"/", "a.example.com/"),
    (b"a.example.com", b"/v1", "a.example.com/v1"),
    (b"a.example.com", b"/v1?x=/v1/deep/", "a.example.com/v1"),
    (b"a.example.com", b"/v1/", "a.example.com/v1"),
    (b"a.example.com", b"/v1/x", "a.example.com/v1"),
    (b"a.example.com", b"/v10", "a.example.com/"),
    (b"a.example.com", b"/V1", "a.example.com/"),
    (b"a.example.com", b"/v1/deep", "a.example.com/v1"),
    (b"a.example.com", b"/v1/deep/", "a.example.com/v1/deep/"),
    (b"a.example.com", b"/v1/deep/x", "a.example.com/v1/deep/"),
    (b"a.example.com", b"*", "a.example.com/"),
    (b"z.example.com", b"/v1", "*.example.com/"),
    (b"y.z.example.com", b"/", "*.example.com/"),
    (b"x.b.example.com", b"/", "*.b.example.com/"),
    (b"x.b.example.com", b"/v1/x", "*.b.example.com/v1"),
    (b"b.example.com", b"/", "*.example.com/"),
    (b"example.com", b"/", "/"),
    (b"notexample.com", b"/", "/"),
    (b"other.test", b"/v1/x", "/v1"),
    (b"other.test", b"/v2", "/"),
    (b"", b"/", "/"),
    (b"[::1]", b"/", "[::1]/"),
    (b"[::1]:8443", b"/", "[::1]/"),
    (b"[::2]:8443", b"/", "/"),
]


@pytest.mark.parametrize(("host", "target", "name"), CASES)
def test_the_most_specific_route_wins(host: bytes, target: bytes, name: str) -> None:
    assert found(table(*EVERYTHING), host, target) == name


def test_the_order_of_the_routes_does_not_matter() -> None:
    few = ("a.test/", "a.test/x", "*.test/", "/x")
    for order in itertools.permutations(few):
        routes = table(*order)
        assert found(routes, b"a.test", b"/x/1") == "a.test/x"
        assert found(routes, b"a.test", b"/y") == "a.test/"
        assert found(routes, b"b.test", b"/x") == "*.test/"
        assert found(routes, b"b.other", b"/x") == "/x"
        assert found(routes, b"b.other", b"/y") is None


def test_a_host_whose_paths_do_not_match_lets_a_wider_one_have_its_turn() -> None:
    routes = table("a.b.test/only", "*.b.test/second", "*.test/third", "/")
    assert found(routes, b"a.b.test", b"/only/x") == "a.b.test/only"
    assert found(routes, b"a.b.test", b"/second") == "*.b.test/second"
    assert found(routes, b"a.b.test", b"/third") == "*.test/third"
    assert found(routes, b"a.b.test", b"/else") == "/"


def test_without_a_match_there_is_none() -> None:
    routes = table("a.test/x")
    assert found(routes, b"a.test", b"/y") is None
    assert found(routes, b"b.test", b"/x") is None


def test_a_path_that_climbs_is_matched_as_it_stands() -> None:
    routes = table("/v1/", "/admin/")
    assert found(routes, b"any", b"/v1/../admin/x") == "/v1/"
    assert found(routes, b"any", b"/%61dmin/x") is None


def test_the_one_route_that_takes_everything() -> None:
    routes = table("/")
    assert found(routes, b"", b"*") == "/"
    assert len(routes) == 1


def test_its_length_is_the_number_of_routes() -> None:
    assert len(table(*EVERYTHING)) == len(EVERYTHING)
    assert len(table()) == 0
    assert table().find(b"a", b"/") is None
