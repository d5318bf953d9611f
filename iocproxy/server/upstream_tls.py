"""What an upstream's https servers are met with: the authorities, our certificate, the name asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

from iocproxy.config import Upstream
from iocproxy.errors import ConfigError, Fault
from iocproxy.tls import Certificate, UpstreamTls, client_context, load_certificate


@dataclass(slots=True)
class Loaded:
    """`by_host` has an entry for the host of each https server; `warnings` are (key path, text)."""

    by_host: dict[str, UpstreamTls] = field(default_factory=dict)
    warnings: list[tuple[str, str]] = field(default_factory=list)


def load_upstream_tls(upstream: Upstream, path: str) -> Loaded:
    """Read the files that `upstream` names; empty for one without https servers. `path` is its key path.

    May be called again when a file has changed: the result has a context of its own, under which no session of the
    earlier one is resumed. Blocking. Raises ConfigError with every fault.
    """
    loaded = Loaded()
    servers = [server for server in upstream.servers if server.scheme == "https"]
    if not servers:
        return loaded
    faults: list[Fault] = []
    certificate = _certificate(upstream, f"{path}.client_certificate", loaded, faults)
    try:
        context = client_context(
            verify=upstream.verify,
            ca=upstream.ca,
            certificate=certificate,
            min_version=upstream.tls_min_version,
            path=f"{path}.ca",
        )
    except ConfigError as error:
        faults.extend(error.faults)
    except OSError as error:  # the certificate was good a moment ago
        found = f"it cannot be loaded any more ({error.strerror or error})"
        faults.append(Fault(f"{path}.client_certificate", found, "files that do not change meanwhile"))
    if faults:
        raise ConfigError(faults)
    if not upstream.verify:
        urls = ", ".join(server.url for server in servers)
        warning = f"certificates are not checked: whoever sits between here and {urls} can read and change everything"
        loaded.warnings.append((f"{path}.verify", warning))
    for server in servers:
        loaded.by_host[server.host] = UpstreamTls(context, _name(upstream.server_name or server.host))
    return loaded


def _name(host: str) -> str:
    """As it stands in certificates: no zone of an IPv6 address, and no last dot (RFC 6066 section 3)."""
    return host.partition("%")[0].rstrip(".")


def _certificate(upstream: Upstream, path: str, loaded: Loaded, faults: list[Fault]) -> Certificate | None:
    given = upstream.client_certificate
    if given is None:
        return None
    try:
        certificate = load_certificate(given.cert, given.key, given.password, path=path, for_client=True)
    except ConfigError as error:
        faults.extend(error.faults)
        return None
    loaded.warnings.extend((path, warning) for warning in certificate.warnings)
    return certificate
