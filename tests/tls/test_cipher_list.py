"""A list of ciphers is looked at before it is used: what OpenSSL makes of it, and whether that is any good."""

from __future__ import annotations

import pytest

from iocproxy.errors import ConfigError
from iocproxy.tls import CIPHERS, check_ciphers


def faults(text: str, certificates=()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check_ciphers(text, certificates, path="listeners[0].tls.ciphers")
    assert {fault.path for fault in caught.value.faults} == {"listeners[0].tls.ciphers"}
    return [fault.found for fault in caught.value.faults]


@pytest.mark.parametrize(
    "text",
    [
        CIPHERS,
        "ECDHE+AESGCM",
        "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL:!RC4:!EXPORT:!NO-SUCH-THING",
        "ECDHE+AESGCM,ECDHE+CHACHA20",
        "ECDHE+AESGCM ECDHE+CHACHA20",
        "ECDHE+AESGCM:@STRENGTH",
        "@SECLEVEL=3:ECDHE+AESGCM",
        "ECDHE+AESGCM:+AES128",
    ],
)
def test_good_lists(pair, text) -> None:
    assert check_ciphers(text, [pair("localhost"), pair("localhost", rsa=True)]) == []


def test_names_that_openssl_does_not_know() -> None:
    """It would pass over them in silence."""
    found = faults("ECDHE-RSA-AES128-GCM-SHA265:ECDHE+AESGCM:WHATEVER")
    assert found[0].startswith("'ECDHE-RSA-AES128-GCM-SHA265' is no cipher of OpenSSL ")
    assert 'did you mean "ECDHE-RSA-AES128-GCM-SHA256"?' in found[0]
    assert found[1].startswith("'WHATEVER' is no cipher of OpenSSL ")
    assert len(found) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("TLS_AES_128_GCM_SHA256:ECDHE+AESGCM", "is a suite of TLS 1.3, which Python's ssl cannot choose"),
        ("ECDHE+AESGCM:!ALL", "leaves no cipher for TLS 1.2"),
        (":", "leaves no cipher for TLS 1.2"),
        ("ECDHE+AESGCM:@SECLEVEL=0", "allows what is insecure"),
        ("ECDHE+AESGCM:@SECLEVEL=1", "allows what is insecure"),
        ("ECDHE+AESGCM:@SECLEVEL=9", "is no command of OpenSSL's"),
        ("ECDHE+AESGCM:@FASTEST", "is no command of OpenSSL's"),
        ("ECDHE+AESGCM:DEFAULT", "at the start of the list only"),
        ("eNULL", "ciphers with no encryption: "),
        ("HIGH", "ciphers with no authentication: "),
        ("aNULL", "ciphers with no authentication: "),
    ],
)
def test_bad_lists(text, said) -> None:
    assert any(said in found for found in faults(text))


@pytest.mark.parametrize("text", ["RC4-SHA", "DES-CBC3-SHA", "EXP-RC4-MD5", "DES-CBC-SHA"])
def test_what_is_broken_is_a_fault_whether_openssl_has_it_or_not(text) -> None:
    assert faults(f"ECDHE+AESGCM:{text}")


def test_nothing_for_the_kind_of_key(pair) -> None:
    ecdsa, rsa = pair("localhost"), pair("localhost", rsa=True)
    (found,) = faults("ECDHE-RSA-AES128-GCM-SHA256", [ecdsa])
    assert found.endswith("leaves no cipher that goes with a key of the kind ecdsa-secp256r1")
    (found,) = faults("ECDHE-ECDSA-AES128-GCM-SHA256", [rsa])
    assert found.endswith("leaves no cipher that goes with a key of the kind rsa-2048")
    # DHE needs parameters, and PSK keys, that nobody has given
    assert faults("DHE-RSA-AES128-GCM-SHA256", [rsa])
    assert faults("PSK-AES128-GCM-SHA256", [rsa])


def test_nothing_for_one_of_several_is_a_warning(pair) -> None:
    ecdsa, rsa = pair("localhost"), pair("localhost", rsa=True)
    (warning,) = check_ciphers("ECDHE-RSA-AES128-GCM-SHA256", [rsa, ecdsa])
    assert warning == f"no cipher in it goes with {ecdsa.cert}, so TLS 1.3 only"


def test_what_is_old_is_a_warning(pair) -> None:
    static, malleable = check_ciphers("DEFAULT", [pair("localhost", rsa=True)])
    assert static.startswith("ciphers without forward secrecy: AES256-GCM-SHA384, ")
    assert malleable.startswith("ciphers without authenticated encryption: ECDHE-")
    assert " more" in malleable
