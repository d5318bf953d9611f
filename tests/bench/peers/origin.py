"""The origin: nginx that serves files from memory and stores uploads, on the load generator's core.

Uploads are PUT into a directory, so a test can compare what arrived byte by byte; the answer comes after the last byte.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import host, process

SMALL = b"Hello, World!"
BODIES = {"/13": 13, "/10k": 10 * 1024, "/1m": 1 << 20, "/100m": 100 << 20}
"""Paths and how many bytes each one has."""

CONFIG = """\
{user}
daemon off;
worker_processes 1;
worker_rlimit_nofile {files};
pid {dir}/nginx.pid;
error_log {dir}/error.log error;
events {{ worker_connections {files}; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  open_file_cache max=100;
  client_body_temp_path {dir}/body;
  client_body_buffer_size 1m;
  client_max_body_size 0;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  keepalive_requests 1000000000;
  keepalive_timeout 3600s;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    root {dir}/files;
    location /upload/ {{ dav_methods PUT; }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Origin:
    """A running origin."""

    port: int
    files: Path

    def body(self, path: str) -> bytes:
        """What a GET of ``path`` must bring."""
        return (self.files / path.lstrip("/")).read_bytes()

    def take_upload(self, name: str) -> bytes:
        """What arrived at ``/upload/NAME``; it is removed, so that the next look sees the next upload."""
        stored = self.files / "upload" / name
        content = stored.read_bytes()
        stored.unlink()
        return content


@contextlib.contextmanager
def running(directory: Path, core: int) -> Iterator[Origin]:
    """Write the bodies and run the origin on ``core`` until the block ends."""
    files = directory / "files"
    (files / "upload").mkdir(parents=True)
    for path, size in BODIES.items():
        # varied bytes: a shifted or doubled piece is seen by a comparison, as zeros would not be
        content = SMALL if size == len(SMALL) else (os.urandom(65_537) * (size // 65_537 + 1))[:size]
        (files / path.lstrip("/")).write_bytes(content)
    (port,) = host.free_ports(1)
    config = directory / "origin.conf"
    config.write_text(
        CONFIG.format(user="user root;" if os.geteuid() == 0 else "", dir=directory, files=host.file_limit(), port=port)
    )
    command = ["nginx", "-p", str(directory), "-e", str(directory / "error.log"), "-c", str(config)]
    with process.running(command, core=core, log=directory / "origin.log", ports=[port]):
        yield Origin(port, files)
