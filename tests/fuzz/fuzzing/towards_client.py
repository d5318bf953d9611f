"""Mutated responses through a live proxy: the client sees the same message, a 502, or one that is visibly cut short.

In each case the origin answers with what was meant to be a response, cut anywhere, and keeps its connection open or
ends it. Which of the three the client has to see follows from a strict reading of the origin's bytes. Then the next
request has to work, and to be answered with nothing of what the origin sent before.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from random import Random
from typing import Any, NamedTuple

from fuzzing import mutations, strict
from fuzzing.live import CaseError, Client, Ground, check, compared
from fuzzing.reading import split
from fuzzing.strict import Seen
from iocproxy.testing.messages import Fields, TruncatedError, values
from iocproxy.testing.patience import PATIENCE

_REQUESTS = {
    b"GET": b"GET /case HTTP/1.%d\r\nHost: a.test\r\n%b\r\n",
    b"HEAD": b"HEAD /case HTTP/1.%d\r\nHost: a.test\r\n%b\r\n",
    b"POST": b"POST /case HTTP/1.%d\r\nHost: a.test\r\nContent-Length: 4\r\n%b\r\nbody",
}


class Case(NamedTuple):
    method: bytes
    version: int  #: the client's: 0 or 1
    offered: bytes  #: the protocol that the client wants to change to
    pieces: list[bytes]
    end: str  #: what the origin does behind them: "keep", "close" or "reset"
    sent: threading.Event  #: set when the origin has sent them

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces)


class Got(NamedTuple):
    """What the client has read. `end`: "" (the message is complete), "cut short" or "nothing"."""

    interim: list[tuple[int, Fields]]
    status: int
    reason: bytes
    fields: Fields
    body: bytes
    end: str


class TowardsClient:
    """Runs cases on one proxy; use it in a ``with`` statement."""

    def __init__(self) -> None:
        self._ground = Ground(self._answer)
        self._case: Case
        self._count = 0

    def __enter__(self) -> TowardsClient:
        self._ground.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._ground.__exit__(*error)

    def _answer(self, exchange: Any) -> None:
        """In a thread of the origin."""
        if exchange.request.path != "/case":
            exchange.respond(200, exchange.request.target)
            return
        case = self._case
        with contextlib.suppress(OSError):  # the proxy hangs up as soon as it knows
            for piece in case.pieces:
                exchange.send(piece)
        if case.end == "close":
            exchange.close()
        elif case.end == "reset":
            exchange.reset()
        case.sent.set()

    def run(self, name: str, random: Random) -> None:
        """One case. Raises CaseError, with its octets."""
        method = random.choice([b"GET", b"GET", b"GET", b"HEAD", b"POST"])
        version = random.choice([1] * 4 + [0])
        offered = b"x" if method == b"GET" and version and random.random() < 0.1 else b""
        data = mutations.responses(random, upgrade=bool(offered))
        expected = strict.read_response(data, method, offered)
        ends = ["close"] * 5 + ["reset"]
        if expected.end == "last" and not expected.until_close:
            ends += ["keep"] * 8  # nobody has to wait for the end to know where the message ends
        pieces = split(data, mutations.cuts(random, data))
        case = self._case = Case(method, version, offered, pieces, random.choice(ends), threading.Event())
        self._count += 1
        try:
            with Client(self._ground.proxy.address) as client:
                fields = b"Connection: upgrade\r\nUpgrade: x\r\n" if offered else b""
                client.send([_REQUESTS[method] % (version, fields)])
                got = _read(client, method)
                self._check(got, expected, case)
                check(case.sent.wait(PATIENCE), "the origin was not asked, or is still sending")
                options = ",".join(value.decode("latin-1") for value in values(got.fields, b"connection"))
                if got.end == "" and version and got.status != 101 and "close" not in options:
                    self._next(client)
            with Client(self._ground.proxy.address) as client:
                self._next(client)
            self._ground.check_log()
        except (AssertionError, OSError) as error:
            lengths = list(map(len, case.pieces))
            raise CaseError(
                f"{name}: {self._ground.told(error)}\n"
                f"the client asked with {method!r}, HTTP/1.{version}, Upgrade {offered!r}; "
                f"the origin sent, in {lengths} octets, then {case.end}:\n{data!r}"
            ) from error

    def _next(self, client: Client) -> None:
        """Another request is answered with its own answer."""
        target = b"/next/%d" % self._count
        client.send([b"GET %b HTTP/1.1\r\nHost: a.test\r\n\r\n" % target])
        status, _, _, body = client.read_response(b"GET")
        content = b"".join(body)
        check((status, content) == (200, target), "the next request had another answer", status, content)

    @staticmethod
    def _check(got: Got, expected: strict.Reading, case: Case) -> None:
        interim = [(int(message.method), message.fields) for message in expected.messages[: expected.interim]]
        seen = [(status, compared(fields)) for status, fields in got.interim]
        known = interim[: len(seen)] if case.version else []  # RFC 9110 section 15.2: none to an HTTP/1.0 client
        check(seen == known, "other interim responses", got, expected)
        if _is_bad_gateway(got):
            complete = expected.end in {"last", "tunnel"}
            check(not complete or case.end == "reset", "a 502 instead of a response that is in order", got, expected)
            return
        final = expected.messages[-1] if expected.end in {"last", "tunnel"} else expected.partial
        check(final is not None, "a response that had to be refused was passed on", got, expected)
        check(case.end == "reset" or seen == (interim if case.version else []), "interim responses are missing", got)
        _check_same(got, final)
        if got.end:
            check(final.body.startswith(got.body), "another body", got.body, final.body)
            whole = expected.end == "last" or (expected.end == "tunnel" and sys.platform != "win32")
            check(not whole or case.end == "reset", "a complete response was cut short", got, expected)
            return
        if expected.end == "tunnel":
            check(expected.rest == got.body or case.end == "reset", "another tunnel", got, expected)
            return
        check(expected.partial is None, "a response that was not complete looks so", got, expected)
        # (Under Wine the proxy itself may be shown a reset as an orderly end.)
        disguised = expected.until_close and case.end == "reset" and sys.platform != "win32"
        check(not disguised, "a response that ended with a reset looks complete", got, expected)
        check(got.body == final.body, "another body", got.body, final.body)


def _is_bad_gateway(got: Got) -> bool:
    """The proxy's own 502, and not the origin's."""
    why = values(got.fields, b"proxy-status")
    return got.status == 502 and got.end == "" and any(value.startswith(b"iocproxy; error=") for value in why)


def _check_same(got: Got, final: Seen) -> None:
    fields = compared(got.fields)
    if not any(name.lower() == b"date" for name, _ in final.fields):  # RFC 9110 section 6.6.1: the proxy adds one
        fields = [(name, value) for name, value in fields if name.lower() != b"date"]
    seen = b"%d" % got.status, got.reason, fields
    check(seen == (final.method, final.target, final.fields), "another head", seen, final)


def _read(client: Client, method: bytes) -> Got:
    """Up to the final response's end, or where it breaks off. Raises WireError for what is not HTTP."""
    interim: list[tuple[int, Fields]] = []
    while True:
        try:
            status, reason, fields, body = client.read_response(method)
        except TruncatedError:
            return Got(interim, 0, b"", [], b"", "nothing")
        if status >= 200 or status == 101:
            break
        interim.append((status, fields))
    content, end = b"", ""
    if status == 101:
        while data := client.reader.some(1 << 18):
            content += data
    try:
        for data in body:
            content += data
    except TruncatedError:
        end = "cut short"
    client.ask_how_it_ended()
    return Got(interim, status, reason, fields, content, "cut short" if client.was_reset else end)
