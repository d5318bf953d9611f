"""The first message of a TLS connection, read before any SSL object exists.

Theory of operation
-------------------
The context of a connection (certificate, client-CA policy, session cache) has to be chosen from the name the client
asks for *before* OpenSSL starts: changing it in `sni_callback` leaves the first context's verify mode and sessions in
force. So `ClientHelloReader` is fed the first ciphertext as it arrives and takes apart just enough of it:

    TCP reads ──► records (type 22, RFC 8446 section 5.1) ──► one handshake message (section 4) ──► ClientHello (4.1.2)

A message may be spread over several records, and a record over several reads; each byte is looked at once. Nothing is
consumed: `received` holds every byte in order, to be fed to OpenSSL afterwards, which checks everything again and
more. What this reader refuses never reaches OpenSSL, so each refusal says the alert that OpenSSL would have sent.
"""

from __future__ import annotations

import enum
import re
from functools import lru_cache
from typing import NamedTuple

from iocproxy.errors import HandshakeFailure

#: The longest ClientHello message read, in bytes. OpenSSL 3 itself takes longer ones; no client sends them.
MAX_MESSAGE = 16 * 1024

#: The most bytes read for it, record headers included. Bounds a client that cuts its hello into tiny records.
MAX_RECEIVED = MAX_MESSAGE + 8 * 1024

_RECORD_HEADER = 5  # type, version (2), length (2)
_MESSAGE_HEADER = 4  # type, length (3)
_MAX_FRAGMENT = 1 << 14  # RFC 8446 section 5.1
_HANDSHAKE = 22
_CLIENT_HELLO = 1
_SERVER_NAME = 0  # RFC 6066 section 3
_SUPPORTED_GROUPS = 10  # RFC 8446 section 4.2.7
_ALPN = 16  # RFC 7301 section 3.1
_SESSION_TICKET = 35  # RFC 5077 section 3.2
_PRE_SHARED_KEY = 41  # RFC 8446 section 4.2.11
_SUPPORTED_VERSIONS = 43  # RFC 8446 section 4.2.1
_KEY_SHARE = 51  # RFC 8446 section 4.2.8

_TLS_1_3 = 0x0304

# RFC 8446 section 6
_UNEXPECTED_MESSAGE = 10
_RECORD_OVERFLOW = 22
_ILLEGAL_PARAMETER = 47
_DECODE_ERROR = 50
_PROTOCOL_VERSION = 70

#: What a server_name may hold: no blanks or controls, at most 255 octets.
_NAME = re.compile(rb"[\x21-\x7e]{1,255}")

#: How many extensions of each kind that is read are known again; at most some 4 MiB, if all are as long as can be.
_REMEMBERED = 256

#: The start of an HTTP request line: a method of capital letters and a blank (`PRI * HTTP/2.0` included).
_HTTP = re.compile(rb"[A-Z]{1,20} ")
_HTTP_SO_FAR = re.compile(rb"[A-Z]{1,20}\Z")


class ClientHello(NamedTuple):
    """What a client offered."""

    server_name: str  #: host_name of RFC 6066 section 3 in lower case, "" when it asked for none
    alpn: tuple[str, ...]  #: in the client's order; latin-1, so that any byte survives
    versions: tuple[int, ...]  #: as on the wire (0x0304 is TLS 1.3), in the client's order, GREASE values included
    groups: tuple[int, ...] = ()  #: for key exchange, as on the wire, GREASE values included
    shares: tuple[int, ...] = ()  #: the groups it has sent a key for, TLS 1.3 only
    offers_session: bool = False  #: whether it would take up an earlier session


class HelloFault(enum.StrEnum):
    """What the first bytes were instead of a ClientHello."""

    PLAIN_HTTP = "plain HTTP on a TLS port"
    SSLV2 = "an SSLv2 hello"
    GARBAGE = "not TLS"
    OVERSIZED = "a ClientHello that is too long"
    MALFORMED = "a malformed ClientHello"
    NO_PROTOCOL = "no application protocol in common"
    FINITE_FIELD = "a finite-field group for the key exchange"


#: As what each is counted.
_COUNTED = {
    HelloFault.PLAIN_HTTP: HandshakeFailure.PLAIN_HTTP,
    HelloFault.SSLV2: HandshakeFailure.UNSUPPORTED,
    HelloFault.GARBAGE: HandshakeFailure.NOT_TLS,
    HelloFault.OVERSIZED: HandshakeFailure.MALFORMED,
    HelloFault.MALFORMED: HandshakeFailure.MALFORMED,
    HelloFault.NO_PROTOCOL: HandshakeFailure.UNSUPPORTED,
    HelloFault.FINITE_FIELD: HandshakeFailure.UNSUPPORTED,
}


