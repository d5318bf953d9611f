"""What the proxy tells the people who run it: events, one line a request, and counters. See docs/logging.md."""

from __future__ import annotations

from iocproxy.telemetry.access import AccessLog
from iocproxy.telemetry.counters import Counters
from iocproxy.telemetry.lines import LogFormat
from iocproxy.telemetry.log import Logger, library_logger, stream_logger
from iocproxy.telemetry.writer import Writer

__all__ = ["AccessLog", "Counters", "LogFormat", "Logger", "Writer", "library_logger", "stream_logger"]
