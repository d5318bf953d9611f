"""Where a message ends, decided once, here, for both directions (RFC 9112 section 6.3).

`BodyLength` is the whole decision: a number of octets, or one of the two marks below. Every reader and writer of a
body works from it; nobody looks at Content-Length or Transfer-Encoding again.
"""

from __future__ import annotations

from iocproxy.http1.errors import bad_request, bad_response

#: The octets of a body, or one of the marks.
BodyLength = int

NO_BODY = 0
CHUNKED = -1
UNTIL_CLOSE = -2

#: 2**62 octets; what could overflow somebody's 64-bit counter is refused.
_MAX_LENGTH_DIGITS = 18


def _length(value: bytes) -> int | None:
    """Content-Length = 1*DIGIT, one value only; a list, a sign or an overlong number is refused, not repaired."""
    return int(value) if value.isdigit() and len(value) <= _MAX_LENGTH_DIGITS else None


def request_body(version: int, lengths: list[bytes], codings: list[bytes]) -> BodyLength:
    """The body of a request.

    `lengths` and `codings` are the values of its Content-Length and Transfer-Encoding fields. Stricter than RFC 9112
    section 6.3, which lets a proxy repair some of these. Raises `ProxyError` with status 400 or 501.
    """
    if codings:
        if version == 10:
            raise bad_request("Transfer-Encoding in an HTTP/1.0 request (RFC 9112 section 6.1)")
        if lengths:
            raise bad_request("both Content-Length and Transfer-Encoding (RFC 9112 section 6.1)")
        if len(codings) != 1:
            raise bad_request("more than one Transfer-Encoding field")
        if codings[0].lower() != b"chunked":
            raise bad_request("a transfer coding other than a single chunked", 501)
        return CHUNKED
    if not lengths:
        return NO_BODY
    if len(lengths) != 1:
        raise bad_request("more than one Content-Length field")
    length = _length(lengths[0])
    if length is None:
        raise bad_request("a Content-Length that is not a plain decimal number")
    return length


def response_body(version: int, status: int, method: str, lengths: list[bytes], codings: list[bytes]) -> BodyLength:
    """The body of a response to a request with `method`. Raises `ProxyError` with status 502."""
    if codings and (lengths or len(codings) != 1 or codings[0].lower() != b"chunked" or version == 10):
        raise bad_response("ambiguous framing in the upstream's response", "http_response_transfer_coding")
    length = NO_BODY
    if lengths:
        parsed = _length(lengths[0]) if len(lengths) == 1 else None
        if parsed is None:
            raise bad_response("a Content-Length in the upstream's response that is not one plain number")
        length = parsed
    if status == 205 and length:
        raise bad_response("a 205 with content (RFC 9110 section 15.3.6)")
    if method == "HEAD" or status in {204, 304} or status < 200:
        return NO_BODY
    if codings:
        return CHUNKED
    return length if lengths else UNTIL_CLOSE
