"""A list of ciphers for TLS 1.2, as OpenSSL understands it, looked at before anybody is served with it.

OpenSSL passes over names it does not know, in silence, as long as one is left. So each element is asked for on its own,
and then the list for what it comes to.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from iocproxy.config.faults import did_you_mean
from iocproxy.errors import ConfigError, Fault
from iocproxy.tls.certificate import Certificate

#: Below this, keys of 1024 bits and SHA-1 are good enough for OpenSSL, for TLS 1.3 and certificates as well.
_LEAST_SECURITY_LEVEL = 2

_ALLOWED = 'OpenSSL cipher names and keywords, such as "ECDHE+AESGCM"'
_SEPARATORS = re.compile(r"[:, ;]+")

#: Why a cipher has no place anywhere, as questions about an entry of `SSLContext.get_ciphers`.
_INSECURE: tuple[tuple[str, Callable[[dict[str, Any]], bool]], ...] = (
    ("no encryption", lambda cipher: not cipher["strength_bits"]),
    ("no authentication", lambda cipher: cipher["auth"] == "auth-null"),
    ("RC4", lambda cipher: "RC4" in cipher["name"]),
    ("triple DES", lambda cipher: "DES-CBC3" in cipher["name"] or "3DES" in cipher["name"]),
    ("a key of less than 112 bits", lambda cipher: 0 < cipher["strength_bits"] < 112),
)


def check_ciphers(text: str, certificates: Iterable[Certificate], *, path: str = "") -> list[str]:
    """Warnings, as phrases, about a list that can be used with these certificates.

    Raises ConfigError with everything that is wrong with it; `path` is the configuration's key path for messages.
    """
    faults = [Fault(path, found, _ALLOWED) for found in _unknown(text)]
    if faults:
        raise ConfigError(faults)
    ciphers = _selected(text)
    if not ciphers:
        raise ConfigError([Fault(path, f"{text!r} leaves no cipher for TLS 1.2", _ALLOWED)])
    for what, insecure in _INSECURE:
        bad = [cipher["name"] for cipher in ciphers if insecure(cipher)]
        if bad:
            faults.append(
                Fault(path, f"ciphers with {what}: {_some(bad)}", "strong ciphers only; take others out with !")
            )
    usable = [cipher for cipher in ciphers if cipher["kea"] in {"kx-ecdhe", "kx-rsa"}]
    served = {cipher["auth"] for cipher in usable}
    certificates = list(certificates)
    without = [each for each in certificates if _authentication(each) not in served]
    if certificates and len(without) == len(certificates):
        kinds = ", ".join(dict.fromkeys(each.key_type for each in without))
        found = f"{text!r} leaves no cipher that goes with a key of the kind {kinds}"
        faults.append(Fault(path, found, "ciphers for the listener's certificates: ECDHE-ECDSA-* or ECDHE-RSA-*"))
    if faults:
        raise ConfigError(faults)
    return [*_weak(usable), *(f"no cipher in it goes with {each.cert}, so TLS 1.3 only" for each in without)]


def _unknown(text: str) -> Iterator[str]:
    for number, element in enumerate(filter(None, _SEPARATORS.split(text))):
        if element.startswith("@"):
            level = re.fullmatch(r"@SECLEVEL=([0-5])", element)
            if level is None and element != "@STRENGTH":
                yield f"{element!r} is no command of OpenSSL's"
            elif level is not None and int(level[1]) < _LEAST_SECURITY_LEVEL:
                yield f"{element!r} allows what is insecure in certificates and TLS 1.3 as well"
        elif element[0] in "!-":
            pass  # what OpenSSL no longer has need not be there to be taken out
        elif element == "DEFAULT" and number:
            yield "'DEFAULT' has a meaning at the start of the list only"
        elif not _selected(name := element.removeprefix("+")):
            if name.startswith("TLS_"):
                yield f"{name!r} is a suite of TLS 1.3, which Python's ssl cannot choose"
            else:
                yield f"{name!r} is no cipher of {ssl.OPENSSL_VERSION}{_hint(name)}"


def _hint(name: str) -> str:
    hint = did_you_mean(name, [cipher["name"] for cipher in _selected("ALL:COMPLEMENTOFALL")]).strip()
    return f"; {hint}" if hint else ""


def _selected(text: str) -> list[dict[str, Any]]:
    """What OpenSSL makes of it for TLS 1.2, in its order; empty when it refuses."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.set_ciphers(text)
    except ssl.SSLError:
        return []
    return [dict(cipher) for cipher in context.get_ciphers() if cipher["protocol"] != "TLSv1.3"]


def _authentication(certificate: Certificate) -> str:
    # Ed25519 and Ed448 come with the suites of ECDSA (RFC 8422 section 5.10).
    return "auth-rsa" if certificate.is_rsa else "auth-ecdsa"


def _weak(ciphers: list[dict[str, Any]]) -> Iterator[str]:
    static = [cipher["name"] for cipher in ciphers if cipher["kea"] == "kx-rsa"]
    if static:
        yield f"ciphers without forward secrecy: {_some(static)}"
    malleable = [cipher["name"] for cipher in ciphers if not cipher["aead"]]
    if malleable:
        yield f"ciphers without authenticated encryption: {_some(malleable)}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