class HelloError(Exception):
    """The first bytes are not a ClientHello that can be served.

    `alert` is the fatal TLS alert record to answer with, b"" where the client would not understand one.
    """

    def __init__(self, fault: HelloFault, detail: str = "", alert: int | None = None) -> None:
        super().__init__(f"{fault}: {detail}" if detail else str(fault))
        self.fault = fault
        self.failure = _COUNTED[fault]
        # Level fatal (2); the record version is what a client of any age accepts (RFC 8446 section 5.1).
        self.alert = b"" if alert is None else b"\x15\x03\x01\x00\x02\x02" + bytes((alert,))


class ClientHelloReader:
    """Fed the first bytes of a connection until a ClientHello is complete.

    `received` is everything fed so far. At most `MAX_RECEIVED` bytes are held beyond those of one `feed`.
    """

    __slots__ = ("_message", "_next_record", "received")

    def __init__(self) -> None:
        self.received = bytearray()
        self._message = bytearray()  # the handshake message without its record headers
        self._next_record = 0  # where in `received` the first record not yet taken starts

    def feed(self, data: bytes | bytearray) -> ClientHello | None:
        """Take more bytes; None while the hello is not complete.

        Raises HelloError, after which the reader must not be fed again. Bytes that follow the hello are not looked at.
        """
        received = self.received
        received += data
        if not received:
            return None
        if received[0] != _HANDSHAKE:
            _check_not_tls(received)
            return None
        while len(received) >= self._next_record + _RECORD_HEADER:
            body = self._next_record + _RECORD_HEADER
            kind, major, length = received[body - 5], received[body - 4], int.from_bytes(received[body - 2 : body])
            if kind != _HANDSHAKE:
                # RFC 8446 section 5.1: a handshake message is not interleaved with records of other types.
                raise _malformed(f"record type {kind} inside of it", _UNEXPECTED_MESSAGE)
            if major != 3:
                raise HelloError(HelloFault.GARBAGE, f"record version {major}", None)
            if length == 0:
                raise _malformed("an empty record", _UNEXPECTED_MESSAGE)  # RFC 8446 section 5.1
            if length > _MAX_FRAGMENT:
                raise HelloError(HelloFault.OVERSIZED, f"a record of {length} bytes", _RECORD_OVERFLOW)
            if not self._message and len(received) > body and received[body] != _CLIENT_HELLO:
                raise _malformed(f"handshake message {received[body]}", _UNEXPECTED_MESSAGE)
            if len(received) < body + length:
                break
            self._message += received[body : body + length]
            self._next_record = body + length
            hello = self._complete()
            if hello is not None:
                return hello
        if len(received) > MAX_RECEIVED:
            raise HelloError(HelloFault.OVERSIZED, "not complete in time", _ILLEGAL_PARAMETER)
        return None

    def _complete(self) -> ClientHello | None:
        message = self._message
        if len(message) < _MESSAGE_HEADER:
            return None
        length = int.from_bytes(message[1:4])
        if length > MAX_MESSAGE:
            raise HelloError(HelloFault.OVERSIZED, f"{length} bytes", _ILLEGAL_PARAMETER)
        end = _MESSAGE_HEADER + length
        if len(message) < end:
            return None
        if len(message) > end:
            # Whatever follows in the same record would be handshake data before we answered.
            raise _malformed("more behind it in its record", _UNEXPECTED_MESSAGE)
        try:
            return _parse(bytes(message[_MESSAGE_HEADER:end]))
        except IndexError:
            raise _malformed("a length that exceeds it", _DECODE_ERROR) from None


def _check_not_tls(received: bytearray) -> None:
    """Raises HelloError that says what the bytes are; returns while they may still become something known."""
    if _HTTP.match(received):
        raise HelloError(HelloFault.PLAIN_HTTP)
    if _HTTP_SO_FAR.match(received):
        return
    if received[0] & 0x80:
        # RFC 5246 appendix E.2: two bytes of length with the high bit set, then message type 1.
        if len(received) < 3:
            return
        if received[2] == _CLIENT_HELLO:
            raise HelloError(HelloFault.SSLV2, alert=_PROTOCOL_VERSION)
    raise HelloError(HelloFault.GARBAGE)


def _malformed(detail: str, alert: int) -> HelloError:
    return HelloError(HelloFault.MALFORMED, detail, alert)


class _Vector:
    """Reads the length-prefixed vectors of RFC 8446 section 3.4. Raises IndexError past the end."""

    __slots__ = ("_data", "_end", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self._end = len(data)

    def __bool__(self) -> bool:
        return self._position < self._end

    def take(self, count: int) -> bytes:
        start = self._position
        end = start + count
        if end > self._end:
            raise IndexError
        self._position = end
        return self._data[start:end]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, size: int) -> bytes:
        return self.take(int.from_bytes(self.take(size)))


