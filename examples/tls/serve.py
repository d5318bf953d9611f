"""Make a certificate pair with openssl, unless there is one, and serve HTTPS with it. README.md says how to run it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
from pathlib import Path

from iocproxy import Proxy, load_config

HERE = Path(__file__).parent


def make_pair(cert: Path, key: Path) -> None:
    """A self-signed certificate for localhost, good for 30 days. Raises CalledProcessError with openssl's words."""
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-days", "30", "-keyout", key, "-out", cert, "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    key.chmod(0o600)


if __name__ == "__main__":
    # The proxy logs to the standard library's logger "iocproxy" and leaves it to the program to set logging up.
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not (HERE / "site.pem").exists():
        make_pair(HERE / "site.pem", HERE / "site.key")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(Proxy(load_config(HERE / "iocproxy.toml")).serve())
