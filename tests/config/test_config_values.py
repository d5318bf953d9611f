"""Single values: what is read, what is refused, and that showing is the inverse of reading."""

from __future__ import annotations

import ipaddress
import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iocproxy.config import Bind, Rate, Server
from iocproxy.config.limit_values import read_rate
from iocproxy.config.values import (
    RefusedError,
    read_bind,
    read_class_name,
    read_duration,
    read_error_status,
    read_network,
    read_route_host,
    read_route_path,
    read_server_url,
    read_size,
    read_upstream_host,
    read_upstream_name,
    show,
    show_duration,
    show_size,
)


@pytest.mark.parametrize(
    ("given_", "seconds"),
    [
        ("500ms", 0.5),
        ("7ms", 0.007),
        ("5s", 5.0),
        ("0s", 0.0),
        ("2m", 120.0),
        ("1.5h", 5400.0),
        ("0.1m", 6.0),
        ("7d", 604_800.0),
        (3, 3.0),
        (0.25, 0.25),
        (timedelta(minutes=1, milliseconds=5), 60.005),
    ],
)
def test_duration(given_: Any, seconds: float) -> None:
    value = read_duration(given_)
    assert value == seconds
    assert type(value) is float


@pytest.mark.parametrize(
    "given_",
    [
        "",
        "5",
        "s",
        "5 s",
        "5S",
        "-5s",
        "1m30s",
        "1e3s",
        ".5s",
        "5.s",
        "\u0665s",
        "5s\n",
        True,
        None,
        [],
        -1,
        -0.5,
        math.nan,
        math.inf,
        10**400,
        timedelta(seconds=-1),
        b"5s",
    ],
)
def test_not_a_duration(given_: Any) -> None:
    with pytest.raises(RefusedError):
        read_duration(given_)


@given(st.just(0.0) | st.floats(1e-9, 1e9))
def test_a_shown_duration_reads_back(seconds: float) -> None:
    assert read_duration(show_duration(seconds)) == seconds


@given(st.integers(0, 10**9), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_whole_durations_are_exact(count: int, unit: str) -> None:
    factor = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}[unit]
    assert read_duration(f"{count}{unit}") == count * factor / 1000


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.5, "500ms"),
        (1.5, "1.5s"),
        (60, "60s"),
        (75, "75s"),
        (600, "10m"),
        (86_400, "24h"),
        (90_000, "25h"),
        (14 * 86_400, "14d"),
        (0.0005, "0.0005s"),
    ],
)
def test_durations_are_shown_as_people_write_them(seconds: float, text: str) -> None:
    assert show_duration(seconds) == text


@pytest.mark.parametrize(
    ("given_", "size"), [("0B", 0), ("8KiB", 8192), ("1MiB", 1 << 20), ("2GiB", 2 << 30), (17, 17), ("17B", 17)]
)
def test_size(given_: Any, size: int) -> None:
    assert read_size(given_) == size


@pytest.mark.parametrize("given_", ["", "8", "8KB", "8k", "8kib", "8 KiB", "1.5KiB", "-1B", True, 1.0, None])
def test_not_a_size(given_: Any) -> None:
    with pytest.raises(RefusedError):
        read_size(given_)


@given(st.integers(0, 1 << 40))
def test_a_shown_size_reads_back(size: int) -> None:
    assert read_size(show_size(size)) == size


@given(st.integers(1, 1_000_000), st.floats(0.05, 86_400.0))
def test_a_shown_rate_reads_back(limit: int, window: float) -> None:
    rate = Rate(limit, window)
    assert read_rate(str(rate)) == rate == read_rate(rate)


@pytest.mark.parametrize(
    "given_",
    [
        "",
        "300",
        "300/",
        "/10s",
        "300/10",
        "0/10s",
        "1000001/1s",
        "1/49ms",
        "1/1.1d",
        "1.5/1s",
        "-1/1s",
        "1 / 1s",
        300,
        True,
        (300, 10.0),
        Rate(0, 1.0),
        Rate(1, 0.01),
        Rate(1, math.inf),
        Rate(1.5, 1.0),
    ],  # type: ignore[arg-type]
)
def test_not_a_rate(given_: Any) -> None:
    with pytest.raises(RefusedError):
        read_rate(given_)


@given(st.text(max_size=12) | st.integers() | st.floats() | st.none() | st.booleans() | st.lists(st.integers()))
def test_readers_refuse_and_never_fail_otherwise(value: Any) -> None:
    readers = [read_duration, read_size, read_rate, read_bind, read_server_url, read_network, read_route_host]
    for reader in [*readers, read_route_path, read_upstream_name, read_class_name]:
        try:
            reader(value)
        except RefusedError:
            pass
    assert "\n" not in show(value)


