"""A whole connection read with iocproxy's own pure modules, the way the client and upstream connections read one.

`read_requests` and `read_responses` are generators of messages. They end where nobody may read on (a request with
``Connection: close``, a 101), and raise one of `NAMED_ERRORS` where the next message is refused. A message whose head
is in order and whose body is not, or is not all there, is the last one yielded, with `complete` False.

`outcome` makes of such a generator something to compare: the same for every split of the same bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

from iocproxy.errors import ProxyError
from iocproxy.http1.body import ChunkedBody, body_reader
from iocproxy.http1.chunked import LAST_CHUNK, ChunkError, encode_chunk
from iocproxy.http1.errors import bad_request, bad_response
from iocproxy.http1.framing import CHUNKED, NO_BODY, UNTIL_CLOSE, BodyLength
from iocproxy.http1.heads import MAX_EMPTY_LINES, BareLineFeed, HeadBuffer, HeadLimits, HeadTooLarge
from iocproxy.http1.request import RequestHead, RequestHeadParser
from iocproxy.http1.response import ResponseHead, ResponseHeadParser
from iocproxy.http1.serialize import request_head, request_lines, response_head
from iocproxy.message import Fields

LIMITS = HeadLimits()
#: For what was written anew: a proxy adds to what it forwards.
ROOMY = HeadLimits(max_head=2 * LIMITS.max_head, max_fields=2 * LIMITS.max_fields)

Head = TypeVar("Head", RequestHead, ResponseHead)


class HeadCutShortError(Exception):
    """The bytes ended within a head."""


#: All that reading may raise, whatever the bytes.
NAMED_ERRORS = (ProxyError, HeadTooLarge, ChunkError, HeadCutShortError)


class Message(NamedTuple, Generic[Head]):
    head: Head
    body: bytes
    trailers: Fields
    complete: bool


class Outcome(NamedTuple):
    """What came of a connection. `end` is "" where it ended between two messages, or else the error's text."""

    messages: list[tuple[Any, ...]]
    end: str


def read_requests(
    pieces: Iterable[bytes], parser: RequestHeadParser | None = None, limits: HeadLimits = LIMITS
) -> Iterator[Message[RequestHead]]:
    """The requests in `pieces`, read one after the other; `parser` is for those who keep one for longer."""
    heads = HeadBuffer(limits, empty_lines=MAX_EMPTY_LINES)
    parser = RequestHeadParser(limits) if parser is None else parser
    stream = _Stream(pieces)
    while (raw := stream.head(heads, bad_request)) is not None:
        head = parser.parse(raw)
        yield from stream.message(head)
        if not head.keep_alive:
            return


def read_responses(
    pieces: Iterable[bytes],
    methods: Iterable[str] = (),
    parser: ResponseHeadParser | None = None,
    limits: HeadLimits = LIMITS,
) -> Iterator[Message[ResponseHead]]:
    """The responses in `pieces`, interim ones too; `methods` are those of the requests, then GET for ever."""
    heads = HeadBuffer(limits)
    parser = ResponseHeadParser(limits) if parser is None else parser
    stream = _Stream(pieces)
    asked = iter(methods)
    method = next(asked, "GET")
    while (raw := stream.head(heads, bad_response)) is not None:
        head = parser.parse(raw, method)
        yield from stream.message(head)
        if head.status == 101:
            return
        if head.status >= 200:
            if not head.keep_alive:
                return
            method = next(asked, "GET")


class _Stream:
    """Pieces of a stream, of which what was not used can be given back."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._back = b""

    def _take(self) -> bytes | None:
        back, self._back = self._back, b""
        return back or next(self._pieces, None)

    def head(self, heads: HeadBuffer, refusal: Callable[[str], ProxyError]) -> bytes | None:
        while (data := self._take()) is not None:
            try:
                taken = heads.take(data)
            except BareLineFeed as error:
                raise refusal(str(error)) from None  # as the connections do
            if taken is not None:
                head, self._back = taken
                return head
        if heads.kept:
            raise HeadCutShortError("the bytes ended within a head")
        return None

    def message(self, head: Head) -> Iterator[Message[Head]]:
        if head.body == NO_BODY:
            yield Message(head, b"", [], True)
            return
        reader = body_reader(head.body)
        content = b""
        while not reader.done:
            data = self._take()
            if data is None:
                if reader.close():
                    break
                yield Message(head, content, [], False)
                return
            try:
                content += reader.feed(data)
            except ChunkError:
                yield Message(head, content, [], False)
                raise
        self._back = reader.rest
        yield Message(head, content, reader.trailers if isinstance(reader, ChunkedBody) else [], True)


def outcome(messages: Iterator[Message[Any]]) -> Outcome:
    """All of it, to be compared. Anything but a named error goes through."""
    seen: list[tuple[Any, ...]] = []
    end = ""
    try:
        for message in messages:
            seen.append(comparable(message))
        if seen and not message.complete:
            end = "the bytes ended within a body"
    except NAMED_ERRORS as error:
        end = f"{type(error).__name__}: {error} ({getattr(error, 'status', '')})"
        if isinstance(error, ChunkError):
            # How much of a body was out before it turned out to be broken is a matter of how it arrived.
            *before, (head, _, *rest) = seen
            seen = [*before, (head, None, *rest)]
    return Outcome(seen, end)


def comparable(message: Message[Any]) -> tuple[Any, ...]:
    """(the head, the body, the trailers, whether it is complete), as plain values."""
    head = message.head
    said: tuple[Any, ...]
    if isinstance(head, RequestHead):
        section = head.section
        said = (head.method, head.target, head.version, head.host, head.body, head.keep_alive, head.expects_continue)
        said += (head.upgrade, head.fields, section.forwarded, section.forwarded_for, section.forwarded_proto)
    else:
        said = (head.status, head.reason, head.version, head.body, head.keep_alive, head.announced, head.dated)
        said += (head.upgrade, head.fields)
    return said, message.body, message.trailers, message.complete


def split(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """`data` cut at these places (taken modulo its length), in order; no piece is empty."""
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def written_request(message: Message[RequestHead]) -> bytes:
    """A complete request as it would go to an upstream, without the fields a proxy adds."""
    head = message.head
    lines = request_lines(head.host, head.fields, head.body)
    return request_head(head.method, head.target, lines, head.body, b"") + _written_body(head.body, message.body)


def written_response(message: Message[ResponseHead], method: str) -> bytes:
    """A complete response as it would go to an HTTP/1.1 client, without the fields a proxy adds."""
    head = message.head
    tail = b""
    if head.body in {CHUNKED, UNTIL_CLOSE}:
        tail = b"Transfer-Encoding: chunked\r\n"
    elif head.announced is not None and head.status != 204 and head.status >= 200:
        tail = b"Content-Length: %d\r\n" % head.announced
    length = CHUNKED if head.body < 0 else head.body
    body = b"" if method == "HEAD" else _written_body(length, message.body)
    return response_head(head.status, head.reason, head.fields, tail) + body


def _written_body(length: BodyLength, body: bytes) -> bytes:
    if length != CHUNKED:
        return body
    return (encode_chunk(body) if body else b"") + LAST_CHUNK
