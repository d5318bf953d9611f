"""The command ``iocproxy``: `app` has the commands, `output` writes, `demo` is what runs without a configuration."""

from __future__ import annotations

import signal
from typing import NoReturn

from iocproxy.cli import output
from iocproxy.cli.app import app

__all__ = ["main"]


def main() -> NoReturn:
    """The console script. Ends the process with the exit code; no interrupt ever shows a traceback."""
    output.prepare()
    code = 1
    try:
        app(prog_name="iocproxy")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    finally:
        # From here on there is nothing left to stop, and an interpreter that is being taken down cannot be interrupted
        # without a complaint.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        output.settle(code)
    raise SystemExit(code)
