"""That the Windows lane is what it says: a real Windows CPython with the parts that the test suite leans on.

Not collected with the suite: ``tests/windows/run -- tests/windows/test_lane.py``. What Wine does otherwise than
Windows is asserted too, where docs/windows.md names it, so that a newer Wine shows up here.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

if sys.platform != "win32":
    pytest.skip("about the Windows lane: start it with tests/windows/run", allow_module_level=True)


async def test_the_loop_is_proactor() -> None:
    assert type(asyncio.get_running_loop()) is asyncio.ProactorEventLoop


def test_it_reports_windows_10() -> None:
    assert sys.getwindowsversion()[:2] == (10, 0)


@pytest.mark.parametrize("name", ["httptools", "tomli", "structlog", "pydantic", "typer", "rich", "cryptography.x509"])
def test_a_dependency_imports(name: str) -> None:
    assert importlib.import_module(name).__file__


@given(st.binary())
def test_hypothesis_runs(data: bytes) -> None:
    assert bytes(bytearray(data)) == data


def test_the_project_is_imported_from_the_checkout() -> None:
    import iocproxy

    assert Path(iocproxy.__file__) == Path(__file__).parents[2] / "iocproxy/__init__.py"
    assert importlib.metadata.version("iocproxy") == iocproxy.__version__


def test_the_pytest_plugin_is_an_entry_point(pytestconfig: pytest.Config) -> None:
    module = "iocproxy.testing.plugin"
    (entry,) = (entry for entry in importlib.metadata.entry_points(group="pytest11") if entry.value == module)
    assert pytestconfig.pluginmanager.get_plugin(entry.name) is entry.load()


@pytest.fixture
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's, with a certificate for localhost between them."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


def test_a_handshake_over_memory(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = contexts[0].wrap_bio(to_server, to_client, server_side=True)
    client = contexts[1].wrap_bio(to_client, to_server, server_hostname="localhost")
    waiting = [client, server]
    for side in [client, server] * 4:
        if side in waiting:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(side)
    assert not waiting
    assert client.version() == server.version() == "TLSv1.3"
    client.write(b"hello")
    assert server.read() == b"hello"


async def test_tls_through_the_loop(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(100_000))
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(echo, "127.0.0.1", 0, ssl=contexts[0]) as server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("localhost", port, ssl=contexts[1], family=socket.AF_INET)
        writer.write(b"x" * 100_000)
        assert await reader.readexactly(100_000) == b"x" * 100_000
        writer.close()
        await writer.wait_closed()


def test_a_child_python_through_pipes() -> None:
    code = "import asyncio, sys; asyncio.run(asyncio.sleep(0)); print(sys.stdin.read().upper()); sys.exit(3)"
    done = subprocess.run([sys.executable, "-c", code], input="hello", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "HELLO\n", "")


async def test_a_child_python_of_the_loop() -> None:
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(input()[::-1])", stdin=pipe, stdout=pipe)
    output, _ = await child.communicate(b"hello\n")
    assert (child.returncode, output) == (0, b"olleh\r\n")


def test_terminating_a_child() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        child.terminate()
        assert child.wait(30) == 1


def test_ctrl_break_is_refused() -> None:
    """Wine has nowhere to send it; CPython before 3.13 raises SystemError of it and terminates the child as well."""
    pipe, group = subprocess.PIPE, subprocess.CREATE_NEW_PROCESS_GROUP
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=pipe, creationflags=group) as child:
        with pytest.raises((SystemError, OSError)):
            child.send_signal(signal.CTRL_BREAK_EVENT)
        child.kill()


def test_ctrl_c_through_a_console_of_its_own() -> None:
    """The way to press Ctrl+C here: a helper leaves Wine's shell console, makes a real one and sends to all in it."""
    child = "import asyncio; print('ready', flush=True); asyncio.run(asyncio.sleep(60))"
    helper = f"""
import ctypes, signal, subprocess, sys
kernel = ctypes.WinDLL("kernel32", use_last_error=True)
kernel.FreeConsole()
assert kernel.AllocConsole(), ctypes.get_last_error()
child = subprocess.Popen([sys.executable, "-c", {child!r}], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
child.stdout.readline()
signal.signal(signal.SIGINT, lambda *_: None)
assert kernel.GenerateConsoleCtrlEvent(signal.CTRL_C_EVENT, 0), ctypes.get_last_error()
print(hex(child.wait(30)))
"""
    done = subprocess.run([sys.executable, "-c", helper], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "0xc000013a\n"), done.stderr


def test_a_reset_arrives_as_an_end() -> None:
    """On Windows the read raises ConnectionResetError; Wine shows a reset to a reader as an orderly end."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        with accepted:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00")
            client.close()
            assert accepted.recv(1) == b""
            with pytest.raises(ConnectionResetError):
                accepted.send(b"x")


def test_the_clock_has_the_grain_of_windows() -> None:
    """Of GetTickCount64 before 3.13, of QueryPerformanceCounter since."""
    grain = 0.015625 if sys.version_info < (3, 13) else 1e-7
    assert time.get_clock_info("monotonic").resolution == pytest.approx(grain)


async def test_a_signal_wakes_the_loop() -> None:
    loop = asyncio.get_running_loop()
    seen: asyncio.Future[int] = loop.create_future()
    previous = signal.signal(signal.SIGINT, lambda number, _: loop.call_soon_threadsafe(seen.set_result, number))
    try:
        threading.Timer(0.05, signal.raise_signal, [signal.SIGINT]).start()
        assert await asyncio.wait_for(seen, 20) == signal.SIGINT
    finally:
        signal.signal(signal.SIGINT, previous)


def test_monotonic_time_moves_forward_with_the_clock() -> None:
    monotonic, wall = time.monotonic(), time.time()
    time.sleep(0.3)
    assert 0.2 < time.monotonic() - monotonic < 5
    assert 0.2 < time.time() - wall < 5


def test_a_file_replaces_another(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("old")
    new.write_text("new")
    new.replace(old)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert old.read_text() == "new"


def test_renaming_onto_a_file_fails(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).touch()
    with pytest.raises(FileExistsError):
        (tmp_path / "a").rename(tmp_path / "b")


def test_an_open_file_cannot_be_removed(tmp_path: Path) -> None:
    path = tmp_path / "open"
    with path.open("w"), pytest.raises(PermissionError) as caught:
        path.unlink()
    assert caught.value.winerror == 32


def test_an_open_file_cannot_be_replaced(tmp_path: Path) -> None:
    path, other = tmp_path / "open", tmp_path / "other"
    other.touch()
    with path.open("w"), pytest.raises(PermissionError):
        other.replace(path)


def test_names_differ_by_more_than_case(tmp_path: Path) -> None:
    (tmp_path / "Name").touch()
    assert (tmp_path / "nAME").exists()


def test_text_is_not_utf8_unless_asked(tmp_path: Path) -> None:
    """Code that opens text without naming an encoding shows itself here as it does on Windows."""
    path = tmp_path / "text"
    with path.open("w") as file:
        file.write("é")
    assert path.read_bytes() == b"\xe9"


def test_there_is_no_unix_socket_and_no_signal_handler_of_the_loop() -> None:
    assert not hasattr(socket, "AF_UNIX")
    with asyncio.Runner() as runner, pytest.raises(NotImplementedError):
        runner.get_loop().add_signal_handler(signal.SIGINT, print)


def test_the_temporary_folder_belongs_to_the_run(tmp_path: Path) -> None:
    assert tmp_path.is_relative_to("C:\\")
    assert os.environ["PYTHONPYCACHEPREFIX"]
