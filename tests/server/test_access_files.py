"""Reading the files of `[limits.access]`: everything wrong is told, with file and line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from iocproxy.config.limits import AccessLists
from iocproxy.errors import ConfigError
from iocproxy.server import access_lists
from iocproxy.server.access_lists import Loaded, load_access
from iocproxy.testing import ProxyFactory

ALLOWED = 'must be an IP network, such as "10.0.0.0/8" or "2001:db8::/32"; what follows # is a comment'


def load(tmp_path: Path, content: bytes) -> Loaded:
    file = tmp_path / "list.txt"
    file.write_bytes(content)
    return load_access(AccessLists(deny_files=(file,)))


def faults(tmp_path: Path, content: bytes) -> list[tuple[str, str]]:
    with pytest.raises(ConfigError) as told:
        load(tmp_path, content)
    assert {fault.path for fault in told.value.faults} == {"limits.access.deny_files[0]"}
    return [(fault.found.removeprefix(f"{tmp_path}{os.sep}"), fault.allowed) for fault in told.value.faults]


def test_what_may_stand_in_a_file(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        b"\xef\xbb\xbf# B\xc3\xbcro\r\n\r\n10.0.0.0/8\r\n  10.0.0.0/8\t# twice\n192.0.2.1\n10.1.0.0/255.255.0.0\n"
        b"2001:DB8::/32\n::ffff:198.51.100.0/120\n#10.2.0.0/16\n203.0.113.7",
    )
    assert loaded.denied == 6
    asked = ("10.1.2.3", "192.0.2.1", "2001:db8:1::", "198.51.100.9", "203.0.113.7", "192.0.2.2", "11.0.0.1")
    assert [loaded.map.allows(address) for address in asked] == [False] * 5 + [True] * 2


def test_an_empty_file_is_a_list_of_nobody(tmp_path: Path) -> None:
    assert load(tmp_path, b"").denied == 0
    (tmp_path / "list.txt").write_bytes(b"# nobody\n")
    loaded = load_access(AccessLists(allow_files=(tmp_path / "list.txt",)))
    assert not loaded.map.allows("192.0.2.1")  # as an allow list it lets nobody in


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"10.0.0.0/8\nx\n", [('list.txt:2: "x"', ALLOWED)]),
        (b"\n\n10.0.0.1/8", [('list.txt:3: "10.0.0.1/8"', f"did you mean '10.0.0.0/8'?; {ALLOWED}")]),
        (b"10.0.0.0/8 10.1.0.0/16\n", [('list.txt:1: "10.0.0.0/8 10.1.0.0/16"', ALLOWED)]),
        (b"10.0.0.0/8 ; SBL1\n", [('list.txt:1: "10.0.0.0/8 ; SBL1"', ALLOWED)]),
        (b"10.0.0.0/8\r11.0.0.0/8\r", [('list.txt:1: "10.0.0.0/8\\u000d11.0.0.0/8"', ALLOWED)]),
        ("\u0661.2.3.4\n".encode(), [('list.txt:1: "\u0661.2.3.4"', ALLOWED)]),
        (b"10.0.0.0/8\n# B\xfcro\n", [("list.txt:2: not UTF-8", "a text file saved as UTF-8")]),
        ("10.0.0.0/8\n".encode("utf-16"), [("list.txt is UTF-16", "a text file saved as UTF-8")]),
        (b"x\n" * 12, [*((f'list.txt:{n}: "x"', ALLOWED) for n in range(1, 11)), ("list.txt: 2 more lines", ALLOWED)]),
    ],
)
def test_what_may_not(tmp_path: Path, content: bytes, expected: list[tuple[str, str]]) -> None:
    found = faults(tmp_path, content)
    assert len(found) == len(expected)
    for (place, allowed), (expected_place, expected_allowed) in zip(found, expected, strict=True):
        assert place.startswith(expected_place)
        assert allowed.endswith(expected_allowed)


def test_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_lists, "MAX_LINES", 3)
    assert load(tmp_path, b"10.0.0.1\n#\n10.0.0.2").denied == 2
    assert faults(tmp_path, b"\n\n\n\n") == [("list.txt has more than 3 lines", "at most 3 lines")]
    monkeypatch.setattr(access_lists, "MAX_OCTETS", 1 << 20)
    assert load(tmp_path, b"#" * (1 << 20)).denied == 0
    assert faults(tmp_path, b"#" * (1 << 20) + b"\n") == [("list.txt has more than 1 MiB", "at most 1 MiB")]


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as told:
        load_access(AccessLists(allow_files=(tmp_path / "none.txt",), deny_files=(tmp_path,)))
    first, second = told.value.faults
    assert first.path == "limits.access.allow_files[0]"
    assert first.found.startswith(f"{tmp_path / 'none.txt'} cannot be read: ")  # the system's own words follow
    assert second.path == "limits.access.deny_files[0]"
    assert second.found.startswith(f"{tmp_path} ")


def test_a_network_on_both_sides_is_told_with_both_places(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_bytes(b"# first\n10.0.0.0/8\n" + b"".join(b"192.0.2.%d\n" % n for n in range(12)))
    allow = ["10.0.0.0/8", *(f"192.0.2.{n}" for n in range(12))]
    with pytest.raises(ConfigError) as told:
        load_access(AccessLists(allow=allow, deny_files=(file,)))  # type: ignore[arg-type]
    first, *_, last = told.value.faults
    assert first.path == "limits.access.deny_files[0]"
    assert first.found == f'"10.0.0.0/8" ({file}:2)'
    assert first.allowed == "is also in limits.access.allow[0]"
    assert len(told.value.faults) == 11
    assert last.found == "3 more networks like these"


def test_a_start_tells_of_everything_at_once(iocproxy: ProxyFactory, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"nonsense\n")
    with pytest.raises(ConfigError) as told:
        iocproxy(
            upstream="http://127.0.0.1:9",
            limits={"access": {"deny_files": [str(tmp_path / "list.txt")]}},
            middleware=[{"use": "nowhere:Nothing"}],
        )
    assert [fault.path for fault in told.value.faults] == ["limits.access.deny_files[0]", "middleware[0].use"]
