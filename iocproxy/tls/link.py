"""TLS between a socket's transport and a connection: an `asyncio.Protocol` below, a `Link` above.

Theory of operation
-------------------
    transport ──data_received──► TlsLink ──data_received──► inner
    transport ◄─────write─────── TlsLink ◄─────write─────── inner

This is what both ends have in common; `ServerLink` (tls/server_link.py) and `ClientLink` (tls/client_link.py) have what
is particular to each, nearly all of it in the handshake. The states, each with what holds in it (`State`):

    NEW ──► HELLO ──► HANDSHAKE ◄──► OFFLOADED     a client's end goes from NEW to HANDSHAKE
                          │
                          ▼
                        OPEN ──► CLOSING ──► LOST  every state may go to CLOSING, and to LOST
                          ├──► HALF ───┤           our side has ended, the other is listened to (TLS 1.3)
                          └──► ENDED ──┘           our side has ended, the other is not listened to any more (TLS 1.2)

* Before OPEN, `inner` knows nothing. A handshake that does not succeed ends in one call of `on_failure`, when the
  socket is gone; one that does, in `inner.connection_made(link)`, and from then on `inner` gets what a protocol gets:
  `eof_received` at most once, `connection_lost` once. The two are never both called.
* In OFFLOADED a thread owns the SSL object: on a server's end to sign, on a client's to verify a chain
  (docs/design/tls-pipeline.md has the figures). Nothing here touches it; what arrives waits in `_held`, and once that
  is more than a handshake can need, the transport is paused. If the connection goes away meanwhile, the result is
  dropped.
* In OPEN, one call of `data_received` runs decryption, `inner.data_received` and its `write` in one stack. What
  `inner` writes during the call is joined, so that head and body become one record and one write, and sent when the
  call ends or a record is full. What it writes at other times is sent at once.
* Pausing is looked at before each delivery; it reaches the transport when the delivery ends, and resuming happens in
  an iteration of its own (first what is already here, then the transport). So `inner` is never entered twice, data
  that is already here needs no new socket data to be delivered, and the transport never sees resume, pause, resume in
  one iteration, which loses data on Proactor.
* What carries no data is kept within bounds. Where there is little in much, the rest waits for the next iteration,
  the transport being paused. Where OpenSSL answers (a KeyUpdate with a KeyUpdate) a side that does not read, nothing
  more is read from it until it does: `inner` would not hear of any of it.
* Ends. A close_notify is an end of file like any other: `inner.eof_received`, and if that returns True the
  connection stays half-open. A FIN without one may be an attacker's: what came before it is delivered, and then
  `inner.connection_lost` gets a ProxyError that says so (on an idle keep-alive connection that is nothing to worry
  about: many clients leave like this). Our own close sends close_notify and does not wait for the answer; whoever
  calls `close` owns the timer that calls `abort`.
* Ending our side only (`write_eof`). With TLS 1.3 close_notify ends one direction (RFC 8446 section 6.1): HALF, where
  what the other side still says is delivered. With TLS 1.2 it asks the other side to close at once and to discard
  what it was about to say (RFC 5246 section 7.2.1): ENDED, where nothing is delivered and only the end is told.
"""

from __future__ import annotations

import asyncio
import enum
import ssl
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, cast

from iocproxy.errors import HandshakeFailure, ProxyError
from iocproxy.link import Timer
from iocproxy.message import ClientCertificate, TlsInfo
from iocproxy.tls.pipeline import BATCH, RECORD, Ended, TlsPipeline

#: Ciphertext kept while a thread has the SSL object, before the transport is paused.
_MAX_HELD = 64 * 1024

#: A flight of at least this many bytes brings certificates. On a server's end its signature was made, then (a
#: HelloRetryRequest, after which that is still to come, has about 100 bytes); on a client's there is a chain to verify.
FLIGHT = 512

