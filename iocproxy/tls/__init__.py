"""TLS towards clients and upstreams: `link` has the life of a connection, `pipeline` the engine below it."""

from __future__ import annotations

from iocproxy.tls.certificate import Certificate, load_certificate
from iocproxy.tls.client_hello import ClientHello, ClientHelloReader, HelloError, HelloFault
from iocproxy.tls.context import UpstreamTls, client_context, server_context
from iocproxy.tls.kept_session import KeptSession
from iocproxy.tls.link import TlsLink
from iocproxy.tls.pipeline import Ended, TlsPipeline
from iocproxy.tls.policy import CIPHERS, DEFAULT_POLICY, VERSIONS, ServerPolicy
from iocproxy.tls.self_signed import SelfSigned, self_signed
from iocproxy.tls.store import CertificateStore, Identity

__all__ = [
    "CIPHERS",
    "DEFAULT_POLICY",
    "VERSIONS",
    "Certificate",
    "CertificateStore",
    "ClientHello",
    "ClientHelloReader",
    "Ended",
    "HelloError",
    "HelloFault",
    "Identity",
    "KeptSession",
    "SelfSigned",
    "ServerPolicy",
    "TlsLink",
    "TlsPipeline",
    "UpstreamTls",
    "client_context",
    "load_certificate",
    "self_signed",
    "server_context",
]
