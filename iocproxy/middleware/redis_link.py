"""One connection to Redis or Valkey, through redis-py: what it answers, or a `StorageError` that says why not.

redis-py's `Connection` and not its client: no pool that connects in the middle of a request, and nothing that sends a
command a second time. A script that was counted and sent again would count twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from iocproxy.config.redis_url import RedisUrl
from iocproxy.net.resolver import Resolver

SCRIPT = Path(__file__).with_name("shared_windows.lua").read_text(encoding="utf-8")
_SHA = hashlib.sha1(SCRIPT.encode()).hexdigest()  # noqa: S324 - the name that Redis gives it

NONSENSE = "an answer that makes no sense"

#: How long a connection may take to close, in seconds; it has been cut off by then.
_CLOSING = 1.0


class StorageError(Exception):
    """Redis cannot be used now; the text says why, without credentials."""


def installed() -> bool:
    """Whether redis-py is there."""
    return importlib.util.find_spec("redis") is not None


class RedisLink:
    """Open until `close`. One call at a time; after one that failed or was cancelled nothing is left but `close`."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._writer: asyncio.StreamWriter | None = None

    @classmethod
    async def open(cls, url: RedisUrl, ca: Path | None, resolver: Resolver, seconds: float) -> RedisLink:
        """Connect, log in and choose the database, in so many seconds. Raises StorageError."""
        try:
            async with asyncio.timeout(seconds):
                with _translated():
                    targets = await resolver.resolve(url.host, url.port)
                for _, (address, *_) in targets[:-1]:
                    try:
                        return await cls._open(url, ca, address, seconds)
                    except StorageError:  # the next address may be better
                        continue
                return await cls._open(url, ca, targets[-1][1][0], seconds)
        except TimeoutError:
            raise StorageError(f"no answer within {seconds:g} s") from None

    @classmethod
    async def _open(cls, url: RedisUrl, ca: Path | None, address: str, seconds: float) -> RedisLink:
        link = cls(_connection(url, ca, address, seconds))
        try:
            with _translated():
                await link._connection.connect()
            link._writer = getattr(link._connection, "_writer", None)
            await link.ping()  # says best what is wrong, such as a password that is missing
        except BaseException:
            await link.close()
            raise
        return link

    async def decide(self, keys: Sequence[str], arguments: Sequence[bytes]) -> list[int]:
        """Run the script. Raises StorageError."""
        from redis.exceptions import NoScriptError  # noqa: PLC0415 - an extra

        with _translated():
            try:
                answer = await self._call("EVALSHA", _SHA, len(keys), *keys, *arguments)
            except NoScriptError:  # Redis was restarted, or its scripts were flushed; nothing has been counted
                answer = await self._call("EVAL", SCRIPT, len(keys), *keys, *arguments)
        if not isinstance(answer, list) or not all(isinstance(each, int) for each in answer):
            raise StorageError(NONSENSE)
        return answer

    async def ping(self) -> None:
        """Raises StorageError where there is no answer."""
        with _translated():
            await self._call("PING")

    async def _call(self, *command: Any) -> Any:
        await self._connection.send_command(*command, check_health=False)
        return await self._connection.read_response()

    async def close(self) -> None:
        """Cut it off. Nothing of it is left, whatever the server does; does not raise."""
        # redis-py closes and does not abort: it would wait for a server that hangs to say goodbye (TLS), or to read
        # what has still to be sent. After an error of its own it has forgotten its writer, so we have kept it.
        writer = self._writer or getattr(self._connection, "_writer", None)
        if writer is not None:
            writer.transport.abort()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_CLOSING):
                await self._connection.disconnect()
                if writer is not None:
                    await writer.wait_closed()


def _connection(url: RedisUrl, ca: Path | None, address: str, seconds: float) -> Any:
    """One that has not been made yet. `address` is one of the host's: redis-py would look it up in the loop's default
    executor, where a name server that hangs holds up the end of the program."""
    from redis.asyncio.connection import Connection, SSLConnection  # noqa: PLC0415 - an extra

    settings: dict[str, Any] = {
        "host": address,
        "port": url.port,
        "db": url.db,
        "username": url.username or None,
        "password": url.password or None,
        "protocol": 2,  # RESP3 has nothing for us, and Redis 5 does not know it
        "socket_connect_timeout": seconds,
        "socket_timeout": None,  # the callers' deadlines are shorter
        # Idle connections are tried by whoever owns them. redis-py 8 would set options that not every Windows has.
        "socket_keepalive": False,
    }
    if not url.tls:
        return Connection(**settings)

    class NamedConnection(SSLConnection):
        def _connection_arguments(self) -> dict[str, Any]:  # without it the certificate would have to name the address
            return {**super()._connection_arguments(), "server_hostname": url.host}

    authorities = None if ca is None else str(ca)
    return NamedConnection(**settings, ssl_cert_reqs="required", ssl_check_hostname=True, ssl_ca_certs=authorities)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Whatever redis-py raises becomes a StorageError."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        # redis-py's older versions do not tell what it was about the TLS; none puts credentials into its messages
        said = error.__context__ if isinstance(error.__context__, ssl.SSLError) else error
        raise StorageError(" ".join(str(said).split()) or type(error).__name__) from error
