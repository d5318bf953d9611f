"""What a listener, or some of its hosts, ask of a TLS connection besides the certificates."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from iocproxy.tls.client_auth import ClientAuth
from iocproxy.tls.client_hello import ClientHello, HelloError, HelloFault

#: What `min_version` may say.
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

#: Mozilla's intermediate list for TLS 1.2 (guidelines 5.7) without the finite-field DHE suites, which cost ten times
#: the CPU of ECDHE and which no client needs. TLS 1.3 suites are OpenSSL's own.
CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)

#: What is spoken above TLS, as ALPN names it (RFC 7301 section 6), in the order of preference.
PROTOCOLS = ("http/1.1", "http/1.0")

#: The elliptic curves that every OpenSSL has for TLS 1.3, as on the wire: X25519, P-256, P-384, P-521, X448.
_CURVES = frozenset({0x001D, 0x0017, 0x0018, 0x0019, 0x001E})

_HANDSHAKE_FAILURE = 40  # RFC 8446 section 6
_NO_APPLICATION_PROTOCOL = 120  # RFC 7301 section 3.2


@dataclass(frozen=True, slots=True)
class ServerPolicy:
    """One policy towards clients. Two connections are under the same policy when theirs are equal.

    `min_version` is a key of `VERSIONS`. With `session_tickets` off, sessions live in the context's own cache (20,480
    of them, for two hours) and are taken up by session ID on TLS 1.2 and by a ticket that only names the cache entry on
    TLS 1.3. `num_tickets` is how many TLS 1.3 tickets follow a full handshake, 0 for none. `alpn` is empty where no
    protocol is agreed on.
    """

    min_version: str = "1.2"
    ciphers: str = CIPHERS
    alpn: tuple[str, ...] = PROTOCOLS
    session_tickets: bool = True
    num_tickets: int = 2
    client_auth: ClientAuth | None = None  #: None where no certificate is asked for

    def admit(self, hello: ClientHello) -> None:
        """Raises HelloError for a hello that OpenSSL would take and this policy does not."""
        # OpenSSL would go on without a protocol. RFC 7301 section 3.2 has the server refuse, and so does nginx: what
        # was meant for another protocol is not to be read as HTTP (the ALPACA attack).
        if hello.alpn and self.alpn and not any(protocol in self.alpn for protocol in hello.alpn):
            offered = ", ".join(hello.alpn)[:64]
            raise HelloError(HelloFault.NO_PROTOCOL, f"offered {offered!a}", _NO_APPLICATION_PROTOCOL)
        # Before 3.15 Python cannot tell OpenSSL which groups to use, other than a single one, and OpenSSL takes finite
        # fields of up to 8192 bits on TLS 1.3: 110 ms of CPU for a hello whose key the client need not have computed.
        # It uses the first key whose group it knows, and without one chooses a curve if the client has any.
        if any(group >> 8 == 1 for group in hello.shares) or (
            any(group >> 8 == 1 for group in hello.groups) and _CURVES.isdisjoint(hello.groups)
        ):
            raise HelloError(HelloFault.FINITE_FIELD, alert=_HANDSHAKE_FAILURE)


#: For whoever has no wishes.
DEFAULT_POLICY = ServerPolicy()
