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
from iocproxy.tls.policy import CIPHERS, DEFAULT_POLICY, VERSIONS, ServerPolicy


@dataclass(frozen=True, slots=True)
class UpstreamTls:
    """How to open TLS towards one upstream server: the context, and the name to ask for and to verify."""

    context: ssl.SSLContext
    server_name: str  #: host name or IP address; an address is verified but not sent as SNI (RFC 6066 section 3)


def server_context(certificate: Certificate, policy: ServerPolicy = DEFAULT_POLICY) -> ssl.SSLContext:
    """A context that serves one certificate under one policy.

    Blocking: reads the certificate's files. Raises OSError when those changed for the worse since they were loaded,
    KeyError for a `min_version` not in `VERSIONS`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context, VERSIONS[policy.min_version], policy.ciphers)
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    if not policy.session_tickets:
        context.options |= ssl.OP_NO_TICKET
    context.num_tickets = policy.num_tickets
    if policy.alpn:
        context.set_alpn_protocols(list(policy.alpn))
    certificate.load_into(context)
    if policy.client_auth is not None:
        policy.client_auth.apply_to(context)
    return context


def client_context(
    *,
    verify: bool = True,
    ca: Path | str | None = None,
    certificate: Certificate | None = None,
    min_version: str = "1.2",
    alpn: Sequence[str] = ("http/1.1",),
    path: str = "",
) -> ssl.SSLContext:
    """A context for https upstreams: verified against `ca` (PEM) or else the system's authorities, name checked.

    `verify=False` accepts any certificate for any name. `certificate` is shown to servers that ask for one.
    `path` is the configuration's key path of `ca` for messages.
    Blocking: reads the files. Raises ConfigError when `ca` cannot be used, OSError when the certificate's files changed
    for the worse since they were loaded, KeyError for a `min_version` not in `VERSIONS`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context, VERSIONS[min_version], CIPHERS)
    context.set_alpn_protocols(list(alpn))
    if certificate is not None:
        certificate.load_into(context)
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


def _harden(context: ssl.SSLContext, minimum: ssl.TLSVersion, ciphers: str) -> None:
    """What holds on both sides."""
    context.minimum_version = minimum
    context.set_ciphers(ciphers)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
