"""Every example, run as its reader would run it: a process of its own, asked over real sockets.

Files with fixed ports are copied and given free ones, as a user edits a file; no example has a switch for its test.
"""

from __future__ import annotations

import os
import queue
import re
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from iocproxy.testing import Origin, RawClient

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
WINDOWS = sys.platform == "win32"

#: Seconds that a program may take to do what is waited for.
PATIENCE = 60 if WINDOWS else 20


class Program:
    """A running example. Its lines (standard output and error together) are read as they come."""

    def __init__(self, *arguments: str | Path, cwd: Path = ROOT) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}
        self.process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        self.said: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first line from now on in which `pattern` is found."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                pytest.fail(f"did not say {pattern!r}:\n" + "\n".join(self.said))
            if line is None:
                pytest.fail(f"ended without saying {pattern!r}:\n" + "\n".join(self.said))
            self.said.append(line)
            found = re.search(pattern, line)
            if found is not None:
                return found

    def interrupt(self) -> int:
        """What Ctrl+C does; returns the exit code. (Windows has no way to send it to one child alone.)"""
        assert not WINDOWS
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


Run = Callable[..., Program]


@pytest.fixture
def run() -> Iterator[Run]:
    programs: list[Program] = []

    def start(*arguments: str | Path, cwd: Path = ROOT) -> Program:
        programs.append(Program(*arguments, cwd=cwd))
        return programs[-1]

    yield start
    for program in programs:
        program.close()


def copy(name: str, to: Path, origin: Origin) -> Path:
    """The example's directory, with free ports in its configuration and `origin` as its server."""
    directory = to / name
    shutil.copytree(EXAMPLES / name, directory, ignore=shutil.ignore_patterns("__pycache__", "*.pem", "*.key"))
    file = directory / "iocproxy.toml"
    text = file.read_text("utf-8")
    text, binds = re.subn(r'bind = "127\.0\.0\.1:\d+"', 'bind = "127.0.0.1:0"', text)
    text, servers = re.subn(r"http://127\.0\.0\.1:9000", origin.url, text)
    assert (binds, servers) == (1, 1)
    file.write_text(text, "utf-8")
    return directory


def get(url: str, headers: dict[str, str] | None = None, context: ssl.SSLContext | None = None) -> tuple[int, str, str]:
    """Status, X-Request-Id and body of a GET."""
    request = urllib.request.Request(url, headers=headers or {})
    try:
        response = urllib.request.urlopen(request, context=context, timeout=PATIENCE)
    except urllib.error.HTTPError as error:
        response = error
    with response:
        return response.status, response.headers.get("X-Request-Id", ""), response.read().decode()


def test_embed(run: Run) -> None:
    program = run(EXAMPLES / "embed.py", "--listen", "127.0.0.1:0", "--every", "0.1")
    url = program.wait_for(r"listening on (\S+)")[1]
    assert get(f"{url}/hello") == (200, "", "/hello for 127.0.0.1\n")
    assert get(f"{url}/hello") == (200, "", "/hello for 127.0.0.1\n")
    program.wait_for(r"2 requests: \{'200 /hello': 2\}")
    if not WINDOWS:
        assert program.interrupt() == 0
        program.wait_for("^stopped$")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate of this example")
def test_tls(run: Run, iocproxy_origin: Origin, tmp_path: Path) -> None:
    directory = copy("tls", tmp_path, iocproxy_origin)
    program = run(directory / "serve.py")
    url = program.wait_for(r"listening .*url=(https://\S+)")[1]
    # Nothing is trusted but the pair that was just made, and the name is checked.
    context = ssl.create_default_context(cafile=str(directory / "site.pem"))
    port = url.rpartition(":")[2]
    assert get(f"https://localhost:{port}/status/200", context=context)[0] == 200
    assert iocproxy_origin.requests[0].header("X-Forwarded-Proto") == "https"
    if not WINDOWS:
        assert program.interrupt() == 0
        assert (directory / "site.key").stat().st_mode & 0o077 == 0
    made = (directory / "site.pem").read_bytes()
    again = run(directory / "serve.py")
    again.wait_for("listening")
    assert (directory / "site.pem").read_bytes() == made


