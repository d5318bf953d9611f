"""Proxies as processes: what the operating system says to them, and one of them in the foreground."""

from __future__ import annotations

from iocproxy.workers.foreground import run

__all__ = ["run"]
