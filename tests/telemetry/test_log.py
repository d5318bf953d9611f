"""Events: what stands on the line, and that nothing of a client's can leave it."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from iocproxy.telemetry import library_logger, stream_logger

HOSTILE = [
    "\x1b[2J\x1b[31mred",
    "\x1b]0;title\x07",
    "a\r\n2026-01-01T00:00:00.000Z [info     ] forged",
    "nul\x00 bell\x07 back\x08 del\x7f",
    "c1 csi \x9b31m next line \x85",
    "separators \u2028 \u2029",
    "bidi \u202e\u2066 zero width \u200b",
    "lone surrogate \udc80",
    "tab\tvertical\x0bform\x0c",
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Shows:
    """A value whose repr is whatever a client sent, as that of a request is."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def raised(text: str) -> ValueError:
    """An exception that was raised, so that it has a traceback."""
    try:
        raise ValueError(text)  # noqa: TRY301
    except ValueError as exc:
        return exc


def lines(stream: io.StringIO) -> list[str]:
    """The lines of a stream, split at line feeds alone; each must be complete."""
    text = stream.getvalue()
    assert text.endswith("\n")
    return text[:-1].split("\n")


def test_json_is_one_object_a_line_in_reading_order() -> None:
    stream = io.StringIO()
    before = datetime.now(UTC)
    stream_logger("json", "info", stream).info("listening", address="127.0.0.1:80", tls=False, tried=3, name=b"\xe9")
    (line,) = lines(stream)
    event = json.loads(line)
    assert list(event) == ["timestamp", "level", "event", "address", "tls", "tried", "name"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["timestamp"])
    assert abs((datetime.fromisoformat(event.pop("timestamp")) - before).total_seconds()) < 60
    assert event == {
        "level": "info",
        "event": "listening",
        "address": "127.0.0.1:80",
        "tls": False,
        "tried": 3,
        "name": "é",
    }


def test_console_is_columns() -> None:
    stream = io.StringIO()
    stream_logger("console", "info", stream).warning("slow down", address="127.0.0.1:80", why="two words", at=None)
    (line,) = lines(stream)
    stamp, rest = line.split(" ", 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", stamp)
    assert rest == f"[warning  ] {'slow down':<30} address=127.0.0.1:80 why='two words' at=None"


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("form", ["console", "json"])
def test_nothing_of_a_client_leaves_its_line(form: str, hostile: str) -> None:
    stream = io.StringIO()
    log = stream_logger(form, "info", stream).bind(bound=hostile)
    log.info(
        hostile,
        text=hostile,
        raw=hostile.encode("utf-8", "surrogatepass"),
        nested=[{"key": hostile}],
        shown=Shows(hostile),
        timestamp=hostile,
        level=hostile,
        logger=hostile,
        stack=hostile,
        **{hostile: "as a key"},
    )
    first, *others = lines(stream)
    assert first.isprintable()
    assert all(line.startswith("    ") and line.isprintable() for line in others)
    if form == "json":
        event = json.loads(first)
        assert not others
        assert (event["event"], event["text"], event["bound"]) == (hostile, hostile, hostile)
        assert event["nested"] == [{"key": hostile}]
        assert event["level"] == "info"
    else:
        assert "[info     ]" in first


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_traceback_cannot_pass_for_an_event(hostile: str) -> None:
    stream = io.StringIO()
    log = stream_logger("console", "info", stream)
    log.error("set-up failed", exc_info=raised(hostile))
    first, *others = lines(stream)
    assert first.rstrip().endswith("[error    ] set-up failed")
    assert others[0] == "    Traceback (most recent call last):"
    assert any(line.startswith("    ValueError: ") for line in others)
    assert all(line.startswith("    ") and line.isprintable() for line in others)


def test_json_carries_the_traceback_within_the_line() -> None:
    stream = io.StringIO()
    stream_logger("json", "info", stream).error("set-up failed", exc_info=ValueError("no\nway"))
    (line,) = lines(stream)
    assert json.loads(line)["exception"] == "ValueError: no\nway"


@pytest.mark.skipif(sys.platform == "win32", reason="structlog colours on Windows by replacing sys.stdout: left alone")
@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_terminal_gets_our_colours_and_no_one_elses(hostile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    stream_logger("console", "info", stream).info(hostile, text=hostile)
    (line,) = lines(stream)
    ours = re.compile(r"\x1b\[(0|1|2|3[0-9])m")
    assert ours.search(line)
    assert ours.sub("", line).isprintable()
    if "red" in hostile:
        assert line.count(r"\x1b[2J\x1b[31mred") == 2


def test_no_colours_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    stream_logger("console", "info", stream).info("plain")
    assert "\x1b" not in stream.getvalue()


def test_levels() -> None:
    stream = io.StringIO()
    log = stream_logger("json", "warning", stream)
    log.debug("no")
    log.info("no")
    log.warning("warning")
    log.error("error")
    log.critical("critical")
    assert [json.loads(line)["level"] for line in lines(stream)] == ["warning", "error", "critical"]


def test_what_is_not_allowed_is_named() -> None:
    with pytest.raises(ValueError, match="'loud': allowed are debug, info, warning, error, critical"):
        stream_logger("json", "loud", io.StringIO())
    with pytest.raises(ValueError, match="'xml': allowed are console, json"):
        stream_logger("xml", "info", io.StringIO())  # type: ignore[arg-type]


def test_a_stream_that_lacks_a_character_gets_its_escape() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="cp1252", newline="\n")
    stream_logger("console", "info", stream).info("started", route="čaj", cost="5€")
    assert raw.getvalue().endswith(b" route=\\u010daj cost=5\x80\n")


def test_a_pipe_that_nobody_reads_any_more_hurts_no_caller() -> None:
    reader, writer = os.pipe()
    stream = os.fdopen(writer, "w")
    log = stream_logger("json", "info", stream)
    log.info("read")
    assert json.loads(os.read(reader, 4096))["event"] == "read"
    os.close(reader)
    log.info("into the void")
    log.info("again")
    with contextlib.suppress(OSError):
        stream.close()
    log.info("closed")
    assert stream.closed


def test_two_loggers_do_not_meet() -> None:
    first, second = io.StringIO(), io.StringIO()
    one, two = stream_logger("json", "info", first), stream_logger("console", "error", second)
    one.bind(who="one").info("a")
    two.info("b")
    two.error("c")
    one.info("d")
    assert [json.loads(line)["event"] for line in lines(first)] == ["a", "d"]
    assert "who" not in json.loads(lines(first)[1])
    assert len(lines(second)) == 1


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def kept() -> Iterator[Kept]:
    """A host program's handler on the library's logger."""
    logger, handler = logging.getLogger("iocproxy"), Kept()
    logger.addHandler(handler)
    level, propagate = logger.level, logger.propagate
    logger.setLevel("INFO")
    logger.propagate = False
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)
    logger.propagate = propagate


