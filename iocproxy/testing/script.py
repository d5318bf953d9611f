"""What an origin does on one connection, step by step and byte by byte.

A script takes over a whole connection (`Origin.script`) or answers one request (`Origin.on`). A step that does not get
what it waits for fails the script, and with it the test.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from iocproxy.testing.messages import ByteReader, WireError
from iocproxy.testing.patience import PATIENCE, Deadline
from iocproxy.testing.received import ReceivedRequest
from iocproxy.testing.stream import SLICE, StoppedError, Stream


class Stage(Protocol):
    """What a step acts on: one connection of an origin."""

    stream: Stream
    reader: ByteReader
    stopping: threading.Event

    def receive_request(self) -> ReceivedRequest | None:
        """Read one whole request and record it; None at the end of the stream."""
        ...


class Step(Protocol):
    def run(self, stage: Stage) -> bool:
        """Do it; False when it ended the connection. Raises WireError or TimeoutError when it cannot be done."""
        ...


@dataclass(frozen=True, slots=True)
class Expect:
    """Exactly these bytes arrive next."""

    data: bytes

    def run(self, stage: Stage) -> bool:
        got = stage.reader.exactly(len(self.data))
        if got != self.data:
            raise WireError(f"expected {self.data!r}, got {got!r}")
        return True


@dataclass(frozen=True, slots=True)
class ExpectUntil:
    """Bytes arrive up to and with the marker: ``ExpectUntil(b"\\r\\n\\r\\n")`` takes a head of any content."""

    marker: bytes

    def run(self, stage: Stage) -> bool:
        stage.reader.until(self.marker)
        return True


@dataclass(frozen=True, slots=True)
class ExpectRequest:
    """One whole request arrives, and is recorded in `Origin.requests`; None means any."""

    method: bytes | None = None
    target: bytes | None = None

    def run(self, stage: Stage) -> bool:
        request = stage.receive_request()
        if request is None:
            raise WireError("expected a request, got the end of the connection")
        if self.method not in {None, request.method} or self.target not in {None, request.target}:
            raise WireError(f"expected {self}, got {request}")
        return True


@dataclass(frozen=True, slots=True)
class ExpectEnd:
    """The other side ends the connection, with FIN or with a reset, and sends nothing before."""

    def run(self, stage: Stage) -> bool:
        try:
            data = stage.reader.some(200)
        except (ConnectionResetError, ConnectionAbortedError):
            return False
        if data:
            raise WireError(f"expected the end of the connection, got {data!r}")
        return True


@dataclass(frozen=True, slots=True)
class Send:
    """Send these bytes; with `size`, in pieces of that many bytes, each a write of its own."""

    data: bytes
    size: int = 0

    def run(self, stage: Stage) -> bool:
        size = self.size or len(self.data) or 1
        for start in range(0, len(self.data), size):
            stage.stream.send(self.data[start : start + size])
        return True


@dataclass(frozen=True, slots=True)
class WaitFor:
    """Do nothing until the test sets the event."""

    event: threading.Event
    timeout: float = PATIENCE

    def run(self, stage: Stage) -> bool:
        deadline = Deadline(self.timeout, "the event was not set")
        while not self.event.wait(min(SLICE, deadline.remaining())):
            if stage.stopping.is_set():
                raise StoppedError
        return True


@dataclass(frozen=True, slots=True)
class HalfClose:
    """Send FIN and go on reading."""

    def run(self, stage: Stage) -> bool:
        stage.stream.half_close()
        return True


@dataclass(frozen=True, slots=True)
class Close:
    """End the connection in the orderly way."""

    def run(self, stage: Stage) -> bool:
        stage.stream.close()
        return False


@dataclass(frozen=True, slots=True)
class Reset:
    """End the connection with a reset."""

    def run(self, stage: Stage) -> bool:
        stage.stream.reset()
        return False


class Script:
    """Steps queued for one connection; the test waits for their end with `wait`."""

    def __init__(self, steps: Iterable[Step]) -> None:
        self.steps: Sequence[Step] = tuple(steps)
        self._done = threading.Event()
        self._failure: BaseException | None = None

    @property
    def done(self) -> bool:
        """True when every step was taken, or one failed."""
        return self._done.is_set()

    def wait(self, timeout: float = PATIENCE) -> None:
        """Until the last step was taken. Raises what a step raised, TimeoutError when it takes longer."""
        if not self._done.wait(timeout):
            raise TimeoutError(f"the script did not come to its end within {timeout:g} s: {self}")
        if self._failure is not None:
            raise self._failure

    def run(self, stage: Stage, failed: Callable[[str], None]) -> bool:
        """Take the steps; False when the connection ended. A failure is kept for `wait` and told to `failed`."""
        try:
            return all(step.run(stage) for step in self.steps)
        except (OSError, AssertionError) as error:
            self._failure = error
            failed(f"script {self}: {type(error).__name__}: {error}")
            return False
        finally:
            self._done.set()

    def __repr__(self) -> str:
        return f"<Script {list(self.steps)!r}{' done' if self.done else ''}>"
