"""Loading and renewing what listeners serve with, check by check; the whole of it is in tests/proxy/test_renewal.py."""

from __future__ import annotations

import dataclasses
import datetime
import os
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import structlog

from iocproxy.config import Tls
from iocproxy.server.certificates import Certificates, Serving, load_listener
from iocproxy.server.expiry import ExpiryWarnings
from iocproxy.telemetry.sessions import SessionCounters
from iocproxy.testing import CertificatePair, ProxyFactory, RunningProxy
from iocproxy.testing import Certificates as Authority
from iocproxy.tls import Certificate, CertificateStore, load_certificate, self_signed

DAY = datetime.timedelta(days=1)


class Listener:
    """One listener's certificates, the log of them, and the files behind them, which look old unless `young`."""

    def __init__(self, directory: Path, authority: Authority, executor: ThreadPoolExecutor) -> None:
        self.cert, self.key = directory / "site.pem", directory / "site.key"
        self.authority = authority
        self.events: list[dict[str, Any]] = []
        log = structlog.wrap_logger(
            None, processors=[self._take], wrapper_class=structlog.make_filtering_bound_logger(0)
        )
        self.put(authority.issue("a.test"))
        tls = Tls(certificates=[{"cert": self.cert, "key": self.key}])  # type: ignore[list-item]
        self.serving = Serving("127.0.0.1:1", tls, "tls", load_listener(tls, "tls"), SessionCounters())
        self.certificates = Certificates(executor=executor, log=log, check=None, warn=None)
        self.certificates.add(self.serving)

    def _take(self, _logger: object, level: str, event: Any) -> Any:
        self.events.append({"level": level, **event})
        raise structlog.DropEvent

    def put(self, pair: CertificatePair) -> None:
        self.write(self.cert, pair.cert.read_bytes())
        self.write(self.key, pair.key.read_bytes())

    @staticmethod
    def write(file: Path, content: bytes, *, age: float = 100.0) -> None:
        file.write_bytes(content)
        then = time.time() - age
        os.utime(file, (then, then))

    @property
    def now(self) -> Certificate:
        return self.serving.loaded.certificates[0]


@pytest.fixture
def listener(tmp_path: Path, iocproxy_certificates: Authority):
    with ThreadPoolExecutor(1) as executor:
        yield Listener(tmp_path, iocproxy_certificates, executor)


async def test_a_check_reads_nothing_that_has_not_changed(listener: Listener) -> None:
    loaded = listener.serving.loaded
    assert await listener.certificates.renew(checking=True) == []
    assert listener.serving.loaded is loaded
    assert await listener.certificates.renew() == []
    assert listener.serving.loaded is not loaded
    assert listener.serving.store.identities[0].context is loaded.store.identities[0].context
    assert listener.events == []


async def test_another_size_or_time_or_file_is_a_change(listener: Listener) -> None:
    before = listener.now
    listener.put(listener.authority.issue("a.test"))
    await listener.certificates.renew(checking=True)
    assert listener.now.digest != before.digest
    assert [event["event"] for event in listener.events] == ["certificate_renewed"]


async def test_a_file_written_within_the_clocks_resolution(listener: Listener) -> None:
    """As many octets, at what the file system takes for the same time: seen all the same, as the file was young."""
    one = listener.authority.issue("a.test")
    moment = time.time() - 1
    listener.put(one)
    text = one.cert.read_bytes()
    listener.cert.write_bytes(text + b"\n")
    os.utime(listener.cert, (moment, moment))
    await listener.certificates.renew(checking=True)
    between = listener.now
    listener.cert.write_bytes(b"\n" + text)
    os.utime(listener.cert, (moment, moment))
    await listener.certificates.renew(checking=True)
    assert listener.now.digest != between.digest


async def test_what_is_wrong_is_told_when_it_stays_wrong(listener: Listener) -> None:
    """Certificate and key are written one after the other: the first look at them may come between."""
    before, fresh = listener.now, listener.authority.issue("a.test")
    listener.write(listener.cert, fresh.cert.read_bytes())
    (fault,) = await listener.certificates.renew(checking=True)
    assert "is not the key of" in fault.found
    assert listener.now is before
    assert listener.events == []  # not yet
    assert await listener.certificates.renew(checking=True) == [fault]
    assert [event["event"] for event in listener.events] == ["certificate_not_renewed"]
    await listener.certificates.renew(checking=True)
    await listener.certificates.renew()
    assert len(listener.events) == 1
    listener.write(listener.key, fresh.key.read_bytes())
    assert await listener.certificates.renew(checking=True) == []
    assert [event["event"] for event in listener.events] == ["certificate_not_renewed", "certificate_renewed"]


async def test_a_pair_out_of_step_for_a_moment_is_not_mentioned(listener: Listener) -> None:
    fresh = listener.authority.issue("a.test")
    listener.write(listener.cert, fresh.cert.read_bytes())
    await listener.certificates.renew(checking=True)
    listener.write(listener.key, fresh.key.read_bytes())
    await listener.certificates.renew(checking=True)
    assert [event["event"] for event in listener.events] == ["certificate_renewed"]


