"""The PROXY protocol's headers octet by octet: what is read, what is refused and why, and that nothing beyond is."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iocproxy.errors import ProxyHeaderFailure
from iocproxy.proxy_protocol import (
    MAX_LENGTH,
    MAX_LINE,
    SIGNATURE,
    Addresses,
    HeaderReader,
    ProxyHeaderError,
    crc32c,
    header_block,
    header_line,
)

V4 = b"\xc0\x00\x02\x01\xc6\x33\x64\x07\x30\x39\x01\xbb"
V6 = bytes.fromhex("20010db8000000000000000000000001 20010db8000000000000000000000002") + b"\x30\x39\x01\xbb"
MAPPED = (bytes(10) + b"\xff\xff\xc0\x00\x02\x01") + (bytes(10) + b"\xff\xff\xc6\x33\x64\x07") + b"\x30\x39\x01\xbb"
NAMED4 = Addresses("192.0.2.1", 12345, "198.51.100.7", 443)
NAMED6 = Addresses("2001:db8::1", 12345, "2001:db8::2", 443)


def block(family: int, body: bytes, command: int = 0x21, length: int | None = None) -> bytes:
    return SIGNATURE + bytes((command, family)) + (len(body) if length is None else length).to_bytes(2, "big") + body


def summed(body: bytes, family: int = 0x11) -> bytes:
    """With a right checksum at the end."""
    header = block(family, body + b"\x03\x00\x04\0\0\0\0")
    return header[:-4] + crc32c(header).to_bytes(4, "big")


#: A PP2_TYPE_NOOP that makes the header as long as may be.
FILLED = b"\x04" + (MAX_LENGTH - 15).to_bytes(2, "big") + bytes(MAX_LENGTH - 15)

GOOD = {
    "v4 line": (b"PROXY TCP4 192.0.2.1 198.51.100.7 12345 443\r\n", NAMED4),
    "v6 line": (b"PROXY TCP6 2001:db8::1 2001:db8::2 12345 443\r\n", NAMED6),
    "v6 line, long": (b"PROXY TCP6 2001:0DB8:0000:0000:0000:0000:0000:0001 2001:db8::2 12345 443\r\n", NAMED6),
    "mapped line": (b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.7 12345 443\r\n", NAMED4),
    "half mapped": (
        b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 0 65535\r\n",
        Addresses("192.0.2.1", 0, "2001:db8::2", 65535),
    ),
    "unknown": (b"PROXY UNKNOWN\r\n", None),
    "unknown with words": (b"PROXY UNKNOWN ffff:: 1.2.3.4 66000  x\r\n", None),
    "the longest": (
        b"PROXY UNKNOWN " + b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff " * 2 + b"65535 65535\r\n",
        None,
    ),
    "v4 block": (block(0x11, V4), NAMED4),
    "v6 block": (block(0x21, V6), NAMED6),
    "mapped block": (block(0x21, MAPPED), NAMED4),
    "unix": (block(0x31, bytes(216)), None),
    "unspecified": (block(0x00, b""), None),
    "unspecified, with something": (block(0x00, b"\xff" * 50), None),
    "local": (block(0x00, b"", 0x20), None),
    "local, with addresses": (block(0x11, V4, 0x20), None),
    "local, of a family nobody knows": (block(0xFF, b"any", 0x20), None),
    "TLVs": (block(0x11, V4 + b"\x01\x00\x02h2\xe0\x00\x00\x04\x00\x03\0\0\0"), NAMED4),
    "checksum": (summed(V4), NAMED4),
    "checksum among others": (summed(V4 + b"\x02\x00\x04host"), NAMED4),
    "as long as may be": (block(0x11, V4 + FILLED), NAMED4),
}

BAD = {
    "nothing of the kind": (b"GET / HTTP/1.1\r\n\r\n", "not_proxy", 1),
    "a ClientHello": (b"\x16\x03\x01\x02\x00\x01", "not_proxy", 1),
    "small letters": (b"proxy TCP4", "not_proxy", 1),
    "no blank": (b"PROXY\tTCP4", "not_proxy", 6),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "not_proxy", 3),
    "an empty line first": (b"\r\nPROXY TCP4", "not_proxy", 3),
    "a damaged signature": (b"\r\n\r\n\0\r\nQUIT\r", "not_proxy", 12),
    "another protocol": (b"PROXY UDP4 192.0.2.1 198.51.100.7 1 2\r\n", "unsupported", None),
    "no protocol": (b"PROXY \r\n", "unsupported", None),
    "TCP alone": (b"PROXY TCP 192.0.2.1 198.51.100.7 1 2\r\n", "unsupported", None),
    "unknown in small letters": (b"PROXY unknown\r\n", "unsupported", None),
    "no addresses": (b"PROXY TCP4\r\n", "malformed", None),
    "a word too few": (b"PROXY TCP4 192.0.2.1 198.51.100.7 1\r\n", "malformed", None),
    "a word too many": (b"PROXY TCP4 192.0.2.1 198.51.100.7 1 2 3\r\n", "malformed", None),
    "two blanks": (b"PROXY TCP4  192.0.2.1 198.51.100.7 1 2\r\n", "malformed", None),
    "a blank at the end": (b"PROXY TCP4 192.0.2.1 198.51.100.7 1 2 \r\n", "malformed", None),
    "a tab": (b"PROXY TCP4 192.0.2.1\t198.51.100.7 1 2\r\n", "malformed", 21),
    "NUL": (b"PROXY TCP4 192.0.2.1\x00 198.51.100.7 1 2\r\n", "malformed", 21),
    "beyond ASCII": (b"PROXY UNKNOWN \xff\r\n", "malformed", 15),
    "LF alone": (b"PROXY TCP4 192.0.2.1 198.51.100.7 1 2\n", "malformed", 38),
    "CR alone": (b"PROXY TCP4 192.0.2.1 198.51.100.7 1 2\rG", "malformed", 39),
    "a port with zeros": (b"PROXY TCP4 192.0.2.1 198.51.100.7 01 2\r\n", "malformed", None),
    "a port with a sign": (b"PROXY TCP4 192.0.2.1 198.51.100.7 +1 2\r\n", "malformed", None),
    "a port beyond all": (b"PROXY TCP4 192.0.2.1 198.51.100.7 1 65536\r\n", "malformed", None),
    "no port": (b"PROXY TCP4 192.0.2.1 198.51.100.7  2\r\n", "malformed", None),
    "an address with zeros": (b"PROXY TCP4 192.0.02.1 198.51.100.7 1 2\r\n", "malformed", None),
    "an address too short": (b"PROXY TCP4 192.0.2 198.51.100.7 1 2\r\n", "malformed", None),
    "an address too large": (b"PROXY TCP4 192.0.2.256 198.51.100.7 1 2\r\n", "malformed", None),
    "a name": (b"PROXY TCP4 localhost 198.51.100.7 1 2\r\n", "malformed", None),
    "IPv6 for TCP4": (b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n", "malformed", None),
    "IPv4 for TCP6": (b"PROXY TCP6 192.0.2.1 198.51.100.7 1 2\r\n", "malformed", None),
    "a scope": (b"PROXY TCP6 fe80::1%eth0 2001:db8::2 1 2\r\n", "malformed", None),
    "brackets": (b"PROXY TCP6 [2001:db8::1] 2001:db8::2 1 2\r\n", "malformed", None),
    "a line too long": (b"PROXY UNKNOWN " + b"x" * (MAX_LINE - 15) + b"\r\n", "too_long", MAX_LINE),
    "a line without an end": (b"PROXY UNKNOWN " + b"x" * 1000, "too_long", MAX_LINE),
    "version 1 in binary": (SIGNATURE + b"\x11\x11\0\x0c" + V4, "unsupported", 13),
    "version 3": (SIGNATURE + b"\x31\x11\0\x0c" + V4, "unsupported", 13),
    "an unknown command": (block(0x11, V4, 0x22), "unsupported", 13),
    "datagrams": (block(0x12, V4), "unsupported", 14),
    "datagrams of IPv6": (block(0x22, V6), "unsupported", 14),
    "an unknown family": (block(0x41, V4), "unsupported", 14),
    "an unknown transport": (block(0x10, V4), "unsupported", 14),
    "a family without one": (block(0x01, b""), "unsupported", 14),
    "too much announced": (block(0x11, V4, length=MAX_LENGTH + 1), "too_long", 16),
    "too much of LOCAL": (block(0x00, b"", 0x20, length=0xFFFF), "too_long", 16),
    "too short for its addresses": (block(0x11, V4[:-1]), "malformed", 16),
    "IPv4 as IPv6": (block(0x21, V4), "malformed", 16),
    "half a TLV": (block(0x11, V4 + b"\x01\x00"), "malformed", None),
    "a TLV that reaches beyond": (block(0x11, V4 + b"\x01\x00\x03h2"), "malformed", None),
    "a wrong checksum": (block(0x11, V4 + b"\x03\x00\x04\0\0\0\0"), "checksum", None),
    "a short checksum": (block(0x11, V4 + b"\x03\x00\x03\0\0\0"), "malformed", None),
    "two checksums": (summed(V4 + b"\x03\x00\x04\0\0\0\0"), "checksum", None),
}

good = pytest.mark.parametrize(("wire", "named"), GOOD.values(), ids=GOOD)


@good
@pytest.mark.parametrize("rest", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\r\n", b"PROXY UNKNOWN\r\n", b"\x16\x03\x01"])
def test_a_header_is_read_to_its_end_and_not_an_octet_further(
    wire: bytes, named: Addresses | None, rest: bytes
) -> None:
    assert HeaderReader().feed(wire + rest) == (named, rest)


@good
def test_a_header_is_read_octet_by_octet(wire: bytes, named: Addresses | None) -> None:
    reader = HeaderReader()
    for at in range(len(wire) - 1):
        assert reader.feed(wire[at : at + 1]) is None
    assert reader.feed(wire[-1:] + b"rest") == (named, b"rest")


def outcome(pieces: list[bytes]) -> tuple[object, int] | None:
    """What a reader makes of them, and after how many octets: the failure, or the addresses with what is behind them
    taken off; None if it asks for more."""
    reader, fed = HeaderReader(), 0
    for piece in pieces:
        fed += len(piece)
        try:
            read = reader.feed(piece)
        except ProxyHeaderError as error:
            return error.failure, fed
        if read is not None:
            assert b"".join(pieces)[:fed].endswith(read[1])
            return read[0], fed - len(read[1])
    return None


@pytest.mark.parametrize(("wire", "failure", "at"), BAD.values(), ids=BAD)
def test_what_is_no_header_is_refused_as_soon_as_that_is_plain(wire: bytes, failure: str, at: int | None) -> None:
    """After `at` octets, or else when the header is complete."""
    with pytest.raises(ProxyHeaderError) as whole:
        HeaderReader().feed(wire)
    assert whole.value.failure == failure
    assert outcome([wire[octet : octet + 1] for octet in range(len(wire))]) == (
        failure,
        len(wire) if at is None else at,
    )


def test_the_checksum_is_crc32c() -> None:
    """RFC 3720 appendix B.4, and the usual check value."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43


