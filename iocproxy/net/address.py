"""A socket's address as people write it."""

from __future__ import annotations

from typing import Any, NamedTuple

_MAPPED = "::ffff:"


class Address(NamedTuple):
    """A literal IP address and a port; `str()` gives ``127.0.0.1:80`` or ``[::1]:80``."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def of(cls, sockaddr: tuple[Any, ...]) -> Address:
        """From what `getsockname`, `getpeername`, `accept` and `getaddrinfo` return for IPv4 and IPv6.

        Flow label and scope are left out (``fe80::1%eth0`` becomes ``fe80::1``). An IPv4 client of a dual-stack
        listener shows as ``::ffff:1.2.3.4`` (RFC 4291 section 2.5.5.2) and is given its IPv4 address, so that it
        counts as one client whichever listener it came through.
        """
        host: str = sockaddr[0]
        if ":" in host:
            host = host.partition("%")[0]
            if host.startswith(_MAPPED) and "." in host:
                host = host[len(_MAPPED) :]
        return cls(host, sockaddr[1])
