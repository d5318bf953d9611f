"""A scriptable origin server on real sockets, which keeps every byte it is sent.

Theory of operation: one thread accepts, one thread serves each connection, and every one of them is owned and joined
by `stop`. Nothing here runs on an event loop, so that an origin serves synchronous and asynchronous tests alike and is
never starved by the loop under test. All that threads share is behind one condition, which is notified whenever
something arrives: tests wait for what they need and never sleep.

A connection runs the oldest waiting script, if there is one; otherwise it is served as HTTP/1.1, where the answer is
the latest matching `on`, and `routes.answer` without one. A request that breaks HTTP, a handler that raises and a
script that fails go to `failures`, which the fixture turns into a failed test.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from iocproxy.testing import routes
from iocproxy.testing.messages import Body, ByteReader, TruncatedError, WireError, parse_request_head
from iocproxy.testing.patience import PATIENCE
from iocproxy.testing.received import Exchange, ReceivedRequest
from iocproxy.testing.script import Script, Step
from iocproxy.testing.stream import SLICE, StoppedError, Stream

if TYPE_CHECKING:
    import ssl

Handler = Callable[[Exchange], bytes | None]
Answer = bytes | Handler | Sequence[Step]

_THREADS = "iocproxy-testing-origin"
# An idle connection waits for its next request as long as the proxy keeps it; only what is under way is timed.
_FOREVER = 86_400.0


class Origin:
    """A server at `address`, listening from `start` (or the ``with`` statement) to `stop`."""

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        keep: int = 16 << 20,
        timeout: float = PATIENCE,
    ) -> None:
        """`tls` is a server's context. `keep` is how many bytes of each request's body are kept.

        `timeout` bounds, in seconds, each wait for bytes in a script, and each wait for the other side to read.
        """
        self._bind = (host, port)
        self._tls = tls
        self._keep = keep
        self._timeout = timeout
        self._listener: socket.socket | None = None
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self._acceptor: threading.Thread | None = None
        self._threads: list[threading.Thread] = []  # of the connections; the acceptor's own until it ended
        self._open: dict[int, Stream] = {}
        self._accepted = 0
        self._requests: list[ReceivedRequest] = []
        self._answers: list[tuple[bytes, str, Answer, bool]] = []
        self._scripts: deque[Script] = deque()
        self._failures: list[str] = []
        self._handshake_errors: list[str] = []
        self.address: tuple[str, int] = self._bind

    # -- what to answer

    def on(self, method: bytes | str, path: bytes | str, respond: Answer, *, read_body: bool = True) -> None:
        """Answer requests of this method ("*": any) to this path (a final "*": any that begins so) with `respond`.

        `respond` is the exact bytes to send, or steps, or a function of the `Exchange`, which answers by itself or
        returns the bytes. The body is read first unless `read_body` is false. The latest `on` that matches wins.
        """
        method = method.encode("ascii") if isinstance(method, str) else method
        path = path.decode("latin-1") if isinstance(path, bytes) else path
        with self._changed:
            self._answers.insert(0, (method, path, respond, read_body))

    def script(self, steps: Iterable[Step]) -> Script:
        """Let the next connection that arrives run these steps instead of serving HTTP.

        Several scripts wait in order, one for a connection. A connection that the last step did not end is kept
        open, and read, until the other side ends it or the origin stops.
        """
        script = Script(steps)
        with self._changed:
            self._scripts.append(script)
        return script

    # -- what arrived

    @property
    def url(self) -> str:
        host, port = self.address
        return f"{'https' if self._tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def requests(self) -> list[ReceivedRequest]:
        """Every request whose head was read, in order of arrival."""
        with self._changed:
            return list(self._requests)

    @property
    def connections(self) -> int:
        """How many connections were accepted so far."""
        with self._changed:
            return self._accepted

    @property
    def open_connections(self) -> int:
        """How many of them are open now."""
        with self._changed:
            return len(self._open)

    @property
    def failures(self) -> list[str]:
        """What went wrong here and should fail the test."""
        with self._changed:
            return list(self._failures)

    @property
    def handshake_errors(self) -> list[str]:
        """TLS handshakes that failed; no failure of the test, as it may be what the test wants."""
        with self._changed:
            return list(self._handshake_errors)

    def wait_for(self, condition: Callable[[Origin], bool], timeout: float = PATIENCE) -> None:
        """Until `condition(origin)` holds; looked at whenever something arrives or a connection ends.

        Raises TimeoutError when it does not within `timeout` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self), timeout):
                raise TimeoutError(f"the condition did not hold within {timeout:g} s; {self!r}: {self._requests!r}")

    def wait_for_requests(self, count: int, timeout: float = PATIENCE) -> list[ReceivedRequest]:
        """Until `count` requests were read with their bodies; returns all requests. Raises TimeoutError."""
        self.wait_for(lambda origin: sum(each.complete for each in origin.requests) >= count, timeout)
        return self.requests

    def wait_for_connections(self, count: int, timeout: float = PATIENCE) -> None:
        """Until `count` connections were accepted. Raises TimeoutError."""
        self.wait_for(lambda origin: origin.connections >= count, timeout)

    # -- life

    def start(self) -> Self:
        """Bind and listen; once. Raises OSError when the address cannot be bound."""
        if self._listener is not None or self._stopping.is_set():
            raise RuntimeError(f"started already: {self!r}")
        family = socket.AF_INET6 if ":" in self._bind[0] else socket.AF_INET
        listener = socket.create_server(self._bind, family=family, backlog=socket.SOMAXCONN)
        self._listener = listener
        self.address = listener.getsockname()[:2]
        self._acceptor = self._run(self._accept, listener)
        return self

    def stop(self) -> None:
        """Close everything and join every thread. May be called more than once."""
        self._stopping.set()
        if self._listener is None or self._acceptor is None:
            return
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept on Linux; elsewhere its slice ends
        self._acceptor.join()
        self.close_connections()
        for thread in self._threads:
            thread.join()
        self._listener.close()
        self._listener = None

    def close_connections(self) -> None:
        """End every open connection at once, as an origin does that restarts; it goes on listening."""
        with self._changed:
            for stream in self._open.values():
                stream.wake()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<Origin {self.url} connections={self.connections} requests={len(self.requests)}>"

    # -- threads

    def _run(self, target: Callable[..., None], *args: object) -> threading.Thread:
        thread = threading.Thread(target=target, args=args, name=f"{_THREADS}-{self.address[1]}", daemon=True)
        thread.start()
        return thread

    def _accept(self, listener: socket.socket) -> None:
        listener.settimeout(SLICE)
        for number in itertools.count():
            sock = self._accept_one(listener)
            if sock is None:
                return
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            with self._changed:
                self._accepted += 1
                script = self._scripts.popleft() if self._scripts else None
                self._changed.notify_all()
            self._threads.append(self._run(self._serve, sock, number, script))

    def _accept_one(self, listener: socket.socket) -> socket.socket | None:
        while not self._stopping.is_set():
            # A client that reset its connection in the queue is an error of that connection alone.
            with contextlib.suppress(OSError):
                return listener.accept()[0]
        return None

    def _serve(self, sock: socket.socket, number: int, script: Script | None) -> None:
        stream = Stream(sock, timeout=self._timeout, stopped=self._stopping.is_set)
        with self._changed:
            self._open[number] = stream
        try:
            if self._tls is None or self._handshake(stream, self._tls):
                connection = _Connection(self, stream, number)
                if script is None:
                    connection.serve()
                elif script.run(connection, self._fail):
                    connection.hold()
        except StoppedError:
            pass
        except (OSError, TruncatedError):
            pass  # the other side left, or takes nothing: what it sent until then is recorded
        except WireError as error:
            self._fail(f"connection {number}: {error}")
        except Exception as error:  # noqa: BLE001  a handler of the test's own
            self._fail(f"connection {number}: {type(error).__name__}: {error}")
        finally:
            stream.close()
            with self._changed:
                del self._open[number]
                self._changed.notify_all()

    def _handshake(self, stream: Stream, context: ssl.SSLContext) -> bool:
        try:
            stream.handshake(context)
        except OSError as error:
            with self._changed:
                self._handshake_errors.append(str(error))
                self._changed.notify_all()
            return False
        return True

    def _fail(self, what: str) -> None:
        with self._changed:
            self._failures.append(what)
            self._changed.notify_all()

    def _record(self, request: ReceivedRequest) -> None:
        with self._changed:
            self._requests.append(request)
            self._changed.notify_all()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _answer_to(self, request: ReceivedRequest) -> tuple[Answer, bool]:
        with self._changed:
            for method, path, answer, read_body in self._answers:
                if method not in {b"*", request.method}:
                    continue
                if request.path == path or (path.endswith("*") and request.path.startswith(path[:-1])):
                    return answer, read_body
        return _default, False


