"""The embedded demo: an origin of our own (`origin`) behind a real proxy with every default on (`setup`)."""

from __future__ import annotations

from iocproxy.cli.demo.setup import Demo

__all__ = ["Demo"]
