"""``iocproxy serve``: run what the options ask for, in the foreground."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import cast

from iocproxy.cli import output
from iocproxy.cli.demo import Demo
from iocproxy.cli.options import Options, in_options, resolve
from iocproxy.config import Config, Logging
from iocproxy.errors import ConfigError, Fault
from iocproxy.server import Proxy
from iocproxy.telemetry import LogFormat, Logger, Writer, stream_logger
from iocproxy.workers import run

#: How long standard output may take for the last lines, in seconds.
_LAST_LINES = 3.0


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
    with _log(config.logging) as (log, out):

        @asynccontextmanager
        async def opening() -> AsyncIterator[Proxy]:
            yield Proxy(config, log=log, access_stream=out)

        return run(opening, log=log)


def _serve_demo(options: Options) -> int:
    logging = Logging(**options.logging)
    demo = Demo(options.listen, logging)
    with _log(logging) as (log, out):

        def started(proxy: Proxy) -> None:
            # Among JSON lines a text for people would be one that no program can read.
            (output.warn if logging.format == "json" else out.write)(demo.greeting(proxy))

        try:
            return run(lambda: demo.proxy(log, out), log=log, started=started)
        except ConfigError as error:
            raise ConfigError(map(_way_out, in_options(error).faults)) from None


@contextmanager
def _log(logging: Logging) -> Iterator[tuple[Logger, Writer]]:
    """Standard output, written by a thread: nobody who reads it slowly, or not at all, holds the event loop up."""
    form = cast("LogFormat", logging.format)
    out = Writer(sys.stdout, form)
    out.start()
    try:
        yield stream_logger(form, logging.level, out), out
    finally:
        out.close(_LAST_LINES)


def _way_out(fault: Fault) -> Fault:
    """Whoever tries the demo has not chosen an address yet, and need not know the option."""
    if not fault.found.startswith("cannot listen"):
        return fault
    return replace(fault, allowed="end what listens there, or choose: iocproxy serve --listen 127.0.0.1:PORT")
