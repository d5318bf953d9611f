"""``iocproxy version``: what a bug report needs."""

from __future__ import annotations

import platform
import ssl
import sys

import httptools

from iocproxy import __version__


def versions() -> str:
    """One thing a line, iocproxy's own version first."""
    loop = "ProactorEventLoop" if sys.platform == "win32" else "SelectorEventLoop"
    rows = (
        ("iocproxy", __version__),
        ("python", f"{platform.python_version()} ({platform.python_implementation()})"),
        ("platform", platform.platform()),
        ("event loop", loop),
        ("openssl", ssl.OPENSSL_VERSION),
        ("httptools", httptools.__version__),
    )
    return "\n".join(f"{name:<11}{version}" for name, version in rows)
