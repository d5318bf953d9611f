"""What a proxy has done since it started, as plain integers.

The hot path adds to the attributes directly (``counters.requests += 1``): no call, no lock, no label lookup. That is
right because one `Counters` belongs to one event loop, and only code on its thread writes to it, with the exception
of `access_lost`, which belongs to the access log's thread alone. A reader on another thread sees a recent value.
"""

from __future__ import annotations

from iocproxy.errors import HandshakeFailure, ProxyHeaderFailure, TlsFailure
from iocproxy.message import TlsInfo
from iocproxy.telemetry.sessions import SessionCounters


class Counters:
    """Counts since start, never reset; the three that end in ``_open`` go up and down.

    Bytes are those of bodies and tunnels, without heads and TLS. `snapshot` is what `Proxy.stats()` returns.
    """

    __slots__ = (
        "accept_errors",
        "access_dropped",
        "access_lost",
        "bytes_in",
        "bytes_out",
        "connections_accepted",
        "connections_open",
        "dry_run_connections",
        "dry_run_requests",
        "handshakes_failed",
        "handshakes_full",
        "handshakes_resumed",
        "paced",
        "proxy_protocol_failures",
        "refused_concurrent",
        "refused_denied",
        "refused_handshakes",
        "refused_middleware",
        "refused_rate",
        "refused_total",
        "requests",
        "requests_limited",
        "requests_open",
        "responses",
        "sessions",
        "shed",
        "tls_failed",
        "tunnels_open",
        "upstream_connect_failures",
        "upstream_connect_shortages",
        "upstream_connects",
        "upstream_retries",
        "upstream_reused",
    )

    def __init__(self) -> None:
        # accepting
        self.connections_accepted = 0  #: admitted by every limit; a refused connection is not in it
        self.connections_open = 0  #: admitted and not closed yet
        self.accept_errors = 0  #: failures of accept itself (EMFILE, a client that reset in the queue)
        self.refused_rate = 0  #: closed at accept: the client opens connections too fast
        self.refused_concurrent = 0  #: closed at accept: the client has too many open
        self.refused_total = 0  #: closed at accept: the whole proxy is full
        self.refused_denied = 0  #: closed at accept: the client is denied, by an access list or for a time
        self.refused_handshakes = 0  #: closed at accept: too many of the client's handshakes had failed
        self.refused_middleware = 0  #: closed at accept: an `on_connect` said no
        #: closed before their PROXY header was complete, by reason
        self.proxy_protocol_failures = dict.fromkeys(ProxyHeaderFailure, 0)
        #: closed while idle to make room, by what had run out
        self.shed = {"total": 0, "files": 0, "memory": 0}
        self.paced = 0  #: how often reading was paused, from a client or for it, to keep to its bandwidth
        # what a limit with `dry_run` would have refused
        self.dry_run_connections = 0
        self.dry_run_requests = 0
        # TLS towards clients
        self.handshakes_full = 0
        self.handshakes_resumed = 0
        self.handshakes_failed = dict.fromkeys(HandshakeFailure, 0)  #: by reason
        self.tls_failed = dict.fromkeys(TlsFailure, 0)  #: connections that stood, by reason
        self.sessions: dict[str, SessionCounters] = {}  #: by listener, of those with TLS
        # requests
        self.requests = 0  #: heads read, whatever became of them
        self.requests_open = 0  #: begun and not ended yet, tunnels included
        self.requests_limited = 0  #: answered 429 by a limit
        #: answers by class of status (index 1 to 5), as the client got them; 499, the client that left before its
        #: answer, is among the fourth. Index 0 counts requests that ended without any status.
        self.responses = [0, 0, 0, 0, 0, 0]
        self.bytes_in = 0  #: body bytes received from clients
        self.bytes_out = 0  #: body bytes sent to clients
        self.tunnels_open = 0  #: WebSocket and other upgraded connections now
        # upstreams
        self.upstream_connects = 0  #: connections made
        self.upstream_connect_failures = 0  #: refused, unreachable, timed out, or a failed handshake
        self.upstream_connect_shortages = 0  #: not even tried, for want of files, ports or memory of ours
        self.upstream_reused = 0  #: requests that went out on a pooled connection
        self.upstream_retries = 0  #: requests sent once more after a pooled connection turned out stale
        # the access log
        self.access_dropped = 0  #: records turned away because the queue was full or closed
        self.access_lost = 0  #: records whose line could not be written

    def handshake(self, listener: str, tls: TlsInfo) -> None:
        """One with a client was completed."""
        if tls.resumed:
            self.handshakes_resumed += 1
        else:
            self.handshakes_full += 1
        sessions = self.sessions.get(listener)
        if sessions is None:
            sessions = self.sessions[listener] = SessionCounters()
        sessions.handshake(tls)

    def snapshot(self) -> dict[str, int | dict[str, int]]:
        """The present values, by name; refusals and responses grouped. The dict is the caller's own."""
        return {
            "connections_accepted": self.connections_accepted,
            "connections_open": self.connections_open,
            "connections_refused": {
                "rate": self.refused_rate,
                "concurrent": self.refused_concurrent,
                "total": self.refused_total,
                "handshakes": self.refused_handshakes,
                "denied": self.refused_denied,
                "middleware": self.refused_middleware,
            },
            "connections_shed": dict(self.shed),
            "paced": self.paced,
            "dry_run": {"connections": self.dry_run_connections, "requests": self.dry_run_requests},
            "accept_errors": self.accept_errors,
            "proxy_protocol_failures": {str(why): count for why, count in self.proxy_protocol_failures.items()},
            "handshakes_full": self.handshakes_full,
            "handshakes_resumed": self.handshakes_resumed,
            "handshakes_failed": sum(self.handshakes_failed.values()),
            "handshake_failures": {str(failure): count for failure, count in self.handshakes_failed.items()},
            "tls_failures": {str(failure): count for failure, count in self.tls_failed.items()},
            "requests": self.requests,
            "requests_open": self.requests_open,
            "requests_limited": self.requests_limited,
            "responses": {f"{kind}xx": self.responses[kind] for kind in range(1, 6)},
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "tunnels_open": self.tunnels_open,
            "upstream_connects": self.upstream_connects,
            "upstream_connect_failures": self.upstream_connect_failures,
            "upstream_connect_shortages": self.upstream_connect_shortages,
            "upstream_reused": self.upstream_reused,
            "upstream_retries": self.upstream_retries,
            "access_dropped": self.access_dropped,
            "access_lost": self.access_lost,
        }

    def __repr__(self) -> str:
        return f"<Counters requests={self.requests} open={self.connections_open} accepted={self.connections_accepted}>"
