"""The PROXY protocol of HAProxy, versions 1 and 2: who a connection comes from, said by the proxy in front of it.

https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt; section numbers below are those of this text.

Theory of operation
-------------------
    PREFIX ──"PROXY "────► a line of text ───────┐
       │                                         ├──► complete: the addresses or None, and what follows the header
       └──the signature──► 16 octets, then more ─┘

* The first octets tell the versions apart, and every octet that fits neither is refused as it comes: what follows may
  be a request or a ClientHello of somebody who was not to speak first.
* Nothing is taken from a header before all of it is here, and nothing beyond its end is looked at. A line has at most
  107 octets, and the second version says its length, which is bounded too.
* What two readers could understand differently (leading zeros, two blanks, an IPv4 address for TCP6) is refused, as are
  the transports and families that a listener cannot have got.
* A header may say that it names nobody: UNKNOWN, LOCAL (the proxy's own connections, health checks above all), families
  without an IP address. Then the socket's own addresses are the ones that count, and what else such a header holds is
  skipped unread (section 2.2: "discard the protocol block").
* What goes out is made by the same rules, so that each reads what the other writes.

Pure: octets in, values out; no I/O, no time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from iocproxy.errors import ProxyHeaderFailure

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_TEXT = b"PROXY "

#: A line of version 1 with its CRLF (section 2.1).
MAX_LINE = 107

#: What may follow the 16 octets that a header of version 2 begins with. Certificates may come in TLVs, which senders
#: keep to a few hundred octets; the field itself could announce 64 KiB.
MAX_LENGTH = 4096

_FIXED = len(SIGNATURE) + 4

#: A port in its one spelling, up to 99999.
_PORT = re.compile(rb"0|[1-9][0-9]{0,4}")

#: Octets of the address block, by family and transport (section 2.2); None is for what a listener cannot have got.
_BLOCKS: dict[int, int | None] = {0x00: 0, 0x11: 12, 0x12: None, 0x21: 36, 0x22: None, 0x31: 216, 0x32: None}
_INET, _INET6, _UNIX = 0x11, 0x21, 0x31

#: PP2_TYPE_CRC32C (section 2.2.4)
_CHECKSUM = 0x03


class Addresses(NamedTuple):
    """Who connected, and to what address; an IPv4 address that is mapped into IPv6 is the IPv4 one."""

    source: str
    source_port: int
    destination: str
    destination_port: int


class ProxyHeaderError(Exception):
    """What came is no header that can be used; `failure` is how it is counted, the message says why."""

    def __init__(self, failure: ProxyHeaderFailure, message: str) -> None:
        super().__init__(message)
        self.failure = failure


class HeaderReader:
    """Reads one header. `received` is what there is of it."""

    __slots__ = ("received",)

    def __init__(self) -> None:
        self.received = b""

    def feed(self, data: bytes) -> tuple[Addresses | None, bytes] | None:
        """None while the header is incomplete; else what it says, and the octets of `data` that follow it.

        The addresses are None where the header names nobody. Raises ProxyHeaderError. Not to be called again after
        either.
        """
        received = self.received = self.received + data
        if received.startswith(_TEXT):
            return self._line(received)
        if received.startswith(SIGNATURE):
            return self._block(received)
        if _TEXT.startswith(received) or SIGNATURE.startswith(received):
            return None
        raise ProxyHeaderError(ProxyHeaderFailure.NOT_PROXY, f"no PROXY header: it begins with {received[:12]!r}")

    @staticmethod
    def _line(received: bytes) -> tuple[Addresses | None, bytes] | None:
        line = received[:MAX_LINE]
        end = line.find(b"\r")
        text = line if end < 0 else line[:end]
        if not text.isascii() or not text.decode("ascii").isprintable():
            raise _malformed("a control character or an octet beyond ASCII in the line")
        if end < 0 or end == len(line) - 1:
            if len(line) == MAX_LINE:
                raise ProxyHeaderError(ProxyHeaderFailure.TOO_LONG, f"a line of more than {MAX_LINE} octets")
            return None
        if line[end + 1] != 0x0A:
            raise _malformed("CR without LF")
        return _read_line(text), received[end + 2 :]

    @staticmethod
    def _block(received: bytes) -> tuple[Addresses | None, bytes] | None:
        size = len(received)
        if size < 13:
            return None
        version, command = divmod(received[12], 16)
        if version != 2 or command > 1:
            raise _unsupported(f"version {version}, command {command}")
        if size < 14:
            return None
        family = received[13]
        # Of LOCAL the family is to be ignored with all the rest.
        if command and _BLOCKS.get(family) is None:
            raise _unsupported(f"family and transport {family:#04x}")
        if size < _FIXED:
            return None
        length = int.from_bytes(received[14:16], "big")
        if length > MAX_LENGTH:
            raise ProxyHeaderError(ProxyHeaderFailure.TOO_LONG, f"{length} octets are announced, {MAX_LENGTH} allowed")
        addresses = (_BLOCKS[family] or 0) if command else 0
        if length < addresses:
            raise _malformed(f"{length} octets are announced where the addresses take {addresses}")
        end = _FIXED + length
        if size < end:
            return None
        header, rest = received[:end], received[end:]
        if not command or not addresses:
            return None, rest
        _check_tlvs(header, _FIXED + addresses)
        return _read_block(family, header), rest


def _malformed(why: str) -> ProxyHeaderError:
    return ProxyHeaderError(ProxyHeaderFailure.MALFORMED, why)


def _unsupported(why: str) -> ProxyHeaderError:
    return ProxyHeaderError(ProxyHeaderFailure.UNSUPPORTED, why)


# ── version 1 ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _read_line(line: bytes) -> Addresses | None:
    """From a whole line without its CRLF, ASCII without control characters. Raises ProxyHeaderError."""
    words = line.split(b" ")
    protocol = words[1]
    if protocol == b"UNKNOWN":
        return None  # section 2.1: "the receiver must ignore anything presented before the CRLF"
    if protocol == b"TCP4":
        read: Callable[[bytes], str] = _read_ipv4
    elif protocol == b"TCP6":
        read = _read_ipv6
    else:
        raise _unsupported(f"the protocol {protocol[:20]!r}")
    if len(words) != 6:
        raise _malformed(f"{len(words)} words where 6 have one blank between them")
    return Addresses(read(words[2]), _read_port(words[4]), read(words[3]), _read_port(words[5]))


def _read_ipv4(word: bytes) -> str:
    try:
        return str(IPv4Address(word.decode("ascii")))  # which has no leading zeros, and always four numbers
    except ValueError:
        raise _malformed(f"{word[:50]!r} is no IPv4 address") from None


def _read_ipv6(word: bytes) -> str:
    try:
        address = None if b"%" in word else IPv6Address(word.decode("ascii"))
    except ValueError:
        address = None
    if address is None:
        raise _malformed(f"{word[:50]!r} is no IPv6 address")
    return str(address.ipv4_mapped or address)


def _read_port(word: bytes) -> int:
    if _PORT.fullmatch(word) is None or (port := int(word)) > 65535:
        raise _malformed(f"{word[:20]!r} is no port")
    return port


# ── version 2 ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _read_block(family: int, header: bytes) -> Addresses | None:
    """The addresses of a whole header whose block is as long as its family asks."""
    if family == _UNIX:
        return None  # paths: nobody whom a limit or a log could name
    if family == _INET:
        source, destination = str(IPv4Address(header[16:20])), str(IPv4Address(header[20:24]))
        ports = header[24:28]
    else:
        first, second = IPv6Address(header[16:32]), IPv6Address(header[32:48])
        source, destination = str(first.ipv4_mapped or first), str(second.ipv4_mapped or second)
        ports = header[48:52]
    return Addresses(source, int.from_bytes(ports[:2], "big"), destination, int.from_bytes(ports[2:], "big"))


def _check_tlvs(header: bytes, start: int) -> None:
    """That what follows the addresses is type, length and value again and again, to the very end (section 2.2.1), and
    that a checksum among them is right. Raises ProxyHeaderError."""
    checked = False
    while start < len(header):
        value = start + 3
        if value > len(header):
            raise _malformed("a TLV without its length")
        end = value + int.from_bytes(header[start + 1 : value], "big")
        if end > len(header):
            raise _malformed("a TLV that is longer than the header")
        if header[start] == _CHECKSUM:
            if checked or end - value != 4:
                raise _malformed("a checksum that is not four octets, or a second one")
            checked = True
            if crc32c(header[:value] + b"\0\0\0\0" + header[end:]) != int.from_bytes(header[value:end], "big"):
                raise ProxyHeaderError(ProxyHeaderFailure.CHECKSUM, "the checksum is wrong")
        start = end


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)  # noqa: PLW2901 - Castagnoli's polynomial, reflected
        table.append(value)
    return tuple(table)


_CRC = _crc_table()


def crc32c(data: bytes) -> int:
    """CRC-32C (RFC 3720 section 12.1, appendix B.4)."""
    crc = 0xFFFFFFFF
    for octet in data:
        crc = _CRC[(crc ^ octet) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


# ── what goes out ────────────────────────────────────────────────────────────────────────────────────────────────────

#: For whom no address can be said.
UNKNOWN_LINE = b"PROXY UNKNOWN\r\n"
UNKNOWN_BLOCK = SIGNATURE + b"\x21\x00\x00\x00"


@lru_cache(1024)
def header_line(addresses: Addresses) -> bytes:
    """A header of version 1; where one of the addresses is IPv6, the other is mapped into it. Ports are 0 to 65535.

    What is no address makes it UNKNOWN.
    """
    pair = _one_family(addresses)
    if pair is None:
        return UNKNOWN_LINE
    family, (source, destination) = (b"TCP4" if isinstance(pair[0], IPv4Address) else b"TCP6"), map(_spelled, pair)
    return b"PROXY %b %b %b %d %d\r\n" % (
        family,
        source,
        destination,
        addresses.source_port,
        addresses.destination_port,
    )


@lru_cache(1024)
def header_block(addresses: Addresses) -> bytes:
    """A header of version 2, by the same rules as `header_line`, with the family UNSPEC for what is no address."""
    pair = _one_family(addresses)
    if pair is None:
        return UNKNOWN_BLOCK
    source, destination = pair[0].packed, pair[1].packed
    family, size = (_INET, 12) if len(source) == 4 else (_INET6, 36)
    ports = addresses.source_port.to_bytes(2, "big") + addresses.destination_port.to_bytes(2, "big")
    return SIGNATURE + bytes((0x21, family, 0, size)) + source + destination + ports


def _one_family(addresses: Addresses) -> tuple[IPv4Address, IPv4Address] | tuple[IPv6Address, IPv6Address] | None:
    try:
        source, destination = _parsed(addresses.source), _parsed(addresses.destination)
    except ValueError:
        return None
    if isinstance(source, IPv4Address) and isinstance(destination, IPv4Address):
        return source, destination
    return _as_ipv6(source), _as_ipv6(destination)


def _parsed(address: str) -> IPv4Address | IPv6Address:
    if ":" not in address:
        return IPv4Address(address)
    parsed = IPv6Address(address.partition("%")[0])
    return parsed.ipv4_mapped or parsed


def _as_ipv6(address: IPv4Address | IPv6Address) -> IPv6Address:
    return IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed) if isinstance(address, IPv4Address) else address


def _spelled(address: IPv4Address | IPv6Address) -> bytes:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (f"::ffff:{mapped}" if mapped is not None else str(address)).encode("ascii")
