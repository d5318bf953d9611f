"""What a listener's configuration asks of TLS connections, as policies: the listener's, and those of its hosts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from iocproxy.config import Tls, TlsHosts
from iocproxy.errors import ConfigError, Fault
from iocproxy.tls import CIPHERS, ClientAuth, ServerPolicy, load_client_auth


@dataclass(frozen=True, slots=True)
class Policies:
    """`hosts` as `tls.CertificateStore` takes them; `warnings` as (key path, text). `loaded` is what each pair of files
    (authorities, revocation lists) held, `faults` what was wrong with those that are as they were before."""

    default: ServerPolicy
    hosts: dict[str, ServerPolicy]
    warnings: list[tuple[str, str]]
    loaded: dict[tuple[Path, Path | None], ClientAuth]
    faults: list[Fault]


def load_policies(tls: Tls, path: str, before: Policies | None = None) -> Policies:
    """Read what `tls`, which stands at the key path `path`, names, and make policies of it.

    May be called again when the files have changed: what they hold now is part of the policies, so that those whose
    files held something else are no longer equal. Blocking: reads the files. Raises ConfigError with every fault; but
    where `before` is given, what these files held then stays in force, and the faults are told.
    """
    reader = _Reader({} if before is None else before.loaded)
    base = ServerPolicy(
        min_version=tls.min_version,
        ciphers=tls.ciphers or CIPHERS,
        alpn=tls.alpn,
        session_tickets=tls.session_tickets,
        num_tickets=tls.num_tickets,
    )
    default = replace(
        base, client_auth=reader.client_auth(tls.client_auth, (tls.client_ca, path), (tls.client_crl, path))
    )
    hosts: dict[str, ServerPolicy] = {}
    for index, entry in enumerate(tls.hosts):
        policy = _of_hosts(tls, entry, base, reader, path, f"{path}.hosts[{index}]")
        hosts.update(dict.fromkeys(entry.names, policy))
    if reader.faults and before is None:
        raise ConfigError(reader.faults)
    return Policies(default, hosts, reader.warnings, reader.loaded, reader.faults)


def _of_hosts(tls: Tls, entry: TlsHosts, base: ServerPolicy, reader: _Reader, path: str, own: str) -> ServerPolicy:
    return replace(
        base,
        min_version=entry.min_version or tls.min_version,
        client_auth=reader.client_auth(
            entry.client_auth or tls.client_auth,
            (entry.client_ca, own) if entry.client_ca is not None else (tls.client_ca, path),
            (entry.client_crl, own) if entry.client_crl is not None else (tls.client_crl, path),
        ),
    )


class _Reader:
    """Reads each pair of files once, however many hosts go by it, and gathers what is to be said about them."""

    def __init__(self, before: Mapping[tuple[Path, Path | None], ClientAuth]) -> None:
        self.faults: list[Fault] = []
        self.warnings: list[tuple[str, str]] = []
        self._before = before
        self._known: dict[tuple[Path, Path | None], ClientAuth | None] = {}

    @property
    def loaded(self) -> dict[tuple[Path, Path | None], ClientAuth]:
        return {pair: auth for pair, auth in self._known.items() if auth is not None}

    def client_auth(self, auth: str, ca: tuple[Path | None, str], crl: tuple[Path | None, str]) -> ClientAuth | None:
        """`ca` and `crl` come with the key paths of their tables. None where nothing is asked, or has faults."""
        if auth == "none" or ca[0] is None:
            return None
        pair = ca[0], crl[0]
        if pair not in self._known:
            try:
                self._known[pair], warnings = load_client_auth(
                    *pair, required=True, ca_path=f"{ca[1]}.client_ca", crl_path=f"{crl[1]}.client_crl"
                )
                self.warnings.extend(warnings)
            except ConfigError as error:
                self._known[pair] = self._before.get(pair)
                self.faults.extend(fault for fault in error.faults if fault not in self.faults)
        known = self._known[pair]
        return None if known is None else replace(known, required=auth == "required")
