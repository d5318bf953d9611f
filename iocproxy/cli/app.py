"""The commands and their options, as typer reads them off these functions.

Exit codes: 0 for a clean stop or a good answer, 1 for a failure at run time, 2 for bad usage or a bad configuration.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from iocproxy.cli import output
from iocproxy.cli.check import check as summary
from iocproxy.cli.options import DEFAULT_FILE, Options
from iocproxy.cli.serve import serve as run_serve
from iocproxy.cli.starter import write_starter
from iocproxy.cli.versions import versions
from iocproxy.config import config_schema
from iocproxy.errors import ConfigError

FAILED, BAD_CONFIGURATION = 1, 2

app = typer.Typer(
    name="iocproxy",
    help="A reverse proxy: TLS termination, limits for each client, pooled upstream connections.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class LogFormat(StrEnum):
    CONSOLE = "console"
    JSON = "json"


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@contextmanager
def _exit_codes() -> Iterator[None]:
    """What went wrong, told on standard error and turned into the exit code."""
    try:
        yield
    except ConfigError as error:
        output.faults(error)
        raise typer.Exit(BAD_CONFIGURATION) from None
    except OSError as error:
        output.warn(f"failed: {error}")
        raise typer.Exit(FAILED) from None


def _show_version(wanted: bool) -> None:
    if wanted:
        with _exit_codes():
            output.say(versions())
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the versions and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """A reverse proxy: TLS termination, limits for each client, pooled upstream connections."""
    del version


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", metavar="FILE", help=f"A TOML file. Default: ./{DEFAULT_FILE} when it exists.", dir_okay=True
    ),
]


@app.command()
def serve(
    config: ConfigFile = None,
    listen: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Where clients connect; may be repeated, port 0 lets the system choose. Default: 127.0.0.1:8080. "
            "In the demo these speak plain http, and https takes a free port beside them.",
        ),
    ] = None,
    upstream: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="The server to forward to; several are taken in turn. No file is read then."),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PEM certificate, for every --listen; with --tls-key.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="The certificate's private key, PEM.")] = None,
    workers: Annotated[str | None, typer.Option(metavar="N|auto", help="Only 1 is available yet.")] = None,
    log_format: Annotated[LogFormat | None, typer.Option(help="Overrides the file's.")] = None,
    log_level: Annotated[LogLevel | None, typer.Option(help="Overrides the file's.")] = None,
) -> None:
    """Run the proxy until Ctrl+C; requests in flight are completed first, a second Ctrl+C stops at once.

    With neither a file nor --upstream it runs a demo: a built-in origin behind http://127.0.0.1:8080 and
    https://127.0.0.1:8443.
    """
    given = Options(
        config=config,
        listen=tuple(listen or ()),
        upstream=tuple(upstream or ()),
        tls_cert=tls_cert,
        tls_key=tls_key,
        workers=workers,
        log_format=log_format,
        log_level=log_level,
    )
    with _exit_codes():
        code = run_serve(given)
    raise typer.Exit(code)


@app.command()
def check(config: ConfigFile = None) -> None:
    """Find every fault of a configuration, certificates and middleware included, and say what it would do.

    Nothing is bound or started.
    """
    with _exit_codes():
        output.say(summary(config or DEFAULT_FILE))


@app.command()
def init(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", help="The file to write.")] = DEFAULT_FILE,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if there is one.")] = False,
) -> None:
    """Write a commented configuration to start from."""
    with _exit_codes():
        write_starter(file, force=force)
        output.say(f"{file} written. Next: iocproxy check --config {file}")


@app.command()
def schema() -> None:
    """Print the JSON schema of the configuration file, for editors."""
    with _exit_codes():
        output.say(json.dumps(config_schema(), indent=2))


@app.command()
def version() -> None:
    """Show the versions of iocproxy and of what it stands on."""
    with _exit_codes():
        output.say(versions())
