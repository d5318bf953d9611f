"""A request's head: bytes to parsed parts, with everything ambiguous refused.

llhttp (through httptools) refuses most of what is malformed; what it lets pass and two parsers could read differently
is refused here. Each refusal is a `ProxyError` that carries the status to answer with.
"""

from __future__ import annotations

import re

import httptools

from iocproxy.errors import ProxyError
from iocproxy.http1.errors import bad_request
from iocproxy.http1.fields import (
    FORWARDED,
    HOP_BY_HOP,
    announced_trailers,
    connection_options,
    drop_named,
    is_authority,
)
from iocproxy.http1.framing import CHUNKED, BodyLength, request_body
from iocproxy.http1.heads import BARE_LINE_FEED, HeadLimits, has_bare_line_feed
from iocproxy.http1.memo import Memo
from iocproxy.http1.reserved import ReservedFields
from iocproxy.http1.serialize import request_lines
from iocproxy.message import Fields

#: Fields that a request's reader looks at; all others are end-to-end and pass untouched.
_NOTICED = (
    HOP_BY_HOP
    | FORWARDED
    | {b"host", b"content-length", b"expect", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"}
    | {b"x-request-id"}
)

_ABSOLUTE = re.compile(rb"https?://([^/?]+)(/[^?]*|)(\?.*|)", re.IGNORECASE | re.DOTALL)


class FieldSection:
    """What the fields of a request say: the whole head but its first line.

    Requests that repeat it octet for octet share one (`memo`), so nobody may change it. `fields` are the end-to-end
    ones, in order. `host` is the authority the request is for, "" for an HTTP/1.0 request without one. `forwarded_*`
    are what the client claims about whom it speaks for: worth nothing unless the client is a trusted proxy.
    `forwarded` are the other fields of that kind (`fields.FORWARDED`). `count` is how many fields there were in all.
    `trailer` are the names of announced trailers; `takes_trailers` says that the client wants those of a response.
    `request_id` is what its X-Request-ID says, None without one; that field is among `fields`, too, as it is not always
    ours to say.
    """

    __slots__ = (
        "_written",
        "body",
        "count",
        "expects_continue",
        "fields",
        "forwarded",
        "forwarded_for",
        "forwarded_host",
        "forwarded_proto",
        "host",
        "keep_alive",
        "request_id",
        "takes_trailers",
        "trailer",
        "upgrade",
    )

    def __init__(self, version: int) -> None:
        self.count = 0
        self.trailer = b""
        self.takes_trailers = False
        self.fields: Fields = []
        self.host = b""
        self.body: BodyLength = 0
        self.keep_alive = version == 11
        self.expects_continue = False
        self.upgrade = b""
        self.forwarded: Fields | None = None
        self.forwarded_for: list[bytes] = []
        self.forwarded_proto = b""
        self.forwarded_host = b""
        self.request_id: bytes | None = None
        self._written = b""

    def written(self) -> bytes:
        """Its lines as they go to an upstream when nothing was rewritten; made once."""
        written = self._written
        if not written:
            written = self._written = request_lines(self.host, self.fields, self.body)
        return written

    def written_for(self, host: bytes) -> bytes:
        """The same lines with another Host."""
        return b"Host: %b%b" % (host, self.written()[len(b"Host: ") + len(self.host) :])


class RequestHead:
    """The parsed head of a request: its first line, its `section`, and of that what everybody asks for.

    `target` is in origin form ("/path?query"), or "*" for OPTIONS. `host` is the section's, or the one of a target in
    absolute form. `fields` are the section's own: whoever changes them copies them first. `size` is the octets of the
    whole head, `line_size` those of its first line.
    """

    __slots__ = (
        "body",
        "expects_continue",
        "fields",
        "host",
        "keep_alive",
        "line_size",
        "method",
        "section",
        "size",
        "target",
        "upgrade",
        "version",
    )

    def __init__(
        self, method: str, target: bytes, version: int, section: FieldSection, size: int, line_size: int
    ) -> None:
        self.size = size
        self.line_size = line_size
        self.method = method
        self.target = target
        self.version = version
        self.section = section
        self.fields = section.fields
        self.host = section.host
        self.body = section.body
        self.keep_alive = section.keep_alive
        self.expects_continue = section.expects_continue
        self.upgrade = section.upgrade

    def __repr__(self) -> str:
        return f"<RequestHead {self.method} {self.target!r} body={self.body}>"


class RequestHeadParser:
    """Parses one head after the other, of any number of connections with the same limits.

    `parse(head)` takes exactly one head, its empty line included and no empty line before it, and raises
    `ProxyError` where the request is refused. It keeps nothing of a head but field sections that were in order, to
    know them again. `reserved` are fields that no client may send; they are dropped.
    """

    __slots__ = ("_complete", "_fields", "_max_fields", "_max_request_line", "_memo", "_reserved", "_target")

    def __init__(self, limits: HeadLimits, reserved: ReservedFields | None = None) -> None:
        self._reserved = reserved
        self._max_request_line = limits.max_request_line
        self._max_fields = limits.max_fields
        self._memo: Memo[FieldSection] = Memo()
        self._fields: Fields = []
        self._target = b""
        self._complete = False

    # llhttp's callbacks
    def on_url(self, url: bytes) -> None:
        self._target = url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        self._complete = True

    def parse(self, head: bytes) -> RequestHead:
        end = head.find(b"\r\n")
        # :: The usual request: a first line in the usual form, and fields that another request had
        section = self._memo.get(head[end:])
        if section is not None:
            line = _USUAL_LINE.fullmatch(head, 0, end)
            if line is not None and end <= self._max_request_line:
                return RequestHead(_METHODS[line[1]], line[2], 11, section, len(head), end)
        # :: Any other
        request = self._parse(head)
        if request.version == 11 and request.host is request.section.host:
            self._memo.keep(head[end:], request.section)
        return request

    def _parse(self, head: bytes) -> RequestHead:
        if has_bare_line_feed(head):  # llhttp refuses it too, in words that depend on where it stands
            raise bad_request(BARE_LINE_FEED)
        fields = self._fields = []
        self._complete = False
        llhttp = httptools.HttpRequestParser(self)  # one that was used may wait for a body, or for the end
        try:
            llhttp.feed_data(head)
        except httptools.HttpParserUpgrade:
            pass  # CONNECT and Upgrade: llhttp stops behind the head, which is where the slice ends
        except httptools.HttpParserError as error:
            raise _refusal(head, error) from None
        if not self._complete:
            raise _refusal(head, None)
        method: bytes = llhttp.get_method()
        target = self._target
        # llhttp forgives blanks around the target; we do not, they are read differently elsewhere.
        if head.startswith(b"%b %b HTTP/1.1\r\n" % (method, target)):
            version = 11
        elif head.startswith(b"%b %b HTTP/1.0\r\n" % (method, target)):
            version = 10
        else:
            raise _refusal(head, None)
        line_size = len(method) + len(target) + 10
        if line_size > self._max_request_line:
            raise bad_request("request line too long", 414)
        if len(fields) > self._max_fields:
            raise bad_request(f"more than {self._max_fields} header fields", 431)
        if b" \r\n" in head or b"\t\r\n" in head:  # llhttp keeps blanks behind a value (RFC 9110 section 5.5)
            fields = [(name, value.rstrip(b" \t")) for name, value in fields]
        section = _section(version, fields)
        if self._reserved is not None:
            section.fields = self._reserved.without(section.fields)
            section.trailer = self._reserved.without_names(section.trailer)
        request = RequestHead(method.decode("ascii"), target, version, section, len(head), line_size)
        if target[0] != _SLASH or b"#" in target:
            _check_target(request)
        return request


def _section(version: int, fields: Fields) -> FieldSection:
    """Take out what belongs to this hop, decide the framing, leave the end-to-end fields."""
    section = FieldSection(version)
    section.count = len(fields)
    kept = section.fields
    hosts: list[bytes] = []
    lengths: list[bytes] = []
    codings: list[bytes] = []
    options: frozenset[bytes] | None = None
    upgrade = te = trailer = b""
    for field in fields:
        name = field[0].lower()
        if name not in _NOTICED:
            kept.append(field)
            continue
        value = field[1]
        if name == b"host":
            hosts.append(value)
        elif name == b"content-length":
            lengths.append(value)
        elif name == b"connection":
            options = connection_options(value) | (options or frozenset())
        elif name == b"transfer-encoding":
            codings.append(value)
        elif name == b"upgrade":
            upgrade = value if not upgrade else upgrade + b", " + value
        elif name == b"te":
            te = value if not te else te + b"," + value
        elif name == b"trailer":
            trailer = value if not trailer else trailer + b"," + value
        elif name == b"expect":
            if value.lower() != b"100-continue":
                raise bad_request("an expectation other than 100-continue", 417)
            # An HTTP/1.0 client cannot expect (RFC 9110 section 10.1.1): ignored, not passed on.
            section.expects_continue = version == 11
        elif name == b"x-forwarded-for":
            section.forwarded_for.append(value)
        elif name == b"x-forwarded-proto":
            section.forwarded_proto = value
        elif name == b"x-forwarded-host":
            section.forwarded_host = value
        elif name == b"x-request-id":
            kept.append(field)  # several are one list (RFC 9110 section 5.3), and a list is no id
            section.request_id = value if section.request_id is None else section.request_id + b", " + value
        elif name in FORWARDED:
            section.forwarded = [*(section.forwarded or ()), field]
    if len(hosts) != 1 and (hosts or version == 11):
        raise bad_request("no Host field" if not hosts else "more than one Host field")
    if hosts:
        section.host = hosts[0]
        if not is_authority(section.host):
            raise bad_request("a Host field that is not a host and port")
    if lengths or codings:
        section.body = request_body(version, lengths, codings)
    if trailer and section.body == CHUNKED:
        section.trailer = announced_trailers(trailer)
    if options is not None:
        # RFC 9110 section 10.1.4: a TE that Connection does not name is not this client's but of somebody behind it.
        if te and b"te" in options and version == 11:
            section.takes_trailers = any(item.strip(b" \t").lower() == b"trailers" for item in te.split(b","))
        if b"close" in options:
            section.keep_alive = False
        elif b"keep-alive" in options:
            section.keep_alive = True
        # Only what is both announced and named counts (RFC 9110 section 7.8), and never from HTTP/1.0.
        if upgrade and b"upgrade" in options and version == 11 and section.body == 0:
            section.upgrade = _without_h2c(upgrade)
        if not options <= _CONNECTION_OPTIONS:
            section.fields = drop_named(kept, options)
    return section


def _without_h2c(upgrade: bytes) -> bytes:
    """HTTP/2 behind our back is not passed on: an upstream that took it up would speak past every rule here."""
    protocols = [item.strip(b" \t") for item in upgrade.split(b",")]
    return b", ".join(item for item in protocols if item and item.partition(b"/")[0].lower() != b"h2c")


def _refusal(head: bytes, error: httptools.HttpParserError | None) -> ProxyError:
    """Why llhttp, or what it let pass, is not a request line and fields that are served here."""
    line = head.partition(b"\r\n")[0]
    version = _VERSION.fullmatch(line)
    if version is not None and version[1] not in {b"1.1", b"1.0"}:
        # a well-formed request of another version (RFC 9110 section 15.6.6), the HTTP/2 preface among them
        return bad_request(f"HTTP/{version[1].decode('ascii')} is not spoken here", 505)
    if isinstance(error, httptools.HttpParserInvalidMethodError) and version is not None:
        return bad_request("a method that is not known here", 501)
    return bad_request(f"malformed request head: {error}" if error is not None else "malformed request line")


_VERSION = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32} [\x21-\x7e]+ HTTP/([0-9]\.[0-9])")

