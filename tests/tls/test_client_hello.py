"""The ClientHello reader, byte by byte. Literals follow RFC 8446 sections 4.1.2 and 5.1, RFC 6066 section 3."""

from __future__ import annotations

import ssl

import pytest

from iocproxy.tls.client_hello import (
    MAX_MESSAGE,
    MAX_RECEIVED,
    ClientHello,
    ClientHelloReader,
    HelloError,
    HelloFault,
)

RANDOM = bytes(range(32))
SERVER_NAME = b"\x00\x00\x00\x10\x00\x0e\x00\x00\x0bExample.com"
ALPN = b"\x00\x10\x00\x0e\x00\x0c\x02h2\x08http/1.1"
VERSIONS = b"\x00\x2b\x00\x07\x06\x7a\x7a\x03\x04\x03\x03"
SUITES = b"\x13\x01\xc0\x2b"
UNKNOWN = b"\xff\x01\x00\x01\x00"
BEGINNING = b"\x03\x03" + RANDOM + b"\x00" + b"\x00\x04" + SUITES + b"\x01\x00"
EXPECTED = ClientHello("example.com", ("h2", "http/1.1"), (0x7A7A, 0x0304, 0x0303), cipher_suites=SUITES)


def body(*extensions: bytes, beginning: bytes = BEGINNING) -> bytes:
    joined = b"".join(extensions)
    return beginning + len(joined).to_bytes(2) + joined


def message(content: bytes) -> bytes:
    return b"\x01" + len(content).to_bytes(3) + content


def record(fragment: bytes) -> bytes:
    return b"\x16\x03\x01" + len(fragment).to_bytes(2) + fragment


HELLO = message(body(SERVER_NAME, UNKNOWN, ALPN, VERSIONS))
WIRE = record(HELLO)


def read(*pieces: bytes) -> ClientHello | None:
    """Feed the pieces; all but the last must not be enough."""
    reader = ClientHelloReader()
    for piece in pieces[:-1]:
        assert reader.feed(piece) is None
    hello = reader.feed(pieces[-1])
    assert bytes(reader.received) == b"".join(pieces)
    return hello


def test_whole() -> None:
    assert read(WIRE) == EXPECTED


def test_the_literal_is_what_it_says() -> None:
    # One hello spelled out, so that the builders above cannot hide a mistake.
    wire = bytes.fromhex(
        "16030100450100004103030001020304050607"
        "08090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
        "00000213010100"
        "0016"
        "00000012001000000d6c6f63616c686f73742e6c616e"
    )
    assert read(wire) == ClientHello("localhost.lan", (), (0x0303,), cipher_suites=b"\x13\x01")


def test_byte_by_byte() -> None:
    assert read(*(bytes((octet,)) for octet in WIRE)) == EXPECTED


@pytest.mark.parametrize("cut", range(1, len(WIRE)))
def test_split_everywhere(cut: int) -> None:
    assert read(WIRE[:cut], WIRE[cut:]) == EXPECTED


@pytest.mark.parametrize("cut", range(1, len(HELLO)))
def test_two_records_split_everywhere(cut: int) -> None:
    assert read(record(HELLO[:cut]) + record(HELLO[cut:])) == EXPECTED


def test_a_record_for_each_byte() -> None:
    wire = b"".join(record(bytes((octet,))) for octet in HELLO)
    assert read(wire) == EXPECTED
    assert read(*(bytes((octet,)) for octet in wire)) == EXPECTED


def test_bytes_behind_it_are_kept_and_not_looked_at() -> None:
    # A TLS 1.3 client may follow with change_cipher_spec and early data (RFC 8446 appendix D.4).
    assert read(WIRE + b"\x14\x03\x03\x00\x01\x01" + b"\xff" * 100_000) == EXPECTED


def test_nothing_is_not_enough() -> None:
    assert ClientHelloReader().feed(b"") is None


def test_a_hello_without_extensions() -> None:
    assert read(record(message(BEGINNING))) == ClientHello("", (), (0x0303,), cipher_suites=SUITES)


def test_no_name_no_alpn() -> None:
    assert read(record(message(body(VERSIONS)))) == EXPECTED._replace(server_name="", alpn=())


@pytest.mark.parametrize("name", ["localhost", "xn--bcher-kva.example", "a." * 60 + "test"])
def test_what_openssl_sends(name: str) -> None:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    hello = read(outgoing.read())
    assert hello is not None
    assert hello[:3] == (name, ("http/1.1",), (0x0304, 0x0303))
    assert {0x001D, 0x0017} <= set(hello.groups)  # X25519, P-256
    assert set(hello.shares) <= set(hello.groups)
    assert hello.shares
    assert not hello.offers_session


