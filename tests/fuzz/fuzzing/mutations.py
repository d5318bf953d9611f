"""What is done to valid messages: first to their parts, then to their octets."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from fuzzing.messages import FIELDS, Draft, interim, request, response

#: Lines that decide where a message ends or whom it is for, in every spelling that somebody has read differently.
HOSTILE_LINES = [
    *(b"Content-Length: " + value for value in (
        b"0", b"1", b"5", b"6", b"26", b"+5", b"-5", b"0x5", b"1_0", b"5,5", b"5, 5", b"05", b"5 5", b"5;", b'"5"', b"",
        b"18446744073709551621", b"999999999999999999", b"9999999999999999999", b"\xb2", b"5\x0b", b"5\x00",
    )),
    *(b"Transfer-Encoding: " + value for value in (
        b"chunked", b"Chunked", b"xchunked", b"chunked, chunked", b"gzip, chunked", b"chunked, gzip", b"identity",
        b"chunked,", b", chunked", b"", b"\x0bchunked", b"chunked\x0b", b'"chunked"', b"chunked;q=1", b"chun\x00ked",
        b"cow", b"\xa0chunked",
    )),
    b"Transfer-Encoding : chunked", b"Transfer-Encoding\t:chunked", b" Transfer-Encoding: chunked",
    b"\tContent-Length: 5", b"Content-Length\x00: 5", b"Content-Length : 5", b"Transfer_Encoding: chunked",
    b"X: y\nTransfer-Encoding: chunked", b"X: y\rTransfer-Encoding: chunked", b"X: y\n", b"X: y\r", b"X: y\n\n",
    b"Transfer-Encoding:\n chunked", b"Transfer-Encoding:", b" chunked", b"\t5",
    b"Host: b.test", b"Host:", b"Host: a.test, b.test", b"Host: a.test/x", b"Host: u@a.test", b"Host : a.test",
    b"Host: a.test:80:80", b"Host: [::1", b"Host: a b",
    b"Connection: close", b"Connection: Transfer-Encoding", b"Connection: Content-Length, close", b"Connection: Host",
    b"Connection: keep-alive", b"Connection:", b"Connection: ,close,", b'Connection: "close"', b"Connection: clos\xe9",
    b"Expect: 100-continue", b"Expect: x", b"Upgrade: h2c", b"Upgrade: x", b"HTTP2-Settings: AAMAAABk",
    b"Trailer: Content-Length", b": 1", b"X", b"X Y: 1", b"X\xe9: 1", b"X: \x7f", b"X: \x01", b"X: \x00",
    b"X: " + b"y" * 33_000, b"",
]  # fmt: skip

FIRST_LINES = [
    b"GET / HTTP/1.1", b"GET / HTTP/1.0", b"GET  / HTTP/1.1", b"GET /  HTTP/1.1", b" GET / HTTP/1.1",
    b"GET / HTTP/1.1 ", b"GET\t/ HTTP/1.1", b"GET / HTTP/2.0",
    b"GET / HTTP/0.9", b"GET / HTTP/1.2", b"GET / HTTP/11", b"GET / http/1.1",
    b"GET /", b"GET", b"", b"PRI * HTTP/2.0", b"get / HTTP/1.1", b"FOO / HTTP/1.1", b"CONNECT a.test:80 HTTP/1.1",
    b"OPTIONS * HTTP/1.1", b"GET * HTTP/1.1", b"GET http://b.test/ HTTP/1.1", b"GET http://a.test HTTP/1.1",
    b"GET http://a.test?x HTTP/1.1", b"GET https://a.test/ HTTP/1.1", b"GET /#x HTTP/1.1", b"GET /\x80 HTTP/1.1",
    b"GET a.test HTTP/1.1", b"GET /" + b"x" * 8177 + b" HTTP/1.1", b"GET /" + b"x" * 8178 + b" HTTP/1.1",
    b"HTTP/1.1 200 OK", b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.1  200 OK", b"HTTP/1.0 200 OK", b"HTTP/1.2 200 OK",
    b"HTTP/1.1 099 No", b"HTTP/1.1 600 No", b"HTTP/1.1 20 OK", b"HTTP/1.1 2000 OK", b"HTTP/1.1 +200 OK",
    b"HTTP/1.1 100 Continue", b"HTTP/1.1 101 Switching Protocols", b"HTTP/1.1 204 No", b"HTTP/1.1 304 Not",
    b"HTTP/1.1 200 O\x00K", b"HTTP/1.1 200 O\nK", b"ICY 200 OK", b"HTTP/1.1\t200 OK",
]  # fmt: skip

CHUNK_PIECES = [
    b"0\r\n\r\n", b"0\r\n", b"\r\n", b"5\r\n", b"+5\r\n", b"-1\r\n", b"0x5\r\n", b" 5\r\n", b"5 \r\n", b"5;\r\n",
    b"1_0\r\n",
    b"5;a=\r\n",
    b"0000000000000005\r\n", b"00000000000000005\r\n", b"ffffffffffffffff\r\n", b"fffffffffffffff\r\n",
    b"5\n", b"5\r", b"g\r\n",
    b"5;a=\"\n\"\r\n", b"5;" + b"a" * 254 + b"\r\n", b"5;" + b"a" * 255 + b"\r\n", b"X-T: 1\r\n", b" folded\r\n",
    b"X: " + b"t" * 8192 + b"\r\n", b"\n", b"hello", b"00\r\n\r\n",
]  # fmt: skip

OCTETS = b'\r\n\t :;,/0159afAF="\\\x00\x0b\x0c\x7f\x80\xa0\xe9\xff#%+-_*'
MOTIFS = [
    b"\r\n",
    b"\r\n\r\n",
    b"\n\n",
    b"\r",
    b"\n",
    b"0\r\n\r\n",
    b" HTTP/1.1\r\n",
    b"chunked",
    b"Host: a.test\r\n",
    b"\r\r\n",
]


def requests(random: Random) -> bytes:
    """One to four requests in a row, in which mostly something is not as it should be."""
    drafts = [request(random) for _ in range(random.choice([1, 1, 2, 2, 3, 4]))]
    return _mutated(random, drafts, request)


def responses(random: Random, *, upgrade: bool = False) -> bytes:
    """A response, perhaps with interim ones before it and something behind it, mostly not as it should be."""
    drafts = [interim(random) for _ in range(random.choice([0] * 10 + [1, 1, 2, 16, 17]))]
    drafts += [response(random, upgrade=upgrade) for _ in range(random.choice([1] * 5 + [2]))]
    return _mutated(random, drafts, response)


def _mutated(random: Random, drafts: list[Draft], make: Callable[[Random], Draft]) -> bytes:
    kind = random.random()
    if 0.15 < kind < 0.75:
        for _ in range(random.choice([1, 1, 1, 2, 3])):
            _change_structure(random, random.choice(drafts), make)
    wires = [draft.wire() for draft in drafts]
    if kind > 0.6:
        at = random.randrange(len(wires))
        for _ in range(random.choice([1, 1, 1, 2, 4])):
            wires[at] = change_octets(random, wires[at])
    between = [random.choice([b""] * 15 + [b"\r\n", b"\r\n" * 4, b"\r\n" * 5, b"\n", b" ", b"\x00"]) for _ in wires]
    data = b"".join(part for pair in zip(between, wires, strict=True) for part in pair)
    if random.random() < 0.1:
        data = data[: random.randrange(len(data) + 1)]
    return data


def _change_structure(random: Random, draft: Draft, make: Callable[[Random], Draft]) -> None:
    lines, body = draft.lines, draft.body
    at = random.randrange(1, len(lines) + 1)
    match random.randrange(11):
        case 0 | 1 | 2:
            lines.insert(at, random.choice(HOSTILE_LINES))
        case 3:
            lines.insert(at, random.choice(FIELDS))
        case 4 if len(lines) > 1:
            del lines[random.randrange(1, len(lines))]
        case 5 if len(lines) > 1:
            lines.insert(at, random.choice(lines[1:]))
        case 6:
            lines[0] = random.choice(FIRST_LINES)
        case 7:
            body.insert(random.randrange(len(body) + 1), random.choice(CHUNK_PIECES))
        case 8 if body:
            at = random.randrange(len(body))
            body[at] = random.choice([b"", body[at] * 2, body[at][:-1], body[at] + b"x", random.choice(CHUNK_PIECES)])
        case 9:
            draft.body = make(random).body  # of another framing, perhaps
        case _:
            count = random.choice([2, 50, 99, 100, 101])
            lines[at:at] = [b"X-%d: y" % number for number in range(count)]


def change_octets(random: Random, data: bytes) -> bytes:
    """One change that knows nothing of HTTP."""
    at = random.randrange(len(data) + 1)
    end = min(len(data), at + random.choice([1, 1, 1, 2, 4, 16]))
    match random.randrange(9):
        case 0:
            return data[:at] + bytes([random.choice(OCTETS)]) + data[at:]
        case 1:
            return data[:at] + bytes([random.choice(OCTETS)]) + data[at + 1 :]
        case 2:
            return data[:at] + data[end:]
        case 3:
            return data[:end] + data[at:]
        case 4:
            return data[:at] + random.choice(MOTIFS) + data[at:]
        case 5:
            return data[:at] + data[at:end].swapcase() + data[end:]
        case 6:
            return data[:at] + data[at:].replace(b"\r\n", random.choice([b"\n", b"\r", b"\r\r\n", b""]), 1)
        case 7:
            return data[:at] + bytes(octet ^ (1 << random.randrange(8)) for octet in data[at:end]) + data[end:]
        case _:
            start = random.randrange(len(data) + 1)
            return data[:at] + data[start : start + random.randrange(64)] + data[at:]


def cuts(random: Random, data: bytes) -> list[int]:
    """Where to cut `data` on its way: nowhere, everywhere, or here and there."""
    kind = random.random()
    if kind < 0.4 or not data:
        return []
    if kind < 0.5 and len(data) < 400:
        return list(range(1, len(data)))
    return sorted(random.randrange(len(data)) for _ in range(random.choice([1, 1, 2, 3, 8])))
