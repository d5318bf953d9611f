"""Many connections at once, as fast as they go: wrk with one thread."""

from __future__ import annotations

import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from load.http import HOST, WrongAnswerError

PROGRAM = "wrk"
LONGEST_SECONDS = 600
SCRIPT = Path(__file__).with_name("wrk.lua")


@dataclass(frozen=True, slots=True)
class Answered:
    """What wrk got: complete responses, and bytes with heads and whatever an unfinished response brought."""

    requests: int
    bytes: int


def parse(output: str) -> Answered:
    """Read the line that wrk.lua wrote; raises :class:`WrongAnswerError` when any request failed."""
    lines = [line for line in output.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise WrongAnswerError(f"wrk gave no result: {output.strip()[-400:]}")
    requests, size, connect, read, write, status, timeout = (int(field) for field in lines[-1].split()[1:])
    if connect or read or write or status or timeout:
        raise WrongAnswerError(
            f"of {requests} requests: {connect} connects, {read} reads, {write} writes failed, "
            f"{status} bad statuses, {timeout} timeouts"
        )
    return Answered(requests, size)


def load(
    port: int, path: str, *, length: int, connections: int, seconds: float, tls: bool = False, close: bool = False
) -> Answered:
    """GET ``path`` over ``connections`` for ``seconds``; ``close`` asks for a new connection per request.

    Raises :class:`WrongAnswerError` when a request failed or bodies are short.
    """
    url = f"{'https' if tls else 'http'}://{HOST}:{port}{path}"
    command = [PROGRAM, "-t", "1", "-c", str(connections), "-d", f"{LONGEST_SECONDS}s", "-s", str(SCRIPT), url]
    if close:
        command[1:1] = ["-H", "Connection: close"]
    # wrk's durations are whole seconds, but SIGINT ends it early, report included
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=LONGEST_SECONDS)
    finally:
        process.kill()
        process.wait()
    answered = parse(output)
    if answered.requests == 0 or answered.bytes < answered.requests * length:
        raise WrongAnswerError(f"{answered.requests} requests brought {answered.bytes} bytes, wanted {length} each")
    return answered
