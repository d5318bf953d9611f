"""Where the limits' windows are shared: reading "redis://HOST:PORT/DB", and showing it without its password."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from iocproxy.config.values import RefusedError, join_host_port, read_host, read_port, split_host_port

_MAX_DB = 65_535


@dataclass(frozen=True, slots=True, repr=False)
class RedisUrl:
    """One server of Redis or Valkey. `host` carries no brackets; "" is no user name, or no password."""

    tls: bool
    host: str
    port: int = 6379
    db: int = 0
    username: str = ""
    password: str = ""

    def __str__(self) -> str:
        """For a person: whoever may see a log may not see the password."""
        return f"{'rediss' if self.tls else 'redis'}://{join_host_port(self.host, self.port)}/{self.db}"

    def __repr__(self) -> str:
        return f"<RedisUrl {self}>"

    @property
    def written(self) -> str:
        """As a file holds it, password and all."""
        scheme, _, rest = str(self).partition("://")
        if not self.username and not self.password:
            return str(self)
        return f"{scheme}://{quote(self.username, safe='')}:{quote(self.password, safe='')}@{rest}"


def read_storage(value: Any) -> str | RedisUrl:
    """ "memory", or a `RedisUrl`. The port is 6379 and the database 0 where the URL does not say.

    There is no query: what redis-py would read from one could switch off what is laid down here.
    """
    if isinstance(value, RedisUrl):
        value = value.written
    if not isinstance(value, str):
        raise RefusedError
    if value == "memory":
        return value
    if not value.startswith(("redis://", "rediss://")):
        raise RefusedError
    if not value.isascii() or any(char <= " " or char in "\x7f\\" for char in value):
        raise RefusedError("a blank, a control character, a backslash or a character beyond ASCII in it")
    if "?" in value or "#" in value:
        raise RefusedError("a query or fragment in it; in a password, write %3F and %23")
    try:
        parts = urlsplit(value)
    except ValueError:
        raise RefusedError("not a URL") from None
    credentials, at, address = parts.netloc.rpartition("@")
    if "@" in credentials or "@" in parts.path:
        raise RefusedError("in a password, @ is written %40 and / is written %2F")
    username, _, password = credentials.partition(":")
    if at and not password:
        raise RefusedError("no password before the @")
    if ":" not in address.rpartition("]")[2]:
        address = f"{address}:6379"
    host, port = split_host_port(address)
    db = parts.path.removeprefix("/")
    if db and not (db.isdigit() and len(db) <= 5 and int(db) <= _MAX_DB):
        raise RefusedError(f"the database must be a number from 0 to {_MAX_DB}")
    return RedisUrl(
        parts.scheme == "rediss",
        read_host(host),
        read_port(port, 1),
        int(db or 0),
        unquote(username),
        unquote(password),
    )


def write_storage(storage: str | RedisUrl) -> str:
    """As the file holds it."""
    return storage.written if isinstance(storage, RedisUrl) else storage
