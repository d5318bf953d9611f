"""Every failure iocproxy knows, each saying who, where and what next.

Two families:

* `ConfigError` carries *all* the faults of a configuration, each with its place; nothing was started.
* `ProxyError` is a failure while serving. It says which side is at fault (`Side`), at which stage, whether the
  request may be tried again, and the status to answer the client with. Foreign exceptions (OSError, ssl.SSLError,
  httptools errors) are translated into one of these once, at the boundary where they arise.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass


class IocproxyError(Exception):
    """The base class of every error iocproxy raises on purpose."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a configuration.

    `path` is the key path (``listeners[0].tls.certificates[0].key``), empty when the file as a whole is meant.
    `found` and `allowed` are phrases for a person: what stands there, what may stand there.
    `file` and `line` (1-based) are None where the configuration did not come from a file or the line is unknown.
    """

    path: str
    found: str
    allowed: str
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        place = self.file or ""
        if self.line is not None:
            place = f"{place}:{self.line}"
        head = ": ".join(part for part in (place, self.path) if part)
        said = f"{self.found}; {self.allowed}" if self.allowed else self.found
        return f"{head}: {said}" if head else said


class ConfigError(IocproxyError):
    """A configuration cannot be used. `faults` lists everything that is wrong; nothing has been started."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults: tuple[Fault, ...] = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class Side(enum.StrEnum):
    """Who is at fault. Passive health counts `UPSTREAM` only."""

    CLIENT = "client"
    UPSTREAM = "upstream"
    PROXY = "proxy"


class HandshakeFailure(enum.StrEnum):
    """Why a TLS handshake with a client failed, as it is counted."""

    PLAIN_HTTP = "plain_http"  #: HTTP on a port that speaks TLS
    NOT_TLS = "not_tls"  #: bytes that are no TLS at all
    MALFORMED = "malformed"  #: TLS that breaks its rules
    UNSUPPORTED = "unsupported"  #: no version, cipher, group or protocol in common
    CERTIFICATE = "certificate"  #: the client showed none where one is required, or one that is not accepted
    REFUSED = "refused"  #: the client sent an alert: most often it does not trust our certificate
    TIMEOUT = "timeout"  #: not complete in time
    BROKEN_OFF = "broken_off"  #: the client left in the middle
    SILENT = "silent"  #: the client left without having said anything
    OVERLOADED = "overloaded"  #: not complete in time, because the proxy did not get to it
    STOPPED = "stopped"  #: by the proxy, which stops

    @property
    def clients_doing(self) -> bool:
        """Whether it counts against the client. Who leaves without a word may be a health check."""
        return self not in {HandshakeFailure.SILENT, HandshakeFailure.OVERLOADED, HandshakeFailure.STOPPED}


class ProxyHeaderFailure(enum.StrEnum):
    """Why a connection to a listener with `proxy_protocol` was closed before its header was complete, as counted."""

    UNTRUSTED = "untrusted"  #: it does not come from a trusted proxy
    NOT_PROXY = "not_proxy"  #: what came first begins no header
    MALFORMED = "malformed"  #: a header that breaks its rules
    UNSUPPORTED = "unsupported"  #: a version, command, family or transport that is not known or makes no sense here
    TOO_LONG = "too_long"  #: longer than a header may be
    CHECKSUM = "checksum"  #: its checksum is wrong
    TIMEOUT = "timeout"  #: not complete in time
    BROKEN_OFF = "broken_off"  #: the connection ended within it
    SILENT = "silent"  #: the connection ended before anything was said
    STOPPED = "stopped"  #: by the proxy, which stops


class TlsFailure(enum.StrEnum):
    """Why TLS with a client failed after the handshake, as it is counted."""

    MALFORMED = "malformed"  #: records or messages that break its rules, or were changed on their way
    REFUSED = "refused"  #: the client sent a fatal alert
    TRUNCATED = "truncated"  #: the stream ended without close_notify, as that of many clients does


class ProxyError(IocproxyError):
    """A failure while serving a connection or a request.

    `status` is what the client is answered (0: nothing can be answered, the connection just closes).
    `stage` is a short word for where it happened: accept, handshake, head, body, connect, send, response, tunnel.
    `retryable` is True only where nothing of the request can have been acted on by the upstream.
    `proxy_status` is the RFC 9209 section 2.3 error type, "" where none fits.
    `handshake` is why a handshake with a client failed, and `tls` why TLS with a client failed after it; None for
    whatever else happened.
    """

    def __init__(
        self,
        message: str,
        *,
        side: Side,
        stage: str,
        status: int = 0,
        retryable: bool = False,
        proxy_status: str = "",
        handshake: HandshakeFailure | None = None,
        tls: TlsFailure | None = None,
    ) -> None:
        super().__init__(message)
        self.side = side
        self.stage = stage
        self.status = status
        self.retryable = retryable
        self.proxy_status = proxy_status
        self.handshake = handshake
        self.tls = tls

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.side}/{self.stage} status={self.status} {self.args[0]!r}>"


def own_fault(why: str, stage: str, *, status: int = 500) -> ProxyError:
    """Nobody's fault but the proxy's, or that of the code it was given: no other server would do better."""
    return ProxyError(why, side=Side.PROXY, stage=stage, status=status, proxy_status="proxy_internal_error")
