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
KNOWN = Path(__file__).with_name("known.lua")


@dataclass(frozen=True, slots=True)
class Answered:
    """What wrk got: complete responses, and bytes with heads and whatever an unfinished response brought."""

    requests: int
    bytes: int


def parse(output: str, *, refused: bool = False) -> Answered:
    """Read the line that the script wrote; raises :class:`WrongAnswerError` when any request failed.

    With ``refused`` each has to have been answered with an error.
    """
    lines = [line for line in output.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise WrongAnswerError(f"wrk gave no result: {output.strip()[-400:]}")
    requests, size, connect, read, write, status, timeout = (int(field) for field in lines[-1].split()[1:])
    if connect or read or write or status != requests * refused or timeout:
        raise WrongAnswerError(
            f"of {requests} requests: {connect} connects, {read} reads, {write} writes failed, "
            f"{status} bad statuses, {timeout} timeouts"
        )
    return Answered(requests, size)


def load(
    port: int,
    path: str,
    *,
    length: int,
    connections: int,
    seconds: float,
    tls: bool = False,
    close: bool = False,
    refused: bool = False,
) -> Answered:
    """GET ``path`` over ``connections`` for ``seconds``; ``close`` asks for a new connection per request, and with
    ``refused`` none may be served.

    Raises :class:`WrongAnswerError` when a request failed or bodies are short.
    """
    url = f"{'https' if tls else 'http'}://{HOST}:{port}{path}"
    command = [PROGRAM, "-t", "1", "-c", str(connections), "-d", f"{LONGEST_SECONDS}s", "-s", str(SCRIPT), url]
    if close:
        command[1:1] = ["-H", "Connection: close"]
    answered = parse(_output(command, seconds), refused=refused)
    if answered.requests == 0 or answered.bytes < answered.requests * length:
        raise WrongAnswerError(f"{answered.requests} requests brought {answered.bytes} bytes, wanted {length} each")
    return answered


def make_known(port: int, path: str, clients: int) -> None:
    """Have so many clients known, each by one request through a trusted proxy."""
    made = first = 0
    while made < clients:
        url = f"http://{HOST}:{port}{path}"
        command = [PROGRAM, "-t", "1", "-c", "16", "-d", f"{LONGEST_SECONDS}s", "-s", str(KNOWN), url, "--", str(first)]
        made += parse(_output(command, 2.0)).requests
        first += 2**20  # some more were sent than were answered


def _output(command: list[str], seconds: float) -> str:
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
    return output
