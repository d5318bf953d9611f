"""What a listener, or some of its hosts, ask of a TLS connection besides the certificates."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from iocproxy.tls.client_auth import ClientAuth

#: What `min_version` may say.
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

#: Mozilla's intermediate list for TLS 1.2 (guidelines 5.7) without the finite-field DHE suites, which cost ten times
#: the CPU of ECDHE and which no client needs. TLS 1.3 suites are OpenSSL's own.
CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)


@dataclass(frozen=True, slots=True)
class ServerPolicy:
    """One policy towards clients. Two connections are under the same policy when theirs are equal.

    `min_version` is a key of `VERSIONS`. With `session_tickets` off, sessions live in the context's own cache (20,480
    of them, for two hours) and are taken up by session ID on TLS 1.2 and by a ticket that only names the cache entry on
    TLS 1.3. `num_tickets` is how many TLS 1.3 tickets follow a full handshake, 0 for none.
    """

    min_version: str = "1.2"
    ciphers: str = CIPHERS
    alpn: tuple[str, ...] = ("http/1.1",)
    session_tickets: bool = True
    num_tickets: int = 2
    client_auth: ClientAuth | None = None  #: None where no certificate is asked for


#: For whoever has no wishes.
DEFAULT_POLICY = ServerPolicy()
