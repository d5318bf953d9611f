"""`[limits.redis]` and `limits.storage`: what is said about Redis has to be about some Redis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from iocproxy.config.faults import Problem
from iocproxy.config.given import attempt, get
from iocproxy.config.limits import Redis
from iocproxy.config.redis_url import RedisUrl, read_storage
from iocproxy.config.values import read_duration


def shared_windows(settings: Mapping[str, Any]) -> Iterator[Problem]:
    limits = get(settings, "limits")
    storage = attempt(read_storage, get(limits, "storage", "memory"))
    redis = get(limits, "redis")
    at = ("limits", "redis")
    if storage == "memory":
        defaults = Redis()
        for key in Redis.model_fields:
            default = getattr(defaults, key)
            given = get(redis, key, default)
            if given != default and not (key == "timeout" and attempt(read_duration, given) == default):
                said = 'it is for `storage = "redis://…"` only'
                yield Problem((*at, key), f'`{key}` beside `storage = "memory"`', said)
    elif isinstance(storage, RedisUrl) and not storage.tls and get(redis, "ca") is not None:
        yield Problem((*at, "ca"), '`ca` beside `storage = "redis://…"`', "it is for rediss:// only")