#: How long (seconds) what a refused client still sends is thrown away, so that it can read why.
_REFUSING = 2.0
#: Why nothing is delivered although `inner` would like it, as bits of `_stopped`.
_CHOKED = 1  # what OpenSSL has answered waits to be read
_BEHIND = 2  # others have their turn first


class State(enum.Enum):
    NEW = "new"  # there is no transport yet
    HELLO = "hello"  # server's end: the ClientHello is not complete, there is no pipeline
    HANDSHAKE = "handshake"  # there is a pipeline, it waits for the other side
    OFFLOADED = "offloaded"  # a thread runs a handshake step and owns the pipeline
    OPEN = "open"  # `inner` is connected
    HALF = "half"  # we have said close_notify and write no more; what arrives is delivered as in OPEN
    ENDED = "ended"  # we have said close_notify; what arrives is thrown away, the end of it is told
    CLOSING = "closing"  # nothing is delivered or written any more; the transport is closing
    LOST = "lost"  # the transport is gone


_OPEN = State.OPEN
_HALF = State.HALF
_NOBODY = asyncio.Protocol()


class TlsLink(asyncio.Protocol):
    """TLS over one connection; see the top of the file. `info` is what the handshake agreed on, None before.

    `timer` is armed for `handshake_timeout` seconds when the connection is made and cancelled when the handshake
    succeeded or the socket is gone; whoever makes it lets it call `handshake_timed_out`. `on_failure` is called once if
    the handshake does not succeed, when the socket is gone. `executor` runs the steps of a handshake that are too long
    for the loop.

    Either end is a subclass and has the methods under "What is each end's own".
    """

    __slots__ = (
        "_connected",
        "_delivering",
        "_eof_told",
        "_error",
        "_executor",
        "_handshake_timeout",
        "_held",
        "_held_size",
        "_inner",
        "_inner_received",
        "_loop",
        "_offload",
        "_on_failure",
        "_paused",
        "_pending",
        "_pending_size",
        "_pipeline",
        "_resume_due",
        "_server_name",
        "_state",
        "_stopped",
        "_tickets_size",
        "_timer",
        "_transport",
        "_transport_paused",
        "_writing_paused",
        "info",
    )

    _transport: asyncio.Transport  # from `connection_made` on
    _pipeline: TlsPipeline  # from HANDSHAKE to CLOSING, if the hello was read

    def __init__(
        self,
        inner: asyncio.Protocol,
        *,
        timer: Timer | None,
        handshake_timeout: float,
        executor: Executor,
        loop: asyncio.AbstractEventLoop,
        on_failure: Callable[[ProxyError], None],
    ) -> None:
        # The connection
        self._inner = inner
        self._inner_received = inner.data_received
        self._loop = loop
        self._state = State.NEW
        self._error: ProxyError | None = None  # why it is closing
        self.info: TlsInfo | None = None
        # The handshake
        self._timer = timer
        self._handshake_timeout = handshake_timeout
        self._executor = executor
        self._on_failure = on_failure
        self._connected = False  # `inner.connection_made` was called
        self._server_name = ""
        self._offload = False  # the next step is for a thread
        self._held: list[bytes] = []
        self._held_size = 0
        # Reading
        self._paused = False  # what `inner` wants
        self._transport_paused = False  # what the transport was told
        self._resume_due = False  # `_resumed` is scheduled
        self._stopped = 0
        self._eof_told = False
        # Writing
        self._tickets_size = 0  # of what waits in the pipeline for the first thing that is sent
        self._delivering = False  # within `inner.data_received`: writes are joined
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._writing_paused = False

    # --- From the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._state is State.CLOSING:  # given up before there was a transport
            self._transport.abort()
            return
        if self._timer is not None:
            self._timer.arm(self._handshake_timeout)
        self._begin()

    def data_received(self, data: bytes) -> None:
        if self._state is not _OPEN and self._state is not _HALF:
            if self._state is not State.ENDED:
                self._handshake_received(data)
            return
        self._pipeline.feed(data)
        if not self._paused and not self._stopped:
            self._deliver()

    def eof_received(self) -> bool:
        """Asked again on each pause and resume by some transports, so that a second call changes nothing."""
        if self._readable:
            self._pipeline.feed_eof()
            if not self._paused and not self._stopped:
                self._deliver()
        elif self._state is State.ENDED:
            if not self._eof_told:
                self._eof_told = True
                self._inner.eof_received()
            return False
        else:
            self._refuse(self._left("the connection was closed during the TLS handshake"))
        # True keeps the transport open: for what `inner` still has to read when it resumes, or to write if it likes.
        return self._readable

    def connection_lost(self, exc: Exception | None) -> None:
        state, self._state = self._state, State.LOST
        inner, self._inner, self._inner_received = self._inner, _NOBODY, _NOBODY.data_received
        self._held.clear()
        self._pending.clear()
        if self._connected:
            if state is _OPEN:
                self._pipeline.close_notify()  # not to be sent: for the session's sake
            del self._pipeline  # 20 KiB and more, which whoever still holds the link has no use for
            self._on_failure = _tell_nobody
            inner.connection_lost(self._error or exc)
            return
        if self._timer is not None:
            self._timer.drop()
        on_failure, self._on_failure = self._on_failure, _tell_nobody
        error = self._error
        if error is None:
            error = self._left("the connection was lost during the TLS handshake")
            error.__cause__ = exc
        self._failed(error)
        on_failure(error)

    def pause_writing(self) -> None:
        self._writing_paused = True
        if self._connected:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._stopped & _CHOKED:
            self._stopped &= ~_CHOKED
            self._resume_soon()
        if self._connected:
            self._inner.resume_writing()

    # --- Handshake

    def handshake_timed_out(self) -> None:
        """For the timer to call. Closes the connection at once, unless the handshake has succeeded."""
        if self._connected or self._state is State.LOST:
            return
        if self._error is None:
            self._error = self._too_late(f"the TLS handshake was not complete within {self._handshake_timeout:g} s")
        self._abort()

    def _handshake_received(self, data: bytes) -> None:
        match self._state:
            case State.HELLO:
                self._hello_received(data)
            case State.HANDSHAKE:
                self._pipeline.feed(data)
                self._place(data)
                self._step()
            case State.OFFLOADED:
                self._held.append(data)
                self._held_size += len(data)
                if self._held_size > _MAX_HELD:
                    self._set_transport_paused(True)
            case _:  # closing: nobody is interested any more
                pass

    def _step(self) -> None:
        """Run the handshake as far as it goes, here or in the executor."""
        if self._offload:
            self._state = State.OFFLOADED
            try:
                self._executor.submit(self._step_in_thread, self._pipeline)
            except RuntimeError:  # the executor is shut down
                self._refuse(self._handshake_error("the proxy is stopping", HandshakeFailure.STOPPED))
            return
        try:
            done = self._pipeline.handshake()
        except ProxyError as error:
            self._refuse(error, linger=self._lingers)
        else:
            self._stepped(done)

    def _step_in_thread(self, pipeline: TlsPipeline) -> None:
        """What the executor runs; owns the pipeline until `_offloaded` is called on the loop."""
        # Not `run_in_executor`: its two futures double the price of the hand-over (100 µs instead of 50 µs).
        result: bool | ProxyError
        if self._state is not State.OFFLOADED:
            return  # given up while it waited for a thread: milliseconds for somebody who does not wait any more
        try:
            result = pipeline.handshake()
        except ProxyError as error:
            result = error
        try:
            self._loop.call_soon_threadsafe(self._offloaded, result)
        except RuntimeError:  # the loop is closed, and everybody gone with it
            pass

    def _offloaded(self, result: bool | ProxyError) -> None:
        """A step has come back from its thread; from here on the pipeline is ours again."""
        if self._state is not State.OFFLOADED:
            return  # closed meanwhile
        self._state = State.HANDSHAKE
        if isinstance(result, ProxyError):
            self._refuse(result, linger=self._lingers)
            return
        held = b"".join(self._held)
        self._held.clear()
        self._held_size = 0
        if held:
            self._pipeline.feed(held)
        self._stepped(result, held)
        if self._state is State.HANDSHAKE:
            self._set_transport_paused(False)

    def _stepped(self, done: bool, more: bytes = b"") -> None:
        """A step went well; `more` is what has come since it began."""
        if done:
            self._opened()
            return
        flight = self._pipeline.take_outgoing()
        if flight:
            self._transport.write(flight)
            reused = self._pipeline.object.session_reused
            if len(flight) >= FLIGHT or reused:
                self._offload = False  # what is left costs less than handing it over
                self._flight_sent(reused=bool(reused))
        if more:
            self._place(more)
            self._step()

    def _opened(self) -> None:
        pipeline = self._pipeline
        ssl_object = pipeline.object
        version, resumed = ssl_object.version() or "", bool(ssl_object.session_reused)
        cipher = ssl_object.cipher()
        try:
            certificate, offered = self._agreed(version, resumed=resumed)
        except ProxyError as error:
            self._refuse(error, pipeline.close_notify(), linger=self._lingers)
            return
        self.info = TlsInfo(
            version,
            cipher[0] if cipher else "",
            resumed,
            self._server_name,
            ssl_object.selected_alpn_protocol() or "",
            certificate,
            offered,
        )
        if self._timer is not None:
            self._timer.cancel()
        self._state = _OPEN
        self._connected = True
        self._inner.connection_made(cast("asyncio.Transport", self))
        if self._writing_paused:
            self._inner.pause_writing()
        if self._state is _OPEN and (pipeline.readable or self._transport_paused):
            self._deliver()  # what came with the last of the handshake, and made us pause

    def _refuse(self, error: ProxyError, answer: bytes = b"", *, linger: bool = False) -> None:
        """The handshake has failed: send the alert (or `answer`) and close; `on_failure` follows.

        With `linger` the client is given the time to read why: closing on top of bytes that were not read makes TCP
        reset the connection, which may overtake the answer. It is for who may well be sending: an upload over plain
        HTTP, or a client that was asked for a certificate. With TLS 1.3 that takes the handshake for complete when it
        has sent one, or none, and may have sent a request right behind it.
        """
        if self._error is not None or self._state in {State.CLOSING, State.LOST}:
            return
        if self._state is State.HANDSHAKE:
            answer += self._pipeline.take_outgoing()
        if linger and answer and self._timer is not None:
            self._set_transport_paused(False)
            self._state = State.CLOSING
            self._error = error
            self._transport.write(answer)
            try:
                self._transport.write_eof()
            except OSError:  # it is gone
                self._transport.abort()
            self._timer.arm(_REFUSING)
            return
        self._close_with(error, answer)

    # --- What is each end's own

    def _begin(self) -> None:
        """There is a transport: make the pipeline, or see to what comes before it."""
        raise NotImplementedError

    def _hello_received(self, data: bytes) -> None:
        """In HELLO: make the pipeline as soon as the hello is complete."""
        raise NotImplementedError

    def _place(self, data: bytes) -> None:
        """Set `_offload` for the step that `data`, which was fed, is for."""
        raise NotImplementedError

    def _flight_sent(self, *, reused: bool) -> None:
        """What brings certificates is out, or a session is being resumed."""

    def _agreed(self, version: str, *, resumed: bool) -> tuple[ClientCertificate | None, bool]:
        """The handshake is complete: send what is left of it. Returns the client's certificate and whether it offered a
        session, which only a server's end knows. Raises ProxyError."""
        raise NotImplementedError

    @property
    def _lingers(self) -> bool:
        """Whether the other side may be sending behind a handshake that it takes for complete."""
        return False

    def _left(self, message: str) -> ProxyError:
        """The other side has gone before the handshake was complete."""
        return self._handshake_error(message, HandshakeFailure.BROKEN_OFF)

    def _too_late(self, message: str) -> ProxyError:
        return self._handshake_error(message, HandshakeFailure.TIMEOUT)

    def _cut_off(self) -> ProxyError | None:
        """We abort before the handshake is complete; None where that is as good as the other side's leaving."""
        return None

    def _handshake_error(self, message: str, failure: HandshakeFailure) -> ProxyError:
        raise NotImplementedError

    def _truncated(self, message: str) -> ProxyError:
        raise NotImplementedError

    def _failed(self, error: ProxyError) -> None:
        """The handshake has failed, and `on_failure` is about to be told."""

    def _broken(self, error: ProxyError) -> None:
        """TLS is broken or cut short after the handshake."""

    # --- Reading

    @property
    def _readable(self) -> bool:
        return self._state is _OPEN or self._state is _HALF

    def _deliver(self) -> None:
        """Give `inner` what there is until it pauses. The only place that calls `inner.data_received`."""
        pipeline = self._pipeline
        self._delivering = True
        try:
            # 1. Decrypt and deliver.
            while not self._paused and (self._state is _OPEN or self._state is _HALF):
                try:
                    plain = pipeline.read()
                except ProxyError as error:
                    self._delivering = False
                    self._fail(error)
                    return
                if plain:
                    self._inner_received(plain)
                elif not pipeline.barren:
                    break
                if pipeline.barren:
                    pipeline.barren = False
                    self._stopped |= _BEHIND
                    self._resume_soon()
                    break
                if not pipeline.readable:
                    break
        finally:
            self._delivering = False
            # 2. Send what was written meanwhile, as one record if it fits.
            if self._pending:
                self._flush()
        if self._state is not _OPEN and self._state is not _HALF:
            return
        # 3. Send what OpenSSL has to say (KeyUpdate, a refusal to renegotiate). After close_notify nothing may be said.
        if (size := pipeline.outgoing_size) and size != self._tickets_size and self._state is _OPEN:
            self._tickets_size = 0
            self._transport.write(pipeline.take_outgoing())
            if self._writing_paused:
                self._stopped |= _CHOKED
        # 4. Tell the transport what is wanted now.
        wanted = self._paused or self._stopped > 0
        if wanted is not self._transport_paused:
            self._set_transport_paused(wanted)
        # 5. The end, if this was it.
        if pipeline.ended is not None:
            self._stream_ended(pipeline.ended)

    def _stream_ended(self, how: Ended) -> None:
        if how is Ended.TRUNCATED:
            self._fail(self._truncated("the TLS connection ended without close_notify"))
        elif not self._eof_told:
            self._eof_told = True
            if not self._inner.eof_received():
                self.close()

    def pause_reading(self) -> None:
        self._paused = True
        if not self._delivering:
            self._set_transport_paused(True)

    def resume_reading(self) -> None:
        self._paused = False
        if not self._delivering:
            self._resume_soon()

    def _resume_soon(self) -> None:
        if not self._resume_due:
            self._resume_due = True
            self._loop.call_soon(self._resumed)

    def _resumed(self) -> None:
        self._resume_due = False
        self._stopped &= ~_BEHIND
        if self._readable and not self._paused and not self._stopped:
            self._deliver()

    def _set_transport_paused(self, paused: bool) -> None:
        if paused is self._transport_paused or self._state in {State.CLOSING, State.LOST}:
            return
        self._transport_paused = paused
        if paused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    # --- Writing

    def write(self, data: bytes) -> None:
        """Encrypt and send. Ignored once the link is closing, as `asyncio.Transport.write` does."""
        if self._state is not _OPEN or not data:
            return
        if not self._delivering:
            self._send(data)
            return
        self._pending.append(data)
        self._pending_size += len(data)
        if self._pending_size >= RECORD:
            self._flush()

    def _flush(self) -> None:
        data = b"".join(self._pending)
        self._pending.clear()
        self._pending_size = 0
        self._send(data)

    def _send(self, data: bytes) -> None:
        try:
            if len(data) <= BATCH:
                self._transport.write(self._pipeline.write(data))
                return
            view = memoryview(data)
            for start in range(0, len(view), BATCH):
                self._transport.write(self._pipeline.write(view[start : start + BATCH]))
        except ProxyError as error:
            self._fail(error)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Send what is written, close_notify and FIN. With TLS 1.3, reading goes on up to the other side's own end.

        With TLS 1.2, what it still sends is thrown away unread, pausing has no meaning any more, and `inner` is told
        its end only. To close instead would reset the connection and might destroy what was sent last.
        """
        if self._state is not _OPEN:
            return
        if self._pending:
            self._flush()
        if self._state is not _OPEN:
            return
        last = self._pipeline.close_notify()
        half = self.info is not None and self.info.version == "TLSv1.3"
        self._state = _HALF if half else State.ENDED
        if last:
            self._transport.write(last)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        if not half:
            self._paused = False
            self._set_transport_paused(False)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._transport.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size() + self._pending_size

    # --- Ending

    def is_closing(self) -> bool:
        if self._state in {State.NEW, State.CLOSING, State.LOST}:
            return self._state is not State.NEW
        return self._transport.is_closing()

    def close(self) -> None:
        """Send what is written and close_notify, then close; the other side's close_notify is not waited for.

        Before the handshake is complete this makes it fail.
        """
        if self._state is _OPEN:
            if self._pending:
                self._flush()
            if self._state is _OPEN:
                self._close_with(None, self._pipeline.close_notify())
        elif self._state in {_HALF, State.ENDED}:
            self._close_with(None, b"")
        elif self._state is State.CLOSING:
            if hasattr(self, "_transport"):
                self._transport.close()  # it may be lingering
        else:
            self._refuse(
                self._handshake_error("closed before the TLS handshake was complete", HandshakeFailure.STOPPED)
            )

    def abort(self) -> None:
        """Close at once; what is buffered is lost. The session stays good for another connection."""
        if self._state is _OPEN:
            self._pipeline.close_notify()  # not to be sent
        elif not self._connected and self._error is None:
            self._error = self._cut_off()
        self._abort()

    def _abort(self) -> None:
        if self._state is not State.LOST:
            self._state = State.CLOSING
            self._pending.clear()
            self._pending_size = 0
            if hasattr(self, "_transport"):  # or else as soon as there is one
                self._transport.abort()

    def _fail(self, error: ProxyError) -> None:
        """TLS is broken or cut short: send the alert, if there is one, and close. `inner.connection_lost` follows with
        `error`.

        Never a close_notify: what `inner` has written so far may be half a message, and the FIN that cut us short may
        be an attacker's, who would have us call that half complete.
        """
        self._broken(error)
        if self._state is _OPEN:
            alert = self._pipeline.take_outgoing()
            if len(alert) in {0, self._tickets_size}:  # no alert, and nobody left to take the tickets
                alert = b""
                self._pipeline.close_notify()  # not to be sent: for the session's sake
            self._close_with(error, alert)
        elif self._state is _HALF:
            self._close_with(error, b"")  # nothing may follow our close_notify

    def _close_with(self, error: ProxyError | None, last: bytes) -> None:
        self._state = State.CLOSING
        self._error = error
        self._pending.clear()
        self._pending_size = 0
        if not hasattr(self, "_transport"):
            return  # `connection_made` sees to it
        if last:
            self._transport.write(last)
        self._transport.close()

    # --- What else a transport has

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`tls_info` is `info`, `ssl_object` the `ssl.SSLObject` (not to be read from); the rest is the transport's."""
        if name == "tls_info":
            return self.info if self.info is not None else default
        if name == "ssl_object":
            return self._ssl_object() or default
        return self._transport.get_extra_info(name, default)

    def _ssl_object(self) -> ssl.SSLObject | None:
        return self._pipeline.object if self._connected and self._state is not State.LOST else None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._state.value}{' paused' if self._paused else ''} {self.info or ''}>"


def _tell_nobody(error: ProxyError) -> None:
    """In place of `on_failure` once it can no longer be called: what it holds holds the link."""
