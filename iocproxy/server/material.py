"""What a configuration names but does not hold: error pages, certificates, authorities, user classes.

Loading them is the last of the checks before anything starts. All faults are collected; nothing is left behind.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from iocproxy.config import Config, Logging, Parts, Upstream
from iocproxy.config.faults import in_order
from iocproxy.config.limits import AccessLists
from iocproxy.errors import ConfigError, Fault
from iocproxy.exchange.pages import Page
from iocproxy.middleware import load_middleware
from iocproxy.server import access_lists
from iocproxy.server.certificates import Loaded, load_listener
from iocproxy.server.pages import load_pages
from iocproxy.server.policies import load_policies
from iocproxy.server.storage import storage_faults
from iocproxy.server.upstream_tls import load_upstream_tls
from iocproxy.tls import UpstreamTls, check_ciphers, load_certificate


@dataclass(slots=True)
class Material:
    """`listeners` has one entry for each listener, None where it speaks plain HTTP; `upstream_tls` is by upstream and
    host, for the https servers; `pages` are by status or class, and `route_pages` has one such table for each of the
    effective routes; `access` is None where no access list is configured; `warnings` are for the log: (key path,
    text)."""

    pages: dict[str, Page] = field(default_factory=dict)
    route_pages: list[dict[str, Page]] = field(default_factory=list)
    listeners: list[Loaded | None] = field(default_factory=list)
    upstream_tls: dict[tuple[str, str], UpstreamTls] = field(default_factory=dict)
    access: access_lists.Loaded | None = None
    middlewares: list[object] = field(default_factory=list)
    warnings: list[tuple[str, str]] = field(default_factory=list)


def load_material(config: Config) -> Material:
    """Load everything. Blocking (reads files, imports modules): not for the event loop's thread.

    Raises `ConfigError` with every fault, in the order of the file.
    """
    material = Material()
    faults: list[Fault] = []
    material.pages = load_pages(config.errors, "errors", faults)
    for index, route in enumerate(config.effective_routes):
        material.route_pages.append(load_pages(route.errors, f"routes[{index}].errors", faults))
    for index, listener in enumerate(config.listeners):
        try:
            loaded = load_listener(listener.tls, f"listeners[{index}].tls") if listener.tls is not None else None
        except ConfigError as error:
            faults.extend(error.faults)
        else:
            material.listeners.append(loaded)
            material.warnings.extend(loaded.warnings if loaded is not None else ())
    for name, upstream in config.upstreams.items():
        try:
            _upstream(name, upstream, material, f"upstreams.{name}")
        except ConfigError as error:
            faults.extend(error.faults)
    try:
        material.access = _access_lists(config.limits.access)
    except ConfigError as error:
        faults.extend(error.faults)
    for index, entry in enumerate(config.middleware):
        try:
            material.middlewares.append(load_middleware(entry.use, entry.options, path=f"middleware[{index}]"))
        except ConfigError as error:
            faults.extend(error.faults)
    faults.extend(storage_faults(config))
    faults.extend(_access_file(config.logging))
    if faults:
        raise ConfigError(in_order(config.placed(fault) for fault in faults))
    return material


def faults_of(parts: Parts) -> list[Fault]:
    """What `load_material` would find wrong with these, which are no whole configuration. Blocking as well."""
    checks: list[Callable[[], object]] = [
        *(partial(load_certificate, each.cert, each.key, each.password, path=at) for at, each in parts.certificates),
        *(partial(load_policies, each, at) for at, each in parts.client_auths),
        *(partial(check_ciphers, text, (), path=at) for at, text in parts.ciphers),
        *(partial(_upstream, "", each, Material(), at) for at, each in parts.upstreams),
        partial(_access_lists, parts.access),
        *(partial(load_middleware, each.use, each.options, path=at) for at, each in parts.middleware),
    ]
    faults: list[Fault] = []
    for check in checks:
        try:
            check()
        except ConfigError as error:
            faults.extend(error.faults)
    return [*faults, *_access_file(parts.logging)]


def _upstream(name: str, upstream: Upstream, material: Material, path: str) -> None:
    loaded = load_upstream_tls(upstream, path)
    material.warnings.extend(loaded.warnings)
    for host, tls in loaded.by_host.items():
        material.upstream_tls[name, host] = tls


def _access_lists(settings: AccessLists) -> access_lists.Loaded | None:
    return None if access_lists.is_empty(settings) else access_lists.load_access(settings)


def _access_file(logging: Logging) -> Iterator[Fault]:
    """Nothing is made before everything is known to be good, so the file itself is only tried where there is one."""
    file = logging.access_file
    if file is None or not logging.access:
        return
    try:
        if file.exists():
            file.open("ab").close()
        else:
            _writable(file.parent)
    except OSError as error:
        yield access_file_fault(file, error)


def _writable(directory: Path) -> None:
    directory.stat()
    if not directory.is_dir() or not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(None, "no file can be made there")


def access_file_fault(file: Path | None, error: OSError) -> Fault:
    found = f"{file} cannot be written: {error.strerror or error}"
    return Fault("logging.access_file", found, "a file that can be appended to")
