"""The server's end of TLS: a client's hello, the context that goes with it, and what a handshake costs the loop.

Theory of operation
-------------------
* The ClientHello is read before there is an SSL object (tls/client_hello.py), because the context, and with it
  certificate, client authorities and sessions, has to be chosen before OpenSSL begins (tls/store.py).
* Each step that computes is asked of `Turns` (tls/offload.py): the one that signs, and the one in which a client's
  certificate is verified. The loop takes it, or a thread does.
* The session tickets that OpenSSL makes when a TLS 1.3 handshake is complete (RFC 8446 section 4.6.1) wait in the
  pipeline for the first thing that is sent, the response most often. No client waits for them; on their own they
  would cost a system call and a packet, and a client that leaves without reading would be answered with a reset.
* What failed is told as a `HandshakeFailure`, by which it is counted, and perhaps held against the client.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from iocproxy.errors import HandshakeFailure, ProxyError, Side, TlsFailure
from iocproxy.link import Timer
from iocproxy.message import ClientCertificate
from iocproxy.tls.client_certificate import read_client_certificate
from iocproxy.tls.client_hello import ClientHelloReader, HelloError, HelloFault
from iocproxy.tls.link import State, TlsLink
from iocproxy.tls.offload import Turns
from iocproxy.tls.pipeline import TlsPipeline
from iocproxy.tls.store import CertificateStore, Identity

_PLAIN_HTTP_BODY = b"This port speaks TLS: use https://\n"
_PLAIN_HTTP_HEAD = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n" % len(_PLAIN_HTTP_BODY)
)


class ServerLink(TlsLink):
    """Towards a client. `store` is what is served with, `turns`, one for each loop, says which steps the loop takes;
    the rest is as for `TlsLink`."""

    __slots__ = ("_identity", "_next_cost", "_offers_session", "_reader", "_store", "_turns")

    def __init__(
        self,
        inner: asyncio.Protocol,
        *,
        store: CertificateStore,
        turns: Turns,
        timer: Timer | None,
        handshake_timeout: float,
        executor: Executor,
        loop: asyncio.AbstractEventLoop,
        on_failure: Callable[[ProxyError], None],
    ) -> None:
        super().__init__(
            inner,
            timer=timer,
            handshake_timeout=handshake_timeout,
            executor=executor,
            loop=loop,
            on_failure=on_failure,
        )
        self._store = store
        self._turns = turns
        self._reader: ClientHelloReader | None = None
        self._identity: Identity | None = None  # what was chosen by the hello
        self._offers_session = False
        self._next_cost = 0.0  # of the step that the next bytes are for

    def _begin(self) -> None:
        self._reader = ClientHelloReader()
        self._state = State.HELLO

    def _hello_received(self, data: bytes) -> None:
        reader = self._reader
        assert reader is not None
        try:
            hello = reader.feed(data)
        except HelloError as error:
            answer, plain = error.alert, error.fault is HelloFault.PLAIN_HTTP
            if plain:  # RFC 9110 section 9.3.2: HEAD is answered without content
                answer = _PLAIN_HTTP_HEAD + (b"" if reader.received.startswith(b"HEAD ") else _PLAIN_HTTP_BODY)
            self._refuse(self._handshake_error(f"TLS handshake failed: {error}", error.failure), answer, linger=plain)
            return
        if hello is None:
            return
        self._reader = None
        self._server_name = hello.server_name
        self._offers_session = hello.offers_session
        try:
            identity = self._identity = self._store.choose(hello)
        except HelloError as error:
            self._refuse(self._handshake_error(f"TLS handshake failed: {error}", error.failure), error.alert)
            return
        self._offload = not self._turns.take(identity.step_cost)
        self._next_cost = identity.step_cost  # where this one only asks for a key, the next one signs
        self._pipeline = TlsPipeline(identity.context)
        self._pipeline.feed(reader.received)
        self._state = State.HANDSHAKE
        self._step()

    def _place(self, data: bytes) -> None:
        if self._next_cost:
            self._offload = not self._turns.take(self._next_cost)

    def _flight_sent(self, *, reused: bool) -> None:
        # Nothing more to compute, unless there is a certificate to be looked at.
        self._next_cost = 0 if self._identity is None or reused else self._identity.verify_cost

    def _agreed(self, version: str, *, resumed: bool) -> tuple[ClientCertificate | None, bool]:
        pipeline, identity = self._pipeline, self._identity
        assert identity is not None
        certificate = self._client_certificate() if identity.policy.client_auth is not None else None
        if version == "TLSv1.3":
            self._tickets_size = pipeline.outgoing_size
        elif flight := pipeline.take_outgoing():
            self._transport.write(flight)
        return certificate, self._offers_session

    @property
    def _lingers(self) -> bool:
        return self._identity is not None and self._identity.policy.client_auth is not None

    def _client_certificate(self) -> ClientCertificate | None:
        """What the client has shown; from the session where one was taken up. Raises ProxyError."""
        ssl_object = self._pipeline.object
        der = ssl_object.getpeercert(binary_form=True)
        if der is None:
            return None
        try:
            certificate = read_client_certificate(der)
        except ValueError as error:
            message = "TLS handshake failed: the client's certificate cannot be read"
            raise self._handshake_error(message, HandshakeFailure.CERTIFICATE) from error
        # OpenSSL does not look at the dates again when a session is taken up, and each time gives out new tickets.
        if ssl_object.session_reused and certificate.not_after.timestamp() < time.time():
            message = "TLS handshake failed: certificate not accepted: certificate has expired"
            raise self._handshake_error(message, HandshakeFailure.CERTIFICATE)
        return certificate

    def _left(self, message: str) -> ProxyError:
        """The other side has gone before the handshake was complete."""
        silent = self._reader is not None and not self._reader.received
        return self._handshake_error(message, HandshakeFailure.SILENT if silent else HandshakeFailure.BROKEN_OFF)

    def _too_late(self, message: str) -> ProxyError:
        if self._state is State.OFFLOADED:
            return self._handshake_error(f"{message}: it waited for a thread", HandshakeFailure.OVERLOADED)
        return super()._too_late(message)

    def _cut_off(self) -> ProxyError:
        # By us: the client has done nothing wrong.
        return self._handshake_error("cut off before the TLS handshake was complete", HandshakeFailure.STOPPED)

    def _handshake_error(self, message: str, failure: HandshakeFailure) -> ProxyError:
        ours = failure in {HandshakeFailure.STOPPED, HandshakeFailure.OVERLOADED}
        return ProxyError(message, side=Side.PROXY if ours else Side.CLIENT, stage="handshake", handshake=failure)

    def _truncated(self, message: str) -> ProxyError:
        return ProxyError(message, side=Side.CLIENT, stage="body", tls=TlsFailure.TRUNCATED)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As on `TlsLink`; `host_check` is what requests are held against, if anything."""
        if name == "host_check":
            return default if self._identity is None else self._store.host_check(self._identity.policy) or default
        return super().get_extra_info(name, default)
