"""``iocproxy init``: a commented file to start from."""

from __future__ import annotations

from pathlib import Path

from iocproxy.config import example_toml
from iocproxy.errors import ConfigError, Fault


def write_starter(file: Path, *, force: bool) -> None:
    """Write it, over an existing file only with `force`. Raises ConfigError where that, or the disk, forbids it."""
    try:
        with file.open("w" if force else "x", encoding="utf-8", newline="\n") as stream:
            stream.write(example_toml())
    except FileExistsError:
        raise ConfigError([Fault("", "exists already", "--force overwrites it", str(file))]) from None
    except OSError as error:
        said = f"cannot be written: {error.strerror or error}"
        raise ConfigError([Fault("", said, "a new file in a directory of yours", str(file))]) from None
