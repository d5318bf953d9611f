"""Mutated requests through a live proxy: the origin sees what a strict reader finds in the client's bytes, no more.

For each case the client sends one to four requests in a row, cut anywhere, and ends its side early, late or with a
reset. Checked: the origin has read the same requests in the same order, and nothing after the first that is refused;
each answer is well-formed and belongs to its request; the refused one is told so, and then the connection ends.
"""

from __future__ import annotations

import itertools
import socket
import struct
import sys
from random import Random
from typing import Any, NamedTuple

from fuzzing import mutations, strict
from fuzzing.live import CaseError, Client, Ground, among, check, compared
from fuzzing.reading import split
from fuzzing.strict import Reading, Seen
from iocproxy.testing.messages import TruncatedError, values
from iocproxy.testing.received import ReceivedRequest

#: What a request is refused with, from its first octet to the last of its body.
REFUSALS = frozenset({400, 405, 413, 414, 417, 431, 501, 505})

_LINGER_RESET = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


class Case(NamedTuple):
    """What was sent in one case, and what has to come of it."""

    name: str
    pieces: list[bytes]
    expected: Reading
    left: bool  #: the client has reset the connection
    serials: list[int]  #: what it was told until then

    def failed(self, why: object) -> CaseError:
        data = b"".join(self.pieces)
        return CaseError(f"{self.name}: {why}\nthe client sent, in {list(map(len, self.pieces))} octets:\n{data!r}")


class TowardsOrigin:
    """Runs cases on one proxy; use it in a ``with`` statement, which checks in the end what the origin has seen.

    Each case has its client at an address of its own, which X-Forwarded-For tells the origin: whatever arrives there,
    however late, belongs to one case.
    """

    def __init__(self) -> None:
        self._ground = Ground(self._answer)
        self._serials = itertools.count()
        self._cases: dict[bytes, Case] = {}

    def _answer(self, exchange: Any) -> None:
        """Says which request it answers, in one framing or another."""
        exchange.request.serial = serial = next(self._serials)
        head = b"HTTP/1.1 200 OK\r\nX-Serial: %d\r\n" % serial
        body = b"" if exchange.request.method == b"HEAD" else b"%d" % serial
        # An HTTP/1.0 client's connection stays open only where there is a length.
        old = exchange.request.header_values("via")[-1].startswith("1.0")
        match 6 if old else serial % 7:
            case 0:
                exchange.send(head + b"Connection: close\r\n\r\n" + body)
                exchange.close()
            case 1 | 2:
                chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b""
                exchange.send(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked)
            case _:
                exchange.send(head + b"Content-Length: %d\r\n\r\n" % len(b"%d" % serial) + body)

    def __enter__(self) -> TowardsOrigin:
        self._ground.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        self._ground.__exit__(kind, *error)
        if kind is None:
            self._check_origin()

    def run(self, name: str, random: Random) -> None:
        """One case. Raises CaseError, with its octets."""
        data = mutations.requests(random)
        pieces = split(data, mutations.cuts(random, data))
        expected = strict.read_requests(data)
        leaves = random.random() < 0.05
        ends = expected.end == "cut short" or random.random() < 0.5
        number = len(self._cases)
        source = f"127.0.{number // 250}.{1 + number % 250}"
        case = self._cases[source.encode()] = Case(name, pieces, expected, leaves, [])
        try:
            with Client(self._ground.proxy.address, source) as client:
                if leaves:
                    client.send(pieces)
                    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
                else:
                    client.send(pieces, end=ends)
                    self._read_answers(client, case, ends=ends)
            self._ground.check_log()
        except (AssertionError, OSError) as error:
            raise case.failed(self._ground.told(error)) from error

    @staticmethod
    def _read_answers(client: Client, case: Case, *, ends: bool) -> None:
        expected, serials = case.expected, case.serials
        last = b"HEAD" if expected.rest.startswith(b"HEAD ") else b""
        refused = expected.end in {"refused", "cut short"}
        try:
            for method in [*(message.method for message in expected.messages), *([last] if refused else [])]:
                is_answer = len(serials) < len(expected.messages)
                status, _, fields, body = client.read_response(method)
                while status == 100:
                    status, _, fields, body = client.read_response(method)
                content = b"".join(body)
                if not is_answer:
                    check(status in REFUSALS, f"a refused request was answered with {status}")
                    continue
                check(status == 200, f"request {len(serials)} was answered with {status}")
                (serial,) = values(fields, b"x-serial")
                check(content == (b"" if method == b"HEAD" else serial), "another answer's body", serial, content)
                serials.append(int(serial))
            if expected.end == "" and not ends:
                client.send([], end=True)
            check(client.reader.at_end(), "more than the answers", client.reader.buffered)
        except TruncatedError:
            check(client.was_reset, "the proxy ended before it had answered", serials, expected)
        # Who goes on sending behind the last request may be reset before it has read (RFC 9112 section 9.6).
        goes_on = expected.end == "last" and expected.rest
        check(not client.was_reset or goes_on, "the proxy reset the connection", serials, expected)

    def _check_origin(self) -> None:
        """Nothing is under way any more: each case has had its requests, all of them, and no other."""
        seen: dict[bytes, list[Any]] = {source: [] for source in self._cases}
        for request in self._ground.origin.requests:
            (source,) = values(request.headers, b"x-forwarded-for")
            seen[source].append(request)
        for source, requests in seen.items():
            case = self._cases[source]
            try:
                _check_seen(requests, case)
                answered = [request.serial for request in requests if request.complete]
                check(case.serials == answered[: len(case.serials)], "other answers", case.serials, answered)
            except CaseError as error:
                raise case.failed(error) from error


def _check_seen(requests: list[ReceivedRequest], case: Case) -> None:
    expected = case.expected
    complete = [request for request in requests if request.complete]
    wanted = expected.messages[: len(complete)] if case.left else expected.messages
    check(len(complete) == len(wanted), "the origin saw other requests", requests, expected)
    for request, message in zip(complete, wanted, strict=True):
        _check_same(request, message)
        check(request.body == message.body, "another body", request.body, message.body)
        check(among(request.trailers, message.trailers), "other trailers", request.trailers, message.trailers)
    broken = [request for request in requests if not request.complete]
    if broken:
        # The proxy had the head and not, or not yet, the body; the client was told, or has left.
        following = [*expected.messages, expected.partial][len(complete) :]
        check(requests[-1:] == broken and following[0] is not None, "a request too many", requests, expected)
        _check_same(broken[0], following[0])
        check(following[0].body.startswith(broken[0].body), "another body", broken[0].body, following[0].body)


def _check_same(request: ReceivedRequest, message: Seen) -> None:
    seen = request.method, request.target, values(request.headers, b"host"), compared(request.headers)
    wanted = message.method, message.target, [message.host], message.fields
    check(seen == wanted, "the origin saw another request", seen, wanted)
