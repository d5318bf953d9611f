"""docs/logging.md says what the code does: its examples have our keys, its tables name them all."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest

from iocproxy.message import Record
from iocproxy.telemetry import Counters
from iocproxy.telemetry.requests import JsonFormat
from iocproxy.testing import ProxyFactory

PAGE = Path(__file__).parents[2].joinpath("docs", "logging.md").read_text(encoding="utf-8")
REQUEST = Record(0.0, "c", "GET", "h", "/", 11, 200, 0, 0, 0.0, "u", "r", "TLSv1.3", True, "")


def section(title: str) -> str:
    """What stands between one heading of the second level and the next."""
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def table(text: str) -> list[str]:
    """The names in the first column of the tables of `text`."""
    rows = re.findall(r"^\| (`[^|]+) \|", text, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`(\w+)`", row)]


def test_examples_have_the_keys_of_what_is_written(iocproxy: ProxyFactory) -> None:
    form = JsonFormat()
    good, bad = (list(json.loads(form.lines([REQUEST._replace(error=error)]))) for error in ("", "why"))
    shown = [json.loads(line) for line in PAGE.splitlines() if line.startswith('{"timestamp"')]
    assert [list(event) for event in shown if event["event"] == "request"] == [good, bad]
    proxy = iocproxy(upstreams={"app": {"servers": ["http://127.0.0.1:9"]}})
    listening = {"timestamp", *proxy.wait_for_event("listening")}
    assert [set(event) for event in shown if event["event"] == "listening"] == [listening]
    dropped = list(json.loads(form.missing("requests_not_logged", 1, 0.0)))
    assert [list(event) for event in shown if event["event"] == "requests_not_logged"] == [dropped]
    assert [list(event) for event in shown if event["event"] == "events_not_logged"] == [dropped]


def test_every_key_of_a_request_is_explained() -> None:
    line = JsonFormat().lines([REQUEST._replace(error="why", request_id="id")])
    requests = section("Requests").split("On the console")[0]
    assert table(section("Formats")) + table(requests) == list(json.loads(line))


def test_every_counter_is_explained() -> None:
    assert table(section("Counters")) == list(Counters().snapshot())


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", section("Embedding"), re.DOTALL)[1:])
def test_examples_run(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stderr = io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    exec(code, {})
    if "stream_logger(" in code:
        assert json.loads(stderr.getvalue())["answer"] == 42
    else:
        assert (tmp_path / "access.log").exists()
