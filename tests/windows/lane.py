"""The command line of the Windows lane; `run` beside this file starts it. README.md says how to use it.

Standard output carries what the Windows Python prints, after one line that proves where it runs. What the lane itself
has to say goes to standard error.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import recipe
from wine import Wine, windows_path, windows_text

#: Exit codes of the lane's own; every other one is the program's.
SETUP_FAILED, TIMED_OUT = 125, 124

#: A test that takes longer has every thread's stack printed, by a C thread that needs nothing of Python's. It is beyond
#: the limit of pytest-timeout, whose own thread is of no use in a process where none gets to run.
STUCK_SECONDS = 180

#: pytest's closing line: "=== 3 passed, 1 skipped in 0.12s ===", without the rules under -q.
CLOSING = re.compile(r"^=*\s*(?:no tests ran|\d+ [a-z]+(?:, \d+ [a-z]+)*) in [\d.]+s.*$")

PROOF = """
import asyncio, ssl, sys
async def loop():
    return type(asyncio.get_running_loop()).__name__
print(f"{sys.platform} | {sys.version} | {asyncio.run(loop())} | {ssl.OPENSSL_VERSION}")
"""


def main(arguments: Sequence[str]) -> int:
    options = _parse(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupted)
    try:
        with (
            recipe.environment(options.version, options.cache, rebuild=options.rebuild) as home,
            Wine(home / "prefix", home / "runs", _variables(home)) as wine,
        ):
            return _run(wine, home, options.command, options.timeout)
    except (recipe.SetupError, subprocess.SubprocessError) as error:
        print(f"windows lane: {error}", file=sys.stderr)
        return SETUP_FAILED


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "iocproxy-windows"
    parser = argparse.ArgumentParser(
        prog="tests/windows/run",
        description="Run the tests on a real Windows CPython (Debian, Wine); the first run builds it.",
        epilog="examples: tests/windows/run; tests/windows/run -- tests/net -k accept; "
        "tests/windows/run python -c 'import sys; print(sys.platform)'",
    )
    parser.add_argument(
        "--version", choices=recipe.VERSIONS, default=recipe.VERSIONS[0], help="CPython; default %(default)s"
    )
    parser.add_argument(
        "--timeout", type=float, default=900.0, metavar="SECONDS", help="for the command; default %(default)s"
    )
    parser.add_argument("--cache", type=Path, default=default, metavar="FOLDER", help="default %(default)s")
    parser.add_argument("--rebuild", action="store_true", help="build anew, with the newest dependencies")
    parser.add_argument(
        "command",
        nargs=argparse.REMAINDER,
        help="arguments for pytest (after --), or: python ARGUMENTS for anything else",
    )
    options = parser.parse_args(arguments)
    if options.command[:1] == ["--"]:
        del options.command[0]
    options.cache = options.cache.resolve()
    return options


def _variables(home: Path) -> dict[str, str]:
    """Compiled files and databases of the Windows Python stay out of the checkout, where Linux has its own."""
    return {
        "PYTHONPYCACHEPREFIX": windows_path(home / "pycache"),
        "HYPOTHESIS_STORAGE_DIRECTORY": windows_path(home / "hypothesis"),
    }


def _run(wine: Wine, home: Path, command: Sequence[str], timeout: float) -> int:
    """Run pytest, or Python where the command begins with that word, and return its exit code."""
    python = home / "python/python.exe"
    _describe_project(wine.scratch)
    wine.environ["PYTHONPATH"] = ";".join(map(windows_path, (recipe.CHECKOUT, wine.scratch)))
    status, proof = wine.capture([python, "-c", PROOF])
    print(proof, flush=True)
    if status != 0:
        return SETUP_FAILED
    if command[:1] == ["python"]:
        return _stream(wine, [python, "-u", *command[1:]], timeout, stdin=None)
    settings = [f"cache_dir={windows_path(home / 'pytest')}", f"faulthandler_timeout={STUCK_SECONDS}"]
    pytest = [python, "-u", "-m", "pytest", *(part for setting in settings for part in ("-o", setting)), *command]
    return _stream(wine, pytest, timeout, stdin=subprocess.DEVNULL)


def _describe_project(folder: Path) -> None:
    """Make the project look installed: what an installer writes beside the code, the code being the checkout's.

    Written for every run from pyproject.toml, so that entry points (pytest finds our plugin by one) and the version are
    never those of another day. The version is read as hatchling reads it.
    """
    project = tomllib.loads((recipe.CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]
    name = project["name"]
    source = (recipe.CHECKOUT / name / "__init__.py").read_text("utf-8")
    version = re.search(r"""^__version__\s*(?::.*)?=\s*["'](.+?)["']""", source, re.MULTILINE)
    if version is None:
        raise recipe.SetupError(f"no __version__ in {name}/__init__.py")
    groups = {"console_scripts": project.get("scripts", {}), **project.get("entry-points", {})}
    entries = [
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in found.items())
        for group, found in groups.items()
    ]
    information = folder / f"{name}-{version[1]}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version[1]}\n")
    (information / "entry_points.txt").write_text("\n".join(entries))


def _stream(wine: Wine, command: Sequence[str | Path], timeout: float, *, stdin: int | None) -> int:
    """Run it in the checkout, printing what it prints, pytest's closing line once more if something came after it.

    Returns its exit code, TIMED_OUT when it was ended after `timeout` seconds.
    """
    process = wine.spawn(command, stdin=stdin, cwd=recipe.CHECKOUT)
    closing = last = ""

    def pump() -> None:
        nonlocal closing, last
        assert process.stdout is not None
        for line in iter(process.stdout.readline, b""):
            last = windows_text(line)
            if CLOSING.match(last):
                closing = last
            print(last, end="", flush=True)

    reader = threading.Thread(target=pump, daemon=True)
    reader.start()
    timed_out = False
    try:
        process.wait(timeout)
        reader.join(2)  # a child that the program left running holds the pipe open; it goes with the prefix
    except subprocess.TimeoutExpired:
        timed_out = True
    finally:
        wine.kill()
        reader.join(10)  # every process that could hold the pipe is gone; should one not be, the lane still ends
    if timed_out:
        print(f"windows lane: ended after {timeout:.0f} s", file=sys.stderr)
        return TIMED_OUT
    if closing and last != closing:
        print(closing, end="", flush=True)
    return process.returncode


def _interrupted(number: int, _frame: object) -> NoReturn:
    """Leave by way of every cleanup, which a second Ctrl+C shall not cut short."""
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
