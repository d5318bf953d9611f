"""The access log: its lines, what happens when it cannot be written, and that nothing of it stays behind."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iocproxy.message import Record
from iocproxy.telemetry import AccessLog, Counters, stream_logger
from iocproxy.telemetry.requests import JsonFormat

PLAIN = Record(
    finished=1_700_000_000.25,
    client="203.0.113.7",
    method="GET",
    host="example.com",
    target="/a?b=c",
    version=11,
    status=200,
    bytes_in=0,
    bytes_out=13,
    duration=0.0012346,
    upstream="10.0.0.5:9000",
    route="example.com/",
    tls_version="",
    tls_resumed=False,
    error="",
)
TLS = PLAIN._replace(tls_version="TLSv1.3", tls_resumed=True, version=10)
NAMED = PLAIN._replace(request_id="a|b")
FAILED = PLAIN._replace(status=502, bytes_out=0, upstream="", route="", version=0, method="", error='said "no"')


class Events:
    """An event log to look into."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.log = stream_logger("json", "info", self.stream)

    @property
    def seen(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


class Failing(io.StringIO):
    """A stream on a disk that is full until somebody makes room."""

    full = True

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(28, "No space left on device")
        return super().write(text)


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def counters() -> Counters:
    return Counters()


def until(happened: Callable[[], object]) -> None:
    """Wait for what another thread does; fails after ten seconds."""
    deadline = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.002)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "iocproxy-log"]


def written(records: list[Record], form: Any) -> str:
    """What the log makes of these records, by way of a stream."""
    stream, log = io.StringIO(), Events()
    access = AccessLog(stream, form, log=log.log, counters=Counters())
    access.start()
    for record in records:
        access.write(record)
    assert access.close()
    assert not log.seen
    return stream.getvalue()


def test_json_lines() -> None:
    assert written([PLAIN, TLS, NAMED, FAILED], "json") == (
        '{"timestamp":"2023-11-14T22:13:20.250Z","level":"info","event":"request","client":"203.0.113.7"'
        ',"method":"GET","host":"example.com","path":"/a?b=c","status":200,"bytes_in":0,"bytes_out":13'
        ',"duration_ms":1.235,"upstream":"10.0.0.5:9000","route":"example.com/","http":"1.1","tls":null'
        ',"tls_resumed":false}\n'
        '{"timestamp":"2023-11-14T22:13:20.250Z","level":"info","event":"request","client":"203.0.113.7"'
        ',"method":"GET","host":"example.com","path":"/a?b=c","status":200,"bytes_in":0,"bytes_out":13'
        ',"duration_ms":1.235,"upstream":"10.0.0.5:9000","route":"example.com/","http":"1.0","tls":"TLSv1.3"'
        ',"tls_resumed":true}\n'
        '{"timestamp":"2023-11-14T22:13:20.250Z","level":"info","event":"request","client":"203.0.113.7"'
        ',"method":"GET","host":"example.com","path":"/a?b=c","status":200,"bytes_in":0,"bytes_out":13'
        ',"duration_ms":1.235,"upstream":"10.0.0.5:9000","route":"example.com/","http":"1.1","tls":null'
        ',"tls_resumed":false,"request_id":"a|b"}\n'
        '{"timestamp":"2023-11-14T22:13:20.250Z","level":"info","event":"request","client":"203.0.113.7"'
        ',"method":"","host":"example.com","path":"/a?b=c","status":502,"bytes_in":0,"bytes_out":0'
        ',"duration_ms":1.235,"upstream":null,"route":null,"http":null,"tls":null'
        ',"tls_resumed":false,"error":"said \\"no\\""}\n'
    )


def test_console_lines() -> None:
    assert written([PLAIN, TLS, NAMED, FAILED], "console") == (
        "2023-11-14T22:13:20.250Z [info     ] 200 GET example.com/a?b=c      client=203.0.113.7 bytes_in=0 bytes_out=13"
        " duration_ms=1.235 upstream=10.0.0.5:9000 route=example.com/ http=1.1\n"
        "2023-11-14T22:13:20.250Z [info     ] 200 GET example.com/a?b=c      client=203.0.113.7 bytes_in=0 bytes_out=13"
        " duration_ms=1.235 upstream=10.0.0.5:9000 route=example.com/ http=1.0 tls=TLSv1.3 tls_resumed=True\n"
        "2023-11-14T22:13:20.250Z [info     ] 200 GET example.com/a?b=c      client=203.0.113.7 bytes_in=0 bytes_out=13"
        " duration_ms=1.235 upstream=10.0.0.5:9000 route=example.com/ http=1.1 request_id=a|b\n"
        "2023-11-14T22:13:20.250Z [info     ] 502  example.com/a?b=c         client=203.0.113.7 bytes_in=0 bytes_out=0"
        " duration_ms=1.235 error='said \"no\"'\n"
    )


