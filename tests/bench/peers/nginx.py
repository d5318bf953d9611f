"""nginx: the unit of every ratio."""

from __future__ import annotations

import os
from collections.abc import Sequence

from peers.base import IDLE_UPSTREAM_CONNECTIONS, NEVER_REACHED, Peer, Refuse, Site

# nginx has no limit at accept for HTTP: the nearest thing is limit_req, which closes without an answer (444) once the
# request head was read.
CONFIG = """\
{user}
daemon off;
worker_processes 1;
worker_rlimit_nofile {files};
pid {dir}/nginx.pid;
error_log {dir}/error.log error;
events {{ worker_connections {files}; }}
http {{
  access_log {dir}/access.log combined;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  keepalive_requests 1000000000;
  keepalive_timeout 75s;
  client_max_body_size 0;
  limit_req_zone $binary_remote_addr zone=requests:10m rate={request_rate};
  limit_conn_zone $binary_remote_addr zone=connections:10m;
  limit_req_status {status};
  {realip}
  upstream origin {{
    server 127.0.0.1:{origin};
    keepalive {idle};
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{plain} backlog=4096;
    listen 127.0.0.1:{ecdsa} ssl backlog=4096;
    ssl_certificate {ecdsa_cert};
    ssl_certificate_key {ecdsa_key};
    {shared}
  }}
  server {{
    listen 127.0.0.1:{rsa} ssl backlog=4096;
    ssl_certificate {rsa_cert};
    ssl_certificate_key {rsa_key};
    {shared}
  }}
}}
"""

REAL_ADDRESS = "set_real_ip_from 127.0.0.0/8; real_ip_header X-Forwarded-For;"

SHARED = """\
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:tls:10m;
    ssl_session_tickets on;
    location / {{
      limit_req zone=requests {burst};
      limit_conn connections 65535;
      proxy_pass http://origin;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_request_buffering off;
      proxy_max_temp_file_size 0;
    }}
"""


class Nginx(Peer):
    """nginx with a keep-alive pool, limit_req, limit_conn and an access log."""

    name = "nginx"
    program = "nginx"
    version_arguments = ("-v",)
    refuses = "limit_req → 444 after reading the head"

    def command(self, site: Site) -> Sequence[str]:
        burst = "" if site.refuse else f"burst={NEVER_REACHED} nodelay"
        config = site.directory / "nginx.conf"
        config.write_text(
            CONFIG.format(
                user="user root;" if os.geteuid() == 0 else "",
                dir=site.directory,
                files=site.file_limit,
                status=429 if site.refuse is Refuse.REQUESTS else 444,
                realip=REAL_ADDRESS if site.refuse is Refuse.REQUESTS else "",
                request_rate="1r/m" if site.refuse else f"{NEVER_REACHED}r/s",
                origin=site.origin_port,
                idle=IDLE_UPSTREAM_CONNECTIONS,
                plain=site.plain_port,
                ecdsa=site.ecdsa_port,
                rsa=site.rsa_port,
                ecdsa_cert=site.certificates.ecdsa.certificate,
                ecdsa_key=site.certificates.ecdsa.key,
                rsa_cert=site.certificates.rsa.certificate,
                rsa_key=site.certificates.rsa.key,
                shared=SHARED.format(burst=burst).strip(),
            )
        )
        return [self.program, "-p", str(site.directory), "-e", str(site.directory / "error.log"), "-c", str(config)]
