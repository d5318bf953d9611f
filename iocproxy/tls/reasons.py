"""What OpenSSL says about a failure, and for an upstream's in words for whoever has to put it right.

OpenSSL's own words stand behind ours, in parentheses, as they are what one finds on the net.
"""

from __future__ import annotations

import re
import ssl

from iocproxy.errors import HandshakeFailure

#: OpenSSL's reason, in lower case, by what it ends with.
_REASONS = {
    # The server's records are none, or not of a version that exists
    "wrong version number": "what the server sends is not TLS; does it speak plain HTTP on this port?",
    "record layer failure": "what the server sends is not TLS",
    "packet length too long": "what the server sends is not TLS",
    "unsupported protocol": "the server speaks no TLS version that is allowed here",
    # Alerts: about what we offer
    "alert protocol version": "the server speaks no TLS version that is allowed here",
    "alert handshake failure": "the server found nothing in common with us, or wants a client certificate",
    "alert no application protocol": "the server does not speak HTTP/1.1 here",
    "unrecognized name": "the server has no host of that name; see `server_name`",
    # Alerts: about our certificate
    "alert certificate required": "the server wants a client certificate; see `client_certificate`",
    "alert unknown ca": "the server does not know the authority of our client certificate",
    "alert bad certificate": "the server refuses our client certificate, or wants one",
    "alert unsupported certificate": "the server refuses our client certificate as of the wrong kind",
    "alert certificate expired": "the server finds our client certificate expired",
    "alert certificate revoked": "the server finds our client certificate revoked",
    "alert certificate unknown": "the server refuses our client certificate",
    "alert access denied": "the server refuses us",
    "unknown error": "the server refuses with an alert that this OpenSSL has no name for",
}

#: OpenSSL's X509_V_ERR_... for: no authority known here has issued it.
_UNKNOWN_ISSUER = {2, 18, 19, 20, 21}


#: What Python puts around it: "[SSL] tlsv1 alert no application protocol (_ssl.c:1006)".
_FRAME = re.compile(r"^\[[^\]]*\] | \(_ssl\.c:\d+\)$")


def reason_of(error: ssl.SSLError) -> str:
    """OpenSSL's words, in lower case. Python knows most of them as a constant, and a few as a text only."""
    return (error.reason or _FRAME.sub("", str(error))).replace("_", " ").lower()


def is_alert(reason: str) -> bool:
    """Whether a reason is an alert of the other side: "tlsv13 alert certificate required", "tlsv1 unrecognized name".
    Of OpenSSL's reasons only alerts have no name: in 3.0.13 no_application_protocol is one of those."""
    return " alert " in reason or reason.startswith("tlsv1 ") or reason == "unknown error"


#: Reasons for which the two sides have nothing in common, by what OpenSSL's words end with.
_NOTHING_IN_COMMON = (
    "unsupported protocol",
    "version too low",
    "inappropriate fallback",
    "no shared cipher",
    "no suitable key share",
    "no suitable groups",
    "no suitable signature algorithm",
    "no shared signature algorithms",
    "no shared groups",
    "wrong curve",
)


def counted_as(reason: str) -> HandshakeFailure:
    """What a handshake with a client is counted as that failed for this reason; certificates apart."""
    if is_alert(reason):
        return HandshakeFailure.REFUSED
    return HandshakeFailure.UNSUPPORTED if reason.endswith(_NOTHING_IN_COMMON) else HandshakeFailure.MALFORMED


def explain(error: ssl.SSLError) -> str:
    """Why a handshake with an upstream failed, or a connection to it that stood."""
    if isinstance(error, ssl.SSLCertVerificationError):
        said = error.verify_message.rstrip(".")
        hint = "; no authority known here has issued it, see `ca`" if error.verify_code in _UNKNOWN_ISSUER else ""
        return f"certificate not accepted: {said}{hint}"
    reason = reason_of(error)
    for ending, said in _REASONS.items():
        if reason.endswith(ending):
            return f"{said} ({reason})"
    return reason