def test_both_logs_have_one_shape() -> None:
    """The columns of the console and the first keys of the JSON are those of an event."""
    stream = io.StringIO()
    stream_logger("console", "info", stream).info("x" * 30, client="c")
    event, request = stream.getvalue(), written([PLAIN], "console")
    assert event.index("[info     ]") == request.index("[info     ]")
    assert event.index("client=") == request.index("client=")
    stream = io.StringIO()
    stream_logger("json", "info", stream).info("x")
    assert list(json.loads(stream.getvalue())) == list(json.loads(written([PLAIN], "json")))[:3]


def test_every_second_has_its_own_timestamp() -> None:
    times = [0.0, 0.9999, 1.0, 59.5, 1_700_000_000.001, 1_700_000_000.999, 1_700_000_001.0, 1_700_000_000.5]
    lines = written([PLAIN._replace(finished=when) for when in times], "json").splitlines()
    assert [json.loads(line)["timestamp"] for line in lines] == [
        "1970-01-01T00:00:00.000Z",
        "1970-01-01T00:00:00.999Z",
        "1970-01-01T00:00:01.000Z",
        "1970-01-01T00:00:59.500Z",
        "2023-11-14T22:13:20.001Z",
        "2023-11-14T22:13:20.999Z",
        "2023-11-14T22:13:21.000Z",
        "2023-11-14T22:13:20.500Z",
    ]


@pytest.mark.parametrize("form", ["console", "json"])
@pytest.mark.parametrize(
    "hostile",
    [
        "\x1b[2J\x1b[31mred",
        'a\r\n{"event":"forged"}',
        "nul\x00 bell\x07 del\x7f",
        "c1 \x9b31m next line \x85",
        "separators \u2028 \u2029 bidi \u202e",
        "lone \udc80",
        "quotes \" and \\ and '",
        "é€",
    ],
)
def test_nothing_of_a_client_leaves_its_line(form: str, hostile: str) -> None:
    record = PLAIN._replace(
        client=hostile, method=hostile, host=hostile, target=hostile, error=hostile, upstream=hostile, route=hostile
    )
    first, second, end = written([record, PLAIN], form).split("\n")
    assert first.isprintable()
    assert "client=203.0.113.7" in second or json.loads(second)["client"] == "203.0.113.7"
    assert not end
    if form == "json":
        assert first.isascii()
        event = json.loads(first)
        named = ("client", "method", "host", "path", "error", "upstream", "route")
        assert [event[name] for name in named] == [hostile] * len(named)


@pytest.mark.skipif(sys.platform == "win32", reason="no colours on Windows, see docs/logging.md")
def test_a_terminal_gets_our_colours_and_no_one_elses(monkeypatch: pytest.MonkeyPatch, events: Events) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    access = AccessLog(stream, "console", log=events.log, counters=Counters())
    access.start()
    access.write(PLAIN._replace(target="/\x1b[31m"))
    access.close()
    line = stream.getvalue()
    assert "\x1b[1m200 GET example.com/\\x1b[31m" in line
    assert "\x1b[31m" not in line


def test_more_line_ends_than_are_kept() -> None:
    records = [PLAIN._replace(upstream=f"10.0.0.5:{number}") for number in range(3_000)]
    lines = written([*records, *records], "json").splitlines()
    assert [json.loads(line)["upstream"] for line in lines] == [record.upstream for record in [*records, *records]]


def test_what_is_kept_between_records_is_bounded() -> None:
    form, sizes = JsonFormat(), []
    for number in range(3_000):
        form.lines([PLAIN._replace(upstream=f"10.0.0.5:{number}")])
        sizes.append(len(form._tails))
    assert max(sizes) == 1_024


def test_a_file_is_appended_to(tmp_path: Path, events: Events, counters: Counters) -> None:
    path = tmp_path / "access.log"
    for number in range(2):
        access = AccessLog(path, "json", log=events.log, counters=counters)
        access.start()
        access.write(PLAIN._replace(status=200 + number))
        assert access.close()
    assert [json.loads(line)["status"] for line in path.read_bytes().splitlines()] == [200, 201]
    assert path.read_bytes().endswith(b"}\n")
    assert not threads()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no group and other permissions")