GROUPS = b"\x00\x0a\x00\x0a\x00\x08\x5a\x5a\x00\x1d\x00\x17\x01\x00"
SHARES = b"\x00\x33\x00\x0e\x00\x0c\x5a\x5a\x00\x01\x00\x00\x1d\x00\x03key"


def test_groups_and_keys() -> None:
    hello = read(record(message(body(VERSIONS, GROUPS, SHARES))))
    assert hello is not None
    assert hello.groups == (0x5A5A, 0x001D, 0x0017, 0x0100)
    assert hello.shares == (0x5A5A, 0x001D)


def test_a_hello_may_leave_the_group_to_the_server() -> None:
    """RFC 8446 section 4.2.8: an empty vector of keys asks for a HelloRetryRequest."""
    hello = read(record(message(body(VERSIONS, GROUPS, b"\x00\x33\x00\x02\x00\x00"))))
    assert hello is not None
    assert hello.shares == ()


SESSION_ID = b"\x03\x03" + RANDOM + b"\x20" + bytes(32) + b"\x00\x04\x13\x01\xc0\x2b" + b"\x01\x00"
OLD_VERSIONS = b"\x00\x2b\x00\x03\x02\x03\x03"


@pytest.mark.parametrize(
    ("content", "offers"),
    [
        (body(VERSIONS), False),
        (body(VERSIONS, beginning=SESSION_ID), False),  # of the compatibility mode
        (body(VERSIONS, b"\x00\x23\x00\x00", beginning=SESSION_ID), False),  # wants a ticket, has none
        (body(VERSIONS, b"\x00\x29\x00\x01x", beginning=SESSION_ID), True),
        (body(VERSIONS, b"\x00\x23\x00\x06ticket"), True),
        (body(OLD_VERSIONS, beginning=SESSION_ID), True),
        (body(beginning=SESSION_ID), True),
        (body(OLD_VERSIONS), False),
    ],
)
def test_whether_a_session_would_be_taken_up(content: bytes, offers: bool) -> None:
    hello = read(record(message(content)))
    assert hello is not None
    assert hello.offers_session is offers


@pytest.mark.parametrize(
    "extension",
    [
        b"\x00\x0a\x00\x02\x00\x00",  # no group at all
        b"\x00\x0a\x00\x03\x00\x01\x00",  # half a group
        b"\x00\x0a\x00\x05\x00\x02\x00\x1d\x00",  # one octet too many
        b"\x00\x33\x00\x00",
        b"\x00\x33\x00\x03\x00\x00\x00",
        b"\x00\x33\x00\x08\x00\x06\x00\x1d\x00\x03ke",
        b"\x00\x33\x00\x03\x00\x01\x00",
    ],
)
def test_malformed_groups_and_keys(extension: bytes) -> None:
    reader = ClientHelloReader()
    with pytest.raises(HelloError) as caught:
        reader.feed(record(message(body(VERSIONS, extension))))
    assert caught.value.fault is HelloFault.MALFORMED
    assert caught.value.alert == alert(50)


def alert(code: int) -> bytes:
    return b"\x15\x03\x01\x00\x02\x02" + bytes((code,))


def hello_with(*extensions: bytes) -> bytes:
    return record(message(body(*extensions)))


BIG = MAX_MESSAGE + 1

