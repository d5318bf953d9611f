"""What scanners find at a proxy with the default policy, an ECDSA and an RSA certificate: docs/design/tls-findings.md.

Slow, so that it has to be asked for: `python -m pytest -m slow`. Wants testssl.sh (Debian's package of that name) and
sslyze (PyPI; in an environment of its own, as it asks for an older `cryptography`) on PATH.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from iocproxy.testing import Certificates, Origin, ProxyFactory

#: Seconds that a scanner may take; testssl.sh takes 45 for a listener.
PATIENCE = 200

pytestmark = [pytest.mark.slow, pytest.mark.timeout(PATIENCE + 40)]

SSLYZE = shutil.which("sslyze")
TESTSSL = shutil.which("testssl") or shutil.which("testssl.sh")

#: What testssl.sh finds that is not of the proxy's making, with the reason.
EXPECTED = {
    "cert_validityPeriod": "the certificates of tests are valid for a thousand years",
    "cert_revocation": "their authority has neither CRL nor OCSP",
    "security_headers": "Content-Security-Policy and the like are for the application to say",
    "engine_problem": "about the scanner's own OpenSSL",
}

#: What sslyze is asked to look at.
CHECKS = (
    *("certinfo", "compression", "elliptic_curves", "ems", "fallback", "heartbleed", "openssl_ccs", "reneg", "resum"),
    *("robot", "sslv2", "sslv3", "tlsv1", "tlsv1_1", "tlsv1_2", "tlsv1_3"),
)

#: Where sslyze sees us beside Mozilla's intermediate configuration.
DEVIATIONS = {
    "certificate_path_validation": "nobody knows the authority of tests",
    "maximum_certificate_lifespan": "the certificates of tests are valid for a thousand years",
    "tls_curves": "P-521 and X448, which Python cannot take out without taking out all but one",
}


class Scanned(NamedTuple):
    """The listeners by the kind of their key."""

    addresses: dict[str, str]
    ca: Path
    directory: Path


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scanned]:
    directory = tmp_path_factory.mktemp("scanners")
    certificates = Certificates(directory)
    pairs = {"ecdsa": certificates.pair, "rsa": certificates.issue(rsa=True)}
    proxies = ProxyFactory(lambda: certificates)
    with Origin() as origin:
        proxy = proxies(
            upstream=origin,
            listeners=[
                {
                    "bind": "127.0.0.1:0",
                    "tls": {"certificates": [{"cert": str(pair.cert), "key": str(pair.key)}], "hsts": "365d"},
                }
                for pair in pairs.values()
            ],
        )
        ports = (port for _, port in proxy.addresses)
        yield Scanned({kind: f"127.0.0.1:{next(ports)}" for kind in pairs}, certificates.ca, directory)
        assert proxies.close() == []
        assert not [event for event in proxy.log if event["level"] in {"error", "critical"}]


# --- testssl.sh


@pytest.fixture(scope="module")
def testssl(scanned: Scanned) -> dict[str, list[dict[str, str]]]:
    """Its findings, by the kind of key; both scans at once."""
    if TESTSSL is None:
        pytest.skip(f"not on PATH: {'testssl.sh'}")
    running = {}
    for kind, address in scanned.addresses.items():
        options = ["--quiet", "--color", "0", "--warnings", "off", "--add-ca", str(scanned.ca)]
        command = [TESTSSL, *options, "--jsonfile", str(scanned.directory / f"{kind}.json"), address]
        with (scanned.directory / f"{kind}.txt").open("wb") as out:
            running[kind] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
    try:
        for process in running.values():
            process.wait(PATIENCE)
    finally:
        for process in running.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return {kind: json.loads((scanned.directory / f"{kind}.json").read_text("utf-8")) for kind in running}


@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
def test_testssl_finds_nothing_of_note(testssl: dict[str, list[dict[str, str]]], kind: str) -> None:
    findings = testssl[kind]
    serious = {"MEDIUM", "HIGH", "CRITICAL", "FATAL", "WARN"}
    found = {each["id"]: each["finding"] for each in findings if each["severity"] in serious}
    assert {name: said for name, said in found.items() if name not in EXPECTED} == {}
    # that it looked at all
    said = {each["id"]: each for each in findings}
    assert (said["TLS1_2"]["severity"], said["TLS1_3"]["severity"]) == ("OK", "OK")
    for protocol in ("SSLv2", "SSLv3", "TLS1", "TLS1_1"):
        assert said[protocol]["finding"] == "not offered"
    for check in (
        *("heartbleed", "CCS", "ticketbleed", "secure_renego", "secure_client_renego", "CRIME_TLS"),
        *("POODLE_SSL", "SWEET32", "FREAK", "DROWN", "LOGJAM", "BEAST", "LUCKY13", "RC4", "BREACH", "ROBOT"),
    ):
        assert said[check]["severity"] == "OK", check
    ciphers = [each["finding"] for each in findings if each["id"].startswith("cipher_x")]
    assert len(ciphers) == 6
    assert all(re.search(r"(AESGCM|ChaCha20)", cipher) for cipher in ciphers)


# --- sslyze


@pytest.fixture(scope="module")
def sslyze(scanned: Scanned) -> tuple[dict[str, Any], str]:
    """Its results by address, and what it says."""
    if SSLYZE is None:
        pytest.skip(f"not on PATH: {'sslyze'}")
    file = scanned.directory / "sslyze.json"
    command = [SSLYZE, f"--json_out={file}", "--mozilla_config=intermediate", "--early_data", "--http_headers"]
    command += [f"--{check}" for check in CHECKS]
    command += scanned.addresses.values()
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    results = json.loads(file.read_text("utf-8"))["server_scan_results"]
    by_port = {each["server_location"]["port"]: each["scan_result"] for each in results}
    return {f"127.0.0.1:{port}": each for port, each in by_port.items()}, done.stdout


@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
def test_sslyze_finds_no_vulnerability(scanned: Scanned, sslyze: tuple[dict[str, Any], str], kind: str) -> None:
    checks = sslyze[0][scanned.addresses[kind]]
    assert all(check["status"] in {"COMPLETED", "NOT_SCHEDULED"} for check in checks.values())
    results = {name: check["result"] for name, check in checks.items() if check["status"] == "COMPLETED"}
    assert results["heartbleed"]["is_vulnerable_to_heartbleed"] is False
    assert results["openssl_ccs_injection"]["is_vulnerable_to_ccs_injection"] is False
    assert results["robot"]["robot_result"] == "NOT_VULNERABLE_RSA_NOT_SUPPORTED"
    assert results["tls_compression"]["supports_compression"] is False
    assert results["tls_fallback_scsv"]["supports_fallback_scsv"] is True
    assert results["session_renegotiation"]["supports_secure_renegotiation"] is True
    assert results["session_renegotiation"]["is_vulnerable_to_client_renegotiation_dos"] is False
    assert results["tls_1_3_early_data"]["supports_early_data"] is False
    assert results["tls_extended_master_secret"]["supports_ems_extension"] is True
    assert results["http_headers"]["strict_transport_security_header"]["max_age"] == 31_536_000
    resumption = results["session_resumption"]
    assert resumption["session_id_resumption_result"] == "FULLY_SUPPORTED"
    assert resumption["tls_ticket_resumption_result"] == "FULLY_SUPPORTED"

    def accepted(version: str) -> set[str]:
        suites = results[f"{version}_cipher_suites"]["accepted_cipher_suites"]
        return {suite["cipher_suite"]["name"] for suite in suites}

    for version in ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"):
        assert accepted(version) == set()
    auth = kind.upper()
    assert accepted("tls_1_2") == {
        f"TLS_ECDHE_{auth}_WITH_AES_128_GCM_SHA256",
        f"TLS_ECDHE_{auth}_WITH_AES_256_GCM_SHA384",
        f"TLS_ECDHE_{auth}_WITH_CHACHA20_POLY1305_SHA256",
    }
    assert {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384"} <= accepted("tls_1_3")
    curves = {curve["name"] for curve in results["elliptic_curves"]["supported_curves"]}
    assert {"X25519", "secp384r1"} <= curves
    assert curves <= {"X25519", "X448", "secp256r1", "prime256v1", "secp384r1", "secp521r1"}


@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
def test_sslyze_compares_us_with_mozillas_intermediate(
    scanned: Scanned, sslyze: tuple[dict[str, Any], str], kind: str
) -> None:
    _, _, said = sslyze[1].partition("COMPLIANCE AGAINST TLS CONFIGURATION")
    _, _, ours = said.partition(f"{scanned.addresses[kind]}: ")
    ours = ours.split("127.0.0.1:")[0]
    assert ours.startswith("FAILED"), said
    found = dict(re.findall(r"^ +\* (\w+): (.*)$", ours, re.MULTILINE))
    assert set(found) <= set(DEVIATIONS), ours
    assert set(re.findall(r"'(\w+)'", found.get("tls_curves", ""))) <= {"secp521r1", "X448"}
