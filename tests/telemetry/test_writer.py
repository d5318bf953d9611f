"""Events and requests through one writer: whoever says something never waits for those who read it."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from iocproxy.message import Record
from iocproxy.telemetry import AccessLog, Counters, Writer, stream_logger
from iocproxy.testing.patience import PATIENCE

REQUEST = Record(0.0, "::1", "GET", "h", "/", 11, 200, 0, 0, 0.0, "", "", "", False, "")


class Stuck(io.StringIO):
    """A stream that nobody reads while `read` is not set; `reached` is set once somebody waits in it."""

    def __init__(self) -> None:
        super().__init__()
        self.read = threading.Event()
        self.reached = threading.Event()
        self.full = False

    def write(self, text: str) -> int:
        self.reached.set()
        assert self.read.wait(PATIENCE)
        if self.full:
            raise OSError(28, "No space left on device")
        return super().write(text)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


@pytest.fixture
def stream() -> Iterator[Stuck]:
    stream = Stuck()
    yield stream
    stream.read.set()


def started(stream: io.StringIO, **bounds: Any) -> Writer:
    writer = Writer(stream, "json", **bounds)
    writer.start()
    return writer


def test_what_is_said_comes_out_in_that_order() -> None:
    stream = io.StringIO()
    writer = started(stream, interval=0.001)
    log = stream_logger("json", "info", writer)
    access = AccessLog(writer, "json", log=log, counters=Counters())
    access.start()
    for number in range(2_000):
        access.write(REQUEST._replace(bytes_out=number))
        log.info("event", bytes_out=number)
    assert access.close()
    log.info("the last one")
    assert writer.close()
    *both, last = (json.loads(line) for line in stream.getvalue().splitlines())
    assert [(line["event"], line["bytes_out"]) for line in both] == [
        (event, number) for number in range(2_000) for event in ("request", "event")
    ]
    assert last["event"] == "the last one"


def test_an_event_does_not_wait_for_the_next_round(stream: Stuck) -> None:
    writer = started(stream, interval=PATIENCE * 10)
    stream_logger("json", "info", writer).info("now")
    assert stream.reached.wait(PATIENCE)
    stream.read.set()
    assert writer.close()


def test_a_stream_that_nobody_reads_holds_nobody_up(stream: Stuck) -> None:
    """What finds no room is counted, and told once there are readers again."""
    writer, counters = started(stream, queue=20, events=10, interval=0.001), Counters()
    log = stream_logger("json", "info", writer)
    access = AccessLog(writer, "json", log=log, counters=counters)
    log.info("first")
    assert stream.reached.wait(PATIENCE)
    for number in range(15):
        log.info("event", number=number)
    for number in range(15):
        access.write(REQUEST._replace(bytes_out=number))
    assert (writer.events_missing, counters.access_dropped) == (5, 5)
    stream.read.set()
    assert writer.close(PATIENCE)
    said = [event["event"] for event in stream.events]
    assert said == ["first", *["event"] * 10, *["request"] * 10, "requests_not_logged", "events_not_logged"]
    assert [event["dropped"] for event in stream.events[-2:]] == [5, 5]
    assert {event["level"] for event in stream.events[-2:]} == {"warning"}


def test_room_for_events_comes_back(stream: Stuck) -> None:
    stream.read.set()
    writer = started(stream, events=1)
    log = stream_logger("json", "info", writer)
    for number in range(50):
        stream.reached.clear()
        log.info("event", number=number)
        assert stream.reached.wait(PATIENCE)
    assert writer.close()
    assert [event["number"] for event in stream.events] == list(range(50))


def test_events_that_cannot_be_written_are_told_when_they_can(stream: Stuck) -> None:
    stream.full = True
    stream.read.set()
    writer = started(stream, interval=0.001)
    log = stream_logger("json", "info", writer)
    log.info("lost")
    log.info("lost")
    assert stream.reached.wait(PATIENCE)
    while writer.events_missing < 2:
        threading.Event().wait(0.002)
    stream.full = False
    log.info("written")
    assert writer.close()
    assert [(event["event"], event.get("dropped")) for event in stream.events] in (
        [("written", None), ("events_not_logged", 2)],
        [("events_not_logged", 2), ("written", None)],
    )


def test_the_end_does_not_wait_for_a_reader(stream: Stuck) -> None:
    writer, counters = started(stream), Counters()
    log = stream_logger("json", "info", writer)
    access = AccessLog(writer, "json", log=log, counters=counters)
    log.info("held")
    assert stream.reached.wait(PATIENCE)
    log.info("never written")
    access.write(REQUEST)
    assert access.close()
    access.write(REQUEST)
    assert not writer.close(0.05)
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "iocproxy-log")
    assert thread.daemon
    stream.read.set()
    assert writer.close()
    assert [event["event"] for event in stream.events] == ["held"]
    assert (writer.events_missing, counters.access_lost, counters.access_dropped) == (1, 1, 1)


def test_its_state_is_shown() -> None:
    writer = Writer("access.log", "json")
    assert repr(writer) == "<Writer access.log new queued=0>"
    writer.write("never")
    assert writer.close()
    assert (repr(writer), writer.events_missing) == ("<Writer access.log closed queued=0>", 1)