FAULTS = [
    (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", HelloFault.PLAIN_HTTP, b""),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", HelloFault.PLAIN_HTTP, b""),
    (b"GETGETGETGETGETGETGETGET / HTTP/1.1\r\n", HelloFault.GARBAGE, b""),
    (b"GET/ HTTP/1.1\r\n", HelloFault.GARBAGE, b""),
    (b"SSH-2.0-OpenSSH_9.2\r\n", HelloFault.GARBAGE, b""),
    (b"\x00\x00\x00\x00", HelloFault.GARBAGE, b""),
    (b"\x15\x03\x01\x00\x02\x02\x28", HelloFault.GARBAGE, b""),
    (b"\x16\x02\x00\x00\x10", HelloFault.GARBAGE, b""),
    # RFC 5246 appendix E.2: an SSLv2 CLIENT-HELLO of 46 bytes that offers 3.1
    (b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10", HelloFault.SSLV2, alert(70)),
    (b"\x80\x2e\x02\x03\x01", HelloFault.GARBAGE, b""),
    (b"\x16\x03\x01\x00\x00", HelloFault.MALFORMED, alert(10)),
    (b"\x16\x03\x01\x40\x01\x01", HelloFault.OVERSIZED, alert(22)),
    (b"\x16\x03\x01\x00\x04\x02", HelloFault.MALFORMED, alert(10)),
    (record(HELLO[:50]) + b"\x17\x03\x03\x00\x01\x00", HelloFault.MALFORMED, alert(10)),
    (record(b"\x01" + BIG.to_bytes(3)), HelloFault.OVERSIZED, alert(47)),
    (record(b"\x01\xff\xff\xff"), HelloFault.OVERSIZED, alert(47)),
    (record(HELLO + b"\x00"), HelloFault.MALFORMED, alert(10)),
    (record(message(b"\x02" + BEGINNING[1:])), HelloFault.MALFORMED, alert(70)),
    (record(message(b"\x03\x03" + RANDOM + b"\x21" + bytes(33) + BEGINNING[35:])), HelloFault.MALFORMED, alert(50)),
    (record(message(b"\x03\x03" + RANDOM + b"\x00\x00\x00\x01\x00")), HelloFault.MALFORMED, alert(50)),
    (record(message(b"\x03\x03" + RANDOM + b"\x00\x00\x03abc\x01\x00")), HelloFault.MALFORMED, alert(50)),
    (record(message(b"\x03\x03" + RANDOM + b"\x00\x00\x02\x13\x01\x00")), HelloFault.MALFORMED, alert(50)),
    (record(message(b"\x03\x03" + RANDOM + b"\x00\x00\x02\x13")), HelloFault.MALFORMED, alert(50)),
    (record(message(body(VERSIONS) + b"\x00")), HelloFault.MALFORMED, alert(50)),
    (hello_with(VERSIONS, VERSIONS), HelloFault.MALFORMED, alert(47)),
    (hello_with(b"\x00\x00\x00\x00"), HelloFault.MALFORMED, alert(50)),
    (hello_with(b"\x00\x00\x00\x02\x00\x00"), HelloFault.MALFORMED, alert(50)),
    (hello_with(b"\x00\x00\x00\x05\x00\x03\x00\x00\x00"), HelloFault.MALFORMED, alert(47)),
    (hello_with(b"\x00\x00\x00\x06\x00\x04\x01\x00\x01a"), HelloFault.MALFORMED, alert(50)),
    (hello_with(b"\x00\x00\x00\x06\x00\x04\x00\x00\x01\x00"), HelloFault.MALFORMED, alert(47)),
    (hello_with(b"\x00\x00\x00\x06\x00\x04\x00\x00\x01\xe9"), HelloFault.MALFORMED, alert(47)),
    (hello_with(b"\x00\x00\x00\x0a\x00\x08\x00\x00\x01a\x00\x00\x01b"), HelloFault.MALFORMED, alert(50)),
    (hello_with(b"\x00\x00\x00\x06\x00\x04\x00\x00\x09a"), HelloFault.MALFORMED, alert(50)),
    (hello_with(b"\x00\x10\x00\x03\x00\x01\x00"), HelloFault.MALFORMED, alert(50)),
    (hello_with(b"\x00\x2b\x00\x04\x03\x03\x04\x03"), HelloFault.MALFORMED, alert(50)),
]


@pytest.mark.parametrize(("wire", "fault", "answer"), FAULTS)
def test_faults(wire: bytes, fault: HelloFault, answer: bytes) -> None:
    for trailing in (b"", b"\x00\xff" * 20):
        reader = ClientHelloReader()
        with pytest.raises(HelloError) as caught:
            reader.feed(wire + trailing)
        assert (caught.value.fault, caught.value.alert) == (fault, answer)


@pytest.mark.parametrize(("wire", "fault", "answer"), FAULTS)
def test_faults_byte_by_byte(wire: bytes, fault: HelloFault, answer: bytes) -> None:
    def feed_each() -> None:
        reader = ClientHelloReader()
        for octet in wire:
            assert reader.feed(bytes((octet,))) is None

    with pytest.raises(HelloError) as caught:
        feed_each()
    assert (caught.value.fault, caught.value.alert) == (fault, answer)


def test_the_longest_hello() -> None:
    room = MAX_MESSAGE - len(body(SERVER_NAME)) - 4
    content = body(SERVER_NAME, b"\xfe\xed" + room.to_bytes(2) + bytes(room))
    assert len(content) == MAX_MESSAGE
    wire = message(content)
    expected = ClientHello("example.com", (), (0x0303,), cipher_suites=SUITES)
    assert read(record(wire[:16384]) + record(wire[16384:])) == expected


def test_a_client_that_cuts_its_hello_too_small_is_bounded() -> None:
    content = message(body(SERVER_NAME, b"\xfe\xed\x20\x00" + bytes(0x2000)))
    wire = b"".join(record(bytes((octet,))) for octet in content)
    assert len(wire) > MAX_RECEIVED
    reader = ClientHelloReader()

    def feed_all() -> None:
        for start in range(0, len(wire), 100):
            reader.feed(wire[start : start + 100])

    with pytest.raises(HelloError) as caught:
        feed_all()
    assert caught.value.fault is HelloFault.OVERSIZED
    assert len(reader.received) <= MAX_RECEIVED + 100
