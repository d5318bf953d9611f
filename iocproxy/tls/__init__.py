"""TLS towards clients and upstreams: `link` has the life of a connection, `pipeline` the engine below it."""

from __future__ import annotations

from iocproxy.tls.certificate import Certificate, load_certificate
from iocproxy.tls.cipher_list import check_ciphers
from iocproxy.tls.client_auth import ClientAuth, load_client_auth
from iocproxy.tls.client_certificate import read_client_certificate
from iocproxy.tls.client_hello import ClientHello, ClientHelloReader, HelloError, HelloFault
from iocproxy.tls.client_link import ClientLink
from iocproxy.tls.context import UpstreamTls, client_context, server_context
from iocproxy.tls.hosts import HostCheck
from iocproxy.tls.kept_session import KeptSession
from iocproxy.tls.link import TlsLink
from iocproxy.tls.pipeline import Ended, TlsPipeline
from iocproxy.tls.policy import CIPHERS, DEFAULT_POLICY, PROTOCOLS, VERSIONS, ServerPolicy
from iocproxy.tls.self_signed import SelfSigned, self_signed
from iocproxy.tls.server_link import ServerLink
from iocproxy.tls.store import CertificateStore, Identity

__all__ = [
    "CIPHERS",
    "DEFAULT_POLICY",
    "PROTOCOLS",
    "VERSIONS",
    "Certificate",
    "CertificateStore",
    "ClientAuth",
    "ClientHello",
    "ClientHelloReader",
    "ClientLink",
    "Ended",
    "HelloError",
    "HelloFault",
    "HostCheck",
    "Identity",
    "KeptSession",
    "SelfSigned",
    "ServerLink",
    "ServerPolicy",
    "TlsLink",
    "TlsPipeline",
    "UpstreamTls",
    "check_ciphers",
    "client_context",
    "load_certificate",
    "load_client_auth",
    "read_client_certificate",
    "self_signed",
    "server_context",
]
