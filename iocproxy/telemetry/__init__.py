"""What the proxy tells the people who run it: events, one line a request, and counters. See docs/logging.md."""

from __future__ import annotations

from iocproxy.telemetry.access import AccessLog
from iocproxy.telemetry.counters import Counters
from iocproxy.telemetry.log import LogFormat, Logger, library_logger, stream_logger

__all__ = ["AccessLog", "Counters", "LogFormat", "Logger", "library_logger", "stream_logger"]