def test_an_embedded_proxy_speaks_through_logging(kept: Kept) -> None:
    log = library_logger()
    log.debug("below the level")
    log.info("listening", address="127.0.0.1:80", why="two words", done="100%", raw=b"\xe9")
    log.bind(listener="a").warning("odd\n")
    assert [(record.levelname, record.getMessage()) for record in kept.records] == [
        ("INFO", "listening address=127.0.0.1:80 why='two words' done=100% raw=é"),
        ("WARNING", "odd\\n listener=a"),
    ]
    assert {(record.name, record.funcName) for record in kept.records} == {
        ("iocproxy", "test_an_embedded_proxy_speaks_through_logging")
    }


def test_an_embedded_proxy_hands_its_exceptions_on(kept: Kept) -> None:
    fault = ValueError("no")
    try:
        raise fault
    except ValueError:
        library_logger().exception("set-up failed", listener="a")
    (record,) = kept.records
    assert record.exc_info is not None
    assert record.exc_info[1] is fault
    assert record.getMessage() == "set-up failed listener=a"
    assert record.funcName == "test_an_embedded_proxy_hands_its_exceptions_on"


@pytest.mark.parametrize("hostile", HOSTILE)
def test_an_embedded_proxy_escapes_too(kept: Kept, hostile: str) -> None:
    library_logger().info(hostile, text=hostile, shown=Shows(hostile), **{hostile: "as a key"})
    (record,) = kept.records
    assert record.getMessage().isprintable()


EMBED = """
import io, logging, sys, threading, structlog

def refuse(*_):
    raise AssertionError("the host's processors were asked")

before = (logging.root.level, list(logging.root.handlers), logging.getLogger("iocproxy").level, logging.raiseExceptions)
from iocproxy.telemetry import AccessLog, Counters, library_logger, stream_logger
assert not structlog.is_configured()
structlog.configure(processors=[refuse], wrapper_class=refuse, context_class=refuse, logger_factory=refuse)
log = library_logger()
library_logger()
log.error("silent: nobody has set up logging")
out = io.StringIO()
stream_logger("json", "info", out).info("heard")
access = AccessLog(io.StringIO(), "json", log=log, counters=Counters())
access.start()
assert access.close()
assert '"event":"heard"' in out.getvalue()
assert structlog.get_config()["processors"] == [refuse]
now = (logging.root.level, list(logging.root.handlers), logging.getLogger("iocproxy").level, logging.raiseExceptions)
assert now == before, now
assert [type(handler) for handler in logging.getLogger("iocproxy").handlers] == [logging.NullHandler]
assert logging.getLogger("iocproxy").propagate
assert threading.active_count() == 1
"""


def test_embedding_leaves_the_host_programs_settings_alone() -> None:
    done = subprocess.run([sys.executable, "-c", EMBED], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
