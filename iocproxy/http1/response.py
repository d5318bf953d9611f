"""An upstream's response head: bytes to parsed parts, as distrustful as towards a client."""

from __future__ import annotations

import re

import httptools

from iocproxy.http1.errors import bad_response
from iocproxy.http1.fields import HOP_BY_HOP, announced_trailers, connection_options, drop_named
from iocproxy.http1.framing import CHUNKED, UNTIL_CLOSE, BodyLength, response_body
from iocproxy.http1.heads import BARE_LINE_FEED, HeadLimits, has_bare_line_feed
from iocproxy.http1.memo import Memo
from iocproxy.message import Fields

_NOTICED = HOP_BY_HOP | {b"content-length", b"date"}
#: For the proxy itself or for its own next hop, and still meant for the client.
_PASSED = frozenset({b"proxy-authenticate"})


class ResponseHead:
    """The parsed head of a response; `fields` are the end-to-end ones, Content-Length not among them.

    Responses that repeat it octet for octet share one (`memo`): whoever changes it changes a `copy`.

    `announced` is the Content-Length as given, or None: a response to HEAD and a 304 tell with it how long the
    body would be, while `body` says what follows here.
    """

    __slots__ = (
        "announced",
        "body",
        "dated",
        "fields",
        "keep_alive",
        "reason",
        "status",
        "strict",
        "trailer",
        "upgrade",
        "usual",
        "version",
    )

    def __init__(self, status: int, reason: bytes, version: int) -> None:
        self.status = status
        self.reason = reason
        self.version = version
        self.fields: Fields = []
        self.body: BodyLength = 0
        self.announced: int | None = None
        self.dated = False  # RFC 9110 section 6.6.1: who forwards a response without Date adds one
        self.keep_alive = version == 11
        self.upgrade = b""
        self.trailer = b""  # the names of announced trailers
        #: for whoever forwards it: what this head became when it was last written in the usual way, b"" before
        self.usual = b""
        #: the same for a listener with a Strict-Transport-Security line: that line, and what the head became
        self.strict = b"", b""

    def usual_with(self, strict: bytes) -> bytes:
        """As `usual`, with this line."""
        line, usual = self.strict
        return usual if line == strict else b""

    def copy(self) -> ResponseHead:
        """One of the caller's own."""
        copy = ResponseHead(self.status, self.reason, self.version)
        copy.fields = self.fields[:]
        copy.body = self.body
        copy.announced = self.announced
        copy.dated = self.dated
        copy.keep_alive = self.keep_alive
        copy.upgrade = self.upgrade
        copy.trailer = self.trailer
        return copy

    def __repr__(self) -> str:
        return f"<ResponseHead {self.status} body={self.body}>"


class ResponseHeadParser:
    """Parses one response head after the other, of any number of connections with the same limits.

    `parse(head, method)` takes exactly one head and the method of the request it answers (RFC 9112 section 6.3 makes
    the framing depend on it), and raises `ProxyError` (502) where the response is refused.
    """

    __slots__ = ("_complete", "_fields", "_max_fields", "_memo")

    def __init__(self, limits: HeadLimits) -> None:
        self._max_fields = limits.max_fields
        self._memo: Memo[ResponseHead] = Memo()
        self._fields: Fields = []
        self._complete = False

    # llhttp's callbacks
    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        self._complete = True

    def parse(self, head: bytes, method: str) -> ResponseHead:
        if method == "HEAD":  # the same octets mean another framing
            return self._parse(head, method)
        response = self._memo.get(head)
        if response is None:
            response = self._parse(head, method)
            self._memo.keep(head, response)
        return response

    def _parse(self, head: bytes, method: str) -> ResponseHead:
        if has_bare_line_feed(head):
            raise bad_response(BARE_LINE_FEED)
        fields = self._fields = []
        self._complete = False
        try:
            # Nearly every response has a body, which llhttp would wait for: a new parser costs less than feeding it.
            httptools.HttpResponseParser(self).feed_data(head)
        except httptools.HttpParserUpgrade:
            pass  # a 101: the head is complete
        except httptools.HttpParserError as error:
            # llhttp takes a 101 without one of its two fields for a message that it cannot go on with
            why = "a 101 without Connection and Upgrade" if head.startswith(b"HTTP/1.1 101 ") else error
            raise bad_response(f"malformed response head: {why}") from None
        status_line = _STATUS_LINE.fullmatch(head, 0, head.find(b"\r\n"))
        if not self._complete or status_line is None:
            raise bad_response("malformed status line")
        if len(fields) > self._max_fields:
            raise bad_response(
                f"more than {self._max_fields} fields in the upstream's response", "http_response_header_section_size"
            )
        response = ResponseHead(int(status_line[2]), status_line[3] or b"", 10 + int(status_line[1]))
        if b" \r\n" in head or b"\t\r\n" in head:  # llhttp keeps blanks behind a value (RFC 9110 section 5.5)
            fields = [(name, value.rstrip(b" \t")) for name, value in fields]
        self._sort(response, fields, method)
        return response

    @staticmethod
    def _sort(response: ResponseHead, fields: Fields, method: str) -> None:
        kept = response.fields
        lengths: list[bytes] = []
        codings: list[bytes] = []
        trailer = b""
        options: frozenset[bytes] | None = None
        for field in fields:
            name = field[0].lower()
            if name not in _NOTICED or name in _PASSED:
                kept.append(field)
            elif name == b"date":
                kept.append(field)
                response.dated = True
            elif name == b"content-length":
                lengths.append(field[1])
            elif name == b"connection":
                options = connection_options(field[1]) | (options or frozenset())
            elif name == b"transfer-encoding":
                codings.append(field[1])
            elif name == b"upgrade":
                response.upgrade = field[1]
            elif name == b"trailer":
                trailer = field[1] if not trailer else trailer + b"," + field[1]
        response.body = response_body(response.version, response.status, method, lengths, codings)
        if trailer and response.body == CHUNKED:
            response.trailer = announced_trailers(trailer)
        if lengths:
            response.announced = int(lengths[0])
        if options is not None:
            if b"close" in options:
                response.keep_alive = False
            elif b"keep-alive" in options:
                response.keep_alive = True
            if not options <= _CONNECTION_OPTIONS:
                response.fields = drop_named(kept, options)
        if response.body == UNTIL_CLOSE:
            response.keep_alive = False
        elif method == "HEAD" and not lengths and not codings and response.status not in {204, 304}:
            # To GET the same would last until close. RFC 9112 section 9.3 lets the connection be used again; we do not:
            # some servers (aiohttp's, where a handler streams) send that body to HEAD too, and it would be taken for
            # the next response.
            response.keep_alive = False


#: Members of Connection that are about the connection and name no field.
_CONNECTION_OPTIONS = frozenset({b"close", b"keep-alive", b"upgrade"})

#: RFC 9112 section 4; the reason may be empty, and some leave out the blank before it then.
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t \x21-\x7e\x80-\xff]*))?")
