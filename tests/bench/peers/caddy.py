"""Caddy: GOMAXPROCS=1. It ships without limits per client, so it does less work than the others here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from peers.base import IDLE_UPSTREAM_CONNECTIONS, Peer, Site

CONFIG = """\
{{
  admin off
  auto_https off
  grace_period 1s
  default_bind 127.0.0.1
  default_sni localhost
  log {{
    output stdout
    level ERROR
  }}
  servers {{
    protocols h1
  }}
}}
(site) {{
  log {{
    output file {dir}/access.log {{
      roll_disabled
    }}
  }}
  reverse_proxy 127.0.0.1:{origin} {{
    transport http {{
      versions 1.1
      compression off
      keepalive 60s
      keepalive_idle_conns {idle}
      keepalive_idle_conns_per_host {idle}
    }}
  }}
}}
http://:{plain} {{
  import site
}}
https://:{ecdsa} {{
  tls {ecdsa_cert} {ecdsa_key}
  import site
}}
https://:{rsa} {{
  tls {rsa_cert} {rsa_key}
  import site
}}
"""


class Caddy(Peer):
    """Caddy on one core."""

    name = "caddy"
    program = "caddy"
    version_arguments = ("version",)
    refuses = None

    def version(self) -> str:
        return f"caddy {super().version()}"

    def environment(self, site: Site) -> Mapping[str, str]:
        # Caddy keeps state below these; the scratch directory keeps it from touching the user's
        place = str(site.directory)
        return {"GOMAXPROCS": "1", "HOME": place, "XDG_CONFIG_HOME": place, "XDG_DATA_HOME": place}

    def command(self, site: Site) -> Sequence[str]:
        config = site.directory / "Caddyfile"
        config.write_text(
            CONFIG.format(
                dir=site.directory,
                origin=site.origin_port,
                idle=IDLE_UPSTREAM_CONNECTIONS,
                plain=site.plain_port,
                ecdsa=site.ecdsa_port,
                rsa=site.rsa_port,
                ecdsa_cert=site.certificates.ecdsa.certificate,
                ecdsa_key=site.certificates.ecdsa.key,
                rsa_cert=site.certificates.rsa.certificate,
                rsa_key=site.certificates.rsa.key,
            )
        )
        return [self.program, "run", "--config", str(config), "--adapter", "caddyfile"]