def test_a_new_file_is_not_for_everybody(tmp_path: Path, events: Events, counters: Counters) -> None:
    path = tmp_path / "access.log"
    access = AccessLog(path, "json", log=events.log, counters=counters)
    access.start()
    access.close()
    assert stat.S_IMODE(path.stat().st_mode) & 0o137 == 0


def test_records_are_written_while_running(tmp_path: Path, events: Events, counters: Counters) -> None:
    path = tmp_path / "access.log"
    access = AccessLog(path, "json", log=events.log, counters=counters, interval=0.01)
    access.start()
    access.write(PLAIN)
    until(path.read_bytes)
    access.write(TLS)
    until(lambda: path.read_bytes().count(b"\n") == 2)
    assert repr(access) == f"<AccessLog {path} running queued=0>"
    assert access.close()
    assert repr(access) == f"<AccessLog {path} closed queued=0>"


def test_a_burst_is_written_in_order(tmp_path: Path, events: Events, counters: Counters) -> None:
    path = tmp_path / "access.log"
    access = AccessLog(path, "json", log=events.log, counters=counters, interval=0.01)
    access.start()
    for number in range(5_000):
        access.write(PLAIN._replace(bytes_out=number))
    assert access.close()
    assert [json.loads(line)["bytes_out"] for line in path.read_bytes().splitlines()] == list(range(5_000))


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_full_queue_drops_and_says_how_many(form: Any, events: Events, counters: Counters) -> None:
    stream = io.StringIO()
    access = AccessLog(stream, form, log=events.log, counters=counters, queue=10, interval=0.01)
    for number in range(25):
        access.write(PLAIN._replace(bytes_out=number))
    assert counters.access_dropped == 15
    access.start()
    until(lambda: stream.getvalue().count("\n") == 11)
    access.write(TLS)
    assert access.close()
    *before, notice, after = stream.getvalue().splitlines()
    assert len(before) == 10
    assert "TLSv1.3" in after
    if form == "json":
        event = json.loads(notice)
        assert (event["level"], event["event"], event["dropped"]) == ("warning", "requests_not_logged", 15)
        assert list(event) == ["timestamp", "level", "event", "dropped"]
    else:
        assert notice.endswith(f"Z [warning  ] {'requests_not_logged':<30} dropped=15")


def test_records_after_the_end_are_counted(events: Events, counters: Counters) -> None:
    stream = io.StringIO()
    access = AccessLog(stream, "json", log=events.log, counters=counters)
    access.start()
    assert access.close()
    access.write(PLAIN)
    assert access.close()
    assert (stream.getvalue(), counters.access_dropped) == ("", 1)


def test_never_started(tmp_path: Path, events: Events, counters: Counters) -> None:
    access = AccessLog(tmp_path / "access.log", "json", log=events.log, counters=counters)
    access.write(PLAIN)
    assert repr(access).endswith(" new queued=1>")
    assert access.close()
    assert counters.access_dropped == 1
    assert not list(tmp_path.iterdir())


def test_what_is_wrong_is_said_at_once(tmp_path: Path, events: Events, counters: Counters) -> None:
    with pytest.raises(ValueError, match="'xml': allowed are console, json"):
        AccessLog(io.StringIO(), "xml", log=events.log, counters=counters)  # type: ignore[arg-type]
    access = AccessLog(tmp_path / "nowhere" / "access.log", "json", log=events.log, counters=counters)
    with pytest.raises(FileNotFoundError):
        access.start()
    assert not threads()
    access = AccessLog(io.StringIO(), "json", log=events.log, counters=counters)
    access.start()
    with pytest.raises(RuntimeError, match="started already"):
        access.start()
    assert access.close()