def _default(exchange: Exchange) -> None:
    routes.answer(exchange)


class _Connection:
    """One accepted connection, used by its own thread only."""

    def __init__(self, origin: Origin, stream: Stream, number: int) -> None:
        self.stream = stream
        self.reader = ByteReader(stream.receive)
        self.stopping = origin._stopping
        self._origin = origin
        self._number = number

    def serve(self) -> None:
        """Answer one request after the other until either side ends the connection."""
        while (exchange := self._next_exchange()) is not None:
            answer, read_body = self._origin._answer_to(exchange.request)
            if read_body:
                exchange.read_body()
            self._answer(exchange, answer)
            if exchange.ended:
                return
            exchange.read_body()
            options = {
                each.strip().lower() for each in ",".join(exchange.request.header_values("connection")).split(",")
            }
            if "close" in options or (exchange.request.version == 10 and "keep-alive" not in options):
                return

    def hold(self) -> None:
        """Read, and throw away, until the other side ends the connection."""
        self.stream.timeout = _FOREVER
        while self.reader.some(1 << 18):
            pass

    def receive_request(self) -> ReceivedRequest | None:
        exchange = self._next_exchange()
        if exchange is None:
            return None
        exchange.read_body()
        return exchange.request

    def _next_exchange(self) -> Exchange | None:
        timeout, self.stream.timeout = self.stream.timeout, _FOREVER
        if self.reader.at_end():
            return None
        raw = self.reader.until(b"\r\n\r\n")
        head = parse_request_head(raw)
        request = ReceivedRequest(head, raw, self._number, secure=self.stream.secure)
        body = Body.of_request(head, self.reader)
        self._origin._record(request)
        self.stream.timeout = timeout
        return Exchange(
            request,
            self.stream,
            self.reader,
            body,
            keep=self._origin._keep,
            changed=self._origin._notify,
            stopping=self.stopping,
        )

    def _answer(self, exchange: Exchange, answer: Answer) -> None:
        if isinstance(answer, bytes):
            exchange.send(answer)
        elif callable(answer):
            data = answer(exchange)
            if data:
                exchange.send(data)
        elif not Script(answer).run(self, self._origin._fail):
            exchange.ended = True
