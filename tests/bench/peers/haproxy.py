"""HAProxy: one thread, stick-table limits, the access log on stdout, which is a file here."""

from __future__ import annotations

from collections.abc import Sequence

from peers.base import IDLE_UPSTREAM_CONNECTIONS, NEVER_REACHED, Peer, Refuse, Site

# The pool ratios keep upstream connections pooled while many clients are connected: by default, HAProxy stops pooling
# once a fifth of its file descriptors is in use.
CONFIG = """\
global
  nbthread 1
  maxconn {maxconn}
  log stdout format raw local0 info
  tune.pool-low-fd-ratio 90
  tune.pool-high-fd-ratio 95
  tune.ssl.cachesize 20000
  ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
  mode http
  log global
  option httplog
  option http-keep-alive
  http-reuse always
  timeout connect 5s
  timeout client 75s
  timeout server 60s
  timeout http-request 15s
  timeout http-keep-alive 75s
frontend site
  bind 127.0.0.1:{plain} backlog 4096
  bind 127.0.0.1:{ecdsa} backlog 4096 ssl crt {certs}/ecdsa.both.pem alpn http/1.1
  bind 127.0.0.1:{rsa} backlog 4096 ssl crt {certs}/rsa.both.pem alpn http/1.1
  stick-table type ip size 100k expire 60s store conn_cur,conn_rate(10s),http_req_rate(10s)
  tcp-request connection track-sc0 src
  tcp-request connection reject if {{ sc0_conn_rate gt {connections} }}
  tcp-request connection reject if {{ sc0_conn_cur gt {never} }}
  http-request set-src hdr_ip(x-forwarded-for) if {{ hdr(x-forwarded-for) -m found }}
  http-request track-sc1 src table requests
  http-request deny deny_status 429 if {{ sc1_http_req_rate(requests) gt {requests} }}
  option forwardfor
  default_backend origin
backend requests
  stick-table type ip size 200k expire 60s store http_req_rate(60s)
backend origin
  server origin 127.0.0.1:{origin} pool-max-conn {idle} pool-purge-delay 60s
"""


class Haproxy(Peer):
    """HAProxy with one thread."""

    name = "haproxy"
    program = "haproxy"
    version_arguments = ("-v",)
    refuses = "tcp-request connection reject, at accept"

    def command(self, site: Site) -> Sequence[str]:
        config = site.directory / "haproxy.cfg"
        config.write_text(
            CONFIG.format(
                maxconn=site.file_limit // 2 - 200,
                plain=site.plain_port,
                ecdsa=site.ecdsa_port,
                rsa=site.rsa_port,
                certs=site.certificates.authority.parent,
                connections=1 if site.refuse is Refuse.CONNECTIONS else NEVER_REACHED,
                requests=1 if site.refuse is Refuse.REQUESTS else NEVER_REACHED,
                never=NEVER_REACHED,
                origin=site.origin_port,
                idle=IDLE_UPSTREAM_CONNECTIONS,
            )
        )
        return [self.program, "-db", "-f", str(config)]
