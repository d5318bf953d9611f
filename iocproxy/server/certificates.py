"""What the listeners of a proxy serve TLS with, and its renewal while they serve.

Theory of operation
-------------------
    files ──load_listener──► Loaded ──► Serving.store ──► each new connection, which keeps it to its end
                               ▲
    every `certificate_check`, and `renew` at once: all of it again, in the executor

* What is loaded is immutable, and is replaced as a whole. A certificate whose files hold what they held is the same
  object as before, a policy equal to the one before; and for such a pair the new store takes over the old context, so
  that sessions go on. Whatever is new has a new context, which no old session gets into.
* What cannot be used is kept as it was, piece by piece: one certificate, one pair of authorities and revocation lists.
  A broken file for one host holds up no revocation for another.
* Files are asked for their state (time, size, inode) and read only when that has changed, by polling: notification
  differs on each system, sees nothing on network drives, and where a symbolic link is moved (Kubernetes, certbot) it
  watches the file that nobody uses any more. A file that was written in the last seconds may be written again within
  the clock's resolution, so it counts as changed once more; and as long as something is wrong, all is read again.
* Certificate and key are written one after the other. So what is wrong at one check is said only if the next one finds
  the same; when somebody has asked, it is said at once. It is said once, until it is something else.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from structlog.typing import FilteringBoundLogger

from iocproxy.config import Certificate as CertificateSettings
from iocproxy.config import Tls, TlsHosts
from iocproxy.errors import ConfigError, Fault
from iocproxy.server.expiry import ExpiryWarnings
from iocproxy.server.policies import Policies, load_policies
from iocproxy.server.stamps import Stamp, stamp_of
from iocproxy.telemetry.sessions import SessionCounters
from iocproxy.tls import Certificate, CertificateStore, check_ciphers, load_certificate
from iocproxy.tls.certificate import digest
from iocproxy.tls.key_kinds import passed_over

#: How often, in seconds, the dates are looked at.
_HOURLY = 3600.0


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the files of one listener came to. `warnings` are (key path, text); `faults` are of files that could not be
    used, in whose place there is what there was before."""

    store: CertificateStore
    certificates: tuple[Certificate, ...]
    policies: Policies
    warnings: tuple[tuple[str, str], ...]
    faults: tuple[Fault, ...]
    stamps: Mapping[Path, Stamp]


def load_listener(tls: Tls, path: str, before: Loaded | None = None) -> Loaded:
    """Read what `tls`, which stands at the key path `path`, names.

    Blocking. Without `before`, raises ConfigError with every fault. With it, keeps of it what can be kept or must be.
    """
    stamps = _stamps(tls, path)
    faults: list[Fault] = []
    policies: Policies | None = None
    try:
        policies = load_policies(tls, path, before.policies if before is not None else None)
        faults.extend(policies.faults)
    except ConfigError as error:
        faults.extend(error.faults)
    certificates: list[Certificate] = []
    for index, entry in enumerate(tls.certificates):
        known = None if before is None else before.certificates[index]
        try:
            certificates.append(_certificate(entry, f"{path}.certificates[{index}]", known))
        except ConfigError as error:
            faults.extend(error.faults)
            if known is not None:
                certificates.append(known)
    if policies is None or (faults and before is None):
        raise ConfigError(faults)
    warnings = [
        (f"{path}.certificates[{index}]", text)
        for index, certificate in enumerate(certificates)
        for text in certificate.warnings
    ]
    warnings.extend((f"{path}.certificates[{index}]", text) for index, text in passed_over(certificates))
    if tls.ciphers is not None:
        place = f"{path}.ciphers"
        try:
            warnings.extend((place, text) for text in check_ciphers(tls.ciphers, certificates, path=place))
        except ConfigError as error:
            if before is None:
                raise
            return replace(before, faults=(*faults, *error.faults), stamps=stamps)
    warnings.extend(policies.warnings)
    try:
        store = CertificateStore(
            certificates,
            policies.default,
            policies.hosts,
            offload=tls.offload,
            before=None if before is None else before.store,
        )
    except OSError as error:  # a file has changed since it was checked
        faults.append(Fault(path, f"certificates cannot be used ({error.strerror or error})", "files that stay"))
        if before is None:
            raise ConfigError(faults) from error
        return replace(before, faults=tuple(faults), stamps=stamps)
    return Loaded(store, tuple(certificates), policies, tuple(warnings), tuple(faults), stamps)


def _certificate(entry: CertificateSettings, place: str, known: Certificate | None) -> Certificate:
    if known is not None:
        try:
            if digest(entry.cert.read_bytes(), entry.key.read_bytes()) == known.digest:
                return known
        except OSError:
            pass  # to be told in full
    return load_certificate(entry.cert, entry.key, entry.password, path=place)


def _files(tls: Tls, path: str) -> Iterator[tuple[str, Path]]:
    """By key path, as faults name it."""
    for index, entry in enumerate(tls.certificates):
        place = f"{path}.certificates[{index}]"
        yield from ((place, entry.cert), (f"{place}.cert", entry.cert), (f"{place}.key", entry.key))
    tables: list[tuple[str, Tls | TlsHosts]] = [(path, tls)]
    tables.extend((f"{path}.hosts[{index}]", hosts) for index, hosts in enumerate(tls.hosts))
    for place, table in tables:
        for key, file in (("client_ca", table.client_ca), ("client_crl", table.client_crl)):
            if file is not None:
                yield f"{place}.{key}", file


def _stamps(tls: Tls, path: str) -> dict[Path, Stamp]:
    return {file: stamp_of(file) for _, file in _files(tls, path)}


