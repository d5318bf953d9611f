"""A real Redis for each test that asks for one: on a free port, with nothing kept, gone afterwards."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from iocproxy.testing import Certificates
from iocproxy.testing.patience import PATIENCE, Deadline

SERVER = shutil.which("redis-server") or shutil.which("valkey-server")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class RedisServer:
    """`options` are those of redis.conf. It has one port for its life, through every restart."""

    def __init__(self, directory: Path, certificates: Certificates | None = None, **options: str) -> None:
        self._directory = directory
        self._certificates = certificates
        self._options = options
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis{'s' if self._certificates is not None else ''}://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        assert SERVER is not None
        options = {"bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": str(self._directory), **self._options}
        if self._certificates is None:
            options["port"] = str(self.port)
        else:
            pair = self._certificates.pair
            options |= {"port": "0", "tls-port": str(self.port), "tls-auth-clients": "no"}
            options |= {"tls-cert-file": str(pair.cert), "tls-key-file": str(pair.key)}
            options |= {"tls-ca-cert-file": str(self._certificates.ca)}
        command = [SERVER, *(word for name, value in options.items() for word in (f"--{name}", value))]
        with (self._directory / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = Deadline(PATIENCE, "redis-server did not listen")
        while True:
            if self._process.poll() is not None:
                raise RuntimeError((self._directory / "redis.log").read_text())
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(min(0.01, deadline.remaining()))

    def kill(self) -> None:
        """At once, as a machine that is switched off; what it holds is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        self.kill()
        self.start()

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """The process stands still: connections stay open, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def client(self) -> Iterator[redis.Redis]:
        """For the test's own use."""
        client = redis.Redis(port=self.port, password=self._options.get("requirepass"), protocol=2)
        try:
            yield client
        finally:
            client.close()

    def command(self, *words: Any) -> Any:
        with self.client() as client:
            return client.execute_command(*words)


@pytest.fixture(name="free_port")
def _free_port() -> Callable[[], int]:
    return free_port


@pytest.fixture
def redis_factory(tmp_path: Path) -> Iterator[Any]:
    """Call it to start a server: redis_factory(requirepass="secret")."""
    if SERVER is None:
        pytest.skip("redis-server is not installed")
    servers: list[RedisServer] = []

    def start(certificates: Certificates | None = None, **options: str) -> RedisServer:
        directory = tmp_path / f"redis-{len(servers)}"
        directory.mkdir()
        while True:
            server = RedisServer(directory, certificates, **options)
            try:
                server.start()
            except RuntimeError as error:
                if "Address already in use" not in str(error):
                    raise
                (directory / "redis.log").unlink()  # somebody else was given the port: another one, then
            else:
                servers.append(server)
                return server

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def redis_server(redis_factory: Any) -> RedisServer:
    """Without TLS and without a password."""
    return redis_factory()


@pytest.fixture(scope="module")
def redis_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    """A client of a server that the tests of one file share."""
    if SERVER is None:
        pytest.skip("redis-server is not installed")
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    try:
        with server.client() as client:
            yield client
    finally:
        server.kill()