def test_a_full_disk_is_reported_once_and_so_is_its_end(events: Events, counters: Counters) -> None:
    stream = Failing()
    access = AccessLog(stream, "json", log=events.log, counters=counters, interval=0.005)
    access.start()
    for lost in (1, 2, 3):
        access.write(PLAIN)
        until(lambda lost=lost: counters.access_lost == lost)
    stream.full = False
    access.write(TLS)
    until(stream.getvalue)
    assert access.close()
    assert json.loads(stream.getvalue())["tls"] == "TLSv1.3"
    failed, recovered = events.seen
    assert (failed["level"], failed["event"]) == ("error", "access_log_failed")
    assert failed["error"] == "OSError: [Errno 28] No space left on device"
    assert (recovered["level"], recovered["event"], recovered["lost"]) == ("info", "access_log_recovered", 3)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_real_full_device(events: Events, counters: Counters) -> None:
    access = AccessLog("/dev/full", "json", log=events.log, counters=counters, interval=0.005)
    access.start()
    access.write(PLAIN)
    until(lambda: counters.access_lost == 1)
    access.write(PLAIN)
    assert access.close()
    assert counters.access_lost == 2
    (failed,) = events.seen
    assert failed["destination"] == "/dev/full"
    assert "No space left on device" in failed["error"]


def test_a_record_that_cannot_be_formatted_ends_nothing(events: Events, counters: Counters) -> None:
    stream = io.StringIO()
    access = AccessLog(stream, "json", log=events.log, counters=counters, interval=0.005)
    access.start()
    access.write(PLAIN._replace(duration=None))  # type: ignore[arg-type]
    until(lambda: counters.access_lost == 1)
    access.write(PLAIN)
    assert access.close()
    assert json.loads(stream.getvalue())["status"] == 200
    assert [event["event"] for event in events.seen] == ["access_log_failed", "access_log_recovered"]
    assert events.seen[0]["error"].startswith("TypeError: ")


def test_an_event_log_that_raises_ends_nothing(counters: Counters) -> None:
    class Raises:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("the host's handler is broken")

    stream = Failing()
    access = AccessLog(stream, "json", log=Raises(), counters=counters, interval=0.005)  # type: ignore[arg-type]
    access.start()
    access.write(PLAIN)
    until(lambda: counters.access_lost == 1)
    stream.full = False
    access.write(PLAIN)
    assert access.close()
    assert json.loads(stream.getvalue())["status"] == 200


def test_a_pipe_that_nobody_empties_does_not_hold_the_end_up(events: Events, counters: Counters) -> None:
    reader, writer = os.pipe()
    stream = os.fdopen(writer, "w")
    access = AccessLog(stream, "json", log=events.log, counters=counters, interval=0.005)
    access.start()
    for _ in range(2_000):
        access.write(PLAIN)
    assert not access.close(timeout=0.2)
    access.write(PLAIN)
    got: list[bytes] = []

    def read() -> None:
        while chunk := os.read(reader, 65_536):
            got.append(chunk)

    thread = threading.Thread(target=read)
    thread.start()
    assert access.close()
    stream.close()
    thread.join()
    os.close(reader)
    lines = b"".join(got).splitlines()
    assert all(json.loads(line)["status"] == 200 for line in lines)
    assert counters.access_lost > 0
    assert len(lines) + counters.access_lost == 2_000
    assert counters.access_dropped == 1
    assert not threads()


CLOSED_PIPE = """
import os, sys, threading
from iocproxy.message import Record
from iocproxy.telemetry import AccessLog, Counters, stream_logger

record = Record(0.0, "::1", "GET", "h", "/", 11, 200, 0, 0, 0.0, "", "", "", False, "")
counters = Counters()
access = AccessLog(
    sys.stdout, "json", log=stream_logger("json", "info", sys.stderr), counters=counters, interval=0.005
)
access.start()
access.write(record)
sys.stdin.readline()  # the reader is gone now
for lost in (1, 2, 3):
    access.write(record)
    while counters.access_lost < lost:
        threading.Event().wait(0.002)
assert access.close()
assert threading.active_count() == 1
print("survived", file=sys.stderr, flush=True)
os._exit(0)  # what is left in sys.stdout's buffer has nowhere to go
"""


def test_standard_output_closed_by_its_reader() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CLOSED_PIPE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with child:
        assert child.stdin
        assert child.stdout
        assert child.stderr
        assert json.loads(child.stdout.readline())["event"] == "request"
        child.stdout.close()
        child.stdin.write(b"\n")
        child.stdin.close()
        failed, survived = child.stderr.read().splitlines()
        assert child.wait(30) == 0
    assert json.loads(failed)["event"] == "access_log_failed"
    assert json.loads(failed)["destination"] == "<stdout>"
    assert survived == b"survived"


