"""Certificates of several kinds of key for one name: which of them a client can be served with.

An ECDSA signature costs a fraction of an RSA one, and there are still clients that verify RSA only. OpenSSL would
choose by itself if one context had both, but `SSLContext.load_cert_chain` called twice goes on serving those clients
with what was there first, and a renewed certificate would end the sessions of the other. So there is a context for
each certificate, and the ClientHello decides.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence

from iocproxy.tls.certificate import Certificate
from iocproxy.tls.client_hello import ClientHello, signature_schemes

_TLS_1_3 = 0x0304

#: By the cost of a signature; the last is for those who can do with none of the others.
_PREFERENCE = ("ecdsa", "ed25519", "ed448", "rsa")

#: SignatureScheme (RFC 8446 section 4.2.3) of a key. TLS 1.3 binds each curve to one of them.
_SCHEMES = {
    "ecdsa-secp256r1": 0x0403,
    "ecdsa-secp384r1": 0x0503,
    "ecdsa-secp521r1": 0x0603,
    "ed25519": 0x0807,
    "ed448": 0x0808,
}
_ECDSA = frozenset({0x0403, 0x0503, 0x0603})

#: supported_groups (RFC 8422 section 5.1.1).
_CURVES = {"ecdsa-secp256r1": 0x0017, "ecdsa-secp384r1": 0x0018, "ecdsa-secp521r1": 0x0019}


def kind(certificate: Certificate) -> str:
    """ "rsa", "ecdsa", "ed25519" or "ed448"."""
    return certificate.key_type.partition("-")[0]


def preference(certificate: Certificate) -> int:
    """To sort by: the best first."""
    return _PREFERENCE.index(kind(certificate))


def suites_for_ecdsa(context: ssl.SSLContext) -> frozenset[bytes]:
    """The TLS 1.2 suites of a context that go with ECDSA and EdDSA keys, as two octets each."""
    return frozenset(
        (cipher["id"] & 0xFFFF).to_bytes(2)
        for cipher in context.get_ciphers()
        if cipher["protocol"] != "TLSv1.3" and cipher["auth"] == "auth-ecdsa"
    )


def can_verify(hello: ClientHello, key_type: str, suites: frozenset[bytes]) -> bool:
    """Whether a client and a server with these TLS 1.2 `suites` can agree on a key that is not RSA.

    Without signature_algorithms: no. What RFC 5246 section 7.4.1.4.1 takes for granted then is SHA-1, and nobody signs
    with that any more.
    """
    offered = signature_schemes(hello.signature_algorithms)
    if _TLS_1_3 in hello.versions:
        return _SCHEMES.get(key_type) in offered
    # In TLS 1.2 a scheme says ECDSA and the hash, and the curve is looked for among the groups (RFC 8422 section 5.1).
    if key_type in _CURVES:
        if _ECDSA.isdisjoint(offered) or (hello.groups and _CURVES[key_type] not in hello.groups):
            return False
    elif _SCHEMES.get(key_type) not in offered:
        return False
    octets = hello.cipher_suites
    return any(octets[at : at + 2] in suites for at in range(0, len(octets), 2))


def passed_over(certificates: Sequence[Certificate]) -> list[tuple[int, str]]:
    """The certificates, by index, that do not serve their names as an earlier one has the same kind of key, each with a
    warning."""
    first: dict[tuple[str, str], Certificate] = {}
    found = []
    for index, certificate in enumerate(certificates):
        before = {name: first.setdefault((name, kind(certificate)), certificate) for name in certificate.names}
        lost = [name for name, owner in before.items() if owner is not certificate]
        if lost:
            owners = ", ".join(dict.fromkeys(str(before[name].cert) for name in lost))
            extent = "never used" if len(lost) == len(before) else f"not used for {', '.join(lost)}"
            found.append(
                (index, f"{certificate.cert} is {extent}: {owners} stands before it with the same kind of key")
            )
    return found
