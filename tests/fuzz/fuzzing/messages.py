"""Valid messages in pieces that a mutation can take hold of: made by a `random.Random`, so that a seed says it all."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

#: Not TRACE: whether that goes through is a matter of configuration.
METHODS = [b"GET"] * 6 + [b"POST"] * 6 + [b"HEAD", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"SEARCH", b"PROPFIND"]
TARGETS = [b"/"] * 4 + [b"/a/b?c=d&e", b"/%41%2f", b"/a;b=c", b"/?", b"//x", b"/a?http://b/", b'/"<>\\^`{|}']
HOSTS = [b"a.test"] * 6 + [b"A.Test:80", b"[::1]:8080", b"127.0.0.1", b"a.test:", b"x_%41.test"]
FIELDS = [
    b"Accept: */*",
    b"Accept: text/html",
    b"accept: application/json",
    b"Cookie: a=b; c=d",
    b"X-A: 1",
    b"X-A: 2",
    b"x-b:no-blank",
    b"X-C: \t blanks \t ",
    b"X-D: caf\xe9 \xff\x80",
    b"X-Empty:",
    b"X-Long: " + b"v" * 300,
    b"!#$%&'*+-.^_`|~: token",
    b"Authorization: Basic eDp5",
    b"Content-Type: text/plain",
    b"Date: Sun, 06 Nov 1994 08:49:37 GMT",
    b"Via: 1.1 other",
    b"X-Forwarded-For: 192.0.2.1",
    b"Forwarded: for=192.0.2.1",
    b"TE: trailers",
    b"Keep-Alive: timeout=5",
    b"Proxy-Connection: keep-alive",
    b"Connection: X-A",
    b"Connection: keep-alive, x-b",
    b"Connection: Host, Content-Length, Cookie",
]
CONTENTS = [
    b"",
    b"a",
    b"hello",
    b"0\r\n\r\n",
    b"\r\n",
    b"\x00\xff" * 9,
    b"b" * 26,
    b"GET /smuggled HTTP/1.1\r\nHost: b.test\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
]
EXTENSIONS = [b""] * 8 + [b";a", b"; a=b", b';a="b;c"', b' ;\ta = "\\""', b";a=b;c=d"]
TRAILERS = [b"X-T: 1", b"X-U:", b"Content-Length: 3", b"Transfer-Encoding: chunked", b"Host: b.test", b"Cookie: x"]
STATUSES = [b"200 OK"] * 8 + [
    b"204 No Content", b"304 Not Modified", b"206 Partial Content", b"404 Not Found", b"301 Moved", b"418 ",
    b"401 Unauthorized", b"503 \xfcber", b"205 Reset Content", b"299",
]  # fmt: skip
RESPONSE_FIELDS = [
    *FIELDS[4:13],
    b"Date: Sun, 06 Nov 1994 08:49:37 GMT",
    b"Set-Cookie: a=b",
    b"Set-Cookie: c=d; Path=/",
    b"Location: /elsewhere",
    b"Content-Type: text/plain",
    b"Content-Encoding: gzip",
    b'ETag: "x"',
    b"Server: old/1.0",
    b"Via: 1.0 other",
    b"WWW-Authenticate: Basic realm=x",
    b"Keep-Alive: timeout=5, max=100",
    b"Connection: keep-alive",
    b"Connection: close",
    b"Connection: X-A, Set-Cookie",
]


@dataclass
class Draft:
    """A message as it will be on the wire: the lines of its head, and its body in the pieces of its framing."""

    lines: list[bytes]
    body: list[bytes] = field(default_factory=list)

    def wire(self) -> bytes:
        return b"\r\n".join([*self.lines, b"", b""]) + b"".join(self.body)


def request(random: Random) -> Draft:
    """A request that is in order."""
    method = random.choice(METHODS)
    host = random.choice(HOSTS)
    target = random.choice(TARGETS)
    if random.random() < 0.05:
        target = b"http://" + host + target
    elif method == b"OPTIONS" and random.random() < 0.5:
        target = b"*"
    old = random.random() < 0.1
    lines = [b"Host: " + host, *random.sample(FIELDS, random.randrange(5))]
    body: list[bytes] = []
    kind = random.random()
    if kind < (0.6 if method in {b"POST", b"PUT", b"PATCH"} else 0.1):
        content = _content(random)
        if old or random.random() < 0.5:
            lines.append(b"Content-Length: %d" % len(content))
            body = [content]
        else:
            lines.append(random.choice([b"Transfer-Encoding: chunked", b"transfer-encoding:\tChunked "]))
            body = _chunks(random, content)
        if random.random() < 0.15:
            lines.append(b"Expect: 100-continue")
    elif random.random() < 0.05:
        lines += [b"Connection: upgrade", b"Upgrade: x"]
    if random.random() < (0.6 if old else 0.1):
        lines.append(random.choice([b"Connection: keep-alive", b"Connection: Keep-Alive, X-A"]))
    elif random.random() < 0.05:
        lines.append(b"Connection: close")
    random.shuffle(lines)
    return Draft([b"%b %b HTTP/1.%d" % (method, target, 0 if old else 1), *lines], body)


def response(random: Random, *, upgrade: bool = False) -> Draft:
    """A response that is in order; `upgrade` when the request asked for protocol x."""
    if upgrade and random.random() < 0.5:
        tail = random.choice([b"", b"tunnel", b"HTTP/1.1 200 OK\r\n\r\n"])
        return Draft([b"HTTP/1.1 101 Switching Protocols", b"Upgrade: x", b"Connection: Upgrade"], [tail])
    status = random.choice(STATUSES)
    old = random.random() < 0.1
    lines = random.sample(RESPONSE_FIELDS, random.randrange(5))
    content = b"" if status[:3] in {b"204", b"304"} else _content(random)
    body = [content]
    kind = random.random()
    if kind < 0.5:
        if status[:3] != b"204":
            lines.append(b"Content-Length: %d" % len(content))
    elif kind < 0.85 and not old and content:
        lines.append(b"Transfer-Encoding: chunked")
        body = _chunks(random, content)
    random.shuffle(lines)
    return Draft([b"HTTP/1.%d %b" % (0 if old else 1, status), *lines], body)


def interim(random: Random) -> Draft:
    """An interim response."""
    return Draft(random.choice([[b"HTTP/1.1 100 Continue"], [b"HTTP/1.1 103 Early Hints", b"Link: </a>"]]))


def _content(random: Random) -> bytes:
    return random.choice([*CONTENTS, b"c" * random.choice([255, 4096, 70_000])])


def _chunks(random: Random, content: bytes) -> list[bytes]:
    pieces = []
    at = 0
    while at < len(content):
        size = random.choice([1, 2, 15, 16, len(content)])
        piece = content[at : at + size] if len(pieces) < 8 else content[at:]
        at += len(piece)
        number = random.choice([b"%x", b"%X", b"%04x"]) % len(piece)
        pieces += [number + random.choice(EXTENSIONS) + b"\r\n", piece, b"\r\n"]
    trailers = random.sample(TRAILERS, random.choice([0, 0, 0, 1, 2]))
    return [*pieces, b"0" + random.choice(EXTENSIONS) + b"\r\n", *(each + b"\r\n" for each in trailers), b"\r\n"]
