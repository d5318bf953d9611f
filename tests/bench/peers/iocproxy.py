"""iocproxy as a user runs it: ``iocproxy serve --config FILE``, every default feature on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from harness.process import CHECKOUT
from peers.base import IDLE_UPSTREAM_CONNECTIONS, NEVER_REACHED, Peer, Refuse, Site

# `exempt` is emptied because a default may spare 127.0.0.0/8, and a limit that is skipped costs nothing.
CONFIG = """\
[server]
workers = 1
drain_timeout = "1s"
trusted_proxies = [{trusted}]

[[listeners]]
bind = "127.0.0.1:{plain}"

[[listeners]]
bind = "127.0.0.1:{ecdsa}"
[listeners.tls]
certificates = [{{ cert = "{ecdsa_cert}", key = "{ecdsa_key}" }}]

[[listeners]]
bind = "127.0.0.1:{rsa}"
[listeners.tls]
certificates = [{{ cert = "{rsa_cert}", key = "{rsa_key}" }}]

[http]
max_requests = false

[limits]
exempt = []
max_clients = {max_clients}

[limits.connections]
rate = "{connection_rate}"
concurrent = {connections}
total = {connections}

[limits.requests]
rate = "{request_rate}"

[[routes]]
path = "/"
upstream = "origin"

[upstreams.origin]
servers = ["http://127.0.0.1:{origin}"]
max_connections = {idle}
max_idle = {idle}

[logging]
format = "json"
access = true
access_file = "{dir}/access.log"
"""


class Iocproxy(Peer):
    """This project, from the interpreter that runs the benchmark."""

    name = "iocproxy"
    program = sys.executable
    version_arguments = ("-m", "iocproxy", "version")
    refuses = "at accept, before any TLS"

    def missing(self) -> str | None:
        """Never: it is what the benchmark is about, and when it does not start, the run fails."""
        return None

    def version(self) -> str:
        done = subprocess.run(
            [self.program, *self.version_arguments], cwd=CHECKOUT, capture_output=True, text=True, check=False
        )
        return (done.stdout.strip().splitlines() or ["iocproxy, of unknown version"])[0]

    def command(self, site: Site) -> Sequence[str]:
        config = site.directory / "iocproxy.toml"
        config.write_text(
            CONFIG.format(
                dir=site.directory,
                plain=site.plain_port,
                ecdsa=site.ecdsa_port,
                rsa=site.rsa_port,
                ecdsa_cert=site.certificates.ecdsa.certificate,
                ecdsa_key=site.certificates.ecdsa.key,
                rsa_cert=site.certificates.rsa.certificate,
                rsa_key=site.certificates.rsa.key,
                connection_rate="1/60s" if site.refuse is Refuse.CONNECTIONS else f"{NEVER_REACHED}/1s",
                # who has had the one request it may have is not forgotten for a newcomer: there must be room for all
                max_clients=200_000 if site.refuse is not None else 100_000,
                request_rate="1/60s" if site.refuse is Refuse.REQUESTS else f"{NEVER_REACHED}/1s",
                trusted='"127.0.0.0/8"' if site.refuse is Refuse.REQUESTS else "",
                connections=site.file_limit // 2,
                origin=site.origin_port,
                idle=IDLE_UPSTREAM_CONNECTIONS,
            )
        )
        return [self.program, "-m", "iocproxy", "serve", "--config", str(config)]
