"""How a Windows CPython is made on Debian from apt and PyPI alone, and kept in a cache.

Theory of operation. No Windows installer is downloaded. The Windows wheels of panda3d carry the official
``python3XX.dll``, every extension module of the standard library and OpenSSL, for programs to be frozen with. Added to
them are the pure-Python standard library, which is the same text on every platform and so is copied from a Linux
interpreter of the same minor version; a ``python.exe`` of a few lines; two small DLLs that wheels with Rust inside ask
for; and the Windows wheels of the project's own dependencies. Wine runs it. The result has the layout of an installed
Python (``python.exe``, ``DLLs``, ``Lib``, ``Lib/site-packages``), so that it needs no PYTHONHOME and ``sys.executable``
starts children.

The cache holds one folder per key, and the key is a hash of everything that goes in: the code that builds, the C
sources, the dependencies in pyproject.toml, the interpreter that the library is copied from and Wine's version. A
folder is built under another name and renamed when it is complete, under a lock, so that two runs never see half of
one. Nothing of the project itself is in it: that is read from the checkout at every run.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wine import Wine, make_prefix, windows_path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]

#: Minor versions for which this panda3d has a Windows wheel.
VERSIONS = ("3.11", "3.12", "3.13")
PANDA3D = "panda3d==1.10.16"
PACKAGES = ("wine", "wine64", "gcc-mingw-w64-x86-64")
MINGW = "x86_64-w64-mingw32-"
#: Cache folders that no run has used for this long are removed; each takes about 0.8 GB.
KEEP_SECONDS = 7 * 24 * 3600

#: Left out of the copied standard library: what is Linux' own, and what only weighs.
NOT_COPIED = (
    *("__pycache__", "site-packages", "dist-packages", "lib-dynload", "config-*", "_sysconfigdata*"),
    *("test", "tests", "idlelib", "turtledemo", "ensurepip", "EXTERNALLY-MANAGED"),
)
NOT_UNPACKED = r"api-ms-|tcl|tk|_tkinter|_wmi|.*\.cp\d+t-"

#: Run once on the finished interpreter. The library and the DLL may be different patch releases of one minor version;
#: these are the modules where Windows' C code and the Python text meet.
VERIFY = """
import _pyio, asyncio, ctypes.wintypes, concurrent.futures, decimal, hashlib, lzma, multiprocessing.connection
import platform, signal, socket, sqlite3, ssl, subprocess, sys, sysconfig, unicodedata, uuid, winreg, zlib
import importlib, xml.parsers.expat
importlib.invalidate_caches()
assert platform.system() == "Windows"
assert sys.getwindowsversion()[:2] == (10, 0), sys.getwindowsversion()
async def loop(): return type(asyncio.get_running_loop()).__name__
assert asyncio.run(loop()) == "ProactorEventLoop"
ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="localhost")
assert subprocess.run([sys.executable, "-c", "raise SystemExit(7)"]).returncode == 7
"""


class SetupError(Exception):
    """The lane cannot be set up; the message says what the reader has to do."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Linux CPython to copy the standard library from."""

    version: tuple[int, int, int]
    library: Path


def find_interpreter(version: str) -> Interpreter:
    """The newest CPython of that minor version: the running one, on PATH or of pyenv. Raises SetupError without."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    commands = [sys.executable, f"python{version}", *map(str, pyenv.glob(f"{version}.*/bin/python"))]
    ask = "import json, os, sys; print(json.dumps([sys.version_info[:3], os.path.dirname(os.__file__)]))"
    found = []
    for command in commands:
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            said = subprocess.run([command, "-I", "-c", ask], capture_output=True, check=True, text=True)
            numbers, library = json.loads(said.stdout)
            interpreter = Interpreter(tuple(numbers), Path(library))
            if f"{numbers[0]}.{numbers[1]}" == version and (interpreter.library / "asyncio/windows_events.py").exists():
                found.append(interpreter)
    if not found:
        raise SetupError(
            f"no Linux CPython {version} to copy the standard library from: put python{version} on PATH "
            f"(Debian: apt-get install python{version}; or pyenv install {version}), or choose another --version"
        )
    return max(found, key=lambda interpreter: interpreter.version)


def install_packages() -> None:
    """Install Wine and the cross compiler where they are missing. Raises SetupError when that takes another user."""
    commands = ("wine", "wineserver", MINGW + "gcc", MINGW + "objdump")
    missing = [command for command in commands if shutil.which(command) is None]
    if not missing:
        return
    install = ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise SetupError(f"missing: {', '.join(missing)}. As root on Debian: {' '.join(install)}")
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    _run(["apt-get", "update"], env=environ)
    _run(install, env=environ)


def requirements() -> list[str]:
    """What pyproject.toml says the project needs to run and to be tested."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]
    return sorted([*project["dependencies"], *project["optional-dependencies"]["test"]])


