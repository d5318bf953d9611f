"""Which server a request goes to when the first cannot be reached, and which requests may go out a second time."""

from __future__ import annotations

from structlog.typing import FilteringBoundLogger

from iocproxy.errors import ProxyError
from iocproxy.exchange.ports import Asking, Lease, Server, Upstream

#: Repeating these has no more effect than doing them once (RFC 9110 section 9.2.2): all that llhttp knows of those
#: which IANA's registry of methods says it of.
IDEMPOTENT = frozenset(
    {
        *("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE", "QUERY", "SEARCH", "REPORT", "LINK", "UNLINK"),
        *("ACL", "BIND", "CHECKOUT", "COPY", "MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL", "MOVE", "PROPFIND"),
        *("PROPPATCH", "REBIND", "UNBIND", "UNLOCK"),
    }
)


async def connect(
    upstream: Upstream, server: Server, tried: list[Server], asking: Asking, log: FilteringBoundLogger
) -> tuple[Server, Lease]:
    """A new connection to `server` for `asking`, else a connection to the next in turn that is not in `tried`, to which
    those are added that cannot be reached. Raises the last one's `ProxyError`, or one that another server would not
    mend."""
    while True:
        try:
            return server, await server.connect(asking)
        except ProxyError as error:
            tried.append(server)
            following = upstream.pick(tried) if error.retryable else None
            if following is None:
                raise
            log.warning("upstream_skipped", server=server.name, error=str(error))
        server = following
        lease = server.idle(asking)
        if lease is not None:
            return server, lease
