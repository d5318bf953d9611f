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
import struct
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
_SIGNATURE_ALGORITHMS = 13  # RFC 8446 section 4.2.3
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
    cipher_suites: bytes = b""  #: two octets each, as on the wire
    signature_algorithms: bytes = b""  #: the extension, as on the wire and unchecked: see `signature_schemes`


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


def _parse(body: bytes) -> ClientHello:
    """RFC 8446 section 4.1.2, which is RFC 5246 section 7.4.1.2 with other names. Raises IndexError where it
    ends early.

    Straight on, without helpers: every handshake comes by here, and a call for each of its vectors (RFC 8446 section
    3.4) was a third of the time.
    """
    legacy_version = body[0] << 8 | body[1]
    if body[0] != 3:
        raise _malformed(f"version {legacy_version:#06x}", _PROTOCOL_VERSION)
    session_id = body[34]  # the length of legacy_session_id, behind 32 octets of random
    if session_id > 32:
        raise _malformed("a session id longer than 32 bytes", _DECODE_ERROR)
    at = 37 + session_id
    suites = body[at - 2] << 8 | body[at - 1]
    if not suites or suites % 2:
        raise _malformed("cipher suites", _DECODE_ERROR)
    cipher_suites = body[at : at + suites]
    at += suites
    if not body[at]:  # legacy_compression_methods
        raise _malformed("no compression method", _DECODE_ERROR)
    at += 1 + body[at]
    extensions: dict[int, bytes] = {}
    if at != len(body):  # RFC 5246 allows a hello that ends before them
        block = at + 2
        at = block + (body[at] << 8 | body[at + 1])
        if at > len(body):
            raise IndexError
        extensions = _extensions(body[block:at])
        if at < len(body):
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
        cipher_suites,
        extensions.get(_SIGNATURE_ALGORITHMS, b""),
    )


def _extensions(block: bytes) -> dict[int, bytes]:
    """By type."""
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


def _whole(content: bytes, size: int) -> bytes:
    """An extension that is one vector and nothing behind it, not empty; `size` is that of its length."""
    if len(content) <= size or len(content) - size != int.from_bytes(content[:size]):
        raise _malformed("an extension's length", _DECODE_ERROR)
    return content[size:]


def _numbers(octets: bytes) -> tuple[int, ...]:
    """Of 16 bits each."""
    if len(octets) % 2:
        raise IndexError
    return struct.unpack(f"!{len(octets) // 2}H", octets)


# Most clients of a site send one of a few of each of these.


@lru_cache(maxsize=_REMEMBERED)
def _server_name(content: bytes) -> str:
    """RFC 6066 section 3. Stricter: exactly one entry, because that is all that anybody sends or OpenSSL accepts."""
    names = _whole(content, 2)
    length = names[1] << 8 | names[2]
    if len(names) != 3 + length or names[0] != 0:
        raise _malformed("server_name", _DECODE_ERROR)
    name = names[3:]
    if not _NAME.fullmatch(name):
        raise _malformed(f"server name {name[:64]!r}", _ILLEGAL_PARAMETER)
    return name.decode("ascii").lower()


@lru_cache(maxsize=_REMEMBERED)
def _alpn(content: bytes) -> tuple[str, ...]:
    """RFC 7301 section 3.1."""
    protocols, found = _whole(content, 2), []
    at, end = 0, len(protocols)
    while at < end:
        start = at + 1
        at = start + protocols[at]
        if at == start:
            raise _malformed("an empty ALPN protocol", _DECODE_ERROR)
        found.append(protocols[start:at].decode("latin-1"))
    if at != end:
        raise IndexError
    return tuple(found)


@lru_cache(maxsize=_REMEMBERED)
def _versions(content: bytes) -> tuple[int, ...]:
    """RFC 8446 section 4.2.1."""
    return _numbers(_whole(content, 1))


@lru_cache(maxsize=_REMEMBERED)
def _groups(content: bytes) -> tuple[int, ...]:
    """RFC 8446 section 4.2.7."""
    return _numbers(_whole(content, 2))


@lru_cache(maxsize=_REMEMBERED)
def signature_schemes(content: bytes) -> frozenset[int]:
    """RFC 8446 section 4.2.3, of `ClientHello.signature_algorithms`; none where it is damaged: OpenSSL refuses
    that."""
    if len(content) < 2 or len(content) % 2 or len(content) - 2 != content[0] << 8 | content[1]:
        return frozenset()
    return frozenset(_numbers(content[2:]))


def _shares(content: bytes) -> tuple[int, ...]:
    """RFC 8446 section 4.2.8: the groups of the keys, which differ each time; none asks the server to choose."""
    end = 2 + (content[0] << 8 | content[1])
    if end != len(content):
        raise _malformed("key_share", _DECODE_ERROR)
    at, found = 2, []
    while at < end:
        found.append(content[at] << 8 | content[at + 1])
        at += 4 + (content[at + 2] << 8 | content[at + 3])
    if at != end:
        raise IndexError
    return tuple(found)