@given(st.text(alphabet="htps:/[]@.%?#x1*\\ ", max_size=24))
def test_urls_are_read_or_refused(text: str) -> None:
    for value in (text, f"http://{text}"):
        try:
            server = read_server_url(value)
        except RefusedError:
            continue
        assert read_server_url(server.url) == server


@pytest.mark.parametrize(
    ("given_", "bind"),
    [
        ("127.0.0.1:0", Bind("127.0.0.1", 0)),
        ("[::]:8443", Bind("::", 8443)),
        ("[2001:DB8:0::1]:1", Bind("2001:db8::1", 1)),
        ("LocalHost:65535", Bind("localhost", 65535)),
        (Bind("::1", 80), Bind("::1", 80)),
    ],
)
def test_bind(given_: Any, bind: Bind) -> None:
    value = read_bind(given_)
    assert value == bind
    assert read_bind(str(value)) == bind


@pytest.mark.parametrize(
    ("given_", "reason"),
    [
        ("*:80", '"*" could mean IPv4 or both'),
        ("80", "no port in it"),
        (":80", "no host in it"),
        ("::80", "an IPv6 address stands in brackets"),
        ("[127.0.0.1]:80", "brackets are for IPv6 addresses"),
        ("[::g]:80", "not an IP address"),
        ("256.0.0.1:80", "not an IP address"),
        ("localhost:", "the port must be 0 to 65535"),
        ("localhost:65536", "the port must be 0 to 65535"),
        ("localhost:http", "the port must be 0 to 65535"),
        ("localhost:\u0668", "the port must be 0 to 65535"),
        ("bücher.example:80", "a name beyond ASCII is written in its xn-- form"),
        ("a b:80", "not a host name"),
        ("-a:80", "not a host name"),
        (f"{'a' * 64}:80", "not a host name"),
        (8080, ""),
        (Bind("localhost", 70000), "the port must be 0 to 65535"),
    ],
)
def test_not_a_bind(given_: Any, reason: str) -> None:
    with pytest.raises(RefusedError) as refused:
        read_bind(given_)
    assert str(refused.value) == reason


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("http://app", Server("http", "app", 80)),
        ("https://App.Example/", Server("https", "app.example", 443)),
        ("http://10.0.0.5:9000", Server("http", "10.0.0.5", 9000)),
        ("http://[::1]", Server("http", "::1", 80)),
        ("HTTPS://[::1]:9443", Server("https", "::1", 9443)),
    ],
)
def test_server_url(url: str, server: Server) -> None:
    assert read_server_url(url) == server
    assert read_server_url(server.url) == server


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "it must start with http:// or https://"),
        ("app:9000", "it must start with http:// or https://"),
        ("//app", "it must start with http:// or https://"),
        ("http:app", "it must start with http:// or https://"),
        ("ftp://app", "it must start with http:// or https://"),
        ("http://", "no host in it"),
        ("http://:80", "no host in it"),
        ("http://app:", "the port must be 1 to 65535"),
        ("http://app:0", "the port must be 1 to 65535"),
        ("http://app:99999", "the port must be 1 to 65535"),
        ("http://app/v1", "a path in it"),
        ("http://app?x", "a query or fragment in it"),
        ("http://app/?", "a query or fragment in it"),
        ("http://app#", "a query or fragment in it"),
        ("http://me@app", "a user name or password in it"),
        ("http://me:secret@app", "a user name or password in it"),
        ("http://[::1", "not a URL"),
        ("http://::1", "an IPv6 address stands in brackets"),
        ("http://a b", "a blank, a control character, a backslash or a character beyond ASCII in it"),
        ("http://app\n", "a blank, a control character, a backslash or a character beyond ASCII in it"),
        ("http://app\\x", "a blank, a control character, a backslash or a character beyond ASCII in it"),
        ("http://bücher", "a blank, a control character, a backslash or a character beyond ASCII in it"),
    ],
)
def test_not_a_server_url(url: str, reason: str) -> None:
    with pytest.raises(RefusedError) as refused:
        read_server_url(url)
    assert str(refused.value) == reason


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("http://app", "app"),
        ("http://App:80/", "app"),
        ("https://app:443", "app"),
        ("https://app:80", "app:80"),
        ("http://10.0.0.5:9000", "10.0.0.5:9000"),
        ("http://[::1]", "[::1]"),
        ("https://[::1]:9443", "[::1]:9443"),
        ("http://[fe80::1%25eth0]:9000", "[fe80::1]:9000"),
    ],
)
def test_what_a_server_is_called(url: str, authority: str) -> None:
    assert read_server_url(url).authority == authority


