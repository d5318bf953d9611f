"""What a configuration names but does not hold: certificates, authorities, user classes.

Loading them is the last of the checks before anything starts. All faults are collected; nothing is left behind.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from iocproxy.config import Config, Tls, Upstream
from iocproxy.errors import ConfigError, Fault
from iocproxy.middleware import load_middleware
from iocproxy.tls import CertificateStore, UpstreamTls, client_context, load_certificate


@dataclass(slots=True)
class Material:
    """`stores` has one entry for each listener, None where it speaks plain HTTP; `upstream_tls` is by upstream and
    host, for the https servers; `warnings` are for the log: (key path, text)."""

    stores: list[CertificateStore | None] = field(default_factory=list)
    upstream_tls: dict[tuple[str, str], UpstreamTls] = field(default_factory=dict)
    middlewares: list[object] = field(default_factory=list)
    warnings: list[tuple[str, str]] = field(default_factory=list)


def load_material(config: Config) -> Material:
    """Load everything. Blocking (reads files, imports modules): not for the event loop's thread.

    Raises `ConfigError` with every fault, in the order of the sections.
    """
    material = Material()
    faults: list[Fault] = []
    for index, listener in enumerate(config.listeners):
        try:
            store = _store(listener.tls, f"listeners[{index}].tls", material) if listener.tls is not None else None
        except ConfigError as error:
            faults.extend(error.faults)
        else:
            material.stores.append(store)
    for name, upstream in config.upstreams.items():
        try:
            _upstream(name, upstream, material)
        except ConfigError as error:
            faults.extend(error.faults)
    for index, entry in enumerate(config.middleware):
        try:
            material.middlewares.append(load_middleware(entry.use, entry.options, path=f"middleware[{index}]"))
        except ConfigError as error:
            faults.extend(error.faults)
    if faults:
        raise ConfigError([config.placed(fault) for fault in faults])
    return material


def _store(tls: Tls, path: str, material: Material) -> CertificateStore:
    certificates = []
    faults: list[Fault] = []
    for index, entry in enumerate(tls.certificates):
        place = f"{path}.certificates[{index}]"
        try:
            certificate = load_certificate(entry.cert, entry.key, entry.password, path=place)
        except ConfigError as error:
            faults.extend(error.faults)
        else:
            certificates.append(certificate)
            material.warnings.extend((place, warning) for warning in certificate.warnings)
    if faults:
        raise ConfigError(faults)
    return CertificateStore(certificates, min_version=tls.min_version, session_tickets=tls.session_tickets)


def _upstream(name: str, upstream: Upstream, material: Material) -> None:
    hosts = [server.host for server in upstream.servers if server.scheme == "https"]
    if not hosts:
        return
    path = f"upstreams.{name}"
    context = client_context(verify=upstream.verify, ca=upstream.ca, path=f"{path}.ca")
    if not upstream.verify:
        material.warnings.append((f"{path}.verify", "the certificates of its servers are not checked"))
    for host in hosts:
        material.upstream_tls[name, host] = UpstreamTls(context, host)
