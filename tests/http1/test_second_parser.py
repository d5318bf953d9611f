"""Any bytes are refused with one named error, or are messages that a second parser reads as the same ones.

Two second parsers: `fuzzing.strict`, which has to agree about every octet, refusals included, and h11, which somebody
else wrote. h11 forgives much that is refused here, and in places is the stricter one; where, stands at the branch.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzzing import mutations, strict
from fuzzing.agreement import check_chunked, check_requests, check_responses
from fuzzing.reading import (
    NAMED_ERRORS,
    Message,
    read_requests,
    read_responses,
    written_request,
    written_response,
)
from iocproxy.http1.framing import CHUNKED
from iocproxy.http1.request import RequestHead
from iocproxy.http1.response import ResponseHead
from iocproxy.message import Fields

#: Fragments that messages are made of, so that what is put together at random gets somewhere.
FRAGMENTS = [
    *(line + b"\r\n" for line in mutations.HOSTILE_LINES if len(line) < 100),
    *(line + b"\r\n" for line in mutations.FIRST_LINES if len(line) < 100),
    *(piece for piece in mutations.CHUNK_PIECES if len(piece) < 100),
    *mutations.MOTIFS,
    b"GET / HTTP/1.1\r\nHost: a.test\r\n",
    b"POST / HTTP/1.1\r\nHost: a.test\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"5\r\nhello\r\n",
]
FRAGMENTARY = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=3)), max_size=12).map(b"".join)
RANDOMS = st.randoms(use_true_random=False)
REQUESTS = st.one_of(st.binary(), FRAGMENTARY, RANDOMS.map(mutations.requests))
RESPONSES = st.one_of(st.binary(), FRAGMENTARY, RANDOMS.map(mutations.responses))
CUTS = st.lists(st.integers(0, 100_000), max_size=8)
METHOD = st.sampled_from(["GET", "GET", "HEAD", "POST"])
many = settings(max_examples=300, deadline=None)


class Plain(NamedTuple):
    """A message as h11 tells it; of a response `first` is the status, `second` the reason."""

    first: bytes
    second: bytes
    fields: Fields
    body: bytes


@many
@given(REQUESTS, CUTS)
def test_requests_are_refused_or_read_the_same_by_a_strict_reader(data: bytes, cuts: list[int]) -> None:
    check_requests(data, cuts)


@many
@given(RESPONSES, CUTS, METHOD, st.sampled_from([b"", b"x"]))
def test_responses_are_refused_or_read_the_same_by_a_strict_reader(
    data: bytes, cuts: list[int], method: str, offered: bytes
) -> None:
    check_responses(data, cuts, method, offered)


@many
@given(
    st.lists(st.one_of(st.sampled_from([*mutations.CHUNK_PIECES, b"5\r\nhello\r\n"]), st.binary(max_size=3))).map(
        b"".join
    ),
    CUTS,
)
def test_the_chunked_coding_is_read_the_same_however_it_is_cut(data: bytes, cuts: list[int]) -> None:
    check_chunked(data, cuts)


@many
@given(REQUESTS)
def test_requests_written_anew_are_the_same_to_h11(data: bytes) -> None:
    messages = _accepted(read_requests([data]))
    written = b"".join(map(written_request, messages))
    read, error = _h11_requests(written)
    assert error == ""
    assert read == [
        Plain(message.head.method.encode(), message.head.target, _with_host(message.head), message.body)
        for message in messages
    ]


@many
@given(REQUESTS)
def test_requests_accepted_here_are_the_same_to_h11(data: bytes) -> None:
    """Nobody behind us is asked here: a client and its h11 speak of the same requests."""
    messages = _accepted(read_requests([data]))
    read, error = _h11_requests(data)
    ours = [
        Plain(message.head.method.encode(), message.head.target, _compared(message.head.fields), message.body)
        for message in messages
    ]
    theirs = [
        each._replace(second=_in_origin_form(each), fields=_compared(strict.end_to_end(each.fields))) for each in read
    ]
    # h11 goes on where we refuse: what we have accepted before is what counts.
    assert ours[: len(theirs)] == theirs[: len(ours)]
    if len(theirs) < len(ours):
        # h11 is the stricter one: it wants no empty line before a request (RFC 9112 section 2.2 asks servers to ignore
        # one), and closes after every HTTP/1.0 request, keep-alive or not.
        stopped = bool(theirs) and messages[len(theirs) - 1].head.version == 10
        empty_line = error == "no request line received"
        assert stopped or empty_line or _refused_in_chunks(messages[len(theirs)], error), error


@many
@given(RESPONSES, METHOD)
def test_responses_written_anew_are_the_same_to_h11(data: bytes, method: str) -> None:
    messages = _accepted(read_responses([data], [method]))
    messages = list(_until_switched(messages))
    written = b"".join(itertools.starmap(written_response, _answers(messages, method)))
    read, error = _h11_responses(written, method)
    assert error == ""
    assert read == [
        Plain(b"%d" % message.head.status, message.head.reason, message.head.fields, message.body)
        for message in messages
    ]


@many
@given(RESPONSES, METHOD)
def test_responses_accepted_here_are_the_same_to_h11(data: bytes, method: str) -> None:
    messages = list(_until_switched(_accepted(read_responses([data], [method]))))
    read, error = _h11_responses(data, method)
    ours = [
        Plain(b"%d" % message.head.status, message.head.reason, _compared(message.head.fields), message.body)
        for message in messages
    ]
    theirs = [each._replace(fields=_compared(strict.end_to_end(each.fields))) for each in read]
    assert ours[: len(theirs)] == theirs[: len(ours)]
    if len(theirs) < len(ours):
        # h11 is the stricter one: it closes after every HTTP/1.0 response, keep-alive or not.
        stopped = bool(theirs) and messages[len(theirs) - 1].head.version == 10
        assert stopped or _refused_in_chunks(messages[len(theirs)], error), error


@pytest.mark.parametrize("seed", range(3))
def test_mutations_are_mutations(seed: int) -> None:
    """Neither all refused nor all in order: what is made here gets past the first lines."""
    random = Random(seed)
    ends = [check_requests(mutations.requests(random)) for _ in range(300)]
    refused = [each for each in ends if each.end]
    assert 100 < len(refused) < 290
    assert sum(bool(each.messages) for each in refused) > 30


def _accepted(messages: Iterator[Message[Any]]) -> list[Message[Any]]:
    """Those in order, up to the first that is refused or not all there."""
    accepted: list[Message[Any]] = []
    with contextlib.suppress(*NAMED_ERRORS):
        accepted.extend(message for message in messages if message.complete)
    return accepted


def _until_switched(messages: list[Message[ResponseHead]]) -> Iterator[Message[ResponseHead]]:
    """h11 has to be told beforehand that a protocol was offered; a 101 is left out here."""
    return itertools.takewhile(lambda message: message.head.status != 101, messages)


def _answers(messages: list[Message[ResponseHead]], method: str) -> Iterator[tuple[Message[ResponseHead], str]]:
    """Each response with the method it answers: the first final one `method`, those behind it GET."""
    for message in messages:
        yield message, method
        if message.head.status >= 200:
            method = "GET"


def _refused_in_chunks(message: Message[Any], error: str) -> bool:
    """Whether this is where h11 is the stricter one about a body in the chunked coding.

    It wants no blanks between a chunk's size and its extensions (RFC 9112 section 7.1.1 allows them, as BWS), and looks
    at framing fields in trailers, which are dropped here unseen (RFC 9110 section 6.5.1).
    """
    blank = re.match(r"illegal chunk header: bytearray\(b(?:'|\")[0-9A-Fa-f]{1,15}(?: |\\t)+;", error)
    in_trailers = re.match(
        r"(?:Only Transfer-Encoding: chunked is supported|(?:bad|conflicting) Content-Length|multiple Transfer)", error
    )
    return message.head.body == CHUNKED and (blank or in_trailers) is not None


def _with_host(head: RequestHead) -> Fields:
    return [(b"Host", head.host), *head.fields]


def _compared(fields: Fields) -> Fields:
    return [(name, value) for name, value in fields if name.lower() not in strict.OWNED]


def _in_origin_form(request: Plain) -> bytes:
    """h11 leaves a target as it is."""
    method, target, *_ = request
    if target[:1] in {b"/", b"*"}:
        return target
    path = b"/" + target.partition(b"://")[2].partition(b"/")[2]
    authority, mark, query = target.partition(b"://")[2].partition(b"?")
    if mark and b"/" not in authority:
        return b"/?" + query
    return b"*" if method == b"OPTIONS" and path == b"/" and not target.endswith(b"/") else path


FRAMING = {b"content-length", b"transfer-encoding"}


def _told(event: Any, body: bytes) -> Plain:
    fields = [(name, value) for name, value in event.headers.raw_items() if name.lower() not in FRAMING]
    if isinstance(event, h11.Request):
        return Plain(event.method, event.target, fields, body)
    return Plain(b"%d" % event.status_code, event.reason, fields, body)


def _h11_requests(data: bytes) -> tuple[list[Plain], str]:
    """(the requests that h11 reads, its complaint about what follows)."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    if data:
        connection.receive_data(data)
    connection.receive_data(b"")
    read: list[Plain] = []
    head, body = None, b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                head, body = event, b""
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                read.append(_told(head, body))
                # 404, because after a 200 to CONNECT there would be a tunnel
                connection.send(h11.Response(status_code=404, headers=[("Content-Length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.their_state is not h11.DONE:  # MUST_CLOSE
                    return read, ""
                connection.start_next_cycle()
            else:
                assert isinstance(event, h11.ConnectionClosed)
                return read, ""
    except h11.RemoteProtocolError as error:
        return read, str(error)


def _h11_responses(data: bytes, method: str) -> tuple[list[Plain], str]:
    """(the responses that h11 reads, its complaint about what follows)."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    if data:
        connection.receive_data(data)
    connection.receive_data(b"")
    read: list[Plain] = []
    head, body = None, b""
    _ask(connection, method)
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.InformationalResponse):
                read.append(_told(event, b""))
            elif isinstance(event, h11.Response):
                head, body = event, b""
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                read.append(_told(head, body))
                if connection.their_state is not h11.DONE:
                    return read, ""
                connection.start_next_cycle()
                _ask(connection, "GET")
            else:
                assert isinstance(event, h11.ConnectionClosed)
                return read, ""
    except h11.RemoteProtocolError as error:
        asked_once_more = "can't handle event type ConnectionClosed when role=SERVER and state=SEND_RESPONSE"
        return read, "" if str(error) == asked_once_more else str(error)


def _ask(connection: h11.Connection, method: str) -> None:
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "a.test")]))
    connection.send(h11.EndOfMessage())