@pytest.mark.parametrize(
    ("given_", "host"),
    [
        ("keep", "keep"),
        ("server", "server"),
        ("Internal.Example.com", "internal.example.com"),
        ("internal.example.com:8080", "internal.example.com:8080"),
        ("10.0.0.5:80", "10.0.0.5:80"),
        ("[0:0::1]", "[::1]"),
        ("[::1]:8080", "[::1]:8080"),
    ],
)
def test_upstream_host(given_: str, host: str) -> None:
    assert read_upstream_host(given_) == host == read_upstream_host(host)


@pytest.mark.parametrize(
    ("given_", "reason"),
    [
        ("", "no host in it"),
        ("Keep", ""),
        ("SERVER", ""),
        ("a.test:", "the port must be 1 to 65535"),
        ("a.test:0", "the port must be 1 to 65535"),
        ("a.test:65536", "the port must be 1 to 65535"),
        ("::1", "an IPv6 address stands in brackets"),
        ("[127.0.0.1]", "brackets are for IPv6 addresses"),
        ("[fe80::1%eth0]", "a zone in it"),
        ("http://a.test", "a slash in it"),
        ("a.test/", "a slash in it"),
        ("*.test", "not a host name"),
        ("a.test\r\nX: y", "not a host name"),
        ("bücher.example", "a name beyond ASCII is written in its xn-- form"),
        (80, ""),
    ],
)
def test_not_an_upstream_host(given_: Any, reason: str) -> None:
    with pytest.raises(RefusedError) as refused:
        read_upstream_host(given_)
    assert str(refused.value) == reason


def test_error_status() -> None:
    assert [read_error_status(value) for value in ("400", "599", "4xx", "5xx", 404)] == [
        "400", "599", "4xx", "5xx", "404",
    ]  # fmt: skip
    for wrong in ("", "399", "600", "4XX", "3xx", "6xx", "40x", "4040", "\u0664\u0660\u0664", 200, True, 404.0, None):
        with pytest.raises(RefusedError):
            read_error_status(wrong)


def test_network() -> None:
    assert read_network("10.0.0.0/8") == ipaddress.ip_network("10.0.0.0/8")
    assert read_network("::1") == ipaddress.ip_network("::1/128")
    assert read_network(ipaddress.ip_address("10.0.0.1")) == ipaddress.ip_network("10.0.0.1/32")
    with pytest.raises(RefusedError, match=r"did you mean '10\.0\.0\.0/8'"):
        read_network("10.0.0.1/8")
    for wrong in ("", "10.0.0.0/33", "ten", 10, None):
        with pytest.raises(RefusedError):
            read_network(wrong)


@pytest.mark.parametrize(
    ("given_", "host"),
    [
        ("API.Example.com", "api.example.com"),
        ("*.Example.com", "*.example.com"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("127.0.0.1", "127.0.0.1"),
        ("[0:0::1]", "[::1]"),
    ],
)
def test_route_host(given_: str, host: str) -> None:
    assert read_route_host(given_) == host == read_route_host(host)


@pytest.mark.parametrize(
    "given_",
    [
        "",
        "*",
        "*.",
        "a.*.b",
        "*a.b",
        "a.b:80",
        "::1",
        "*.10.0.0.1",
        "a..b",
        ".a",
        "a.",
        "bücher.example",
        "a/b",
        "a b",
        5,
    ],
)
def test_not_a_route_host(given_: Any) -> None:
    with pytest.raises(RefusedError):
        read_route_host(given_)


@pytest.mark.parametrize("given_", ["", "v1", "/a?b", "/a#b", "/a b", "/a\n", "/\x7f", "/ü", None])
def test_not_a_route_path(given_: Any) -> None:
    with pytest.raises(RefusedError):
        read_route_path(given_)


@pytest.mark.parametrize("name", ["pkg.mod:Class", "mod:Outer.Inner", "_a.b2:_C"])
def test_class_name(name: str) -> None:
    assert read_class_name(name) == name


@pytest.mark.parametrize("name", ["", "mod", "mod.Class", "mod:", ":Class", "a b:C", "a..b:C", "1a:C", "a:b:c", None])
def test_not_a_class_name(name: Any) -> None:
    with pytest.raises(RefusedError):
        read_class_name(name)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (1, "1"),
        (1.5, "1.5"),
        ("x", '"x"'),
        ('a"b\\\n\x00', '"a\\"b\\\\\\n\\u0000"'),
        ("x" * 100, f'"{"x" * 60}…"'),
        ("http://me:secret@host", '"http://…@host"'),
        ({"a": 1}, "a table"),
        ({}, "an empty table"),
        ([1], "an array"),
        ((), "an empty array"),
        (10**100, "a very large number"),
        (Rate(1, 1.0), "1/1s"),
        (Server("http", "h", 80), "http://h:80"),
    ],
)
def test_show(value: Any, text: str) -> None:
    assert show(value) == text
