"""What a middleware may change of a message, checked before it goes on the wire.

The method is not among it: what the response means depends on it (RFC 9110 section 9.3.2). Framing is not, either: the
fields that say where a message ends, and those of this hop, are written by the exchange from its own decision. A
middleware that could set them could desynchronise a connection that other clients use as well.
"""

from __future__ import annotations

import re

from iocproxy.http1.fields import HOP_BY_HOP, is_authority
from iocproxy.http1.framing import NO_BODY
from iocproxy.http1.response import ResponseHead
from iocproxy.message import Fields, Request, Response, check_reason, reason_phrase

_TARGET = re.compile(rb"/[\x21-\x22\x24-\x7e]*|\*")
#: RFC 9110 section 5.1 and 5.5.
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")

#: Statuses without a body, whatever their fields say (RFC 9110 sections 15.3.5 and 15.4.5).
_BODYLESS = frozenset({204, 304})


def without_framing(fields: Fields, *more: bytes) -> Fields:
    """`fields` without those that a connection owns, and without `more` (lower-case names)."""
    owned = HOP_BY_HOP.union((b"content-length", *more))
    return [field for field in fields if field[0].lower() not in owned]


def check_rewritten_request(request: Request) -> None:
    """Drop what is not a middleware's to set; raise ValueError for what could not be sent."""
    _check_fields(request.fields)
    request.fields = without_framing(request.fields, b"host")
    if not isinstance(request.target, bytes) or not _TARGET.fullmatch(request.target):
        raise ValueError(f"a middleware made the target {request.target!r}, which is not a path as bytes")
    if not isinstance(request.host, bytes) or (request.host and not is_authority(request.host)):
        raise ValueError(f"a middleware made the host {request.host!r}, which is not a host and port as bytes")


def check_answer(said: object) -> Response:
    """What an `on_request` hook returned, fit to be sent. Raises ValueError for anything else."""
    if not isinstance(said, Response):
        raise ValueError(f"a middleware's on_request returned {said!r}; allowed are None and a Response")  # noqa: TRY004
    _check_head(said)
    if said.body is not None and not isinstance(said.body, bytes):
        raise ValueError(f"a middleware answered with a body of type {type(said.body).__name__}; allowed is bytes")
    return said


def _check_head(response: Response) -> None:
    status = response.status
    if not isinstance(status, int) or not 200 <= status <= 599:
        raise ValueError(f"a middleware made the status {status!r}; allowed is 200 to 599")
    if not isinstance(response.reason, bytes):
        raise ValueError(f"a middleware made the reason {response.reason!r}; allowed is bytes")  # noqa: TRY004
    check_reason(response.reason)
    _check_fields(response.fields)


def _check_fields(fields: object) -> None:
    """Whatever a middleware did to them without `Headers`, which checks by itself."""
    if not isinstance(fields, list):
        raise ValueError(f"a middleware made the fields {fields!r}; allowed is a list")  # noqa: TRY004
    for field in fields:
        match field:
            case (bytes(name), bytes(value)) if _NAME.fullmatch(name) and _VALUE.fullmatch(value):
                pass
            case _:
                raise ValueError(f"a middleware made the field {field!r}; allowed is (name, value), each as bytes")


def octets(value: object) -> bytes:
    """What a middleware may have put in the place of octets when it no longer mattered."""
    return value if isinstance(value, bytes) else str(value).encode("latin-1", "backslashreplace")


def take_over_response(head: ResponseHead, response: Response) -> None:
    """Put into `head` what the middlewares made of it. Raises ValueError for what could not be sent."""
    _check_head(response)
    status = response.status
    if status != head.status:
        if status in _BODYLESS and head.body != NO_BODY:
            raise ValueError(f"a middleware made the status {status} of a response that has a body")
        if head.body == NO_BODY and head.announced is None and head.status in _BODYLESS:
            head.announced = 0
        if response.reason == head.reason:
            response.reason = reason_phrase(status)
    head.status = status
    head.reason = response.reason
    head.fields = without_framing(response.fields)
