"""TLS 1.3 handshakes, full or resumed, from a few threads on the load generator's core.

One unit is a connection from SYN to FIN: TCP accept, handshake, close_notify both ways; no request.  The client's own
cost does not matter, since only the proxy's CPU time counts.
"""

from __future__ import annotations

import ssl
import time
from concurrent.futures import ThreadPoolExecutor

from load.http import Connection, WrongAnswerError, get

THREADS = 4


def obtain_session(port: int, context: ssl.SSLContext) -> ssl.SSLSession:
    """A session to resume. TLS 1.3 tickets come after the handshake, so the connection carries a request first."""
    with Connection(port, context) as connection:
        connection.exchange(get("/13"), length=13)
        if not isinstance(connection.socket, ssl.SSLSocket) or (session := connection.socket.session) is None:
            raise WrongAnswerError("no session ticket came")
        return session


def handshakes(port: int, context: ssl.SSLContext, seconds: float, session: ssl.SSLSession | None = None) -> int:
    """Connect, shake hands and close for ``seconds``; returns how often.

    With ``session`` every handshake must resume it, without one none may; anything else is :class:`WrongAnswerError`.
    """
    deadline = time.monotonic() + seconds

    def client() -> int:
        count = 0
        while time.monotonic() < deadline:
            with Connection(port, context, session) as connection:
                if not isinstance(connection.socket, ssl.SSLSocket) or connection.socket.version() != "TLSv1.3":
                    raise WrongAnswerError("not TLS 1.3")
                if connection.socket.session_reused is not (session is not None):
                    raise WrongAnswerError("a session was not resumed" if session else "a full handshake was resumed")
                connection.finish_tls()
            count += 1
        return count

    with ThreadPoolExecutor(THREADS) as pool:
        return sum(future.result() for future in [pool.submit(client) for _ in range(THREADS)])
