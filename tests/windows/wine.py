"""One Wine prefix for one run: made first, taken down last, with nothing left of it.

Theory of operation. A prefix is a Windows installation: registry, drive C, and a ``wineserver`` with the service
processes that it starts. Each run works in a copy of its own, made of hard links in a moment, so that two runs at once
do not meet, and stopping one (`wineserver -k` of its own prefix) touches neither another nor the user's ``~/.wine``.

The first Windows process of a prefix brings the services up, and they inherit its output pipe and hold it open for as
long as they live: whoever waits for the end of that pipe waits for ever. So a *keeper* comes first, ``cmd`` reading its
standard input, of which only the first line is read. It goes when that input ends, at the latest when we die.

A wineserver and its services leave the process tree of whoever started them. This process makes itself the one that
inherits them (Linux' child subreaper), so that they can be waited for and do not stay behind as zombies in a container
without an init.

A wineserver that hangs answers nobody, and its programs wait for it in calls that no signal handler of theirs and no
timeout in Python gets to see. So after it was asked to end everything, whatever still runs in the prefix is killed; the
environment, which every process of Wine inherits, tells who belongs to it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

_PR_SET_CHILD_SUBREAPER = 36
#: Seconds that Wine gets to take down what is left in a prefix.
_STOP_SECONDS = 15.0


def windows_path(path: Path) -> str:
    """The path as a Windows program names it: Wine shows the whole file system as drive Z."""
    return "Z:" + str(path).replace("/", "\\")


def windows_text(output: bytes) -> str:
    """What a Windows program wrote to a pipe: UTF-8 where it chose so, otherwise the ANSI code page, 1252 here."""
    try:
        text = output.decode("utf-8")
    except UnicodeDecodeError:
        text = output.decode("cp1252", "replace")
    return text.replace("\r\n", "\n")


class Wine:
    """A running Wine in a prefix of its own, as a context manager.

    `template` is a prefix made by `make_prefix`; `runs` is the folder for the copy, on the same file system;
    `variables` are added to the environment of everything started.
    """

    def __init__(self, template: Path, runs: Path, variables: Mapping[str, str] | None = None) -> None:
        self._template = template
        self._runs = runs
        self._variables = dict(variables or {})
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Wine:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        with (self._runs / "lock").open("w") as entrance:
            # so that nobody sweeps a folder away before its owner holds it
            fcntl.flock(entrance, fcntl.LOCK_EX)
            _sweep(self._runs)
            self._home = Path(tempfile.mkdtemp(prefix="run-", dir=self._runs))
            self._lock = _hold(self._home)
        self.scratch = self._home / "scratch"  #: a folder of this run
        self.scratch.mkdir()
        self.environ = {**_environ(self._home), **self._variables}  #: for everything started from now on
        try:
            _copy_prefix(self._template, self._home / "prefix")
            keeper = self.spawn(["cmd"], stdin=subprocess.PIPE)
            assert keeper.stdout is not None
            keeper.stdout.readline()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def spawn(
        self, command: Sequence[str | Path], *, stdin: int | None = subprocess.DEVNULL, cwd: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a Windows program, both its output streams in one pipe: given a file, Wine fails on some writes.

        It gets a session of its own: Ctrl+C in the terminal is for us to act on, not for every process of Wine.
        """
        process = subprocess.Popen(
            ["wine", *map(str, command)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.environ,
            cwd=cwd,
            start_new_session=True,
        )
        self._processes.append(process)
        return process

    def capture(self, command: Sequence[str | Path]) -> tuple[int, str]:
        """Run a program to its end: its exit code and what it printed. Raises TimeoutExpired after two minutes."""
        process = self.spawn(command)
        output, _ = process.communicate(timeout=120)
        return process.returncode, windows_text(output).strip()

    def kill(self) -> None:
        """End every process of this prefix, whoever started it. May be called twice, and from another thread."""
        _stop_server(self.environ)

    def _close(self) -> None:
        self.kill()
        for process in self._processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        _reap()
        _remove(self._home)
        self._lock.close()


def make_prefix(home: Path) -> None:
    """Make ``prefix`` in that folder, reporting Windows 10, to be copied and never run in. Takes about 20 s."""
    environ = _environ(home)
    try:
        for command in (["wineboot", "--init"], ["wine", "winecfg", "-v", "win10"]):
            subprocess.run(
                command,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=True,
                timeout=300,
            )
        # the registry is written when the server goes, and it goes when the last program has
        subprocess.run(["wineserver", "-w"], env=environ, check=True, timeout=60)
    finally:
        _stop_server(environ)


def _environ(home: Path) -> dict[str, str]:
    """Ours without what would lead a Windows Python to this Linux one, and with Wine told to be quiet and alone."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "WINE", "VIRTUAL_ENV"))}
    kept.pop("DISPLAY", None)
    return {
        **kept,
        "HOME": str(home),  # where Wine would link the user's own folders into drive C
        "LC_ALL": "C.UTF-8",  # file names are UTF-8, the ANSI code page is 1252 whoever runs this
        "WINEPREFIX": str(home / "prefix"),
        "WINEDEBUG": "-all",
        "WINEDLLOVERRIDES": "mscoree,mshtml=;winemenubuilder.exe=",  # no prompts for Mono and Gecko, no menus
    }


def _copy_prefix(template: Path, target: Path) -> None:
    """Registry files are copied, for Wine writes them; the rest are programs and libraries that nobody changes."""

    def copy(source: str, destination: str) -> None:
        if source.endswith(".reg"):
            shutil.copy2(source, destination)
        else:
            os.link(source, destination)

    shutil.copytree(template, target, symlinks=True, copy_function=copy)


def _stop_server(environ: Mapping[str, str]) -> None:
    if not Path(environ["WINEPREFIX"]).exists():
        return
    for command in (["wineserver", "-k"], ["wineserver", "-w"]):
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(command, env=environ, stderr=subprocess.DEVNULL, check=False, timeout=_STOP_SECONDS)
    _kill_all(f"WINEPREFIX={environ['WINEPREFIX']}".encode())


def _kill_all(mark: bytes) -> None:
    """SIGKILL for every process with that variable in its environment, but for ourselves."""
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        if pid == os.getpid():
            continue
        with contextlib.suppress(OSError):  # it has ended meanwhile, or is somebody else's
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(pid, signal.SIGKILL)


def _reap() -> None:
    """Collect the processes that were left to us, until there is none or they take too long."""
    deadline = time.monotonic() + _STOP_SECONDS
    while time.monotonic() < deadline:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            time.sleep(0.02)


def _hold(home: Path) -> IO[str]:
    """Mark a run's folder as in use for as long as the file stays open."""
    lock = (home / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lock


def _sweep(runs: Path) -> None:
    """Remove what runs left behind that were killed before they could."""
    for home in runs.glob("run-*"):
        with contextlib.suppress(OSError), _hold(home):
            _stop_server(_environ(home))
            _remove(home)


def _remove(home: Path) -> None:
    with contextlib.suppress(OSError):
        # the folder of the server's socket is named after the prefix and stays behind
        prefix = (home / "prefix").stat()
        shutil.rmtree(f"/tmp/.wine-{os.getuid()}/server-{prefix.st_dev:x}-{prefix.st_ino:x}", ignore_errors=True)
    shutil.rmtree(home, ignore_errors=True)
