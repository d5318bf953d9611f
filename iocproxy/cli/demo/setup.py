"""The demo as a whole: an origin, a certificate made on the spot, and a proxy in front with every default on."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from iocproxy.cli.demo.origin import DemoOrigin
from iocproxy.config import Config, Logging
from iocproxy.config.values import RefusedError, read_bind
from iocproxy.net.address import Address
from iocproxy.server import Proxy
from iocproxy.telemetry import Logger, Writer
from iocproxy.tls import self_signed

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - looked up, not bound

HTTP, HTTPS = "127.0.0.1:8080", "127.0.0.1:8443"


class Demo:
    """`listen` are the addresses for plain http; when there are any, https takes a free port of the first one's host
    instead of the usual one, so that several demos can run beside each other."""

    def __init__(self, listen: Sequence[str], logging: Logging) -> None:
        self._http = list(listen) or [HTTP]
        self._https = _beside(listen[0]) if listen else HTTPS
        self._logging = logging

    @asynccontextmanager
    async def proxy(self, log: Logger, out: Writer) -> AsyncIterator[Proxy]:
        """The proxy, not started, with its origin running and the certificate on disk for as long as this is open.

        Raises ConfigError for an address that cannot be read.
        """
        # mkdtemp gives the directory mode 0700; on Windows the user's own temporary directory is private already.
        with tempfile.TemporaryDirectory(prefix="iocproxy-demo-") as name:
            cert, key = _write_certificate(Path(name))
            async with DemoOrigin(log) as origin:
                tls = {"certificates": [{"cert": str(cert), "key": str(key)}]}
                listeners = [*({"bind": bind} for bind in self._http), {"bind": self._https, "tls": tls}]
                config = Config(
                    server={"certificate_check": False, "certificate_warning": False},  # it lives as long as the demo
                    listeners=listeners,
                    upstreams={"demo": {"servers": [origin.url]}},
                    logging=self._logging,
                )
                yield Proxy(config, log=log, access_stream=out)

    @staticmethod
    def greeting(proxy: Proxy) -> str:
        """What to try, for a proxy that listens."""
        http, https = _reachable(proxy.addresses[0]), _reachable(proxy.addresses[-1])
        # In PowerShell `curl` alone is another program.
        curl, nowhere = ("curl.exe", "NUL") if sys.platform == "win32" else ("curl", "/dev/null")
        return f"""
iocproxy runs its demo: a built-in origin behind a proxy with every default on.

  http://{http}/     https://{https}/  (self-signed: browsers ask)

Try, in another terminal:

  {curl} http://{http}/json
  {curl} -k https://{https}/json
  {curl} -s -o {nowhere} -w "%{{http_code}} " "http://{http}/json?[1-310]"     the last ones get 429

Next: iocproxy serve --upstream http://HOST:PORT for a server of yours, or iocproxy init for a configuration file.
Stop with Ctrl+C; requests in flight are completed.
"""


def _beside(address: str) -> str:
    """A free port of the same host; where that cannot be read, any: the address itself is refused anyway."""
    try:
        return str(read_bind(address)._replace(port=0))
    except RefusedError:
        return "127.0.0.1:0"


def _reachable(address: Address) -> str:
    """Where a client on this machine finds what is bound to `address`."""
    return str(address._replace(host=_LOOPBACK.get(address.host, address.host)))


def _write_certificate(directory: Path) -> tuple[Path, Path]:
    made = self_signed(["localhost", "127.0.0.1", "::1"])
    cert, key = directory / "demo.pem", directory / "demo.key"
    cert.write_bytes(made.cert)
    with os.fdopen(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(made.key)
    return cert, key
