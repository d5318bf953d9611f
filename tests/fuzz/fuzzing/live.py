"""What both live campaigns stand on: a proxy, an origin, a plain client, and the checks that hold for all of it."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any, Self

from fuzzing.strict import OWNED
from iocproxy.testing import Origin, RunningProxy
from iocproxy.testing.factories import ProxyFactory
from iocproxy.testing.messages import Body, ByteReader, Fields, parse_response_head
from iocproxy.testing.patience import PATIENCE


class CaseError(AssertionError):
    """What a case has shown that must not be. The message says what; the campaign adds the seed and the octets."""


def check(condition: object, what: str, *seen: object) -> None:
    if not condition:
        raise CaseError("\n".join([what, *map(repr, seen)]))


class Ground:
    """A proxy in front of one origin; leaving the ``with`` statement checks that nothing is left of what was done."""

    def __init__(self, answer: Callable[[Any], None]) -> None:
        """`answer` is the origin's handler, for every request."""
        self.origin = Origin()
        self.origin.on("*", "*", answer)
        self._factory = ProxyFactory(_no_certificates)
        self.proxy: RunningProxy

    def __enter__(self) -> Self:
        self.origin.start()
        try:
            self.proxy = self._factory(upstream=self.origin)
        except BaseException:
            self.origin.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.settle()
                self.check_log()
        finally:
            problems = self._factory.close()
            self.origin.stop()
        check(not problems, "the proxy left something behind", *problems)

    def settle(self) -> None:
        """Until every connection, request and tunnel is gone but for idle upstream connections, at both ends."""
        try:
            self.proxy.wait_for(lambda _: self._quiet())
        except TimeoutError as error:
            raise CaseError(f"something leaks: {self.proxy.stats()!r}, {self.origin.open_connections}") from error

    def _quiet(self) -> bool:
        stats = self.proxy.stats()
        if any(stats[name] for name in ("requests_open", "tunnels_open", "connections_open")):
            return False
        server = stats["upstreams"]["origin"][_name(self.origin)]
        return server["open"] == server["idle"] == self.origin.open_connections and not server["waiting"]

    def told(self, error: BaseException) -> str:
        """What went wrong in a case, and what the proxy has to say about it."""
        return "\n".join([str(error) or repr(error), *self.proxy.problems])

    def check_log(self) -> None:
        """No exception, no error, no 500, and nothing that broke HTTP on its way to the origin."""
        bad = [event for event in self.proxy.log if "exception" in event or event["level"] in {"error", "critical"}]
        check(not bad, "an exception in the log", *bad)
        check(not self.proxy.problems, "an exception that nobody handled", *self.proxy.problems)
        check(not self.origin.failures, "the origin was sent what is not HTTP", *self.origin.failures)
        internal = [record for record in self.proxy.records if record.status == 500]
        check(not internal, "a 500", *internal)


class Client:
    """A connection that sends what it is given and does not mind when nobody reads it to the end."""

    def __init__(self, address: tuple[str, int], source: str = "") -> None:
        """`source` is the address to connect from, "" for the system's choice.

        A system that chooses the port alone, before it knows where to, runs out of them: not without need.
        """
        bind = (source, 0) if source else None
        self.sock = socket.create_connection(address, timeout=PATIENCE, source_address=bind)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = ByteReader(self._receive)
        self.was_reset = False
        self._ended = False

    def _receive(self) -> bytes:
        try:
            data = self.sock.recv(1 << 18)
        except ConnectionError:
            self.was_reset = True
            return b""
        self._ended = not data
        return data

    def ask_how_it_ended(self) -> None:
        """Wine shows a reset to a reader as an orderly end; a writer learns of it, and after a true end does not."""
        if self._ended and sys.platform == "win32":
            try:
                self.sock.send(b"x")
            except OSError:
                self.was_reset = True

    def send(self, pieces: list[bytes], *, end: bool = False) -> None:
        with contextlib.suppress(OSError):  # ENOTCONN, where it has been reset
            for piece in pieces:
                self.sock.sendall(piece)
            if end:
                self.sock.shutdown(socket.SHUT_WR)

    def read_response(self, method: bytes) -> tuple[int, bytes, Fields, Iterator[bytes]]:
        """The next head, which may be interim, and its body as it comes. Raises WireError and TruncatedError."""
        head = parse_response_head(self.reader.until(b"\r\n\r\n"))
        body = Body.of_response(head, self.reader, method)
        return head.status, head.reason, head.headers, (data for _, data in body if data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


def compared(fields: Fields) -> Fields:
    """Those fields that a proxy passes on as they came."""
    return [(name, value) for name, value in fields if name.lower() not in OWNED]


def among(some: Fields, all_of_them: Fields) -> bool:
    """Whether `some` are `all_of_them` or fewer, in the same order."""
    left = iter(all_of_them)
    return all(each in left for each in some)


def _name(origin: Origin) -> str:
    host, port = origin.address
    return f"{host}:{port}"


def _no_certificates() -> Any:
    raise TypeError("no TLS here")
