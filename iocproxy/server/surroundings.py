"""What the parts of a proxy share."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from iocproxy.clock import Clock
from iocproxy.message import Record
from iocproxy.middleware.decisions import Decisions
from iocproxy.middleware.shared_windows import SharedWindows
from iocproxy.net.deadlines import DeadlineWheel
from iocproxy.net.resolver import Resolver
from iocproxy.net.tasks import Tasks
from iocproxy.telemetry import AccessLog, Counters


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Made by the proxy, and outliving what is compiled from a configuration."""

    clock: Clock
    log: FilteringBoundLogger
    counters: Counters
    decisions: Decisions
    tasks: Tasks
    wheel: DeadlineWheel
    resolver: Resolver
    executor: ThreadPoolExecutor
    access: AccessLog | None
    on_record: Callable[[Record], None] | None
    #: None where each proxy counts for itself
    shared: SharedWindows | None = None
