"""The SSL contexts: one per certificate towards clients, one per upstream policy. Made once, never changed in use.

A context may be shared by threads as long as nobody reconfigures it, so whatever changes (a renewed certificate,
another policy) is a new context.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from iocproxy.errors import ConfigError, Fault
from iocproxy.tls.certificate import Certificate

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
class UpstreamTls:
    """How to open TLS towards one upstream server: the context, and the name to ask for and to verify."""

    context: ssl.SSLContext
    server_name: str  #: host name or IP address; an address is verified but not sent as SNI (RFC 6066 section 3)


def server_context(
    certificate: Certificate,
    *,
    min_version: str = "1.2",
    session_tickets: bool = True,
    num_tickets: int = 2,
    alpn: Sequence[str] = ("http/1.1",),
) -> ssl.SSLContext:
    """A context that serves one certificate.

    With `session_tickets` off, sessions live in the context's own cache (20,480 of them, for two hours) and are taken
    up by session ID on TLS 1.2 and by a ticket that only names the cache entry on TLS 1.3. `num_tickets` is how many
    TLS 1.3 tickets follow a full handshake, 0 for none.

    Blocking: reads the certificate's files. Raises OSError when those changed for the worse since they were loaded,
    KeyError for a `min_version` not in `VERSIONS`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context, VERSIONS[min_version])
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    if not session_tickets:
        context.options |= ssl.OP_NO_TICKET
    context.num_tickets = num_tickets
    context.set_alpn_protocols(list(alpn))
    certificate.load_into(context)
    return context


def client_context(
    *, verify: bool = True, ca: Path | str | None = None, alpn: Sequence[str] = ("http/1.1",), path: str = ""
) -> ssl.SSLContext:
    """A context for https upstreams: verified against `ca` (PEM) or else the system's authorities, name checked.

    `verify=False` accepts any certificate for any name. `path` is the configuration's key path for messages.
    Blocking: reads the authorities. Raises ConfigError when `ca` cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context, ssl.TLSVersion.TLSv1_2)
    context.set_alpn_protocols(list(alpn))
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        try:
            context.load_verify_locations(cafile=ca)
        except ssl.SSLError as error:
            found = f"{ca} holds no PEM certificate ({error.reason or error})"
            raise ConfigError([Fault(path, found, "a PEM file of certificate authorities")]) from error
        except OSError as error:
            found = f"{ca} cannot be read ({error.strerror or error})"
            raise ConfigError([Fault(path, found, "a readable PEM file")]) from error
    return context


def _harden(context: ssl.SSLContext, minimum: ssl.TLSVersion) -> None:
    """What holds on both sides."""
    context.minimum_version = minimum
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
