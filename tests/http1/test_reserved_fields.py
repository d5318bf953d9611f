"""Fields that no client may send, in whatever spelling somebody behind us could take for them."""

from __future__ import annotations

import pytest

from iocproxy.http1.heads import HeadLimits
from iocproxy.http1.request import RequestHeadParser
from iocproxy.http1.reserved import ReservedFields

RESERVED = ReservedFields(["X-Client-Subject", "Client-Cert"])


@pytest.mark.parametrize(
    ("name", "reserved"),
    [
        (b"X-Client-Subject", True),
        (b"x-client-subject", True),
        (b"X_CLIENT_SUBJECT", True),
        (b"X-Client_Subject", True),
        (b"X.Client.Subject", True),
        (b"x!client~subject", True),
        (b"Client_Cert", True),
        (b"XClientSubject", False),
        (b"X-Client-Subject-", False),
        (b"-X-Client-Subject", False),
        (b"X--Client-Subject", False),
        (b"Client-Cert-Chain", False),
        (b"", False),
    ],
)
def test_spellings(name: bytes, reserved: bool) -> None:
    assert (name in RESERVED) is reserved
    kept = [(b"A", b"1"), (b"B", b"2")]
    fields = [kept[0], (name, b"x"), kept[1]]
    assert RESERVED.without(fields) == (kept if reserved else fields)


def test_a_list_of_names() -> None:
    assert RESERVED.without_names(b"X-A, x_client_subject ,\tClient-Cert,,X-B") == b"X-A, X-B"
    assert RESERVED.without_names(b"") == b""


def test_a_parser_drops_them_known_or_not() -> None:
    parser = RequestHeadParser(HeadLimits(8192, 32768, 100), RESERVED)
    for target in (b"/1", b"/2"):  # the second section is known from the first
        head = parser.parse(
            b"GET %b HTTP/1.1\r\nHost: a.test\r\nX_Client_Subject: CN=root\r\nX-A: 1\r\nClient-Cert: :AA:\r\n\r\n"
            % target
        )
        assert head.fields == [(b"X-A", b"1")]
        assert b"root" not in head.section.written()
        assert head.section.count == 4


def test_without_any_they_pass() -> None:
    head = RequestHeadParser(HeadLimits(8192, 32768, 100)).parse(
        b"GET / HTTP/1.1\r\nHost: a.test\r\nX_Client_Subject: CN=root\r\n\r\n"
    )
    assert head.fields == [(b"X_Client_Subject", b"CN=root")]
