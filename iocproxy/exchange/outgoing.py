"""The heads that go out: a request's for a server, a response's for a client. Put together from parsed parts."""

from __future__ import annotations

from iocproxy.exchange.forwarding import VIA, Forwarding
from iocproxy.exchange.ports import Server
from iocproxy.exchange.request_ids import NAME as REQUEST_ID
from iocproxy.exchange.shared import Goal
from iocproxy.http1.framing import CHUNKED, UNTIL_CLOSE, BodyLength
from iocproxy.http1.request import RequestHead
from iocproxy.http1.response import ResponseHead
from iocproxy.http1.serialize import request_head, request_lines, response_head
from iocproxy.message import Fields, Request

#: What is said to the next hop alone, by whether there is an upgrade and whether trailers are wanted.
_HOP = {
    (True, False): b"Connection: Upgrade\r\nUpgrade: %b\r\n",
    (True, True): b"Connection: Upgrade, TE\r\nUpgrade: %b\r\nTE: trailers\r\n",
    (False, True): b"Connection: TE\r\nTE: trailers\r\n%b",
}


#: Whose requests have no Content-Length that depends on the method (`serialize.request_head`).
_BODILESS = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})


def request_for(
    server: Server, goal: Goal, head: RequestHead, request: Request, request_id: str, forwarding: Forwarding
) -> bytes:
    """The head of `head`'s request for `server`, as the middlewares have made it (`request`)."""
    section, host = head.section, goal.host
    unchanged = request.fields is section.fields and request.host is section.host
    # :: The usual request: only its first line differs from the last one's of this connection
    usual = unchanged and host is None and not request_id and head.method in _BODILESS and not forwarding.trusted
    if usual:
        known, rest = forwarding.usual
        if known is section:
            return b"%b %b HTTP/1.1\r\n%b" % (head.method.encode("ascii"), request.target, rest)
    if host is not None:
        host = host or server.authority  # `SERVERS_OWN` is empty
    tail = forwarding.lines(head)
    if request_id:
        tail += b"X-Request-ID: %b\r\n" % request_id.encode("ascii")
    if head.expects_continue:
        tail += b"Expect: 100-continue\r\n"
    if section.trailer:
        tail += b"Trailer: %b\r\n" % section.trailer
    if head.upgrade or section.takes_trailers:
        tail += _HOP[bool(head.upgrade), section.takes_trailers] % head.upgrade
    if not unchanged or (request_id and section.request_id is not None):
        if host is None or request.host != head.host:  # a middleware that set another has the last word
            host = request.host
        fields = request.fields
        if request_id:
            fields = [field for field in fields if field[0].lower() != REQUEST_ID]
        if forwarding.reserved is not None:
            fields = forwarding.reserved.without(fields)
        lines = request_lines(host, fields, head.body)
    elif host is None:
        lines = section.written()
    else:
        lines = section.written_for(host)
    outgoing = request_head(head.method, request.target, lines, head.body, tail)
    if usual:
        forwarding.usual = section, outgoing[outgoing.find(b"\r\n") + 2 :]
    return outgoing


def response_for(
    request: RequestHead, head: ResponseHead, framing: BodyLength, date: bytes, *, keep_alive: bool, strict: bytes = b""
) -> bytes:
    """The head of an upstream's response for the client that sent `request`.

    `framing` is how the client will find the end of the body. `date` is a complete Date line where the response has
    none, else b"". `strict` is the listener's own Strict-Transport-Security line, in place of any that it has.
    """
    tail = VIA[head.version] + strict
    if framing == CHUNKED:
        tail = b"Transfer-Encoding: chunked\r\n" + tail
        if head.trailer and request.section.takes_trailers:
            tail = b"Trailer: %b\r\n%b" % (head.trailer, tail)
    elif framing != UNTIL_CLOSE and head.announced is not None and head.status != 204:  # RFC 9110 section 8.6
        tail = b"Content-Length: %d\r\n%b" % (head.announced, tail)
    if not keep_alive:
        tail = b"Connection: close\r\n" + tail
    elif request.version == 10:
        tail = b"Connection: keep-alive\r\n" + tail
    return response_head(head.status, head.reason, without_hsts(head.fields) if strict else head.fields, date + tail)


def without_hsts(fields: Fields) -> Fields:
    """RFC 6797 section 6.1: a response has one such field at most, and the first is the one that counts."""
    return [field for field in fields if field[0].lower() != b"strict-transport-security"]
