"""TLS sessions at a whole proxy: each kind is taken up, survives the way the proxy closes, is counted and logged."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from iocproxy.testing import (
    Certificates,
    Close,
    Origin,
    ProxyFactory,
    RawClient,
    RunningProxy,
    Send,
    WaitFor,
    WireError,
)
from iocproxy.testing.patience import PATIENCE

OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="the openssl command is not on PATH")

KINDS = pytest.mark.parametrize(
    ("version", "tickets"),
    [("TLSv1_2", True), ("TLSv1_2", False), ("TLSv1_3", True), ("TLSv1_3", False)],
    ids=["1.2-ticket", "1.2-session-id", "1.3-psk", "1.3-stateful"],
)


def start(
    iocproxy: ProxyFactory, origin: Origin, certificates: Certificates, tls: dict[str, Any], **settings: Any
) -> RunningProxy:
    pair = {"cert": str(certificates.cert), "key": str(certificates.key)}
    return iocproxy(upstream=origin, tls={"certificates": [pair], **tls}, **settings)


def context(certificates: Certificates, version: str) -> ssl.SSLContext:
    made = certificates.client_context()
    made.minimum_version = made.maximum_version = ssl.TLSVersion[version]
    return made


def sessions(proxy: RunningProxy) -> dict[str, int]:
    ((_, said),) = proxy.stats()["sessions"].items()
    return dict(said)


def connection_close(client: RawClient) -> None:
    assert client.request("GET", "/bytes/1", headers=[("Connection", "close")]).status == 200
    client.expect_closed()


def idle_timeout(client: RawClient) -> None:
    client.expect_closed()


def client_leaves(client: RawClient) -> None:
    client.close()


def client_resets(client: RawClient) -> None:
    client.reset()


def refused(client: RawClient) -> None:
    client.send(b"nonsense\r\n\r\n")
    assert client.read_response().status == 400
    client.expect_closed()


def broken_off(client: RawClient) -> None:
    """The proxy aborts, so that a response which ends early does not look complete."""
    client.send(b"GET /cut HTTP/1.1\r\nHost: a\r\n\r\n")
    with pytest.raises((OSError, WireError)):
        client.read_response()


CUT = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this"


def visit(proxy: RunningProxy, tls: ssl.SSLContext, how: Any, session: ssl.SSLSession | None = None) -> Any:
    """One connection; gives its session, and whether an earlier one was taken up."""
    with RawClient(proxy.tls_address, tls=tls, session=session) as client:
        assert client.request("GET", "/bytes/1").status == 200
        reused = client.tls.session_reused
        session = session or client.tls.session  # with TLS 1.3 it is there after the first data
        how(client)
    proxy.wait_for(lambda proxy: proxy.stats()["connections_open"] == 0)
    return session, reused


@KINDS
@pytest.mark.parametrize(
    "how",
    [connection_close, idle_timeout, client_leaves, client_resets, refused, broken_off],
    ids=lambda how: how.__name__,
)
def test_a_session_survives_the_end_of_its_connection(
    iocproxy: ProxyFactory,
    iocproxy_origin: Origin,
    iocproxy_certificates: Certificates,
    version: str,
    tickets: bool,
    how: Any,
) -> None:
    iocproxy_origin.on("GET", "/cut", respond=[Send(CUT), Close()])
    timeouts = {"keep_alive": "200ms"} if how is idle_timeout else {}
    proxy = start(iocproxy, iocproxy_origin, iocproxy_certificates, {"session_tickets": tickets}, timeouts=timeouts)
    tls = context(iocproxy_certificates, version)
    session, reused = visit(proxy, tls, how)
    assert not reused
    assert visit(proxy, tls, how, session)[1]
    assert visit(proxy, tls, client_leaves, session)[1]
    counted = sessions(proxy)
    assert (counted["handshakes_full"], counted["handshakes_resumed"], counted["sessions_missed"]) == (1, 2, 0)
    said = {(record.tls_version, record.tls_resumed) for record in proxy.records if record.method}
    assert said == {(version.replace("_", "."), False), (version.replace("_", "."), True)}


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("drain", [5.0, 0.0], ids=["drained", "cut off"])
def test_stopping_takes_no_session_out_of_the_cache(
    iocproxy: ProxyFactory, iocproxy_origin: Origin, iocproxy_certificates: Certificates, version: str, drain: float
) -> None:
    """OpenSSL throws out the session of a connection that is dropped without close_notify."""
    go = threading.Event()
    iocproxy_origin.on("GET", "/slow", respond=[WaitFor(go)])
    proxy = start(iocproxy, iocproxy_origin, iocproxy_certificates, {"session_tickets": False, "num_tickets": 1})
    tls = context(iocproxy_certificates, version)
    with RawClient(proxy.tls_address, tls=tls) as idle, RawClient(proxy.tls_address, tls=tls) as busy:
        assert idle.request("GET", "/bytes/1").status == 200
        if not drain:
            busy.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
            proxy.wait_for(lambda proxy: proxy.stats()["requests_open"] == 1)
        assert sessions(proxy)["sessions_cached"] == 2
        proxy.stop(drain=drain)
        if drain:
            idle.expect_closed()
    go.set()
    assert sessions(proxy)["sessions_cached"] == 2


@pytest.mark.parametrize("num_tickets", [0, 1, 8])
def test_the_number_of_tickets(
    iocproxy: ProxyFactory, iocproxy_origin: Origin, iocproxy_certificates: Certificates, num_tickets: int
) -> None:
    proxy = start(iocproxy, iocproxy_origin, iocproxy_certificates, {"num_tickets": num_tickets})
    tls = context(iocproxy_certificates, "TLSv1_3")
    with RawClient(proxy.tls_address, tls=tls) as client:
        assert client.request("GET", "/bytes/1").status == 200
        session = client.tls.session
    assert bool(session is not None and session.has_ticket) is (num_tickets > 0)
    if num_tickets:
        assert visit(proxy, tls, client_leaves, session)[1]
    # TLS 1.2 has one ticket, and that is not asked about
    tls = context(iocproxy_certificates, "TLSv1_2")
    session, _ = visit(proxy, tls, client_leaves)
    assert visit(proxy, tls, client_leaves, session)[1]


@needs_openssl
@pytest.mark.parametrize("num_tickets", [0, 1, 3])
def test_as_many_tickets_as_were_asked_for(
    iocproxy: ProxyFactory, iocproxy_origin: Origin, iocproxy_certificates: Certificates, num_tickets: int
) -> None:
    proxy = start(iocproxy, iocproxy_origin, iocproxy_certificates, {"num_tickets": num_tickets})
    said = s_client(proxy, "-tls1_3", "-msg")
    assert said.count("NewSessionTicket") == num_tickets


def test_a_session_nobody_knows_is_a_miss(
    iocproxy: ProxyFactory, iocproxy_origin: Origin, iocproxy_certificates: Certificates
) -> None:
    """After a restart the ticket keys and the cache are others: a full handshake, and a count of it."""
    for version in ("TLSv1_2", "TLSv1_3"):
        for tickets in (True, False):
            one, two = (
                start(iocproxy, iocproxy_origin, iocproxy_certificates, {"session_tickets": tickets}) for _ in range(2)
            )
            tls = context(iocproxy_certificates, version)
            session, _ = visit(one, tls, client_leaves)
            assert not visit(two, tls, client_leaves, session)[1]
            assert sessions(one)["sessions_missed"] == 0
            counted = sessions(two)
            assert (counted["handshakes_full"], counted["handshakes_resumed"]) == (1, 0)
            assert counted["sessions_missed"] == 1, (version, tickets)


def test_each_listener_counts_its_own(
    iocproxy: ProxyFactory, iocproxy_origin: Origin, iocproxy_certificates: Certificates
) -> None:
    pair = {"cert": str(iocproxy_certificates.cert), "key": str(iocproxy_certificates.key)}
    proxy = iocproxy(
        upstream=iocproxy_origin,
        listeners=[{"bind": "127.0.0.1:0"}, *({"bind": "127.0.0.1:0", "tls": {"certificates": [pair]}} for _ in "12")],
    )
    for address in (proxy.addresses[1], proxy.addresses[2], proxy.addresses[2]):
        with RawClient(address, tls=iocproxy_certificates) as client:
            assert client.request("GET", "/bytes/1").status == 200
    stats = proxy.stats()
    assert {name: each["handshakes_full"] for name, each in stats["sessions"].items()} == {
        f"127.0.0.1:{proxy.addresses[1][1]}": 1,
        f"127.0.0.1:{proxy.addresses[2][1]}": 2,
    }
    assert stats["handshakes_full"] == 3


# --- openssl s_client: another implementation's idea of a client

REQUEST = b"GET /bytes/1 HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"


def s_client(proxy: RunningProxy, *options: str) -> str:
    assert OPENSSL is not None
    host, port = proxy.tls_address
    command = [OPENSSL, "s_client", "-connect", f"{host}:{port}", "-ign_eof", *options]
    done = subprocess.run(command, input=REQUEST, capture_output=True, timeout=PATIENCE, check=False)
    said = (done.stdout + done.stderr).decode("latin-1")
    assert "HTTP/1.1 200 OK" in said
    return said


@needs_openssl
@pytest.mark.parametrize(
    ("options", "tickets", "has_ticket"),
    [
        (["-tls1_2"], True, True),
        (["-tls1_2"], False, False),
        (["-tls1_2", "-no_ticket"], True, False),  # a client without tickets uses the cache
        (["-tls1_3"], True, True),
        (["-tls1_3"], False, True),  # one that only names an entry of the cache
    ],
    ids=["1.2-ticket", "1.2-session-id", "1.2-session-id-by-choice", "1.3-psk", "1.3-stateful"],
)
def test_s_client_takes_a_session_up(
    iocproxy: ProxyFactory,
    iocproxy_origin: Origin,
    iocproxy_certificates: Certificates,
    tmp_path: Path,
    options: list[str],
    tickets: bool,
    has_ticket: bool,
) -> None:
    log = tmp_path / "access.log"
    proxy = start(
        iocproxy,
        iocproxy_origin,
        iocproxy_certificates,
        {"session_tickets": tickets},
        logging={"access": True, "access_file": str(log), "format": "json"},
    )
    file = str(tmp_path / "session.pem")
    first = s_client(proxy, *options, "-sess_out", file)
    assert ("TLS session ticket:" in first) is has_ticket
    second = s_client(proxy, *options, "-sess_in", file)
    version = {"-tls1_2": "TLSv1.2", "-tls1_3": "TLSv1.3"}[options[0]]
    assert f"New, {version}" in first
    assert f"Reused, {version}" in second
    counted = sessions(proxy)
    assert (counted["handshakes_full"], counted["handshakes_resumed"], counted["sessions_missed"]) == (1, 1, 0)
    proxy.stop()
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    assert [(line["tls"], line["tls_resumed"]) for line in lines] == [(version, False), (version, True)]
