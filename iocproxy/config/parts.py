"""What a configuration that has faults names all the same: files and classes, of sections that can be read.

Whoever mends a file wants to do it once. So what these name is looked at too, although nothing will start.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from iocproxy.config.base import Section
from iocproxy.config.given import get, items, readable_server
from iocproxy.config.limits import AccessLists
from iocproxy.config.lines import spell
from iocproxy.config.sections import Certificate, Logging, Middleware, Tls, Upstream

S = TypeVar("S", bound=Section)


@dataclass(frozen=True, slots=True)
class Parts:
    """Sections with their key paths. Of `[listeners.tls]` only the authorities and lists of clients are as they were
    given, of an upstream only `servers`, `ca`, `verify` and `client_certificate`, of `[logging]` only `access` and
    `access_file`, of `[limits.access]` only the files."""

    certificates: tuple[tuple[str, Certificate], ...]
    client_auths: tuple[tuple[str, Tls], ...]
    ciphers: tuple[tuple[str, str], ...]
    upstreams: tuple[tuple[str, Upstream], ...]
    access: AccessLists
    middleware: tuple[tuple[str, Middleware], ...]
    logging: Logging

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Parts:
        """What can be read of `settings`, which no `Config` could be made of."""
        return cls(
            tuple(_certificates(settings)),
            tuple(_client_auths(settings)),
            tuple(_ciphers(settings)),
            tuple(_upstreams(settings)),
            _access(settings),
            tuple(_middleware(settings)),
            _read(Logging, _only(get(settings, "logging"), "access", "access_file")) or Logging(),
        )


def _certificates(settings: Mapping[str, Any]) -> Iterator[tuple[str, Certificate]]:
    for index, listener in items(settings, "listeners"):
        for number, entry in items(get(listener, "tls"), "certificates"):
            certificate = _read(Certificate, entry)
            if certificate is not None:
                yield spell(("listeners", index, "tls", "certificates", number)), certificate


def _client_auths(settings: Mapping[str, Any]) -> Iterator[tuple[str, Tls]]:
    for index, listener in items(settings, "listeners"):
        given = get(listener, "tls")
        kept = _only(given, "client_auth", "client_ca", "client_crl", "hosts")
        tls = _read(Tls, {**kept, "certificates": [{"cert": "unread", "key": "unread"}]})
        if tls is not None:
            yield spell(("listeners", index, "tls")), tls


def _ciphers(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for index, listener in items(settings, "listeners"):
        ciphers = get(get(listener, "tls"), "ciphers")
        if isinstance(ciphers, str) and ciphers:
            yield spell(("listeners", index, "tls", "ciphers")), ciphers


def _upstreams(settings: Mapping[str, Any]) -> Iterator[tuple[str, Upstream]]:
    upstreams = get(settings, "upstreams")
    for name, given in upstreams.items() if isinstance(upstreams, Mapping) else ():
        servers = [server for _, item in items(given, "servers") if (server := readable_server(item)) is not None]
        certificate = _read(Certificate, get(given, "client_certificate"))
        named = {**_only(given, "ca", "verify"), "client_certificate": certificate, "servers": servers}
        upstream = _read(Upstream, named)
        if upstream is not None:
            yield spell(("upstreams", str(name))), upstream


def _access(settings: Mapping[str, Any]) -> AccessLists:
    table = get(get(settings, "limits"), "access")
    return _read(AccessLists, _only(table, "allow_files", "deny_files")) or AccessLists()


def _middleware(settings: Mapping[str, Any]) -> Iterator[tuple[str, Middleware]]:
    for index, entry in items(settings, "middleware"):
        middleware = _read(Middleware, entry)
        if middleware is not None:
            yield spell(("middleware", index)), middleware


def _only(given: Any, *keys: str) -> dict[str, Any]:
    return {key: value for key in keys if (value := get(given, key)) is not None}


def _read(section: type[S], given: Any) -> S | None:
    try:
        return section.model_validate(given)
    except ValidationError:
        return None
