"""The demo's WebSocket, byte by byte: every literal is fed whole, one octet at a time, and with more behind it."""

from __future__ import annotations

import pytest

from iocproxy.cli.demo.websocket import LARGEST, Echo, accept_key

MASK = b"\x01\x02\x03\x04"


def masked(text):
    return MASK + bytes(octet ^ MASK[index % 4] for index, octet in enumerate(text))


HELLO = b"\x81\x85" + masked(b"hello")

CASES = [
    pytest.param(HELLO, b"\x81\x05hello", False, id="text"),
    pytest.param(b"\x82\x80" + MASK, b"\x82\x00", False, id="empty"),
    pytest.param(b"\x01\x82" + masked(b"he") + b"\x80\x81" + masked(b"y"), b"\x01\x02he\x80\x01y", False, id="parts"),
    pytest.param(b"\x82\xfe\x00\x7e" + masked(b"x" * 126), b"\x82\x7e\x00\x7e" + b"x" * 126, False, id="16 bits"),
    pytest.param(b"\x89\x82" + masked(b"hi"), b"\x8a\x02hi", False, id="ping"),
    pytest.param(b"\x8a\x82" + masked(b"hi") + HELLO, b"\x81\x05hello", False, id="pong"),
    pytest.param(b"\x88\x82" + masked(b"\x03\xe8"), b"\x88\x02\x03\xe8", True, id="close"),
    pytest.param(b"\x88\x80" + MASK, b"\x88\x00", True, id="close without code"),
    pytest.param(b"\x81\x05hello", b"\x88\x02\x03\xea", True, id="not masked"),
    pytest.param(b"\xc1\x80", b"\x88\x02\x03\xea", True, id="reserved bit"),
    pytest.param(b"\x83\x80", b"\x88\x02\x03\xea", True, id="unknown opcode"),
    pytest.param(b"\x89\xfe\x00\x7e", b"\x88\x02\x03\xea", True, id="long ping"),
    pytest.param(b"\x09\x80", b"\x88\x02\x03\xea", True, id="ping in parts"),
    pytest.param(b"\x82\xff" + (LARGEST + 1).to_bytes(8, "big"), b"\x88\x02\x03\xf1", True, id="too large"),
]


@pytest.mark.parametrize(("wire", "answer", "closed"), CASES)
def test_each_frame(wire, answer, closed):
    echo = Echo()
    assert (echo.feed(wire), echo.closed) == (answer, closed)

    echo = Echo()
    said = b"".join(echo.feed(wire[index : index + 1]) for index in range(len(wire)))
    assert (said, echo.closed) == (answer, closed)

    echo = Echo()
    more = b"" if closed else b"\x81\x05hello"  # nothing follows a close
    assert (echo.feed(wire + HELLO), echo.closed) == (answer + more, closed)
    assert echo.feed(HELLO) == more


def test_64_bits_of_length():
    text = b"x" * 70_000
    answer = Echo().feed(b"\x82\xff" + len(text).to_bytes(8, "big") + masked(text))
    assert answer == b"\x82\x7f" + len(text).to_bytes(8, "big") + text


def test_the_key_of_the_rfc():
    """RFC 6455 section 1.3."""
    assert accept_key(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
