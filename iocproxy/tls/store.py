"""The certificates of one listener, and which of them a client gets."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass

from iocproxy.tls.certificate import Certificate
from iocproxy.tls.client_hello import ClientHello
from iocproxy.tls.context import server_context


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate with the one context that serves it."""

    certificate: Certificate
    context: ssl.SSLContext
    offload: bool  #: True when its handshakes run in the executor (RSA: docs/design/tls-pipeline.md has the figures)


class CertificateStore:
    """The certificates of one listener; immutable, shared by its connections, and by threads.

    Each certificate has a context of its own and so its own session cache and ticket keys: a session made under one
    cannot be taken up under another.
    """

    def __init__(
        self,
        certificates: Sequence[Certificate],
        *,
        min_version: str = "1.2",
        session_tickets: bool = True,
        num_tickets: int = 2,
        alpn: Sequence[str] = ("http/1.1",),
    ) -> None:
        """Options as for `server_context`, which may raise. Raises ValueError without a certificate."""
        if not certificates:
            raise ValueError("a TLS listener needs at least one certificate")
        self.identities: tuple[Identity, ...] = tuple(
            Identity(
                certificate,
                server_context(
                    certificate,
                    min_version=min_version,
                    session_tickets=session_tickets,
                    num_tickets=num_tickets,
                    alpn=alpn,
                ),
                offload=certificate.is_rsa,
            )
            for certificate in certificates
        )
        self._by_name: dict[str, Identity] = {}
        for identity in self.identities:
            for name in identity.certificate.names:
                self._by_name.setdefault(name, identity)

    def choose(self, hello: ClientHello) -> Identity:
        """The certificate for the name asked for: exact, else a wildcard (one label, RFC 9525), else the first."""
        name = hello.server_name
        found = self._by_name.get(name)
        if found is None and name:
            found = self._by_name.get("*." + name.partition(".")[2])
        return found or self.identities[0]

    def session_stats(self) -> dict[str, int]:
        """OpenSSL's counters (`ssl.SSLContext.session_stats`) summed over the certificates."""
        total: dict[str, int] = {}
        for identity in self.identities:
            for counter, value in identity.context.session_stats().items():
                total[counter] = total.get(counter, 0) + value
        return total

    def __repr__(self) -> str:
        return f"<CertificateStore {', '.join(str(identity.certificate.cert) for identity in self.identities)}>"