SHARED = """
import sys
from iocproxy.message import Record
from iocproxy.telemetry import AccessLog, Counters, stream_logger

log = stream_logger("json", "info", sys.stdout)
access = AccessLog(sys.stdout, "json", log=log, counters=Counters(), interval=0.001)
access.start()
for number in range(1_500):
    access.write(Record(0.0, "::1", "GET", "h", "/" + "x" * 300, 11, 200, 0, number, 0.0, "", "", "", False, ""))
    log.info("between", number=number, padding="y" * 300)
assert access.close()
"""


def test_events_and_requests_share_standard_output_line_by_line() -> None:
    done = subprocess.run([sys.executable, "-c", SHARED], capture_output=True, timeout=60, check=True)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["bytes_out"] for event in events if event["event"] == "request"] == list(range(1_500))
    assert [event["number"] for event in events if event["event"] == "between"] == list(range(1_500))


TORN = """
import io, resource, sys, threading
from iocproxy.message import Record
from iocproxy.telemetry import AccessLog, Counters, stream_logger

record = Record(0.0, "::1", "GET", "h", "/", 11, 200, 0, 0, 0.0, "", "", "", False, "")
counters, events = Counters(), io.StringIO()
access = AccessLog(sys.argv[1], "json", log=stream_logger("json", "info", events), counters=counters, interval=0.005)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
access.start()
access.write(record)
while not counters.access_lost:
    threading.Event().wait(0.002)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
access.write(record)
assert access.close()
assert events.getvalue().count("access_log_failed") == 1
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on a file's size to run into")
def test_half_a_line_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    subprocess.run([sys.executable, "-c", TORN, str(path)], timeout=60, check=True)
    torn, whole = path.read_bytes().splitlines()
    assert len(torn) == 100
    assert json.loads(whole)["event"] == "request"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not rename a file that is open, see docs/logging.md")
def test_rotation(tmp_path: Path, events: Events, counters: Counters) -> None:
    path, old = tmp_path / "access.log", tmp_path / "access.log.1"
    access = AccessLog(path, "json", log=events.log, counters=counters, interval=60)
    access.start()
    access.write(PLAIN._replace(status=201))
    access.reopen()  # wakes the thread; the same file again
    until(path.read_bytes)
    path.rename(old)
    access.write(PLAIN._replace(status=202))
    access.reopen()
    until(path.exists)
    access.write(PLAIN._replace(status=203))
    assert access.close()
    assert [json.loads(line)["status"] for line in old.read_bytes().splitlines()] == [201]
    assert [json.loads(line)["status"] for line in path.read_bytes().splitlines()] == [202, 203]
    assert not events.seen


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not move a folder with an open file in it")
def test_a_file_that_cannot_be_reopened_stays_in_use(tmp_path: Path, events: Events, counters: Counters) -> None:
    folder, moved = tmp_path / "logs", tmp_path / "moved"
    folder.mkdir()
    access = AccessLog(folder / "access.log", "json", log=events.log, counters=counters)
    access.start()
    folder.rename(moved)
    access.reopen()
    access.write(PLAIN)
    assert access.close()
    assert json.loads((moved / "access.log").read_bytes())["status"] == 200
    (failed,) = events.seen
    assert (failed["level"], failed["event"]) == ("error", "access_log_reopen_failed")
    assert failed["error"].startswith("FileNotFoundError: ")


def test_reopening_a_stream_changes_nothing(events: Events, counters: Counters) -> None:
    stream = io.StringIO()
    access = AccessLog(stream, "json", log=events.log, counters=counters)
    access.start()
    access.write(PLAIN)
    access.reopen()
    assert access.close()
    assert stream.getvalue().count("\n") == 1
    assert not stream.closed
    assert not events.seen


def test_two_logs_do_not_meet(tmp_path: Path, events: Events) -> None:
    logs = []
    for number in range(2):
        counters = Counters()
        access = AccessLog(tmp_path / f"{number}.log", "json", log=events.log, counters=counters, queue=1 + number)
        for _ in range(3):
            access.write(PLAIN._replace(status=200 + number))
        access.start()
        logs.append((access, counters))
    assert len(threads()) == 2
    for number, (access, counters) in enumerate(logs):
        assert access.close()
        lines = [json.loads(line) for line in (tmp_path / f"{number}.log").read_bytes().splitlines()]
        assert [line.get("status") for line in lines] == [200 + number] * (1 + number) + [None]
        assert lines[-1]["dropped"] == counters.access_dropped == 2 - number
    assert not threads()