async def test_what_openssl_has_counted_is_kept(listener: Listener) -> None:
    """The counts of a context end with it, and those of one that goes on are not added twice."""

    class Counting(CertificateStore):
        def session_stats(self, *, but: CertificateStore | None = None) -> dict[str, int]:
            assert but is None or but is listener.serving.store
            return {"timeouts": 3, "cache_full": 2, "number": 7}

    listener.serving.loaded = dataclasses.replace(listener.serving.loaded, store=Counting([listener.now]))
    listener.put(listener.authority.issue("a.test"))
    await listener.certificates.renew()
    counted = listener.certificates.session_stats()["127.0.0.1:1"]
    assert [counted[name] for name in ("sessions_expired", "sessions_pushed_out", "sessions_cached")] == [3, 2, 0]


def test_counts_of_what_is_left_out(listener: Listener) -> None:
    store = listener.serving.store
    other = listener.authority.issue("b.test")
    bigger = CertificateStore([listener.now, load_certificate(*other)], before=store)
    assert bigger.identities[0].context is store.identities[0].context
    assert store.session_stats(but=bigger) == {}
    assert bigger.session_stats(but=store) == bigger.identities[1].context.session_stats()


async def test_warnings_come_with_what_is_new(listener: Listener) -> None:
    made = self_signed(["a.test"], now=datetime.datetime.now(datetime.UTC) - 30 * DAY)
    listener.write(listener.cert, made.cert)
    listener.write(listener.key, made.key)
    for _ in range(2):
        await listener.certificates.renew()
    renewed, warning = listener.events
    assert renewed["event"] == "certificate_renewed"
    assert (warning["event"], warning["key"]) == ("configuration", "tls.certificates[0]")
    assert "site.pem expired on" in warning["warning"]


async def test_there_is_nothing_to_watch(listener: Listener) -> None:
    await listener.certificates.watch()  # returns, as both are off


async def test_a_certificate_outlives_its_files(listener: Listener) -> None:
    """It may come under a new policy, and so into a new context, while its new files are no good."""
    certificate = listener.now
    listener.write(listener.cert, b"broken")
    listener.key.unlink()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.load_into(context)
    client = listener.authority.client_context()
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname="a.test"),
        context.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(3):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
    assert ends[0].getpeercert()


# --- Expiry


def made(tmp_path: Path, days: float, name: str = "a.test") -> CertificatePair:
    """A certificate that has so many days left, more or less."""
    pair = CertificatePair(tmp_path / f"{name}.pem", tmp_path / f"{name}.key")
    signed = self_signed([name], days=1, now=datetime.datetime.now(datetime.UTC) + (days - 1) * DAY)
    pair.cert.write_bytes(signed.cert)
    pair.key.write_bytes(signed.key)
    return pair


def test_each_is_named_once_a_day(tmp_path: Path) -> None:
    soon, late = load_certificate(*made(tmp_path, 10)), load_certificate(*made(tmp_path, 20, "b.test"))
    start = soon.not_after - 10 * DAY
    warnings = ExpiryWarnings(14 * DAY)
    named = [
        (hours, [certificate.names[0] for certificate in warnings.due([soon, late, soon], start + hours * DAY / 24)])
        for hours in (0, 1, 23, 24, 47, 48, 24 * 7, 24 * 11)
    ]
    assert named == [
        (0, ["a.test"]),
        (1, []),
        (23, []),
        (24, ["a.test"]),
        (47, []),
        (48, ["a.test"]),
        (24 * 7, ["a.test", "b.test"]),
        (24 * 11, ["a.test", "b.test"]),  # one of them has expired meanwhile
    ]


def start(iocproxy: ProxyFactory, pair: CertificatePair, **server: Any) -> RunningProxy:
    table = {"certificates": [{"cert": str(pair.cert), "key": str(pair.key)}]}
    return iocproxy(upstream="http://127.0.0.1:9", tls=table, server=server)


@pytest.mark.parametrize(
    ("days", "settings", "warned"),
    [
        (10, {}, True),
        (20, {}, False),
        (20, {"certificate_warning": "30d"}, True),
        (10, {"certificate_warning": "7d"}, False),
        (10, {"certificate_warning": False}, False),
        (-2, {}, True),
        (10, {"certificate_check": False}, True),
    ],
)
def test_it_is_warned_of_at_the_start(
    iocproxy: ProxyFactory, tmp_path: Path, days: float, settings: dict[str, Any], warned: bool
) -> None:
    pair = made(tmp_path, days)
    proxy = start(iocproxy, pair, **settings)
    (found,) = proxy.stats()["certificates"].values()
    left = found[0].pop("expires_in_days")
    assert days - 0.01 < left < days
    assert found == [{"file": str(pair.cert), "names": ["a.test"], "kind": "ecdsa-secp256r1"}]
    proxy.stop()  # what is said at the start has been said then
    events = proxy.events("certificate_expires")
    assert len(events) == warned
    if warned:
        (event,) = events
        assert event["level"] == "warning"
        assert (event["file"], event["names"], event["days"]) == (str(pair.cert), ["a.test"], float(days))
        assert event["listener"] == f"127.0.0.1:{proxy.tls_address[1]}"
        assert event["expires"].endswith("Z")


def test_it_is_warned_of_when_it_is_renewed(iocproxy: ProxyFactory, tmp_path: Path) -> None:
    proxy = start(iocproxy, made(tmp_path, 20))
    made(tmp_path, 5)
    proxy.renew_certificates()
    assert [event["days"] for event in proxy.events("certificate_expires")] == [5.0]
