"""The access lists of a proxy, and their renewal while it serves.

    configuration + files ──load_access──► Loaded.map ──► AccessLists.map ──► each connection and request
                               ▲
    every `check`, and `reload` at once: in the executor

What was loaded is replaced as a whole, so nobody meets half a list. A file that has not changed is not read again, and
of one that cannot be used the networks stay in force that it held before; so they all do where a file has brought a
network that is allowed and denied. As with certificates, what is wrong at one check is said only if the next one finds
the same (somebody may be writing it), and when somebody has asked, at once; in either case once, until it is something
else.

100,000 networks take half a second. That is spent in the executor, with a short sleep every few milliseconds: the loop
shares the interpreter with it, and would otherwise get its turn every 5 ms only.
"""

from __future__ import annotations

import asyncio
import functools
import stat
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from structlog.typing import FilteringBoundLogger

from iocproxy.config.limits import AccessLists as AccessSettings
from iocproxy.config.values import RefusedError, read_network, show
from iocproxy.errors import ConfigError, Fault
from iocproxy.limits.access import AccessMap, ContestedError, Network, Networks, network_of
from iocproxy.limits.access import read_network as read_usual_network
from iocproxy.server.stamps import Stamp, stamp_of

#: Bounds of one file.
MAX_OCTETS = 64 * 1024**2
MAX_LINES = 2_000_000

#: How many faults of one file are told one by one, and how many networks that are in both lists.
_TOLD = 10

_ALLOWED = 'must be an IP network, such as "10.0.0.0/8" or "2001:db8::/32"; what follows # is a comment'
_PATH = "limits.access"

#: How long whoever builds a list sleeps, in seconds, to let others have the interpreter.
_BREATH = 0.0005


@dataclass(frozen=True, slots=True)
class Loaded:
    """`files` is what each file holds, or held when it could last be used; `faults` are of those that cannot be now."""

    map: AccessMap
    allowed: int  #: networks
    denied: int
    files: Mapping[Path, Networks]
    stamps: Mapping[Path, Stamp]
    faults: tuple[Fault, ...] = ()


def is_empty(settings: AccessSettings) -> bool:
    return not (settings.allow or settings.deny or settings.allow_files or settings.deny_files)


def load_access(settings: AccessSettings, before: Loaded | None = None, *, checking: bool = False) -> Loaded:
    """Blocking. Raises ConfigError with every fault, unless there is something from `before` to go on with.

    With `checking` only files that have changed since `before` are read, and those with faults.
    """
    faults: list[Fault] = []
    files: dict[Path, Networks] = {}
    stamps = {file: stamp_of(file) for _, file in _files(settings)}  # before it is read: a later change shows
    for key, file in _files(settings):
        known = None if before is None else before.files[file]
        if known is not None and checking and not _to_read(file, before, stamps):
            files[file] = known
            continue
        try:
            read = _read(file, key)
        except ConfigError as error:
            faults.extend(error.faults)
            if known is not None:
                files[file] = known
        else:
            files[file] = known if known is not None and read == known else read
    if faults and before is None:
        raise ConfigError(faults)
    if before is not None and all(files[file] is known for file, known in before.files.items()):
        return replace(before, faults=tuple(faults), stamps=stamps)
    lists = {
        side: [Networks(map(network_of, own)), *(files[file] for _, file in _files(settings, side))]
        for side, own in (("allow", settings.allow), ("deny", settings.deny))
    }
    try:
        found = AccessMap(
            lists["allow"], lists["deny"], otherwise=not (settings.allow or settings.allow_files), breathe=_breathe
        )
    except ContestedError as error:
        faults.extend(_contested(settings, files, error))
        if before is None:
            raise ConfigError(faults) from None
        return replace(before, faults=tuple(faults), stamps=stamps)
    allowed, denied = (sum(map(len, lists[side])) for side in ("allow", "deny"))
    return Loaded(found, allowed, denied, files, stamps, tuple(faults))


def _to_read(file: Path, before: Loaded | None, stamps: Mapping[Path, Stamp]) -> bool:
    """As long as something is wrong, all is read again."""
    return before is None or bool(before.faults) or stamps[file] != before.stamps[file]


def _files(settings: AccessSettings, *sides: str) -> Iterator[tuple[str, Path]]:
    """By key path."""
    for side in sides or ("allow", "deny"):
        files = settings.allow_files if side == "allow" else settings.deny_files
        yield from ((f"{_PATH}.{side}_files[{index}]", file) for index, file in enumerate(files))


def _breathe() -> None:
    time.sleep(_BREATH)


def _read(file: Path, key: str) -> Networks:
    """Raises ConfigError with the faults of the file, the first few one by one."""
    faults: list[Fault] = []
    more = 0

    def networks() -> Iterator[Network]:
        nonlocal more
        for number, text in _lines(file):
            try:
                yield _network(text)
            except RefusedError as error:
                if len(faults) < _TOLD:
                    why = f"{error}; " if str(error) else ""
                    faults.append(Fault(key, f"{file}:{number}: {show(text)}", f"{why}{_ALLOWED}"))
                else:
                    more += 1

    try:
        found = Networks(networks(), breathe=_breathe)
    except OSError as error:
        reason = f"{file} cannot be read: {error.strerror or error}"
        raise ConfigError([*faults, Fault(key, reason, "a readable text file")]) from None
    except _UnusableError as error:
        raise ConfigError([*faults, Fault(key, f"{file}{error.found}", error.allowed)]) from None
    if more:
        faults.append(Fault(key, f"{file}: {more} more lines like these", _ALLOWED))
    if faults:
        raise ConfigError(faults)
    return found


