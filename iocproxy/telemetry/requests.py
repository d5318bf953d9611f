"""One `Record` as one line: JSON for machines, columns for people. Called by a writer's thread, in slices.

The JSON is put together by hand because `json.dumps` of a dict costs several times as much; strings go through the C
function that json itself uses. The shape is that of ``stream_logger("json", …)``: timestamp, level, event, the rest.

Two things are kept from one record to the next, because they rarely differ: the timestamp, and the end of the line,
which depends on the server, the route and the TLS version (never on what a client may choose).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from json.encoder import encode_basestring_ascii as quoted
from typing import Protocol

from iocproxy.message import Record
from iocproxy.telemetry.lines import printable, shown

_HTTP = {11: "1.1", 10: "1.0"}
_TAILS = 1_024  # line ends kept; a proxy with more combinations than this starts over


class LineFormat(Protocol):
    """How a writer says things. Lines come joined by line feeds, without the last one.

    `slice` is how many records make about half a millisecond's work.
    """

    slice: int

    def lines(self, items: Iterable[Record | str]) -> str:
        """Records in this format; text is an event's, and finished."""
        ...

    def missing(self, event: str, count: int, now: float) -> str:
        """The line that stands for `count` lines that are not there; `now` in seconds since the epoch."""
        ...


class _Stamp:
    """ISO 8601 in UTC with milliseconds. A busy proxy ends many requests within one, so the last text is kept."""

    __slots__ = ("_millisecond", "_prefix", "_second", "_text")

    def __init__(self) -> None:
        self._millisecond = self._second = -1
        self._prefix = self._text = ""

    def __call__(self, when: float) -> str:
        millisecond = int(when * 1000)
        if millisecond != self._millisecond:
            second = millisecond // 1000
            if second != self._second:
                self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
                self._second = second
            self._text = "%s.%03dZ" % (self._prefix, millisecond - second * 1000)  # noqa: UP031 - twice as fast
            self._millisecond = millisecond
        return self._text


class JsonFormat:
    """One JSON object a line, printable ASCII throughout; keys and units are in docs/logging.md."""

    __slots__ = ("_stamp", "_tails")
    slice = 400

    def __init__(self) -> None:
        self._stamp = _Stamp()
        self._tails: dict[tuple[str, str, int, str, bool], str] = {}

    def lines(self, items: Iterable[Record | str]) -> str:
        return "\n".join([item if isinstance(item, str) else self._request(*item) for item in items])

    def missing(self, event: str, count: int, now: float) -> str:
        return f'{{"timestamp":"{self._stamp(now)}","level":"warning","event":"{event}","dropped":{count}}}'

    def _request(
        self,
        finished: float,
        client: str,
        method: str,
        host: str,
        target: str,
        version: int,
        status: int,
        bytes_in: int,
        bytes_out: int,
        duration: float,
        upstream: str,
        route: str,
        tls_version: str,
        tls_resumed: bool,
        error: str,
        request_id: str,
    ) -> str:
        key = (upstream, route, version, tls_version, tls_resumed)
        tail = self._tails.get(key) or self._tail(key)
        if request_id:
            tail += f',"request_id":{quoted(request_id)}'
        if error:
            tail += f',"error":{quoted(error)}'
        return (
            f'{{"timestamp":"{self._stamp(finished)}","level":"info","event":"request"'
            f',"client":{quoted(client)},"method":{quoted(method)},"host":{quoted(host)},"path":{quoted(target)}'
            f',"status":{status},"bytes_in":{bytes_in},"bytes_out":{bytes_out}'
            f',"duration_ms":{duration * 1000.0:.3f}{tail}}}'
        )

    def _tail(self, key: tuple[str, str, int, str, bool]) -> str:
        upstream, route, version, tls_version, tls_resumed = key
        texts = {"upstream": upstream, "route": route, "http": _HTTP.get(version), "tls": tls_version}
        tail = "".join(f',"{name}":{quoted(text) if text else "null"}' for name, text in texts.items())
        tail += f',"tls_resumed":{"true" if tls_resumed else "false"}'
        if len(self._tails) >= _TAILS:
            self._tails.clear()
        self._tails[key] = tail
        return tail


class ConsoleFormat:
    """One line a request in the columns of structlog's ConsoleRenderer: time, level, what, and then key=value.

    With `colours` the columns are coloured as ConsoleRenderer does it. What came from a client is escaped either way.
    """

    __slots__ = ("_key", "_stamp", "_what")
    slice = 100

    def __init__(self, *, colours: bool) -> None:
        dim, bright, cyan, green = ("\x1b[2m", "\x1b[1m", "\x1b[36m", "\x1b[32m") if colours else [""] * 4
        off = "\x1b[0m" if colours else ""
        self._what = f"{dim}%s{off} [{green}{bright}%-9s{off}] {bright}%-30s{off}%s"
        self._key = f" {cyan}%s{off}=%s"
        self._stamp = _Stamp()

    def lines(self, items: Iterable[Record | str]) -> str:
        return "\n".join([item if isinstance(item, str) else self._request(item) for item in items])

    def missing(self, event: str, count: int, now: float) -> str:
        return self._what % (self._stamp(now), "warning", event, self._key % ("dropped", count))

    def _request(self, record: Record) -> str:
        key = self._key
        pairs = key % ("client", shown(record.client))
        pairs += key % ("bytes_in", record.bytes_in)
        pairs += key % ("bytes_out", record.bytes_out)
        pairs += key % ("duration_ms", f"{record.duration * 1000.0:.3f}")
        if record.upstream:
            pairs += key % ("upstream", shown(record.upstream))
        if record.route:
            pairs += key % ("route", shown(record.route))
        if record.version in _HTTP:
            pairs += key % ("http", _HTTP[record.version])
        if record.tls_version:
            pairs += key % ("tls", shown(record.tls_version))
            pairs += key % ("tls_resumed", record.tls_resumed)
        if record.request_id:
            pairs += key % ("request_id", shown(record.request_id))
        if record.error:
            pairs += key % ("error", shown(record.error))
        what = printable(f"{record.status} {record.method} {record.host}{record.target}")
        return self._what % (self._stamp(record.finished), "info", what, pairs)