@contextlib.contextmanager
def environment(version: str, cache: Path, *, rebuild: bool = False) -> Iterator[Path]:
    """The folder of a complete Windows CPython of that minor version, built now unless the cache has it.

    It holds ``python/python.exe``, ``prefix`` (a Wine prefix to copy, never to run in) and ``runs``. It is not
    removed while the context is open. Raises SetupError.
    """
    install_packages()
    interpreter = find_interpreter(version)
    home = cache / f"{version}-{_key(interpreter)}"
    cache.mkdir(parents=True, exist_ok=True)
    while rebuild or not home.exists():
        with _locked(home, fcntl.LOCK_EX):  # waits for the runs that use it, and for another's build
            if rebuild:
                shutil.rmtree(home, ignore_errors=True)
            rebuild = False
            if not home.exists():
                _build_beside(home, version, interpreter)
    with _locked(home, fcntl.LOCK_SH):
        os.utime(home)
        _prune(cache)
        yield home


def _key(interpreter: Interpreter) -> str:
    digest = hashlib.sha256()
    for source in (
        *(HERE / name for name in ("recipe.py", "wine.py", "missing.py")),
        *sorted((HERE / "native").iterdir()),
    ):
        digest.update(source.read_bytes())
    wine = subprocess.run(["wine", "--version"], capture_output=True, check=True, text=True).stdout
    digest.update(repr((requirements(), interpreter, wine)).encode())
    return digest.hexdigest()[:12]


@contextlib.contextmanager
def _locked(home: Path, how: int) -> Iterator[None]:
    with home.with_name(home.name + ".lock").open("w") as lock:
        fcntl.flock(lock, how)
        yield


def _prune(cache: Path) -> None:
    """Remove the folders of other keys that have not been used for long and that nobody holds."""
    for home in [*cache.glob("3.*"), *cache.glob("building-*")]:
        if home.suffix == ".lock" or time.time() - home.stat().st_mtime < KEEP_SECONDS:
            continue
        with contextlib.suppress(BlockingIOError), _locked(home, fcntl.LOCK_EX | fcntl.LOCK_NB):
            shutil.rmtree(home, ignore_errors=True)


def _build_beside(home: Path, version: str, interpreter: Interpreter) -> None:
    building = Path(tempfile.mkdtemp(prefix=f"building-{home.name}-", dir=home.parent))
    try:
        _build(building, version, interpreter)
        building.rename(home)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _build(home: Path, version: str, interpreter: Interpreter) -> None:
    began = time.monotonic()
    python = home / "python"
    _say(f"building Windows CPython {version} (library of {'.'.join(map(str, interpreter.version))})")
    _interpreter(python, version, interpreter)
    _native(python, version)
    _say("making the Wine prefix")
    (home / "runs").mkdir()
    make_prefix(home)
    with Wine(home / "prefix", home / "runs") as wine:
        _say("checking the interpreter")
        status, said = wine.capture([python / "python.exe", "-c", VERIFY])
        if status != 0:
            raise SetupError(f"the interpreter does not work:\n{said}")
        _say("installing the Windows wheels of the dependencies")
        _dependencies(wine, python, version)
    _say(f"built in {time.monotonic() - began:.0f} s")


