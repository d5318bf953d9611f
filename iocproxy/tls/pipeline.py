"""One TLS connection without a socket: ciphertext in, plaintext out, and the other way round.

Theory of operation
-------------------
An `ssl.SSLObject` between two `ssl.MemoryBIO`s:

    feed ──► backlog ──► incoming BIO ──► SSLObject ──► read
    what each operation returns, or `outgoing` ◄── outgoing BIO ◄── SSLObject ◄── write

* OpenSSL may leave something to send after *any* operation: handshake messages, tickets, a KeyUpdate, and the alert
  that says why it failed. `write` and `close_notify` return it; after every other operation, one that raised
  included, the caller sends `take_outgoing()`.
* A memory BIO never gives memory back. So neither is ever handed more than `RECORD` bytes of input at a time: what
  is fed beyond that waits in the backlog as the very object that was fed, uncopied. The two hold next to nothing on a
  connection that has only seen small messages, and never more than about 44 KiB.
* OpenSSL returns one record for each read, so reading in portions above 16 KiB wins nothing, and costs much: asking
  for 256 KiB makes the allocator map and unmap pages each time (41 µs instead of 7 µs for a small message). `read`
  joins records up to `BATCH` instead, which costs a copy and saves system calls further on.
* Learning that there is nothing more to read costs an exception (2 to 6 µs, as much as decrypting a small message),
  so that an empty BIO is asked instead: as whole records are read, an empty BIO means that OpenSSL holds no plaintext.
* The end of the byte stream is not given to OpenSSL (`MemoryBIO.write_eof`): it would take a bare FIN for a fatal
  error, and throw the session out of the server cache. It may *seem* that only OpenSSL can know; but a stream that
  ended, all of it read, without a close_notify is truncated, and that can be seen from here.

* Records that carry no data cost as much as others: a KeyUpdate 9 to 18 µs for 27 octets, and OpenSSL goes through
  them until it finds data, without a limit. So `read` comes back, `barren`, when it has taken in much and found little,
  and after `MAX_BARREN` octets in a row without any data it fails (Go's crypto/tls allows 16 such records).

Not safe for two threads at once. A thread may run `handshake` while nobody else touches the pipeline.
"""

from __future__ import annotations

import enum
import ssl
from collections import deque

from iocproxy.errors import HandshakeFailure, ProxyError, Side
from iocproxy.tls.reasons import counted_as, explain, is_alert, reason_of

#: The most plaintext in one record (RFC 8446 section 5.1); also the portion OpenSSL is fed and read by.
RECORD = 16 * 1024

#: The most plaintext that one `read` returns and that one `write` should be given.
BATCH = 64 * 1024

#: How much more ciphertext than plaintext one `read` may go through, in octets.
_SPARE = 2 * RECORD

#: The most ciphertext in a row without any data, in octets. A record may lie in three portions, the last of them short.
MAX_BARREN = 3 * RECORD


class Ended(enum.Enum):
    """How the incoming stream ended."""

    CLOSED = "close_notify received"  #: a clean end: nothing is missing
    TRUNCATED = "ended without close_notify"  #: anything may be missing