def _parse(body: bytes) -> ClientHello:
    """RFC 8446 section 4.1.2, which is RFC 5246 section 7.4.1.2 with other names."""
    hello = _Vector(body)
    legacy_version = hello.number(2)
    if legacy_version >> 8 != 3:
        raise _malformed(f"version {legacy_version:#06x}", _PROTOCOL_VERSION)
    hello.take(32)  # random
    session_id = hello.vector(1)  # legacy_session_id
    if len(session_id) > 32:
        raise _malformed("a session id longer than 32 bytes", _DECODE_ERROR)
    suites = hello.vector(2)
    if not suites or len(suites) % 2:
        raise _malformed("cipher suites", _DECODE_ERROR)
    if not hello.vector(1):  # legacy_compression_methods
        raise _malformed("no compression method", _DECODE_ERROR)
    extensions = _extensions(hello.vector(2)) if hello else {}  # RFC 5246 allows a hello that ends before them
    if hello:
        raise _malformed("bytes behind the extensions", _DECODE_ERROR)
    versions = _versions(extensions[_SUPPORTED_VERSIONS]) if _SUPPORTED_VERSIONS in extensions else (legacy_version,)
    return ClientHello(
        _server_name(extensions[_SERVER_NAME]) if _SERVER_NAME in extensions else "",
        _alpn(extensions[_ALPN]) if _ALPN in extensions else (),
        versions,
        _groups(extensions[_SUPPORTED_GROUPS]) if _SUPPORTED_GROUPS in extensions else (),
        _shares(extensions[_KEY_SHARE]) if _KEY_SHARE in extensions else (),
        # With TLS 1.3 the session ID is a random one of the compatibility mode (RFC 8446 appendix D.4).
        _PRE_SHARED_KEY in extensions
        or bool(extensions.get(_SESSION_TICKET))
        or (bool(session_id) and _TLS_1_3 not in versions),
    )


def _extensions(block: bytes) -> dict[int, bytes]:
    """By type. Without `_Vector`: a hello has a dozen or two of them, which made half of a handshake's Python calls."""
    found: dict[int, bytes] = {}
    at, end = 0, len(block)
    while at < end:
        kind = block[at] << 8 | block[at + 1]
        start = at + 4
        at = start + (block[at + 2] << 8 | block[at + 3])
        if kind in found:
            # RFC 8446 section 4.2: no two extensions of one type.
            raise _malformed(f"extension {kind} twice", _ILLEGAL_PARAMETER)
        found[kind] = block[start:at]
    if at != end:
        raise IndexError
    return found


def _whole(content: bytes, size: int) -> _Vector:
    """An extension that is one vector and nothing behind it, not empty."""
    outer = _Vector(content)
    inner = outer.vector(size)
    if outer or not inner:
        raise _malformed("an extension's length", _DECODE_ERROR)
    return _Vector(inner)


# Most clients of a site send one of a few of each of these.


@lru_cache(maxsize=_REMEMBERED)
def _server_name(content: bytes) -> str:
    """RFC 6066 section 3. Stricter: exactly one entry, because that is all that anybody sends or OpenSSL accepts."""
    names = _whole(content, 2)
    kind, name = names.number(1), names.vector(2)
    if names or kind != 0:
        raise _malformed("server_name", _DECODE_ERROR)
    if not _NAME.fullmatch(name):
        raise _malformed(f"server name {name[:64]!r}", _ILLEGAL_PARAMETER)
    return name.decode("ascii").lower()


@lru_cache(maxsize=_REMEMBERED)
def _alpn(content: bytes) -> tuple[str, ...]:
    """RFC 7301 section 3.1."""
    protocols, found = _whole(content, 2), []
    while protocols:
        protocol = protocols.vector(1)
        if not protocol:
            raise _malformed("an empty ALPN protocol", _DECODE_ERROR)
        found.append(protocol.decode("latin-1"))
    return tuple(found)


@lru_cache(maxsize=_REMEMBERED)
def _versions(content: bytes) -> tuple[int, ...]:
    """RFC 8446 section 4.2.1."""
    versions, found = _whole(content, 1), []
    while versions:
        found.append(versions.number(2))
    return tuple(found)


@lru_cache(maxsize=_REMEMBERED)
def _groups(content: bytes) -> tuple[int, ...]:
    """RFC 8446 section 4.2.7."""
    groups, found = _whole(content, 2), []
    while groups:
        found.append(groups.number(2))
    return tuple(found)


def _shares(content: bytes) -> tuple[int, ...]:
    """RFC 8446 section 4.2.8: the groups of the keys, which differ each time; none asks the server to choose."""
    shares = _Vector(content)
    entries, found = _Vector(shares.vector(2)), []
    if shares:
        raise _malformed("key_share", _DECODE_ERROR)
    while entries:
        found.append(entries.number(2))
        entries.vector(2)
    return tuple(found)
