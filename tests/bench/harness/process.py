"""A process that is born on its core, is waited for until it listens, and never outlives the run."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from harness import host

START_SECONDS = 15.0
STOP_SECONDS = 5.0
CHECKOUT = Path(__file__).resolve().parents[3]
"""Where every process runs, so that ``python -m iocproxy`` is the one that this benchmark came with."""


class StartError(RuntimeError):
    """The process ended, or did not listen in time; the message ends with what it wrote."""


@contextlib.contextmanager
def running(
    command: Sequence[str], *, core: int, log: Path, ports: Sequence[int], environment: Mapping[str, str] | None = None
) -> Iterator[int]:
    """Run ``command`` on ``core`` until the block ends; yields its pid once all ``ports`` accept connections.

    It has a process group of its own: Ctrl+C reaches us alone, and we end the whole group.
    """
    with log.open("wb") as output, host.pinned(core):
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
            cwd=CHECKOUT,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        for port in ports:
            _wait_for_listener(process, port, deadline, log)
        yield process.pid
    finally:
        _end(process)


def _wait_for_listener(process: subprocess.Popen[bytes], port: int, deadline: float, log: Path) -> None:
    while True:
        if process.poll() is not None:
            raise StartError(f"ended with status {process.returncode}: {tail(log)}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError as refused:
            if time.monotonic() > deadline:
                raise StartError(f"port {port} not open within {START_SECONDS:.0f} s: {tail(log)}") from refused
            time.sleep(0.02)
        else:
            return


def tail(log: Path, characters: int = 800) -> str:
    """The last words of a log file, for an error message."""
    return log.read_text(errors="replace").strip()[-characters:] or "(it wrote nothing)"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