@pytest.mark.parametrize(
    ("addresses", "line", "octets"),
    [
        (NAMED4, b"PROXY TCP4 192.0.2.1 198.51.100.7 12345 443\r\n", block(0x11, V4)),
        (NAMED6, b"PROXY TCP6 2001:db8::1 2001:db8::2 12345 443\r\n", block(0x21, V6)),
        # one family for both: IPv4 is mapped (section 2.1)
        (
            Addresses("192.0.2.1", 0, "2001:db8::2", 443),
            b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 0 443\r\n",
            block(0x21, MAPPED[:16] + V6[16:32] + b"\0\0\x01\xbb"),
        ),
        (
            Addresses("2001:db8::1", 1, "198.51.100.7", 443),
            b"PROXY TCP6 2001:db8::1 ::ffff:198.51.100.7 1 443\r\n",
            block(0x21, V6[:16] + MAPPED[16:32] + b"\0\x01\x01\xbb"),
        ),
        (Addresses("::ffff:192.0.2.1", 12345, "198.51.100.7", 443), GOOD["v4 line"][0], block(0x11, V4)),
        (Addresses("nobody", 1, "198.51.100.7", 443), b"PROXY UNKNOWN\r\n", block(0x00, b"")),
        (Addresses("", 1, "198.51.100.7", 443), b"PROXY UNKNOWN\r\n", block(0x00, b"")),
    ],
)
def test_what_goes_out(addresses: Addresses, line: bytes, octets: bytes) -> None:
    assert header_line(addresses) == line
    assert header_block(addresses) == octets


