"""Where the limits' windows are kept: from the configuration to the windows that are shared, or none."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator

from structlog.typing import FilteringBoundLogger

from iocproxy.clock import Clock, monotonic
from iocproxy.config import Config
from iocproxy.config.redis_url import RedisUrl
from iocproxy.errors import ConfigError, Fault
from iocproxy.middleware import redis_link
from iocproxy.middleware.redis_link import StorageError
from iocproxy.middleware.shared_windows import SharedWindows
from iocproxy.net.resolver import Resolver
from iocproxy.net.tasks import Tasks
from iocproxy.telemetry import library_logger


def storage_faults(config: Config) -> Iterator[Fault]:
    """What can be seen without asking the server. Blocking (reads a file)."""
    limits = config.limits
    if not isinstance(limits.storage, RedisUrl):
        return
    if not redis_link.installed():
        found = "the package redis is not installed"
        yield Fault("limits.storage", found, 'allowed: "memory", or after `pip install "iocproxy[redis]"` a URL')
    if limits.redis.ca is not None:
        try:
            ssl.create_default_context(cafile=limits.redis.ca)
        except (OSError, ssl.SSLError) as error:
            found = f"{limits.redis.ca} cannot be used: {error.strerror or error}"
            yield Fault("limits.redis.ca", found, "allowed: a file with certificates in PEM form")


def shared_windows(
    config: Config, clock: Clock, log: FilteringBoundLogger, tasks: Tasks, resolver: Resolver
) -> SharedWindows | None:
    """None where each proxy counts for itself. On the running loop; `open_storage` is to follow."""
    limits = config.limits
    if not isinstance(limits.storage, RedisUrl):
        return None
    return SharedWindows(
        limits.storage,
        timeout=limits.redis.timeout,
        on_failure=limits.redis.on_failure,
        prefix=limits.redis.prefix,
        ca=limits.redis.ca,
        connect_timeout=config.timeouts.connect,
        clock=clock,
        log=log,
        tasks=tasks,
        resolver=resolver,
    )


async def open_storage(config: Config, shared: SharedWindows | None) -> list[Fault]:
    """Connect, within `timeouts.connect`; the fault if that cannot be done."""
    if shared is None:
        return []
    try:
        await shared.start()
    except StorageError as error:
        found = f"{config.limits.storage} cannot be used: {error}"
        allowed = 'allowed: "memory", or "redis://[USER:PASSWORD@]HOST[:PORT][/DB]" of a server that answers'
        return [config.placed(Fault("limits.storage", found, allowed))]
    return []


def try_storage(config: Config) -> None:
    """What starting a proxy would find. Blocking; with an event loop of its own. Raises ConfigError."""

    async def attempt() -> None:
        log = library_logger()
        tasks, resolver = Tasks(log), Resolver(asyncio.get_running_loop())
        shared = shared_windows(config, monotonic, log, tasks, resolver)
        if shared is None:
            return
        try:
            faults = await open_storage(config, shared)
        finally:
            await tasks.close()
            await shared.close()
            resolver.close()
        if faults:
            raise ConfigError(faults)

    asyncio.run(attempt())