def _interpreter(python: Path, version: str, interpreter: Interpreter) -> None:
    with tempfile.TemporaryDirectory() as download:
        _pip("download", PANDA3D, "--no-deps", "--dest", download, *_for_windows(version))
        (wheel,) = Path(download).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                file = Path(name)
                # Left out: the C runtime, which Wine has; Tk; modules for the free-threaded interpreter; and _wmi, on
                # which Wine hangs where platform.uname, asked by packaging, does without it
                if file.parent.name == "deploy_libs" and not re.match(NOT_UNPACKED, file.name):
                    beside = re.match(r"python3|vcruntime", file.name, re.IGNORECASE)
                    target = python / ("" if beside else "DLLs") / file.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(archive.read(name))
    shutil.copytree(interpreter.library, python / "Lib", ignore=shutil.ignore_patterns(*NOT_COPIED))
    (python / "Lib/site-packages").mkdir()
    # importlib is frozen in the DLL, and since 3.11.8 and 3.12.2 it calls this on the class
    metadata = python / "Lib/importlib/metadata/__init__.py"
    bare, decorated = "\n\n    def invalidate_caches(cls)", "\n\n    @classmethod\n    def invalidate_caches(cls)"
    metadata.write_text(metadata.read_text("utf-8").replace(bare, decorated), "utf-8")


def _native(python: Path, version: str) -> None:
    dll = f"python{version.replace('.', '')}"
    compiler = [MINGW + "gcc", "-O1", "-s", "-Wall", "-Wextra", "-Werror"]
    native = HERE / "native"
    name = f'-DPYTHON_DLL=L"{dll}.dll"'
    with tempfile.TemporaryDirectory() as temporary:
        manifest = Path(temporary) / "manifest.o"
        _run([MINGW + "windres", "-I", native, native / "python.rc", manifest])
        _run([*compiler, "-municode", name, "-o", python / "python.exe", native / "python.c", manifest])
    _run([*compiler, "-shared", "-o", python / "bcryptprimitives.dll", native / "bcryptprimitives.c", "-ladvapi32"])
    # python3.dll, the stable ABI that abi3 wheels link to, is nothing but forwarders into python3XX.dll
    table = _run([MINGW + "objdump", "-p", python / f"{dll}.dll"]).partition("[Ordinal/Name Pointer]")[2]
    names = re.findall(r"^\t\[ *\d+\](?: \+base\[ *\d+\] *[0-9a-f]+)? (\w+)$", table, re.MULTILINE)
    exports = python / "python3.def"
    exports.write_text("EXPORTS\n" + "".join(f"  {name} = {dll}.{name}\n" for name in names))
    _run([*compiler, "-shared", "-nostdlib", "-Wl,--entry,0", "-o", python / "python3.dll", exports])
    exports.unlink()


def _dependencies(wine: Wine, python: Path, version: str) -> None:
    """Install until nothing is missing.

    pip chooses the wheels for Windows but evaluates environment markers (``sys_platform == "win32"``) for the machine
    it runs on, so what only Windows needs (colorama) has to be asked for by name: the Windows Python itself says what.
    """
    site = python / "Lib/site-packages"
    _pip("install", "packaging", "--target", site, *_for_windows(version))
    for _ in range(10):
        status, said = wine.capture([python / "python.exe", windows_path(HERE / "missing.py"), *requirements()])
        if status != 0:
            raise SetupError(f"cannot tell which dependencies are missing:\n{said}")
        missing = said.splitlines()
        if not missing:
            return
        _pip("install", *missing, "--target", site, "--upgrade", *_for_windows(version))
    raise SetupError(f"pip does not satisfy these for Windows: {' '.join(missing)}")


def _for_windows(version: str) -> list[str]:
    return ["--platform", "win_amd64", "--python-version", version, "--only-binary=:all:"]


def _pip(*arguments: str | Path) -> None:
    pip = [sys.executable, "-m", "pip"]
    if subprocess.run([*pip, "--version"], capture_output=True, check=False).returncode != 0:
        raise SetupError(f"{sys.executable} has no pip (Debian: apt-get install python3-pip)")
    _run([*pip, "--quiet", "--disable-pip-version-check", "--no-input", *arguments])


def _run(command: Sequence[str | Path], *, env: dict[str, str] | None = None) -> str:
    """Run to the end and return what it printed. Raises SetupError with everything it said when it fails."""
    done = subprocess.run(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SetupError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def _say(text: str) -> None:
    print(f"windows lane: {text}", file=sys.stderr, flush=True)