class TlsPipeline:
    """Either side of one TLS connection. Raises ProxyError where OpenSSL reports a failure; then the pipeline is dead.

    `ended` is None until `read` has come to the end of the incoming stream. `barren` is set when `read` stopped early
    because there was little in what it took in; whoever sees it gives way to others, and unsets it.
    """

    __slots__ = (
        "_backlog",
        "_barren_octets",
        "_broken",
        "_finished",
        "_incoming",
        "_object",
        "_outgoing",
        "_portion",
        "_read",
        "_write",
        "barren",
        "ended",
        "server_side",
    )

    def __init__(
        self, context: ssl.SSLContext, *, server_name: str | None = None, session: ssl.SSLSession | None = None
    ) -> None:
        """A server's end, or with a `server_name` (host name or IP address) a client's end that asks for it, and
        offers to resume `session`.

        Raises ValueError for a `server_name` that cannot be one, and for a `session` made under another context.
        """
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.server_side = server_name is None
        self._object = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=self.server_side,
            server_hostname=server_name,
            session=session,
        )
        self._read = self._object.read
        self._write = self._object.write
        self._backlog: deque[memoryview] = deque()
        self._broken: ProxyError | None = None  # what the next `read` raises
        self._finished = False  # nothing more will be fed
        self._portion = 0  # the octets last given to the incoming BIO
        self._barren_octets = 0  # since there was data, an incomplete record included
        self.barren = False
        self.ended: Ended | None = None

    # --- Incoming

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take ciphertext, of any length; `data` must not change afterwards. Ignored once the stream has ended."""
        if self.ended is not None:
            return
        if len(data) <= RECORD and not self._backlog and not self._incoming.pending:
            self._portion = self._incoming.write(data)
        else:
            self._backlog.append(memoryview(data))

    def feed_eof(self) -> None:
        """No more ciphertext will come. Without a close_notify before it, `read` will end as truncated."""
        self._finished = True

    def read(self) -> bytes:
        """The next plaintext, at most about `BATCH` bytes; b"" when there is none now, or none ever (see `ended`)."""
        incoming = self._incoming
        batch: list[bytes] = []
        room, spare = BATCH, _SPARE
        if self._broken is not None:
            raise self._broken
        while room > 0:
            if not incoming.pending:
                if spare <= 0 and self._backlog:
                    self.barren = True
                    break
                if not self._refill():
                    if self._finished and self.ended is None and not batch:
                        self.ended = Ended.TRUNCATED
                    break
                spare -= self._portion
            try:
                plain = self._read(RECORD)
            except ssl.SSLWantReadError:
                self._barren_octets += self._portion
                if self._barren_octets <= MAX_BARREN:
                    continue
                self._broken = self._told("TLS failed: too many records without data")
                if batch:
                    break
                raise self._broken from None
            except ssl.SSLZeroReturnError:
                plain = b""  # instead of returning it, once our own close_notify was sent
            except ssl.SSLError as error:
                self._broken = self._failure(error)
                self._broken.__cause__ = error
                if batch:
                    break  # what came before the error is good
                raise self._broken from error
            if not plain:
                self.ended = Ended.CLOSED
                self._backlog.clear()
                break
            self._barren_octets = 0
            batch.append(plain)
            size = len(plain)
            room -= size
            spare += size
        return batch[0] if len(batch) == 1 else b"".join(batch)

    @property
    def readable(self) -> bool:
        """Whether `read` may have more to say."""
        return self._incoming.pending > 0 or (
            self.ended is None and (bool(self._backlog) or self._finished or self._broken is not None)
        )

    def _refill(self) -> bool:
        """Move the next portion from the backlog to the empty BIO; False when there is none."""
        if not self._backlog:
            return False
        data = self._backlog.popleft()
        self._portion = self._incoming.write(data[:RECORD])
        if len(data) > RECORD:
            self._backlog.appendleft(data[RECORD:])
        return True

    # --- Outgoing

    def write(self, data: bytes | memoryview) -> bytes:
        """Encrypt `data` (not empty) and return everything that is to be sent, in order."""
        try:
            if len(data) <= RECORD:
                self._write(data)
                return self._outgoing.read()
            view = memoryview(data)
            pieces = []
            for start in range(0, len(view), RECORD):
                self._write(view[start : start + RECORD])
                pieces.append(self._outgoing.read())
        except ssl.SSLError as error:
            raise self._failure(error) from error
        return b"".join(pieces)

    def close_notify(self) -> bytes:
        """Say that nothing more will be written; returns everything that is to be sent. Does not wait for the answer.

        Reading goes on: what was fed and not read yet, and what is fed later, up to the other side's own end.

        Also marks the session as well ended, without which OpenSSL removes it from the server cache: called before the
        pipeline is dropped, however the connection ended.
        """
        if self._incoming.pending:
            # `unwrap` is two calls of SSL_shutdown, and the second looks for the other side's close_notify. Application
            # data in its place is fatal (SSL_R_APPLICATION_DATA_AFTER_CLOSE_NOTIFY), so let it find nothing.
            self._backlog.appendleft(memoryview(self._incoming.read()))
        try:
            self._object.unwrap()
        except (ssl.SSLError, ValueError):
            pass  # most often SSLWantReadError: no close_notify has come from the other side yet
        return self._outgoing.read()

    @property
    def outgoing_size(self) -> int:
        """How much there is to be sent. What is not taken goes with what `write` or `close_notify` return next."""
        return self._outgoing.pending

    def take_outgoing(self) -> bytes:
        """What OpenSSL left to send; b"" for nothing."""
        return self._outgoing.read() if self._outgoing.pending else b""

    # --- Handshake

    def handshake(self) -> bool:
        """Go as far as what was fed allows; True when the handshake is complete. May take milliseconds of CPU."""
        while True:
            try:
                self._object.do_handshake()
            except ssl.SSLWantReadError:
                if not self._refill():
                    return False
            except ssl.SSLError as error:
                raise self._failure(error, handshake=True) from error
            else:
                return True

    @property
    def object(self) -> ssl.SSLObject:
        """For what was agreed on (version, cipher, certificates); never to be read from or written to."""
        return self._object

    # --- Translation of errors (the one place)

    def _failure(self, error: ssl.SSLError, *, handshake: bool = False) -> ProxyError:
        failure = HandshakeFailure.CERTIFICATE
        if error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
            reason, proxy_status = "the client showed no certificate", "tls_certificate_error"
        elif isinstance(error, ssl.SSLCertVerificationError):
            reason = f"certificate not accepted: {error.verify_message}"
            proxy_status = "tls_certificate_error"
        else:
            reason = reason_of(error)
            proxy_status = "tls_alert_received" if is_alert(reason) else "tls_protocol_error"
            failure = counted_as(reason)
        if not self.server_side:
            reason = explain(error)
        what = "TLS handshake failed" if handshake else "TLS failed"
        return self._told(f"{what}: {reason}", proxy_status, failure if handshake else None)

    def _told(
        self, message: str, proxy_status: str = "tls_protocol_error", failure: HandshakeFailure | None = None
    ) -> ProxyError:
        handshake = failure is not None
        if self.server_side:
            stage = "handshake" if handshake else "body"
            return ProxyError(message, side=Side.CLIENT, stage=stage, handshake=failure)
        return ProxyError(
            message,
            side=Side.UPSTREAM,
            stage="handshake" if handshake else "response",
            status=502,
            retryable=handshake,
            proxy_status=proxy_status,
        )

    def __repr__(self) -> str:
        side = "server" if self.server_side else "client"
        return f"<TlsPipeline {side} {self._object.version() or 'no version yet'} ended={self.ended}>"
