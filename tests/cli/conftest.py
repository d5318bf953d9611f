"""The command as a user starts it: a child process, its lines as they come, and signals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from iocproxy.testing.patience import PATIENCE

ROOT = Path(__file__).parents[2]
CONSOLE = Path(__file__).with_name("console.py")


class Command:
    """``python -m iocproxy …`` as a child; `lines` grows while it runs."""

    def __init__(self, arguments, cwd, environ, *, interruptible=False, read_until=None, hold_after=None, stdin=None):
        """`interruptible`: `interrupt` may be called, which on Windows takes a console for it alone. `read_until`: its
        output is closed after a line with this text, as ``head`` would. `hold_after`: its output is not read any
        further after a line with this text, until `read_on`. `stdin` is a descriptor in place of nothing."""
        self.lines = []
        self._last = read_until
        self._hold_after = hold_after
        self.held, self._read_on = threading.Event(), threading.Event()
        self._changed = threading.Condition()
        self._ended = False
        self._console = interruptible and sys.platform == "win32"
        self.process = subprocess.Popen(
            [
                *([sys.executable, CONSOLE] if self._console else []),
                *(sys.executable, "-W", "always::ResourceWarning", "-m", "iocproxy"),
                *map(str, arguments),
            ],
            stdin=subprocess.PIPE if self._console else subprocess.DEVNULL if stdin is None else stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=environ,
        )
        self._errors = []
        self._readers = [
            threading.Thread(target=self._read_output, name="stdout"),
            threading.Thread(target=self._read_errors, name="stderr"),
        ]
        for reader in self._readers:
            reader.start()

    def _read_output(self):
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.decode().rstrip("\r\n"))
                self._changed.notify_all()
            if self._last is not None and self._last in self.lines[-1]:
                self.process.stdout.close()
                break
            if self._hold_after is not None and self._hold_after in self.lines[-1]:
                self._hold_after = None
                self.held.set()
                self._read_on.wait()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _read_errors(self):
        self._errors.append(self.process.stderr.read().decode().replace("\r\n", "\n"))

    def read_on(self):
        self._read_on.set()

    def wait_for(self, pattern, count=1):
        """The first `count` matches in lines of standard output; a single one alone."""

        def found():
            return [match for line in self.lines if (match := re.search(pattern, line))]

        with self._changed:
            self._changed.wait_for(lambda: len(found()) >= count or self._ended, PATIENCE)
            matches = found()
        assert len(matches) >= count, f"no {pattern!r}: {self.describe()}"
        return matches[0] if count == 1 else matches[:count]

    def addresses(self, count=1):
        """Of the first `count` listeners, [("http", (host, port)), …]; waits until they listen."""
        matches = self.wait_for(r"\blisten\w+.*url\W+(https?)://([\d.]+):(\d+)", count)
        return [(match[1], (match[2], int(match[3]))) for match in ([matches] if count == 1 else matches)]

    def address(self):
        """Of the only listener; waits until it listens."""
        return self.addresses()[0][1]

    def signal(self, number):
        self.process.send_signal(number)

    def interrupt(self):
        """What Ctrl+C does."""
        if self._console:
            self.process.stdin.write(b"\n")
            self.process.stdin.flush()
        else:
            self.process.send_signal(signal.SIGINT)

    def finish(self):
        """Wait for its end; returns (exit code, standard output, standard error)."""
        code = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        return code, "\n".join(self.lines), self._errors[0]

    def kill(self):
        if self._console:
            self.process.stdin.close()
        else:
            self.process.kill()
        self.process.wait()
        self.read_on()
        for reader in self._readers:
            reader.join()
        self.process.stdout.close()
        self.process.stderr.close()

    def describe(self):
        if self.process.poll() is None:
            return f"running, said {self.lines!r}"
        return f"ended {self.process.returncode}, said {self.lines!r}, {self._errors!r}"


@pytest.fixture(scope="session")
def environ():
    """What the children get; PYTHONUNBUFFERED would hide a line that nobody flushed."""
    environ = {key: value for key, value in os.environ.items() if key not in {"PYTHONUNBUFFERED", "FORCE_COLOR"}}
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return environ


@pytest.fixture(scope="module")
def start_command(environ):
    """Call it with arguments and a directory to start iocproxy there; every one is ended with the module."""
    started = []

    def start(arguments, directory, *, interruptible=False, read_until=None, hold_after=None, stdin=None, **variables):
        child = Command(
            arguments,
            directory,
            {**environ, **variables},
            interruptible=interruptible,
            read_until=read_until,
            hold_after=hold_after,
            stdin=stdin,
        )
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()


@pytest.fixture
def command(start_command, tmp_path):
    """Call it with arguments to start iocproxy in `tmp_path`; every one is ended with the test."""
    started = []

    def start(*arguments, **options):
        started.append(start_command(arguments, tmp_path, **options))
        return started[-1]

    yield start
    for child in started:
        child.kill()


@pytest.fixture
def finished(command):
    """Call it with arguments to run iocproxy to its end; returns (exit code, standard output, standard error)."""
    return lambda *arguments, **variables: command(*arguments, **variables).finish()


@pytest.fixture
def config_file(tmp_path):
    """Call it with sections to write them to a TOML file."""

    def write(text, name="proxy.toml"):
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        return file

    return write


@pytest.fixture
def stopper(tmp_path):
    """A table for a configuration: middleware that raises the signal named in the path, for where none can be sent."""
    (tmp_path / "stopper.py").write_text(
        "import signal\n"
        "class Stopper:\n"
        "    def on_request(self, request):\n"
        "        if request.path.startswith('/raise/'):\n"
        "            signal.raise_signal(signal.Signals[request.path.rpartition('/')[2]])\n",
        encoding="utf-8",
    )
    return '[[middleware]]\nuse = "stopper:Stopper"\n'


@pytest.fixture
def quoted():
    """Text as a TOML string."""
    return json.dumps
