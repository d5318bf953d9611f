"""Clients and servers that nobody here wrote: how they are found, started, and ended for sure."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

from iocproxy.testing import Certificates, Origin, ProxyFactory, RunningProxy
from iocproxy.testing.patience import PATIENCE, Deadline


class Start(Protocol):
    def __call__(self, command: Sequence[str | Path], ready: str, **options: Any) -> Program: ...


class Program:
    """A server as a child process; `lines` grows while it runs."""

    def __init__(
        self,
        command: Sequence[str | Path],
        ready: str,
        *,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Returns once a line of its output, error output included, matches `ready`; `match` is that match.

        Raises RuntimeError, with what it said, when it ends before that, and TimeoutError when it says nothing.
        """
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        options: dict[str, Any] = {}
        if sys.platform != "win32":
            # A session, and so a group, of its own: its workers end with it
            options = {"start_new_session": True, "pass_fds": pass_fds}
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            **options,
        )
        self._reader = threading.Thread(target=self._read, name=f"output of {command[0]}")
        self._reader.start()
        try:
            self.match = self._wait_for(re.compile(ready))
        except BaseException:
            self.stop()
            raise

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.decode("utf-8", "replace").rstrip())
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _wait_for(self, pattern: re.Pattern[str]) -> re.Match[str]:
        deadline = Deadline(PATIENCE, f"{self.process.args!r} did not say {pattern.pattern!r}")
        with self._changed:
            while True:
                for line in self.lines:
                    if match := pattern.search(line):
                        return match
                if self._ended:
                    raise RuntimeError(f"{self.process.args!r} ended, having said {self.lines!r}")
                self._changed.wait(deadline.remaining())

    def stop(self) -> None:
        """End it and all it started; may be called more than once."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(PATIENCE)
        if sys.platform == "win32":
            self.process.kill()
        else:
            # Its workers too, which may outlive it
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def start_program() -> Iterator[Start]:
    """Call it with a command and a pattern of the line that says that it is ready; ended with the module."""
    programs: list[Program] = []

    def start(command: Sequence[str | Path], ready: str, **options: Any) -> Program:
        programs.append(Program(command, ready, **options))
        return programs[-1]

    try:
        yield start
    finally:
        for program in programs:  # they take their time, all at once
            program.process.terminate()
        for program in programs:
            program.stop()


def find_program(name: str) -> str:
    """The path of a program; skips the test without it."""
    # Servers live where a user's PATH does not always lead
    path = os.environ.get("PATH", os.defpath) + ("" if sys.platform == "win32" else ":/usr/local/sbin:/usr/sbin")
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"not on PATH: {name}")
    return found


@pytest.fixture(scope="session")
def find() -> Callable[[str], str]:
    return find_program


@pytest.fixture(scope="session")
def run_program() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Call it with a command's name and arguments to run it to its end, which must be a success."""

    def run(name: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
        command = [find_program(name), *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, check=False, timeout=3 * PATIENCE, stdin=subprocess.DEVNULL, **options
        )
        assert done.returncode == 0, f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return done

    return run


@pytest.fixture(scope="session", autouse=True)
def _no_proxies_of_the_environment() -> Iterator[None]:
    """Nearly every client would go through one, where the machine has it, to reach 127.0.0.1."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.lower().endswith("_proxy"):
                patch.delenv(name)
        yield


class Front:
    """A proxy as a client is to meet it: `base` is its URL, `ca` the file of the authority to trust over https."""

    def __init__(self, proxy: RunningProxy, origin: Origin, certificates: Certificates, *, tls: bool) -> None:
        self.proxy = proxy
        self.origin = origin
        self.tls = tls
        self.certificates = certificates
        self.ca = certificates.ca
        self.base = proxy.tls_url if tls else proxy.url
        self.address = proxy.tls_address if tls else proxy.address


def left_nothing(proxy: RunningProxy) -> bool:
    """No request, tunnel or client's connection outlives its client."""
    stats = proxy.stats()
    return not any(stats[name] for name in ("requests_open", "tunnels_open", "connections_open"))


@pytest.fixture(params=["plain", "tls"])
def front(
    request: pytest.FixtureRequest,
    iocproxy: ProxyFactory,
    iocproxy_origin: Origin,
    iocproxy_certificates: Certificates,
) -> Iterator[Front]:
    """A proxy in front of a recording origin, without TLS and with it."""
    tls = request.param == "tls"
    proxy = iocproxy(upstream=iocproxy_origin, tls=tls)
    yield Front(proxy, iocproxy_origin, iocproxy_certificates, tls=tls)
    proxy.wait_for(left_nothing)
