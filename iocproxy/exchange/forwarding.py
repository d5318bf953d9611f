"""Who the request is from, and how the upstream is told.

X-Forwarded-For, -Proto, -Host and -Port are ours to say, and so is Forwarded where it is switched on: what a client
sends under these names, or in other fields of that kind (`http1.fields.FORWARDED`), is dropped, unless the client is a
trusted proxy. Then its X-Forwarded-For is walked from right to left, over the trusted addresses, and the first one that
is not trusted is the client (everything further left could have been made up by it). Nothing else decides that: where
Forwarded and X-Forwarded-For differ, one of the two would have to be wrong, and a client may have sent it.
"""

from __future__ import annotations

import ipaddress
import re

from iocproxy.exchange import rfc7239
from iocproxy.exchange.answers import PSEUDONYM
from iocproxy.exchange.identity import IdentityFields
from iocproxy.http1.fields import is_authority
from iocproxy.http1.request import FieldSection, RequestHead
from iocproxy.limits import NetworkSet
from iocproxy.message import Client

#: The Via line for a message that was received with this version of HTTP (RFC 9110 section 7.6.3).
VIA = {
    10: f"Via: 1.0 {PSEUDONYM}\r\n".encode("ascii"),
    11: f"Via: 1.1 {PSEUDONYM}\r\n".encode("ascii"),
}

#: A chain longer than this is not walked any further.
_MAX_HOPS = 32

_SCHEME = re.compile(rb"https?", re.IGNORECASE)
_PORT = re.compile(rb"[1-9][0-9]{0,4}")
_DEFAULT_PORTS = {b"http": b"80", b"https": b"443"}


class Forwarding:
    """The forwarding fields for one client connection; what is constant for it is put together once.

    With `forwarded`, they include the field of RFC 7239; with `identity`, those about the client's certificate.
    """

    __slots__ = (
        "_by",
        "_identity",
        "_lines",
        "_port",
        "_prefix",
        "_said",
        "_scheme",
        "_trusted",
        "address",
        "reserved",
        "trusted",
        "usual",
    )

    def __init__(
        self,
        client: Client,
        scheme: str,
        trusted: NetworkSet,
        *,
        forwarded: bool = False,
        identity: IdentityFields | None = None,
    ) -> None:
        #: names that nobody but us may use, not a middleware either
        self.reserved = identity.reserved if identity is not None else None
        self._identity = identity.lines(client.certificate) if identity is not None else b""
        self.address = client.address
        self._scheme = scheme.encode("ascii")
        self._port = client.listener.rpartition(":")[2].encode("ascii")
        self._by = rfc7239.receiver(client.listener) if forwarded else b""  # empty: no Forwarded from us
        #: whether the client's own forwarding fields are believed
        self.trusted = client.address in trusted
        self._trusted = trusted
        self._prefix = b"%bX-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\n" % (
            self._identity,
            client.address.encode("ascii"),
            self._scheme,
        )
        #: for whoever writes the heads: a field section of this connection, and all that followed its first line
        self.usual: tuple[FieldSection | None, bytes] = (None, b"")
        self._said: tuple[bytes, int] | None = None  # the host and version that `_lines` are for
        self._lines = b""

    def real_address(self, head: RequestHead) -> str:
        """The address the request comes from, a trusted proxy's word taken into account."""
        trusted = self._trusted
        claims = head.section
        if not self.trusted or not claims.forwarded_for:
            return self.address
        address = self.address
        hops = b",".join(claims.forwarded_for).split(b",")
        for hop in reversed(hops[-_MAX_HOPS:]):
            found = _address(hop)
            if found is None:
                break  # "unknown" or garbage: whoever is left of it cannot be believed
            address = found
            if found not in trusted:
                break
        return address

    def lines(self, head: RequestHead) -> bytes:
        """The complete lines that go to the upstream."""
        if self.trusted:
            return self._added(head)
        said = head.host, head.version
        if said != self._said:  # a client asks the same host again and again
            self._said = said
            forwarded = b"Forwarded: %b\r\n" % self._element(head.host) if self._by else b""
            self._lines = b"%bX-Forwarded-Host: %b\r\nX-Forwarded-Port: %b\r\n%b%b" % (
                self._prefix,
                head.host,
                self._port,
                forwarded,
                VIA[head.version],
            )
        return self._lines

    def _added(self, head: RequestHead) -> bytes:
        """The lines where a trusted proxy has said something already."""
        claims = head.section
        chain = [*claims.forwarded_for, self.address.encode("ascii")]
        believed = _SCHEME.fullmatch(claims.forwarded_proto) is not None
        scheme = claims.forwarded_proto.lower() if believed else self._scheme
        host = claims.forwarded_host if is_authority(claims.forwarded_host) else head.host
        ports: list[bytes] = []
        elements: list[bytes] = []
        others = self._identity
        for field in claims.forwarded or ():
            name = field[0].lower()
            if name == b"x-forwarded-port":
                ports.append(field[1])
            elif name == b"forwarded" and self._by:
                elements.append(field[1])
            else:
                others += b"%b: %b\r\n" % field
        if len(ports) == 1 and _is_port(ports[0]):
            port = ports[0]
        elif believed:
            # The scheme is another hop's; our port beside it would make URLs that lead nowhere (https on port 8080).
            port = _port_of(host) or _DEFAULT_PORTS[scheme]
        else:
            port = self._port
        if self._by:
            before = b", ".join(filter(None, elements))
            ours = self._element(head.host)
            others += b"Forwarded: %b\r\n" % (b"%b, %b" % (before, ours) if rfc7239.is_forwarded(before) else ours)
        return (
            b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b\r\nX-Forwarded-Port: %b\r\n%b%b"
        ) % (b", ".join(chain), scheme, host, port, others, VIA[head.version])

    def _element(self, host: bytes) -> bytes:
        return rfc7239.element(self.address, host, self._scheme, self._by)


def _is_port(value: bytes) -> bool:
    return _PORT.fullmatch(value) is not None and int(value) <= 65535


def _port_of(host: bytes) -> bytes:
    """The port in an authority, b"" where it has none."""
    port = host.rpartition(b"]")[2].partition(b":")[2]
    return port if _is_port(port) else b""


def _address(hop: bytes) -> str | None:
    """An X-Forwarded-For member as an address in its usual spelling; ports and brackets are taken off.

    So is a zone: it may be any text, and means something on the machine that wrote it only (RFC 4007 section 6). An
    IPv4 address that is mapped into IPv6 is the IPv4 one, as it is for sockets.
    """
    text = hop.strip(b" \t").decode("latin-1")
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return str(getattr(address, "ipv4_mapped", None) or address)