class Serving:
    """What one listener serves with now. Whoever accepts a connection reads `store` then."""

    __slots__ = ("counters", "loaded", "name", "path", "settings", "store", "told")

    def __init__(self, name: str, settings: Tls, path: str, loaded: Loaded, counters: SessionCounters) -> None:
        self.name = name
        self.settings = settings
        self.path = path
        self.loaded = loaded
        self.store = loaded.store
        self.counters = counters
        self.told: set[Fault] = set()

    def again(self, *, checking: bool) -> Loaded | None:
        """Blocking. None where nothing needs to be read."""
        loaded = self.loaded
        if checking and not loaded.faults and _stamps(self.settings, self.path) == loaded.stamps:
            return None
        return load_listener(self.settings, self.path, loaded)

    def replace(self, loaded: Loaded) -> None:
        """What new connections get from now on."""
        old = self.loaded.store
        self.loaded, self.store = loaded, loaded.store
        if old is not loaded.store:
            self.counters.retire(old.session_stats(but=loaded.store))


class Certificates:
    """Those of all listeners with TLS. Belongs to one loop; files are read in `executor`."""

    def __init__(
        self, *, executor: Executor, log: FilteringBoundLogger, check: float | None, warn: float | None
    ) -> None:
        """`check` is the time between two looks at the files in seconds, None for never; `warn` how long before the end
        of a certificate's time it is warned of, None for not at all."""
        self._executor = executor
        self._log = log
        self._check = check
        self._expiry = None if warn is None else ExpiryWarnings(datetime.timedelta(seconds=warn))
        self._serving: list[Serving] = []
        self._one_at_a_time = asyncio.Lock()

    def add(self, serving: Serving) -> None:
        self._serving.append(serving)

    async def watch(self) -> None:
        """Until it is cancelled: look at the files and the dates every now and then."""
        self.warn()
        if not self._serving or (self._check is None and self._expiry is None):
            return
        while True:
            await asyncio.sleep(min(self._check or _HOURLY, _HOURLY))
            if self._check is not None:
                try:
                    await self.renew(checking=True)
                except Exception as error:  # noqa: BLE001 - a bug must not end the renewals to come
                    self._log.error("certificate_check_failed", exc_info=error)
            self.warn()

    async def renew(self, *, checking: bool = False) -> list[Fault]:
        """Read everything again (`checking`: what has changed), and serve new connections with what is good.

        Returns what cannot be used, which has been logged, and in whose place the old goes on.
        """
        loop = asyncio.get_running_loop()
        faults: list[Fault] = []
        async with self._one_at_a_time:
            for serving in self._serving:
                loaded = await loop.run_in_executor(self._executor, partial(serving.again, checking=checking))
                if loaded is not None:
                    self._take(serving, loaded, checking=checking)
                faults.extend(serving.loaded.faults)
        if not checking:
            self.warn()
        return faults

    def _take(self, serving: Serving, loaded: Loaded, *, checking: bool) -> None:
        before = serving.loaded
        serving.replace(loaded)
        for key, file, more in _renewed(serving, before):
            self._log.info("certificate_renewed", listener=serving.name, key=key, file=str(file), **more)
        for key, text in loaded.warnings:
            if (key, text) not in before.warnings:
                self._log.warning("configuration", key=key, warning=text)
        files = dict(_files(serving.settings, serving.path))
        for fault in loaded.faults:
            if fault in serving.told or (checking and fault not in before.faults):
                continue
            serving.told.add(fault)
            self._log.warning(
                "certificate_not_renewed",
                listener=serving.name,
                key=fault.path,
                file=str(files.get(fault.path, "")),
                reason=fault.found,
            )
        serving.told.intersection_update(loaded.faults)

    def warn(self) -> None:
        """Of certificates that expire, once a day each."""
        if self._expiry is None:
            return
        now = datetime.datetime.now(datetime.UTC)
        for serving in self._serving:
            for certificate in self._expiry.due(serving.loaded.certificates, now):
                self._log.warning(
                    "certificate_expires",
                    listener=serving.name,
                    file=str(certificate.cert),
                    names=list(certificate.names),
                    expires=f"{certificate.not_after:%Y-%m-%dT%H:%M:%SZ}",
                    days=round(certificate.days_left(now), 1),
                )

    def session_stats(self) -> dict[str, dict[str, int]]:
        """By listener."""
        return {each.name: each.counters.snapshot(each.store.session_stats()) for each in self._serving}

    def stats(self) -> dict[str, list[dict[str, Any]]]:
        """What is served at each listener, in the order of the configuration."""
        now = datetime.datetime.now(datetime.UTC)
        return {
            each.name: [
                {
                    "file": str(certificate.cert),
                    "names": list(certificate.names),
                    "kind": certificate.key_type,
                    "expires_in_days": certificate.days_left(now),
                }
                for certificate in each.loaded.certificates
            ]
            for each in self._serving
        }

    def __repr__(self) -> str:
        return f"<Certificates {', '.join(each.name for each in self._serving)}>"


def _renewed(serving: Serving, before: Loaded) -> Iterable[tuple[str, Path, dict[str, Any]]]:
    """What is served now and was not before: key path, file, and what there is to say about it."""
    for index, (old, new) in enumerate(zip(before.certificates, serving.loaded.certificates, strict=True)):
        if new is not old:
            more = {"names": list(new.names), "expires": f"{new.not_after:%Y-%m-%dT%H:%M:%SZ}"}
            yield f"{serving.path}.certificates[{index}]", new.cert, more
    changed: set[Path | None] = set()
    for (ca, crl), auth in serving.loaded.policies.loaded.items():
        known = before.policies.loaded[ca, crl]
        if known.authorities != auth.authorities:
            changed.add(ca)
        if known.revoked != auth.revoked:
            changed.add(crl)
    places = {file: key for key, file in _files(serving.settings, serving.path) if file in changed}
    for file, key in places.items():
        yield key, file, {}