ADDRESSES = st.builds(
    lambda source, source_port, destination, destination_port: Addresses(
        str(source), source_port, str(destination), destination_port
    ),
    st.ip_addresses(),
    st.integers(0, 65535),
    st.ip_addresses(),
    st.integers(0, 65535),
)


def unmapped(address: str) -> str:
    parsed = ipaddress.ip_address(address)
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


@given(ADDRESSES, st.binary(max_size=40))
def test_each_reads_what_the_other_writes(addresses: Addresses, rest: bytes) -> None:
    said = Addresses(
        unmapped(addresses.source), addresses.source_port, unmapped(addresses.destination), addresses.destination_port
    )
    for header in (header_line(addresses), header_block(addresses)):
        assert HeaderReader().feed(header + rest) == (said, rest)
    assert len(header_line(addresses)) <= MAX_LINE


SEEDS = st.sampled_from([wire for wire, _ in GOOD.values()] + [wire for wire, _, _ in BAD.values()])


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    wire = bytearray(draw(SEEDS))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(wire)))
        match draw(st.sampled_from(["insert", "delete", "set"])):
            case "insert":
                wire[at:at] = draw(st.binary(min_size=1, max_size=4))
            case "delete":
                del wire[at : at + draw(st.integers(1, 4))]
            case "set" if at < len(wire):
                wire[at] = draw(st.integers(0, 255))
            case _:
                pass
    return bytes(wire)


@given(st.one_of(damaged(), st.binary(max_size=300)))
def test_whatever_comes_the_outcome_is_the_same_in_any_pieces(wire: bytes) -> None:
    whole, piecemeal = outcome([wire]), outcome([wire[at : at + 1] for at in range(len(wire))])
    if whole is not None and piecemeal is not None and isinstance(whole[0], ProxyHeaderFailure):
        assert whole[0] == piecemeal[0]
    else:
        assert whole == piecemeal