class _UnusableError(Exception):
    """The file as a whole."""

    def __init__(self, found: str, allowed: str) -> None:
        super().__init__(found)
        self.found = found
        self.allowed = allowed


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines that hold something, numbered from 1, without comments. Raises OSError and `_UnusableError`."""
    if not stat.S_ISREG(file.stat().st_mode):  # opening a pipe would wait for whoever writes
        raise _UnusableError(" is no file", "a text file")
    with file.open("rb") as stream:
        octets = 0
        for number, line in enumerate(stream, 1):
            octets += len(line)
            if octets > MAX_OCTETS:
                raise _UnusableError(f" has more than {MAX_OCTETS >> 20} MiB", f"at most {MAX_OCTETS >> 20} MiB")
            if number > MAX_LINES:
                raise _UnusableError(f" has more than {MAX_LINES} lines", f"at most {MAX_LINES} lines")
            if number == 1:
                if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise _UnusableError(" is UTF-16", "a text file saved as UTF-8")
                line = line.removeprefix(b"\xef\xbb\xbf")  # noqa: PLW2901 - Windows editors put it there
            if not line.isascii():
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError:
                    raise _UnusableError(f":{number}: not UTF-8", "a text file saved as UTF-8") from None
            text = line.partition(b"#")[0].strip()
            if text:
                yield number, text.decode("utf-8")


def _network(text: str) -> Network:
    """Raises RefusedError."""
    try:
        return read_usual_network(text)
    except ValueError:
        return network_of(read_network(text))


def _contested(settings: AccessSettings, files: Mapping[Path, Networks], error: ContestedError) -> Iterator[Fault]:
    for network in error.networks[:_TOLD]:
        (allowed, *_), (key, *_) = (list(_places(settings, files, network, side)) for side in ("allow", "deny"))
        path, blank, where = key.partition(" ")
        yield Fault(path, f"{show(str(network))}{blank}{where}", f"is also in {allowed}")
    if len(error.networks) > _TOLD:
        yield Fault(_PATH, f"{len(error.networks) - _TOLD} more networks like these", "each allowed or denied")


def _places(settings: AccessSettings, files: Mapping[Path, Networks], network: Network, side: str) -> Iterator[str]:
    """Where it stands on that side: key path, and for a file its name and the line in brackets."""
    own = settings.allow if side == "allow" else settings.deny
    yield from (f"{_PATH}.{side}[{index}]" for index, given in enumerate(own) if network_of(given) == network)
    for key, file in _files(settings, side):
        if network in files[file]:
            yield f"{key} ({file}:{_line_of(file, network)})"


def _line_of(file: Path, network: Network) -> str:
    try:
        for number, text in _lines(file):
            try:
                if _network(text) == network:
                    return str(number)
            except RefusedError:
                continue
    except (OSError, _UnusableError):
        pass
    return "?"  # it has changed meanwhile


class AccessLists:
    """Belongs to one loop; files are read in `executor`. `map` is what holds now."""

    def __init__(
        self, settings: AccessSettings, loaded: Loaded, *, executor: Executor, log: FilteringBoundLogger
    ) -> None:
        self.map = loaded.map
        self._settings = settings
        self._loaded = loaded
        self._executor = executor
        self._log = log
        self._told: set[Fault] = set()
        self._one_at_a_time = asyncio.Lock()

    async def watch(self) -> None:
        """Until it is cancelled: look at the files every now and then."""
        check = self._settings.check
        if check is None or not self._loaded.files:
            return
        while True:
            await asyncio.sleep(check)
            try:
                await self.reload(checking=True)
            except Exception as error:  # noqa: BLE001 - a bug must not end the checks to come
                self._log.error("access_check_failed", exc_info=error)

    async def reload(self, *, checking: bool = False) -> list[Fault]:
        """Read all files again (`checking`: those that have changed).

        Returns what cannot be used, which has been logged, and in whose place the old goes on.
        """
        async with self._one_at_a_time:
            work = functools.partial(self._again, checking=checking)
            loaded = await asyncio.get_running_loop().run_in_executor(self._executor, work)
            if loaded is not None:
                self._take(loaded, checking=checking)
            return list(self._loaded.faults)

    def _again(self, *, checking: bool) -> Loaded | None:
        """Blocking. None where nothing needs to be read."""
        loaded, files = self._loaded, [file for _, file in _files(self._settings)]
        if checking and not any(_to_read(file, loaded, {file: stamp_of(file)}) for file in files):
            return None
        return load_access(self._settings, loaded, checking=checking)

    def _take(self, loaded: Loaded, *, checking: bool) -> None:
        before, self._loaded = self._loaded, loaded
        self.map = loaded.map
        for key, file in _files(self._settings):
            if loaded.files[file] is not before.files[file]:
                self._log.info("access_list_reloaded", key=key, file=str(file), networks=len(loaded.files[file]))
        for fault in loaded.faults:
            if fault in self._told or (checking and fault not in before.faults):
                continue
            self._told.add(fault)
            self._log.warning("access_list_not_reloaded", key=fault.path, reason=fault.found, allowed=fault.allowed)
        self._told.intersection_update(loaded.faults)

    def stats(self) -> dict[str, Any]:
        return {
            "allowed": self._loaded.allowed,
            "denied": self._loaded.denied,
            "files": {str(file): len(networks) for file, networks in self._loaded.files.items()},
            "faults": len(self._loaded.faults),
        }

    def __repr__(self) -> str:
        return f"<AccessLists {self._loaded.allowed} allowed, {self._loaded.denied} denied>"