def test_mutual_tls(run: Run, iocproxy_origin: Origin, tmp_path: Path) -> None:
    directory = copy("mutual_tls", tmp_path, iocproxy_origin)
    assert run(directory / "certificates.py").process.wait(PATIENCE) == 0
    program = run("-m", "iocproxy", "serve", cwd=directory)
    host, port = program.wait_for(r"listening .*url=https://(\S+)")[1].split(":")

    def ask(name: str, wanted: str, *pair: Path) -> int:
        context = ssl.create_default_context(cafile=str(directory / "ca.pem"))
        if pair:
            context.load_cert_chain(*pair)
        with RawClient((host, int(port)), tls=context, server_name=name) as client:
            return client.request("GET", "/status/200", headers=[("Host", wanted)]).status

    ali = directory / "ali.pem", directory / "ali.key"
    assert ask("localhost", "localhost") == 200
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
        ask("admin.localhost", "admin.localhost")
    program.wait_for("handshake_failed .*the client showed no certificate")
    assert ask("admin.localhost", "admin.localhost", *ali) == 200
    assert ask("localhost", "admin.localhost") == 421
    subjects = [request.header("X-Client-Subject") for request in iocproxy_origin.requests]
    assert subjects == [None, "CN=ali"]
    assert iocproxy_origin.requests[1].header("X-Client-Email") == "ali@example.com"
    if not WINDOWS:
        assert (directory / "ali.key").stat().st_mode & 0o077 == 0


def test_middleware(run: Run, iocproxy_origin: Origin, tmp_path: Path) -> None:
    program = run("-m", "iocproxy", "serve", cwd=copy("middleware", tmp_path, iocproxy_origin))
    url = program.wait_for(r"listening .*url=(http://\S+)")[1]

    assert get(url) == (401, "", "Who are you?\n")
    assert get(url, {"Authorization": "Bearer guessed"})[0] == 401
    assert get(url, {"Authorization": "Bearer open-sesame-not"})[0] == 401
    assert get(f"{url}/health", {"X-User": "root"})[0] == 200
    status, given, _ = get(url, {"Authorization": "bearer open-sesame", "X-User": "root"})
    assert status == 200

    public, known = iocproxy_origin.requests  # and no refused one
    assert public.header("X-User") is None
    assert known.header("X-User") == "ali"
    assert known.header("Authorization") is None
    assert known.header("X-Request-Id") == given
    assert re.fullmatch("[0-9a-f]{16}", given)
    assert public.header("X-Request-Id") != given


def test_a_project_with_its_own_tests(run: Run, tmp_path: Path) -> None:
    directory = tmp_path / "project"
    shutil.copytree(EXAMPLES / "testing", directory, ignore=shutil.ignore_patterns("__pycache__"))
    # By name: that is how the plugin is loaded where iocproxy is not installed but on the path.
    program = run("-m", "pytest", "-p", "iocproxy.testing.plugin", "-p", "no:cacheprovider", "-q", cwd=directory)
    program.wait_for("3 passed")
    assert program.process.wait(PATIENCE) == 0


def test_every_example_is_on_the_map_and_run_here() -> None:
    entries = {entry.name for entry in EXAMPLES.iterdir() if entry.name not in {"README.md", "__pycache__"}}
    entries -= {entry for entry in entries if entry.startswith(".")}
    listed = set(re.findall(r"^\| \[([\w.]+)/?\]", (EXAMPLES / "README.md").read_text("utf-8"), re.MULTILINE))
    assert entries == listed == {"embed.py", "tls", "mutual_tls", "middleware", "testing"}
