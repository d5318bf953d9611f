"""OpenSSL's reasons in words for a person."""

from __future__ import annotations

import ssl

import pytest

from iocproxy.tls.reasons import explain, is_alert, reason_of


def error(text: str, reason: str | None = None) -> ssl.SSLError:
    made = ssl.SSLError(1, text)
    made.reason = reason  # type: ignore[assignment]  # None, where Python has no constant for it
    return made


@pytest.mark.parametrize(
    ("raised", "reason", "alert", "said"),
    [
        (
            error("[SSL] tlsv1 alert no application protocol (_ssl.c:1006)"),
            "tlsv1 alert no application protocol",
            True,
            "the server does not speak HTTP/1.1 here (tlsv1 alert no application protocol)",
        ),
        (
            error("[SSL] unknown error (_ssl.c:1006)"),
            "unknown error",
            True,
            "the server refuses with an alert that this OpenSSL has no name for (unknown error)",
        ),
        (
            error("", "TLSV1_UNRECOGNIZED_NAME"),
            "tlsv1 unrecognized name",
            True,
            "the server has no host of that name; see `server_name` (tlsv1 unrecognized name)",
        ),
        (
            error("", "WRONG_VERSION_NUMBER"),
            "wrong version number",
            False,
            "what the server sends is not TLS; does it speak plain HTTP on this port? (wrong version number)",
        ),
        (error("", "BAD_EXTENSION"), "bad extension", False, "bad extension"),
    ],
)
def test_reasons(raised: ssl.SSLError, reason: str, alert: bool, said: str) -> None:
    assert reason_of(raised) == reason
    assert is_alert(reason) is alert
    assert explain(raised) == said


@pytest.mark.parametrize(("code", "hint"), [(20, True), (18, True), (10, False), (62, False)])
def test_certificates(code: int, hint: bool) -> None:
    """20 is X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY, 18 a self-signed one, 10 an expired one, 62 another name."""
    raised = ssl.SSLCertVerificationError(1, "x")
    raised.verify_code, raised.verify_message = code, "what OpenSSL says."
    said = explain(raised)
    assert said.startswith("certificate not accepted: what OpenSSL says")
    assert ("see `ca`" in said) is hint
