"""CPU time and resident memory of a process tree, read from /proc (Linux, proc(5)).

The figure is taken as a difference of two readings around a load.  ``stat`` counts in clock ticks (10 ms as a rule),
but the kernel scales user + system to the scheduler's exact run time, so a difference is right to one tick.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Stat:
    """The fields of ``/proc/PID/stat`` that we use; times in clock ticks."""

    pid: int
    parent: int
    own_ticks: int
    reaped_ticks: int
    """User and system time of children that have ended and were waited for."""


def parse_stat(text: str) -> Stat:
    """Parse ``/proc/PID/stat``; the command name may hold blanks and parentheses, so split after the last ``)``."""
    pid = int(text[: text.index(" ")])
    fields = text[text.rindex(")") + 2 :].split()
    utime, stime, cutime, cstime = (int(value) for value in fields[11:15])
    return Stat(pid, int(fields[1]), utime + stime, cutime + cstime)


def parse_rss(smaps_rollup: str) -> int:
    """Resident bytes from ``/proc/PID/smaps_rollup``, which is exact where ``status`` lags by some pages a thread."""
    for line in smaps_rollup.splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    return 0


def tree(root: int) -> list[Stat]:
    """The process ``root`` and everything that descends from it, as far as it is alive."""
    found: dict[int, Stat] = {}
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = parse_stat((entry / "stat").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
        found[stat.pid] = stat
        children.setdefault(stat.parent, []).append(stat.pid)
    members: list[Stat] = []
    pending = [root]
    while pending:
        pid = pending.pop()
        if pid in found:
            members.append(found[pid])
            pending.extend(children.get(pid, ()))
    return members


def cpu_seconds(root: int) -> float:
    """User plus system time that the tree under ``root`` has used so far."""
    return sum(stat.own_ticks + stat.reaped_ticks for stat in tree(root)) / TICKS_PER_SECOND


def rss_bytes(root: int) -> int:
    """Resident memory of the tree under ``root``. Shared pages count once per process: compare differences only."""
    return sum(parse_rss((PROC / str(stat.pid) / "smaps_rollup").read_text()) for stat in tree(root))
