"""How much memory is left, by the word of the system and of groups of files like the kernel's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from iocproxy.net import free_memory
from iocproxy.net.free_memory import memory_gauge

GIB = 1024**3


@pytest.mark.skipif(sys.platform not in {"linux", "win32"}, reason="the system has no such figure to read")
def test_the_figure_is_a_sensible_one() -> None:
    gauge = memory_gauge()
    assert gauge is not None
    assert 16 * 1024**2 < gauge() < 64 * 1024 * GIB
    assert abs(gauge() - gauge()) < GIB


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /proc and a /sys/fs/cgroup of our own."""
    monkeypatch.setattr(free_memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(free_memory, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(sys, "platform", "linux")
    write(tmp_path / "proc/meminfo", "MemTotal:  16000 kB\nMemFree:  1 kB\nMemAvailable:    8000 kB\n")
    return tmp_path


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "ascii")


def left() -> int:
    gauge = memory_gauge()
    assert gauge is not None
    return gauge()


def test_the_machine_alone(system: Path) -> None:
    assert left() == 8000 * 1024
    write(system / "proc/self/cgroup", "0::/a\n")
    assert left() == 8000 * 1024
    write(system / "proc/meminfo", "nothing\n")
    assert left() == 2**62


def test_groups_around_groups(system: Path) -> None:
    write(system / "proc/self/cgroup", "0::/outer/inner\n")
    write(system / "cgroup/outer/memory.max", "5000000\n")
    write(system / "cgroup/outer/memory.current", "4000000\n")
    write(system / "cgroup/outer/memory.stat", "anon 1\ninactive_file 500000\nactive_file 7\n")
    write(system / "cgroup/outer/inner/memory.max", "max\n")
    assert left() == 5_000_000 - 3_500_000
    write(system / "cgroup/outer/inner/memory.max", "1000000\n")
    write(system / "cgroup/outer/inner/memory.current", "900000\n")
    write(system / "cgroup/outer/inner/memory.stat", "inactive_file 0\n")
    assert left() == 100_000
    write(system / "cgroup/outer/inner/memory.current", "garbage\n")
    assert left() == 5_000_000 - 3_500_000


def test_the_older_groups_seen_from_within_a_container(system: Path) -> None:
    write(system / "proc/self/cgroup", "12:cpu,cpuacct:/x\n4:memory:/docker/0123\n")
    write(system / "cgroup/memory/memory.limit_in_bytes", "3000000\n")
    write(system / "cgroup/memory/memory.usage_in_bytes", "2900000\n")
    write(system / "cgroup/memory/memory.stat", "cache 5\ntotal_inactive_file 400000\n")
    assert left() == 500_000


def test_no_such_system(system: Path) -> None:
    (system / "proc/meminfo").unlink()
    assert memory_gauge() is None
