"""How much memory is left, by the word of the system: of the machine, or of the container where that is less.

Linux says so in /proc/meminfo (MemAvailable, proc(5)) and, for each control group around the process, in memory.max,
memory.current and memory.stat (cgroup v2, kernel's admin-guide/cgroup-v2.rst) or memory.limit_in_bytes and so on (v1).
File pages that nobody has used for a while are counted as free: the kernel takes them back first. Windows says so in
GlobalMemoryStatusEx (sysinfoapi.h); what may be committed can run out before the physical memory does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


def memory_gauge() -> Callable[[], int] | None:
    """A function that says how many octets are left; it takes some 50 µs and does not raise. None where the system has
    no such thing to read (macOS)."""
    if sys.platform == "win32":
        return _windows_gauge()
    if not (_PROC / "meminfo").exists():
        return None
    groups = list(_groups())

    def gauge() -> int:
        return min([_available(), *(group() for group in groups)])

    return gauge


#: What is said where a figure cannot be read: enough.
_PLENTY = 2**62


def _available() -> int:
    try:
        return _figure((_PROC / "meminfo").read_text(encoding="ascii"), "MemAvailable:") * 1024
    except (OSError, ValueError):
        return _PLENTY


def _figure(text: str, name: str) -> int:
    """The number behind a name at the beginning of a line. Raises ValueError where there is none."""
    for line in text.splitlines():
        if line.startswith(name):
            return int(line[len(name) :].split()[0])
    raise ValueError(f"no {name}")


def _groups() -> Iterator[Callable[[], int]]:
    """For each control group with a limit: what is left in it. The limits are read anew each time, they may change."""
    try:
        lines = (_PROC / "self/cgroup").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            root, names = _CGROUPS, ("memory.max", "memory.current", "inactive_file ")
        elif "memory" in controllers.split(","):
            root, names = (
                _CGROUPS / "memory",
                ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "),
            )
        else:
            continue
        # In a container the path may be that of the host, and the group is found at the root.
        place = root / path.lstrip("/")
        for directory in (place, *place.parents):
            if (directory / names[0]).exists():
                yield _group(directory, *names)
            if directory == root:
                break


def _group(directory: Path, limit: str, used: str, inactive: str) -> Callable[[], int]:
    def left() -> int:
        try:
            allowed = (directory / limit).read_text(encoding="ascii").strip()
            if allowed == "max":
                return _PLENTY
            taken = int((directory / used).read_text(encoding="ascii"))
            stale = _figure((directory / "memory.stat").read_text(encoding="ascii"), inactive)
            return int(allowed) - (taken - stale)
        except (OSError, ValueError):
            return _PLENTY

    return left


if sys.platform == "win32":
    import ctypes
    from ctypes import wintypes

    class _MemoryStatus(ctypes.Structure):
        """MEMORYSTATUSEX."""

        _fields_ = [
            ("length", wintypes.DWORD),
            ("load", wintypes.DWORD),
            ("total_physical", ctypes.c_uint64),
            ("available_physical", ctypes.c_uint64),
            ("total_commit", ctypes.c_uint64),
            ("available_commit", ctypes.c_uint64),
            ("total_virtual", ctypes.c_uint64),
            ("available_virtual", ctypes.c_uint64),
            ("available_extended", ctypes.c_uint64),
        ]

    def _windows_gauge() -> Callable[[], int]:
        status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
        ask = ctypes.windll.kernel32.GlobalMemoryStatusEx

        def gauge() -> int:
            if not ask(ctypes.byref(status)):
                return _PLENTY
            return min(status.available_physical, status.available_commit)

        return gauge
