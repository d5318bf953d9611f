"""``iocproxy serve``: run what the options ask for, in the foreground."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import cast

from iocproxy.cli import output
from iocproxy.cli.demo import Demo
from iocproxy.cli.options import Options, in_options, resolve
from iocproxy.config import Config, Logging
from iocproxy.errors import ConfigError, Fault
from iocproxy.server import Proxy
from iocproxy.telemetry import LogFormat, Logger, stream_logger
from iocproxy.workers import run


def serve(options: Options) -> int:
    """Returns the exit code. Raises ConfigError with every fault; then nothing was started."""
    config = resolve(options)
    if config is None:
        return _serve_demo(options)
    try:
        return _serve(config)
    except ConfigError as error:
        raise (in_options(error) if options.upstream else error) from None


def _serve(config: Config) -> int:
    log = _logger(config.logging)

    @asynccontextmanager
    async def opening() -> AsyncIterator[Proxy]:
        yield Proxy(config, log=log, access_stream=sys.stdout)

    return run(opening, log=log)


def _serve_demo(options: Options) -> int:
    logging = Logging(**options.logging)
    log = _logger(logging)
    demo = Demo(options.listen, logging)

    def started(proxy: Proxy) -> None:
        # Among JSON lines a text for people would be one that no program can read.
        (output.warn if logging.format == "json" else output.say)(demo.greeting(proxy))

    try:
        return run(lambda: demo.proxy(log, sys.stdout), log=log, started=started)
    except ConfigError as error:
        raise ConfigError(map(_way_out, in_options(error).faults)) from None


def _logger(logging: Logging) -> Logger:
    return stream_logger(cast("LogFormat", logging.format), logging.level, sys.stdout)


def _way_out(fault: Fault) -> Fault:
    """Whoever tries the demo has not chosen an address yet, and need not know the option."""
    if not fault.found.startswith("cannot listen"):
        return fault
    return replace(fault, allowed="end what listens there, or choose: iocproxy serve --listen 127.0.0.1:PORT")