_METHODS = {name.encode("ascii"): name for name in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")}
#: RFC 9112 section 3, with a target in origin form without a fragment (section 3.2.1).
_USUAL_LINE = re.compile(rb"(" + b"|".join(_METHODS) + rb") (/[\x21\x22\x24-\x7e]*) HTTP/1\.1")

_SLASH = ord("/")

#: Members of Connection that are about the connection and name no field.
_CONNECTION_OPTIONS = frozenset({b"close", b"keep-alive", b"te", b"upgrade"})

_TOKEN_START = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z\r]")


def why_not_a_request(start: bytes) -> str:
    """Why these first octets of an incomplete head cannot become a request, "" where they still can.

    Asked early, so that somebody who speaks another protocol is told at once instead of after the deadline.
    """
    if start.startswith(b"\x16"):  # RFC 8446 section 5.1: a handshake record
        return "a TLS handshake on a plain HTTP port"
    return "" if _TOKEN_START.match(start) else "not an HTTP request"


def _check_target(request: RequestHead) -> None:
    """Bring the target into origin form (RFC 9112 section 3.2). Raises `ProxyError`."""
    target = request.target
    if b"#" in target:
        raise bad_request("a fragment in the request target")
    if request.method == "CONNECT":
        raise bad_request("CONNECT is for forward proxies; this is a reverse proxy", 405)
    if target.startswith(b"/"):
        return
    if target == b"*":
        if request.method != "OPTIONS":
            raise bad_request("the asterisk form is for OPTIONS only")
        return
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise bad_request("a request target in none of the forms of RFC 9112 section 3.2")
    if not is_authority(match[1]):
        raise bad_request("a request target whose authority is not a host and port")
    # RFC 9112 section 3.2.2 has the target's authority win over Host; where they differ somebody is being misled.
    if request.host and match[1].lower() != request.host.lower():
        raise bad_request("a request target and a Host field that differ")
    request.host = match[1]
    if request.method == "OPTIONS" and not match[2] and not match[3]:
        request.target = b"*"  # RFC 9112 section 3.2.4
    else:
        request.target = (match[2] or b"/") + match[3]
