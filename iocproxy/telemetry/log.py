"""Events: what happened to the proxy itself, as a name and a few keys.

Two loggers of one kind, both made of structlog with every setting given explicitly. Nothing here calls
`structlog.configure` or configures `logging`: a program that embeds a proxy keeps its own settings, and two proxies
with two loggers do not meet.

Cost: an event is for what is rare (a listener, a refusal, a fault). What happens once a request goes to `AccessLog`.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO, cast

import structlog
from structlog.dev import ConsoleRenderer, plain_traceback
from structlog.processors import JSONRenderer, add_log_level, format_exc_info
from structlog.stdlib import filter_by_level
from structlog.typing import EventDict, FilteringBoundLogger, Processor

from iocproxy.telemetry.lines import Lines, LogFormat, printable, shown, wants_colours
from iocproxy.telemetry.writer import Writer

#: ``log.info("event", key=value)``, ``debug``, ``warning``, ``error``, ``exception``, ``bind(key=value)``.
Logger = FilteringBoundLogger


def library_logger() -> Logger:
    """The logger of an embedded proxy: the standard library's ``logging.getLogger("iocproxy")``.

    An event arrives there as one record whose message is ``event key=value …`` (escaped, one line); the host program
    decides level, handlers and format. `exc_info` is handed on as it is. As libraries should, it stays silent in a
    program that has not set up logging.
    """
    target = logging.getLogger("iocproxy")
    if not any(isinstance(handler, logging.NullHandler) for handler in target.handlers):
        target.addHandler(logging.NullHandler())
    return _wrap(target, "notset", [filter_by_level, _to_logging])


def stream_logger(
    format: LogFormat,  # noqa: A002 - the key's name in the file
    level: str,
    stream: TextIO | Writer,
) -> Logger:
    """A logger that writes to `stream`, one line an event (and a traceback indented below it on the console).

    `level` is debug, info, warning, error or critical. Raises ValueError for another level or format. A stream that
    can no longer be written loses the line and nothing else: no caller is hurt by its log. One that nobody reads
    blocks the caller, in the end; a `Writer` never does, and is what an event loop's thread logs to.
    """
    if level not in {"debug", "info", "warning", "error", "critical"}:
        raise ValueError(f"level {level!r}: allowed are debug, info, warning, error, critical")
    processors: list[Processor] = [add_log_level, _stamp_first, format_exc_info]
    if format == "json":
        processors += [JSONRenderer(default=_plain, separators=(",", ":"))]
    elif format == "console":
        colours = stream.colours if isinstance(stream, Writer) else wants_colours(stream)
        console = ConsoleRenderer(colors=colours, exception_formatter=plain_traceback, sort_keys=False)
        processors += [_escape, console]
    else:
        raise ValueError(f"format {format!r}: allowed are console, json")
    return _wrap(_End(stream), level, processors)


def _wrap(target: object, level: str, processors: list[Processor]) -> Logger:
    """A bound logger that consults none of structlog's global defaults: each of them is given here."""
    lazy = structlog.wrap_logger(
        target,
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        context_class=dict,
        cache_logger_on_first_use=True,
    )
    return cast("Logger", lazy.bind())


class _End:
    """The end of the chain: structlog calls the method that the level is named after."""

    __slots__ = ("_lines",)

    def __init__(self, stream: TextIO | Writer) -> None:
        self._lines = stream if isinstance(stream, Writer) else Lines(stream)

    def _write(self, line: str) -> None:
        # A closed pipe or a full disk: there is nowhere left to say so, and the caller is in the middle of a request.
        with contextlib.suppress(OSError, ValueError):
            self._lines.write(line)

    debug = info = warning = error = critical = _write


def _stamp_first(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Put the time in front, then level and event: the order in which people read.

    `add_log_level` has set the level; a `timestamp` among the caller's keys gives way, since it could be a client's.
    """
    event["timestamp"] = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    first = {key: event.pop(key) for key in ("timestamp", "level", "event")}
    return {**first, **event}


class _Verbatim:
    """A value that ConsoleRenderer, which prints the repr of what is no string, shows exactly as it is."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _escape(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Leave nothing in the event that could move a cursor or forge a line.

    A traceback has lines of its own, and an exception's message may quote a client: each line is indented, so none
    can pass for an event.
    """
    safe: EventDict = {}
    for key, value in event.items():
        if key in {"timestamp", "level"}:
            safe[key] = value
        elif key == "event":
            safe[key] = printable(str(value))
        elif key in {"exception", "stack"}:
            safe[key] = "\n".join("    " + printable(line) for line in str(value).splitlines())
        else:
            safe[printable(key)] = _Verbatim(shown(value))
    return safe


def _to_logging(_logger: object, _method: str, event: EventDict) -> tuple[tuple[str], dict[str, Any]]:
    """Arguments for the standard library's logger; `stacklevel` makes its record name our caller, not structlog."""
    frame, depth = sys._getframe(1), 0
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("structlog"):
        frame, depth = frame.f_back, depth + 1
    options: dict[str, Any] = {"stacklevel": depth}
    for key in ("exc_info", "stack_info"):
        if key in event:
            options[key] = event.pop(key)
    said = [printable(str(event.pop("event")))]
    said += [f"{printable(key)}={shown(value)}" for key, value in event.items()]
    return (" ".join(said),), options


def _plain(value: object) -> str:
    """What JSON has no form for: bytes are latin-1 text, everything else its repr."""
    return value.decode("latin-1") if isinstance(value, bytes | bytearray) else repr(value)
