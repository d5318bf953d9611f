"""What has to hold for any bytes: they are refused with a named error, or read the same by everybody, however split.

Each check raises `DisagreementError`, and lets through what the readers raise beyond their named errors.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fuzzing import strict
from fuzzing.reading import (
    LIMITS,
    ROOMY,
    Outcome,
    outcome,
    read_requests,
    read_responses,
    split,
    written_request,
    written_response,
)
from iocproxy.http1.chunked import ChunkedDecoder, ChunkError
from iocproxy.http1.request import RequestHeadParser
from iocproxy.http1.response import ResponseHeadParser
from iocproxy.message import Fields


class DisagreementError(AssertionError):
    """Two readings of the same bytes differ."""


def agree(what: str, one: object, other: object) -> None:
    if one != other:
        raise DisagreementError(f"{what}:\n{one!r}\n{other!r}")


# What has been read before must not matter: these remember heads from one check to the next.
_request_parser = RequestHeadParser(LIMITS)
_response_parser = ResponseHeadParser(LIMITS)


def check_requests(data: bytes, cuts: Iterable[int] = ()) -> Outcome:
    """Requests. Returns what came of them."""
    whole = outcome(read_requests([data]))
    pieces = split(data, cuts)
    agree("cut at other places", whole, outcome(read_requests(pieces)))
    agree("by a parser that has read others", whole, outcome(read_requests(pieces, _request_parser)))
    agree("by a strict reader", _seen(whole, response=False), _read(strict.read_requests(data)))
    # Written anew, they are read as the same, by us and by the strict reader.
    # (An HTTP/1.0 request may lack a host. RFC 9112 section 3.2 has it sent on with an empty Host, which we refuse.)
    complete = [each for each in _until_refused(read_requests([data])) if each.complete and each.head.host]
    written = b"".join(map(written_request, complete))
    again = outcome(read_requests([written], limits=ROOMY))
    agree("written anew, the end", "", again.end)
    kept = [_end_to_end(message, response=False) for message in whole.messages if message[-1] and message[0][3]]
    agree("written anew", kept, [_end_to_end(message, response=False) for message in again.messages])
    agree(
        "written anew, by a strict reader", _seen(again, response=False), _read(strict.read_requests(written, room=2))
    )
    return whole


def check_responses(data: bytes, cuts: Iterable[int] = (), method: str = "GET", offered: bytes = b"") -> Outcome:
    """The response to one request with `method`, and what follows it. Returns what came of all of it."""
    whole = outcome(read_responses([data], [method]))
    pieces = split(data, cuts)
    agree("cut at other places", whole, outcome(read_responses(pieces, [method])))
    agree("by a parser that has read others", whole, outcome(read_responses(pieces, [method], parser=_response_parser)))
    first, complete = _one_response(whole, offered)
    agree("by a strict reader", first, _read(strict.read_response(data, method.encode("ascii"), offered)))
    if complete:
        messages = []
        for message in _until_refused(read_responses([data], [method])):
            messages.append(message)
            if message.head.status >= 200:
                break
        written = b"".join(written_response(message, method) for message in messages)
        again, _ = _one_response(outcome(read_responses([written], [method], limits=ROOMY)), offered)
        agree("written anew", [message[2:] for message in first[0]], [message[2:] for message in again[0]])
        agree(
            "written anew, by a strict reader",
            again,
            _read(strict.read_response(written, method.encode("ascii"), room=2)),
        )
    return whole


def check_chunked(data: bytes, cuts: Iterable[int] = ()) -> None:
    """A body in the chunked coding, and what follows it."""
    whole, trailers = _decoded([data])
    agree("cut at other places", (whole, trailers), _decoded(split(data, cuts)))
    reading = strict.read_chunked(data)
    if reading.partial is None:
        (message,) = reading.messages
        agree("by a strict reader", whole, ("done", message.body, reading.rest))
        # Not all trailers are kept (RFC 9110 section 6.5.1), and none is made up.
        left = iter(message.trailers)
        agree("trailers, by a strict reader", [each for each in trailers if each not in left], [])
    elif reading.end == "refused":
        agree("by a strict reader", whole[0], "refused")
    else:
        agree("by a strict reader", whole, ("cut short", reading.partial.body, b""))


def _decoded(pieces: list[bytes]) -> tuple[tuple[object, ...], Fields]:
    """(how it ended, the content, what follows it), and the trailers."""
    decoder, content, rest, done = ChunkedDecoder(), b"", b"", False
    try:
        for piece in pieces:
            if done:
                rest += piece
                continue
            body, rest, done = decoder.feed(piece)
            content += body
    except ChunkError as error:
        return ("refused", str(error)), []
    return ("done" if done else "cut short", content, rest), decoder.trailers


def _until_refused(messages: Any) -> Any:
    """`outcome` has seen that the error is a named one."""
    try:
        yield from messages
    except Exception:  # noqa: BLE001
        return


def _end_to_end(message: tuple[Any, ...], *, response: bool) -> tuple[Any, ...]:
    """A message of `reading.comparable`, reduced to what a strict reader makes of it."""
    head, body, *_ = message
    fields = [field for field in head[8] if field[0].lower() not in strict.OWNED]
    if response:
        return b"%d" % head[0], head[1], b"", fields, body
    return head[0].encode("ascii"), head[1], head[3], fields, body


def _seen(whole: Outcome, *, response: bool) -> tuple[object, ...]:
    """(complete messages, the head of one that is not, how it ended)."""
    complete = [_end_to_end(message, response=response) for message in whole.messages if message[-1]]
    partial = [_end_to_end(message, response=response) for message in whole.messages if not message[-1]]
    end = "" if not whole.end else "cut short" if "the bytes ended within" in whole.end else "refused"
    return complete, [_without_refused_body(message, end) for message in partial], end


def _without_refused_body(message: tuple[Any, ...], end: str) -> tuple[Any, ...]:
    """How much of a body was out before it was refused is a matter of how it arrived."""
    return message[:4] if end == "refused" else message


def _one_response(whole: Outcome, offered: bytes) -> tuple[tuple[Any, ...], bool]:
    """As `_seen`, up to the first final response, as an upstream connection and its exchange would have it."""
    messages: list[tuple[Any, ...]] = []
    for count, message in enumerate(whole.messages, 1):
        status = message[0][0]
        upgrade = {item.strip(b" \t").lower() for item in message[0][7].split(b",")}
        wanted = {item.strip(b" \t").lower() for item in offered.split(b",")} - {b""}
        if (status == 101 and not upgrade <= wanted) or (status < 200 and count > strict.MAX_INTERIM):
            return ([_end_to_end(each, response=True) for each in messages], [], "refused"), False
        messages.append(message)
        if status >= 200 or status == 101:
            if not message[-1]:
                return _seen(whole._replace(messages=messages), response=True), False
            return ([_end_to_end(each, response=True) for each in messages], [], ""), status != 101
    complete, partial, end = _seen(whole._replace(messages=messages), response=True)
    return (complete, partial, end or "cut short"), False


def _read(reading: strict.Reading) -> tuple[object, ...]:
    end = reading.end if reading.end in {"refused", "cut short"} else ""
    partial = [] if reading.partial is None else [_without_refused_body(tuple(reading.partial[:5]), end)]
    return [tuple(message[:5]) for message in reading.messages], partial, end
