"""The client's end of TLS, towards an upstream: the session that is resumed, and the chain that is verified.

A client's end offers the session that is kept for its server, and with the first data hands in its own where one is
wanted (tls/kept_session.py). The step that verifies the server's certificates is a thread's
(docs/design/tls-pipeline.md has the figures).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from concurrent.futures import Executor

from iocproxy.errors import HandshakeFailure, ProxyError, Side
from iocproxy.link import Timer
from iocproxy.tls.context import UpstreamTls
from iocproxy.tls.kept_session import KeptSession
from iocproxy.tls.link import FLIGHT, State, TlsLink
from iocproxy.tls.pipeline import TlsPipeline

#: Ends of an upstream's connection by an alert, its own or ours, after which its session is not to be resumed.
_FATAL = {"tls_protocol_error", "tls_alert_received"}


class ClientLink(TlsLink):
    """Towards an upstream. `tls` is how to open it, `session` the session kept for the server, to be resumed here if it
    can be; the rest is as for `TlsLink`."""

    __slots__ = ("_offered", "_session", "_tls")

    def __init__(
        self,
        inner: asyncio.Protocol,
        *,
        tls: UpstreamTls,
        timer: Timer | None,
        handshake_timeout: float,
        executor: Executor,
        loop: asyncio.AbstractEventLoop,
        on_failure: Callable[[ProxyError], None],
        session: KeptSession | None = None,
    ) -> None:
        super().__init__(
            inner,
            timer=timer,
            handshake_timeout=handshake_timeout,
            executor=executor,
            loop=loop,
            on_failure=on_failure,
        )
        self._tls = tls
        self._session = session
        self._offered: ssl.SSLSession | None = None  # to be resumed, or kept from this connection

    def _begin(self) -> None:
        self._server_name = self._tls.server_name
        self._state = State.HANDSHAKE
        if self._session is not None:
            self._offered = self._session.offer()
        self._pipeline = TlsPipeline(self._tls.context, server_name=self._server_name, session=self._offered)
        self._step()

    def _place(self, data: bytes) -> None:
        self._offload = _holds_chain(data)

    def _agreed(self, version: str, *, resumed: bool) -> tuple[None, bool]:
        if flight := self._pipeline.take_outgoing():
            self._transport.write(flight)
        if self._session is not None and self._session.opened(self._offered, resumed=resumed):
            self._inner_received = self._received_first
        return None, False

    def _received_first(self, data: bytes) -> None:
        """Stands before `inner.data_received` for the first data, behind which the tickets of TLS 1.3 are known."""
        self._inner_received = self._inner.data_received
        assert self._session is not None
        self._offered = self._session.take(self._pipeline.object)
        self._inner_received(data)

    def _drop_session(self) -> None:
        if self._session is not None and self._offered is not None:
            self._session.drop(self._offered)

    def _handshake_error(self, message: str, failure: HandshakeFailure) -> ProxyError:
        timeout = failure is HandshakeFailure.TIMEOUT
        return ProxyError(
            message,
            side=Side.PROXY if failure is HandshakeFailure.STOPPED else Side.UPSTREAM,
            stage="handshake",
            status=504 if timeout else 502,
            retryable=True,
            proxy_status="connection_timeout" if timeout else "connection_terminated",
        )

    def _truncated(self, message: str) -> ProxyError:
        return ProxyError(
            message, side=Side.UPSTREAM, stage="response", status=502, proxy_status="http_response_incomplete"
        )

    def _failed(self, error: ProxyError) -> None:
        if error.side is Side.UPSTREAM and error.status == 502:  # a wait that was given up proves nothing
            self._drop_session()

    def _broken(self, error: ProxyError) -> None:
        if error.proxy_status in _FATAL:
            self._drop_session()


def _holds_chain(data: bytes) -> bool:
    """Whether a server's bytes are likely to bring its certificates. Not where it resumes a session, which takes some
    300 bytes. An alert is no such thing, nor is what is no TLS: either is often followed by the end of the connection,
    and should be understood before that is."""
    return len(data) >= FLIGHT and data[0] in {20, 22, 23}  # RFC 8446 section 5.1
