"""What the harness asks of every proxy, and what each proxy is asked to do.

Every proxy does the same work, so that the ratios mean something: one worker, HTTP/1.1 and keep-alive on both sides
with a pool of idle connections to the origin, an access log line per request to a file, limits per client checked and
never reached (where the proxy has such a thing), TLS 1.3 with session tickets.
"""

from __future__ import annotations

import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import ClassVar

from harness.certificates import Certificates

IDLE_UPSTREAM_CONNECTIONS = 1024
NEVER_REACHED = 1_000_000
"""A limit per second and client that is checked on every request and never reached."""


class Refuse(Enum):
    """What a client gets once a minute, and is refused after that."""

    CONNECTIONS = "connections"
    REQUESTS = "requests"


@dataclass(frozen=True, slots=True)
class Site:
    """One proxy's place: its ports on 127.0.0.1, its origin, its certificates and its scratch directory."""

    directory: Path
    origin_port: int
    plain_port: int
    ecdsa_port: int
    rsa_port: int
    certificates: Certificates
    file_limit: int
    refuse: Refuse | None = None
    """Refuse whoever has had one; X-Forwarded-For of 127.0.0.0/8 is believed where it is requests."""

    @property
    def ports(self) -> tuple[int, int, int]:
        """All listeners; whoever waits for them spends a refusing proxy's one allowed connection."""
        return self.plain_port, self.ecdsa_port, self.rsa_port


class Peer(ABC):
    """A proxy that can be installed, configured and started."""

    name: ClassVar[str]
    program: ClassVar[str]
    version_arguments: ClassVar[Sequence[str]]
    refuses: ClassVar[str | None]
    """How it turns an abusive client away at accept or nearest to it, in a few words; None when it cannot."""

    def missing(self) -> str | None:
        """Why this proxy cannot run here, or None."""
        return None if shutil.which(self.program) else f"{self.program} is not installed"

    def version(self) -> str:
        """The first line of what the program says about its version."""
        done = subprocess.run([self.program, *self.version_arguments], capture_output=True, text=True, check=True)
        return (done.stdout + done.stderr).strip().splitlines()[0]

    def environment(self, site: Site) -> Mapping[str, str]:
        """Variables to add to the environment."""
        return {}

    @abstractmethod
    def command(self, site: Site) -> Sequence[str]:
        """Write the configuration into ``site.directory`` and return the command that runs in the foreground."""
