"""The vocabulary of one exchange: client, request, response, and the record of how it ended.

These are plain data, shared by every layer and handed to user middleware. Field names and values stay the bytes that
were received (order, case and duplicates included); the friendly views are made only when somebody asks.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, MutableMapping
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from typing import Any, NamedTuple

#: Header or trailer fields in the order received: (name as written, value without surrounding blanks).
Fields = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """The certificate a client has shown, and proved to hold the key of; verified when its session began.

    Names are strings of RFC 4514, most specific part first, with control characters escaped.
    """

    subject: str  #: "CN=ali,O=Example"
    issuer: str
    serial: str  #: hexadecimal, lower case, two digits for each octet
    fingerprint: str  #: SHA-256 of `der`, as `serial`
    dns: tuple[str, ...]  #: of subjectAltName, like the next two
    email: tuple[str, ...]
    uri: tuple[str, ...]
    not_after: datetime  #: in UTC
    der: bytes = field(repr=False)

    @property
    def pem(self) -> str:
        text = base64.b64encode(self.der).decode("ascii")
        lines = [text[start : start + 64] for start in range(0, len(text), 64)]
        return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])


class TlsInfo(NamedTuple):
    """What the handshake agreed on."""

    version: str  #: as OpenSSL names it: "TLSv1.2", "TLSv1.3"
    cipher: str
    resumed: bool  #: True when an earlier session was taken up instead of a full handshake
    server_name: str  #: the name the client asked for (SNI), "" when it asked for none
    alpn: str  #: the application protocol agreed on, "" for none
    certificate: ClientCertificate | None = None  #: what the client has shown, the same when a session was taken up
    offered: bool = False  #: True when the client would have taken up an earlier session


class Client:
    """Who is at the other end of a client connection.

    `address` and `port` are the socket's, or those in its PROXY header where the listener wants one; `key` is what the
    limits count by (an address, or an IPv6 network); `listener` is the address the client connected to, as
    ``host:port``. `tls` is None on a plain connection and before the handshake is complete.
    """

    __slots__ = ("address", "key", "listener", "port", "tls")

    def __init__(self, address: str, port: int, key: bytes, listener: str) -> None:
        self.address = address
        self.port = port
        self.key = key
        self.listener = listener
        self.tls: TlsInfo | None = None

    @property
    def certificate(self) -> ClientCertificate | None:
        """The verified certificate of the client; None where it showed none, or was not asked."""
        return self.tls.certificate if self.tls is not None else None

    def __repr__(self) -> str:
        return f"<Client {self.address}:{self.port} at {self.listener}{' tls' if self.tls else ''}>"


class Headers(MutableMapping[str, str]):
    """A case-insensitive view of `Fields`; changes go to the fields themselves.

    `headers[name]` is the first value, assignment replaces every field of that name, `get_all` returns them all.
    Text is latin-1, so that any byte survives a round trip (RFC 9110 section 5.5, obs-text).
    """

    __slots__ = ("fields",)

    def __init__(self, fields: Fields) -> None:
        self.fields = fields

    def get_all(self, name: str) -> list[str]:
        """Every value of the field, in order; an empty list when there is none."""
        wanted = name.lower().encode("latin-1")
        return [value.decode("latin-1") for key, value in self.fields if key.lower() == wanted]

    def add(self, name: str, value: str) -> None:
        """Append one field and keep those of the same name. Raises ValueError for what could not be on the wire."""
        self.fields.append(_field(name, value))

    def __getitem__(self, name: str) -> str:
        wanted = name.lower().encode("latin-1")
        for key, value in self.fields:
            if key.lower() == wanted:
                return value.decode("latin-1")
        raise KeyError(name)

    def __setitem__(self, name: str, value: str) -> None:
        field = _field(name, value)
        self.pop(name, None)
        self.fields.append(field)

    def __delitem__(self, name: str) -> None:
        wanted = name.lower().encode("latin-1")
        kept = [field for field in self.fields if field[0].lower() != wanted]
        if len(kept) == len(self.fields):
            raise KeyError(name)
        self.fields[:] = kept

    def __iter__(self) -> Iterator[str]:
        seen = dict.fromkeys(key.lower().decode("latin-1") for key, _ in self.fields)
        return iter(seen)

    def __len__(self) -> int:
        return len({key.lower() for key, _ in self.fields})

    def __repr__(self) -> str:
        return f"Headers({self.fields!r})"


_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def _field(name: str, value: str) -> tuple[bytes, bytes]:
    """One field as bytes. Raises ValueError where it would break the message (RFC 9110 sections 5.1 and 5.5)."""
    raw_name, raw_value = name.encode("latin-1"), value.encode("latin-1").strip(b" \t")
    if not raw_name or not _TOKEN.issuperset(raw_name):
        raise ValueError(f"not a field name: {name!r}")
    if _has_controls(raw_value):
        raise ValueError(f"a control character in the value of {name}: {value!r}")
    return raw_name, raw_value


def check_reason(reason: bytes) -> None:
    """Raises ValueError where a reason phrase would break the status line (RFC 9112 section 4)."""
    if _has_controls(reason):
        raise ValueError(f"a control character in the reason: {reason!r}")


def _has_controls(octets: bytes) -> bool:
    return any((octet < 0x20 and octet != 0x09) or octet == 0x7F for octet in octets)


class Request:
    """One request as the client sent it, after its head was read and before anything was forwarded.

    `target` is the request target in origin form (path and query), whatever form the client used; `host` is the
    authority the request is for, as written; `version` is 11 or 10 for HTTP/1.1 and HTTP/1.0. `address` is the
    client's address, with a trusted proxy's word taken into account. `fields` may be changed by middleware before
    the request is forwarded. `request_id` goes to the upstream as X-Request-ID and into the record, "" for none.
    `state` is a dict for middleware to hand things from one hook to the next.
    """

    __slots__ = (
        "_state",
        "address",
        "client",
        "fields",
        "host",
        "key",
        "method",
        "request_id",
        "route",
        "scheme",
        "target",
        "version",
    )

    def __init__(
        self,
        method: str,
        target: bytes,
        version: int,
        fields: Fields,
        host: bytes,
        client: Client,
        scheme: str,
    ) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.fields = fields
        self.host = host
        self.client = client
        self.scheme = scheme
        self.address = client.address
        self.key = client.key
        self.route = ""
        self.request_id = ""
        self._state: dict[str, Any] | None = None

    @property
    def headers(self) -> Headers:
        return Headers(self.fields)

    @property
    def path(self) -> str:
        """The path without the query, still percent-encoded."""
        return self.target.partition(b"?")[0].decode("latin-1")

    @property
    def query(self) -> str:
        """What follows the first question mark, still percent-encoded; "" for none."""
        return self.target.partition(b"?")[2].decode("latin-1")

    @property
    def state(self) -> dict[str, Any]:
        if self._state is None:
            self._state = {}
        return self._state

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.host.decode('latin-1')}{self.target.decode('latin-1')}>"


class Response:
    """A response: the upstream's head on its way to the client, or one that a middleware answers with.

    For an upstream's response `body` is None (it streams past) and `reason` is the upstream's own phrase. A middleware
    that answers by itself gives the whole body here; Content-Length is set for it.
    """

    __slots__ = ("body", "fields", "reason", "status")

    def __init__(
        self,
        status: int,
        headers: Iterable[tuple[str, str]] | MutableMapping[str, str] = (),
        body: bytes | None = b"",
        *,
        reason: str | None = None,
    ) -> None:
        """Raises ValueError for a status outside 200 to 599, a field or a reason that cannot be on the wire."""
        if not 200 <= status <= 599:
            raise ValueError(f"a final status is 200 to 599, not {status}")
        pairs = headers.items() if isinstance(headers, MutableMapping) else headers
        self.status = status
        self.fields: Fields = [_field(name, value) for name, value in pairs]
        self.body = body
        self.reason = reason_phrase(status) if reason is None else reason.encode("latin-1")
        check_reason(self.reason)

    @classmethod
    def passing(cls, status: int, reason: bytes, fields: Fields) -> Response:
        """An upstream's response on its way to the client."""
        response = cls.__new__(cls)
        response.status = status
        response.reason = reason
        response.fields = fields
        response.body = None
        return response

    @property
    def headers(self) -> Headers:
        return Headers(self.fields)

    def __repr__(self) -> str:
        return f"<Response {self.status}>"


_REASONS = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}


def reason_phrase(status: int) -> bytes:
    """The usual reason phrase, empty for a status without one (RFC 9112 section 4 allows that)."""
    return _REASONS.get(status, b"")


class Record(NamedTuple):
    """How one request ended: what the access log writes and what `on_complete` is handed."""

    finished: float  #: seconds since the epoch
    client: str  #: the client's address (a trusted proxy's word taken into account)
    method: str  #: "" when no request could be read
    host: str
    target: str  #: path and query as forwarded
    version: int  #: 11 or 10; 0 when no request could be read
    status: int  #: what the client was answered; 499 when it left first
    bytes_in: int  #: request body bytes received
    bytes_out: int  #: response body bytes sent
    duration: float  #: seconds from the head's arrival to the last byte handed to the client
    upstream: str  #: "host:port" of the server that answered, "" for none
    route: str
    tls_version: str  #: "" on a plain connection
    tls_resumed: bool
    error: str  #: why it ended otherwise than well, "" when it did not
    request_id: str = ""  #: what went to the upstream as X-Request-ID, "" for none
