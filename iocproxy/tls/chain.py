"""The certificates that stand behind a server's own in its file: what clients need to get from it to a root they know.

Nothing here is a fault. Many clients put a disorderly chain right, have met a missing intermediate elsewhere, or fetch
it; others do not, and those are the ones that nobody tests with. So each finding is a warning that names the file.
"""

from __future__ import annotations

import contextlib
import datetime
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

#: X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT, …_LOCALLY, X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE.
_ISSUER_MISSING = frozenset({2, 20, 21})

#: A handshake takes each side three.
_TURNS = 4


def about_chain(
    chain: Sequence[x509.Certificate], file: Path, context: ssl.SSLContext | None, now: datetime.datetime
) -> list[str]:
    """Warnings, as phrases, about the certificates of a file, the server's own first; `context` is a server's that has
    them, None where the system's authorities are not those that count. Blocking: may read them."""
    path, left = _path(chain)
    found = [f"{file} holds {_called(each)}, which does not belong behind its first certificate" for each in left]
    if not left and path != list(chain):
        # RFC 5246 section 7.4.2 demands the order, RFC 8446 section 4.4.2 only asks for it.
        found.append(f"{file} has its chain out of order: behind each certificate comes that of its issuer")
    for each in path[1:]:
        if now > each.not_valid_after_utc:
            found.append(
                f"{file}: {_called(each)} in its chain expired on {each.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
            )
        if now < each.not_valid_before_utc:
            start = f"{each.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
            found.append(f"{file}: {_called(each)} in its chain is not valid before {start}")
    if (
        context is not None
        and len(path) == 1
        and chain[0].issuer != chain[0].subject
        and not _leads_to_the_system(context)
    ):
        found.append(
            f"{file} holds no certificate of its issuer, {chain[0].issuer.rfc4514_string() or 'which has no name'}: "
            "clients that do not have that refuse it; no matter where the issuer is a root that they all trust"
        )
    return found


def _path(chain: Sequence[x509.Certificate]) -> tuple[list[x509.Certificate], list[x509.Certificate]]:
    """From the first certificate upwards, as far as the file goes, and what is left over."""
    path, left = [chain[0]], list(chain[1:])
    while True:
        above = next((each for each in left if _issued(each, path[-1])), None)
        if above is None:
            return path, left
        left.remove(above)
        path.append(above)


def _issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _leads_to_the_system(context: ssl.SSLContext) -> bool:
    """Whether a client on this machine, with the authorities of the system and without anything remembered or fetched,
    finds the issuer. OpenSSL is asked in a handshake within memory: it knows where a system keeps them."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    _trust_roots(client)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (client.wrap_bio(to_client, to_server), context.wrap_bio(to_server, to_client, server_side=True))
    for _ in range(_TURNS):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLCertVerificationError as error:
                return error.verify_code not in _ISSUER_MISSING
            except ssl.SSLError:
                return True  # something else is wrong, and not to be told from here
    return True


def _trust_roots(client: ssl.SSLContext) -> None:
    if sys.platform == "win32":
        # Not `load_default_certs`: it trusts the intermediates that the system has gathered as well.
        for der, encoding, _ in ssl.enum_certificates("ROOT"):
            if encoding == "x509_asn":
                with contextlib.suppress(ssl.SSLError):
                    client.load_verify_locations(cadata=der)
    else:
        client.load_default_certs(ssl.Purpose.SERVER_AUTH)


def _called(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string() or "a certificate without a name"
