"""docs/tls.md: what it says the log will say about upstreams is what our code or OpenSSL says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from iocproxy.tls import client_link, link, reasons

PAGE = Path(__file__).parents[2].joinpath("docs", "tls.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("\n## TLS towards upstreams\n")[2].partition("\n## ")[0]
SAID = re.findall(r"`([^`]+)`", "".join(re.findall(r"^\| (`[^|]+) \|", SECTION, re.MULTILINE)))
OPENSSL = {"Hostname mismatch", "IP address mismatch", "certificate has expired"}


@pytest.mark.parametrize("said", SAID)
def test_errors_are_as_the_page_says(said: str) -> None:
    code = "".join(Path(str(module.__file__)).read_text(encoding="utf-8") for module in (link, client_link, reasons))
    assert said in OPENSSL or said in code.replace("`", "")


def test_there_are_some() -> None:
    assert len(SAID) > 8
