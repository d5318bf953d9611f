"""From the options of `serve` to what it is to run: a file, a configuration made of options, or the demo.

    --upstream given               a configuration made of the options
    --config given                 that file
    ./iocproxy.toml exists         that file
    otherwise                      the demo

What does not go together is a fault, like one in a file, and all of them are told at once.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from iocproxy.config import Config, Logging, Parts, load_config
from iocproxy.errors import ConfigError, Fault
from iocproxy.server.material import faults_of, load_material

DEFAULT_FILE = Path("iocproxy.toml")
DEFAULT_LISTEN = "127.0.0.1:8080"


@dataclass(frozen=True, slots=True)
class Options:
    """As given on the command line; None and empty for what was not."""

    config: Path | None
    listen: Sequence[str]
    upstream: Sequence[str]
    tls_cert: Path | None
    tls_key: Path | None
    workers: str | None
    log_format: str | None
    log_level: str | None

    @property
    def logging(self) -> dict[str, str]:
        """The keys of ``[logging]`` that options override."""
        given = {"format": self.log_format, "level": self.log_level}
        return {key: value for key, value in given.items() if value is not None}


def resolve(options: Options) -> Config | None:
    """The configuration to run; None for the demo. Raises ConfigError with every fault."""
    file = options.config
    if file is None and not options.upstream and DEFAULT_FILE.is_file():
        file = DEFAULT_FILE
    wrong = [*_contradictions(options, file)]
    if file is None:
        config = _from_options(options, wrong) if options.upstream else None
    else:
        config = _from_file(file, options, wrong)
    if wrong and config is not None:
        try:
            load_material(config)
        except ConfigError as error:
            wrong += (error if file else in_options(error)).faults
    if wrong:
        raise ConfigError(wrong)
    return config


def as_option(fault: Fault) -> Fault:
    """A fault in a configuration made of options, in terms of the option that its key came from."""
    for pattern, option in _KEYS:
        if pattern.match(fault.path):
            return replace(fault, path=option)
    return fault


def in_options(error: ConfigError) -> ConfigError:
    """Every fault as an option's; one that several listeners share (a certificate) is told once."""
    return ConfigError(dict.fromkeys(as_option(fault) for fault in error.faults))


_KEYS = (
    (re.compile(r"listeners\[\d+\]\.tls\.certificates\[0\]\.key"), "--tls-key"),
    (re.compile(r"listeners\[\d+\]\.tls"), "--tls-cert"),
    (re.compile(r"listeners"), "--listen"),
    (re.compile(r"upstreams"), "--upstream"),
)


def _contradictions(options: Options, file: Path | None) -> list[Fault]:
    wrong = []
    tls = {"--tls-cert": options.tls_cert, "--tls-key": options.tls_key}
    if options.workers is not None:
        wrong += _workers(options.workers)
    if file is not None:
        given = {"--upstream": options.upstream, "--listen": options.listen, **tls}
        wrong += [
            Fault(name, f"does not go with the configuration file {file}", "say it in the file, or leave the file out")
            for name, value in given.items()
            if value
        ]
        return wrong
    if (options.tls_cert is None) != (options.tls_key is None):
        there, missing = sorted(tls, key=lambda name: tls[name] is None)
        wrong.append(Fault(there, f"without {missing}", "give both: a certificate and its private key"))
    elif options.tls_cert is not None and not options.upstream:
        wrong.append(Fault("--tls-cert", "without --upstream", "the demo makes a certificate of its own"))
    return wrong


def _workers(given: str) -> list[Fault]:
    if given == "1":
        return []
    if given == "auto" or (given.isascii() and given.isdigit() and 2 <= int(given) <= 256):
        return [Fault("--workers", f"{given} is not available yet", "allowed: 1")]
    return [Fault("--workers", f'"{given}"', "must be 1; more, and auto, are not available yet")]


def _from_options(options: Options, wrong: list[Fault]) -> Config | None:
    """Adds to `wrong` what cannot be used, and returns None then."""
    tls: dict[str, Any] = {}
    if options.tls_cert is not None and options.tls_key is not None:
        tls["tls"] = {"certificates": [{"cert": str(options.tls_cert), "key": str(options.tls_key)}]}
    settings: dict[str, Any] = {
        "listeners": [{"bind": bind, **tls} for bind in options.listen or [DEFAULT_LISTEN]],
        "upstreams": {"default": {"servers": list(options.upstream)}},
        "logging": options.logging,
    }
    try:
        return Config(**settings)
    except ConfigError as error:
        wrong += in_options(ConfigError([*error.faults, *faults_of(Parts.of(settings))])).faults
        return None


def find_modules_beside(file: Path) -> None:
    """Let `[[middleware]]` name a module that lies beside the configuration file, as its relative paths do.

    Last on the path: a file that happens to be called like a module of Python's must not take its place.
    """
    directory = str(file.absolute().parent)
    if directory not in sys.path:
        sys.path.append(directory)


def _from_file(file: Path, options: Options, wrong: list[Fault]) -> Config | None:
    find_modules_beside(file)
    try:
        config = load_config(file, further=faults_of)
    except ConfigError as error:
        wrong += error.faults
        return None
    logging = Logging(**{**config.logging.model_dump(), **options.logging})
    return config.model_copy(update={"logging": logging})
