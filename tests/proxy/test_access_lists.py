"""Access lists through a real proxy: at accept, per request, and while their files change."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from iocproxy import Proxy
from iocproxy.config import Config
from iocproxy.testing import Certificates, Origin, ProxyFactory, RawClient, RunningProxy
from iocproxy.testing.patience import PATIENCE, Deadline

GET = b"GET /status/204 HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def origin(iocproxy_origin: Origin) -> Origin:
    return iocproxy_origin


def refused(address: tuple[str, int], source: str = "127.0.0.1") -> bool:
    """Whether a new connection is closed without a byte, whatever the client says."""
    try:
        sock = socket.create_connection(address, PATIENCE, (source, 0))
    except ConnectionError:
        return True
    with sock, contextlib.suppress(ConnectionError):
        sock.settimeout(PATIENCE)
        sock.sendall(GET)
        return sock.recv(1) == b""
    return True


def status(proxy: RunningProxy, source: str = "127.0.0.1", chain: str | None = None) -> int:
    with RawClient(proxy.address, source=(source, 0)) as client:
        headers = [] if chain is None else [("X-Forwarded-For", chain)]
        return client.request("GET", "/status/204", headers=headers).status


def write(file: Path, text: str | bytes) -> None:
    """As a careful program does: it appears whole. Windows does not replace a file while somebody reads it."""
    fresh = file.with_suffix(".new")
    fresh.write_bytes(text if isinstance(text, bytes) else text.encode())
    deadline = Deadline(PATIENCE, f"{file} could not be replaced")
    while True:
        try:
            fresh.replace(file)
        except PermissionError:
            assert deadline.remaining()
        else:
            return


def test_who_is_denied_is_closed_at_accept(iocproxy: ProxyFactory, origin: Origin) -> None:
    proxy = iocproxy(upstream=origin, limits={"access": {"deny": ["127.0.0.2", "192.0.2.0/24"]}})
    assert status(proxy) == 204
    assert refused(proxy.address, "127.0.0.2")
    assert refused(proxy.address, "127.0.0.2")
    assert status(proxy, "127.0.0.3") == 204
    stats = proxy.stats()
    assert stats["connections_refused"]["denied"] == 2
    assert sum(stats["connections_refused"].values()) == 2
    assert stats["limits"]["access"] == {"scope": "access", "refused": 2, "would_refuse": 0}
    assert stats["access"] == {"allowed": 0, "denied": 2, "files": {}, "faults": 0}
    assert stats["requests"] == 2
    (event,) = proxy.events("limit_refused")
    assert (event["limit"], event["client"]) == ("access", "127.0.0.2")


def test_over_tls_nobody_pays_for_a_handshake(
    iocproxy: ProxyFactory, origin: Origin, iocproxy_certificates: Certificates
) -> None:
    proxy = iocproxy(upstream=origin, tls=True, limits={"access": {"deny": ["127.0.0.2"]}})
    assert refused(proxy.tls_address, "127.0.0.2")
    with RawClient(proxy.tls_address, tls=iocproxy_certificates) as client:
        assert client.request("GET", "/status/204").status == 204
    assert proxy.stats()["handshakes_failed"] == 0


def test_with_an_allow_list_all_others_are_refused(iocproxy: ProxyFactory, origin: Origin) -> None:
    access = {"allow": ["127.0.0.0/29"], "deny": ["127.0.0.4/30"]}
    proxy = iocproxy(upstream=origin, limits={"access": access, "exempt": ["127.0.0.5", "127.0.0.99"]})
    assert status(proxy, "127.0.0.2") == 204
    assert refused(proxy.address, "127.0.0.8")
    assert refused(proxy.address, "127.0.0.6")  # the most specific network decides
    assert refused(proxy.address, "127.0.0.5")  # exempt opens nothing that is denied
    assert refused(proxy.address, "127.0.0.99")


def test_access_comes_before_the_limits(iocproxy: ProxyFactory, origin: Origin) -> None:
    limits = {"access": {"deny": ["127.0.0.2"]}, "connections": {"rate": "1/10s"}, "ipv4_prefix": 24}
    proxy = iocproxy(upstream=origin, limits=limits)
    for _ in range(3):
        assert refused(proxy.address, "127.0.0.2")
    assert status(proxy) == 204  # of the same network, which has used nothing yet
    assert proxy.stats()["connections_refused"]["rate"] == 0


def test_dry_run_lets_everybody_in_and_says_so(iocproxy: ProxyFactory, origin: Origin) -> None:
    limits = {"access": {"allow": ["192.0.2.0/24"], "dry_run": True}}
    proxy = iocproxy(upstream=origin, limits=limits)
    assert [status(proxy), status(proxy)] == [204, 204]
    stats = proxy.stats()
    assert stats["dry_run"] == {"connections": 2, "requests": 2}
    assert stats["limits"]["access"] == {"scope": "access", "refused": 0, "would_refuse": 4}
    assert sum(stats["connections_refused"].values()) == 0
    assert len(proxy.events("limit_would_refuse")) == 1


def test_behind_a_trusted_proxy_the_real_client_decides(iocproxy: ProxyFactory, origin: Origin) -> None:
    proxy = iocproxy(
        upstream=origin,
        server={"trusted_proxies": ["127.0.0.1"]},
        limits={"access": {"deny": ["192.0.2.0/24", "2001:db8::/32"], "allow": ["0.0.0.0/0", "::/0"]}},
    )
    with RawClient(proxy.address) as client:

        def ask(chain: str) -> int:
            answer = client.request("GET", "/status/204", headers=[("X-Forwarded-For", chain)])
            if answer.status == 403:
                assert answer.header("Proxy-Status") == "iocproxy; error=http_request_denied"
                assert answer.header("Connection") is None  # others come the same way
            return answer.status

        assert ask("198.51.100.1") == 204
        assert ask("192.0.2.7") == 403
        assert ask("198.51.100.1, 192.0.2.7") == 403  # what stands further left may be made up
        assert ask("192.0.2.7, 198.51.100.1") == 204
        assert ask("::ffff:192.0.2.7") == 403
        assert ask("2001:db8::1") == 403
        assert ask("198.51.100.1") == 204
    with RawClient(proxy.address, source=("127.0.0.2", 0)) as untrusted:
        answer = untrusted.request("GET", "/status/204", headers=[("X-Forwarded-For", "192.0.2.7")])
        assert answer.status == 204  # its own word is worth nothing
    records = proxy.wait_for_records(8)
    denied = [record for record in records if record.status == 403]
    assert [record.client for record in denied] == [*["192.0.2.7"] * 3, "2001:db8::1"]
    assert {record.error for record in denied} == {"client: denied by an access list"}


def test_a_redirecting_listener_denies_as_well(iocproxy: ProxyFactory, origin: Origin) -> None:
    proxy = iocproxy(
        listeners=[{"bind": "127.0.0.1:0", "https_redirect": True}],
        upstreams={"app": {"servers": [origin.url]}},
        server={"trusted_proxies": ["127.0.0.1"]},
        limits={"access": {"deny": ["192.0.2.0/24"]}},
    )
    assert status(proxy, chain="192.0.2.7") == 403
    assert status(proxy, chain="198.51.100.7") == 308


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def with_files(iocproxy: ProxyFactory, origin: Origin, *, check: Any = False, **lists: Any) -> RunningProxy:
    return iocproxy(upstream=origin, limits={"access": {"check": check, **lists}})


def test_a_client_that_is_newly_denied_is_answered_once_more(
    iocproxy: ProxyFactory, origin: Origin, tmp_path: Path
) -> None:
    """403 to its next request, and the connection ends, whatever was sent along with it."""
    file = tmp_path / "blocked.txt"
    write(file, "# nobody yet\n")
    proxy = with_files(iocproxy, origin, deny_files=[str(file)])
    with RawClient(proxy.address, source=("127.0.0.2", 0)) as client, RawClient(proxy.address) as other:
        assert client.request("GET", "/status/204").status == 204
        assert other.request("GET", "/status/204").status == 204
        write(file, "127.0.0.2 # him\n")
        assert proxy.reload_access_lists() == []
        client.send(GET * 3)  # pipelined
        answer = client.read_response()
        assert answer.status == 403
        assert answer.header("Connection") == "close"
        client.half_close()
        client.expect_closed()
        assert refused(proxy.address, "127.0.0.2")
        assert other.request("GET", "/status/204").status == 204
        write(file, "")
        assert proxy.reload_access_lists() == []
    assert status(proxy, "127.0.0.2") == 204
    assert [record.status for record in proxy.wait_for_records(5)] == [204, 204, 403, 204, 204]
    assert [event["networks"] for event in proxy.events("access_list_reloaded")] == [1, 0]


def test_files_are_looked_at_every_now_and_then(iocproxy: ProxyFactory, origin: Origin, tmp_path: Path) -> None:
    allowed, denied = tmp_path / "allowed.txt", tmp_path / "denied.txt"
    write(allowed, "127.0.0.0/30\n")
    write(denied, "\ufeff# a comment\r\n\r\n  127.0.0.2 \r\n")
    proxy = with_files(iocproxy, origin, check="50ms", allow_files=[str(allowed)], deny_files=[str(denied)])
    assert status(proxy) == 204
    assert refused(proxy.address, "127.0.0.2")
    assert refused(proxy.address, "127.0.0.9")
    write(denied, "127.0.0.3\n")
    proxy.wait_for_event("access_list_reloaded")
    assert status(proxy, "127.0.0.2") == 204
    assert refused(proxy.address, "127.0.0.3")
    assert Path(proxy.events("access_list_reloaded")[0]["file"]) == denied


def test_a_broken_file_keeps_what_was_there(iocproxy: ProxyFactory, origin: Origin, tmp_path: Path) -> None:
    broken, other = tmp_path / "broken.txt", tmp_path / "other.txt"
    write(broken, "127.0.0.2\n")
    write(other, "127.0.0.3\n")
    proxy = with_files(iocproxy, origin, check="50ms", deny_files=[str(broken), str(other)])
    write(broken, "127.0.0.4\nnonsense\n")
    event = proxy.wait_for_event("access_list_not_reloaded")
    assert (event["key"], event["reason"]) == ("limits.access.deny_files[0]", f'{broken}:2: "nonsense"')
    assert proxy.stats()["access"]["faults"] == 1
    write(other, "127.0.0.5\n")  # is not held up by it
    proxy.wait_for_event("access_list_reloaded")
    assert [refused(proxy.address, f"127.0.0.{n}") for n in (2, 3, 4, 5)] == [True, False, False, True]
    (fault,) = proxy.reload_access_lists()
    assert fault.path == "limits.access.deny_files[0]"
    assert len(proxy.events("access_list_not_reloaded")) == 1  # said once
    write(broken, "127.0.0.4\n")
    proxy.wait_for(lambda proxy: proxy.stats()["access"]["faults"] == 0)
    assert [refused(proxy.address, f"127.0.0.{n}") for n in (2, 4, 5)] == [False, True, True]


def test_a_network_on_both_sides_changes_nothing(iocproxy: ProxyFactory, origin: Origin, tmp_path: Path) -> None:
    allowed, denied = tmp_path / "allowed.txt", tmp_path / "denied.txt"
    write(allowed, "127.0.0.0/8\n")
    write(denied, "127.0.0.2\n")
    proxy = with_files(iocproxy, origin, allow_files=[str(allowed)], deny_files=[str(denied)])
    write(denied, "127.0.0.3\n\n127.0.0.0/8\n")
    (fault,) = proxy.reload_access_lists()
    assert fault.found == f'"127.0.0.0/8" ({denied}:3)'
    assert fault.allowed == f"is also in limits.access.allow_files[0] ({allowed}:1)"
    assert [refused(proxy.address, f"127.0.0.{n}") for n in (1, 2, 3)] == [False, True, False]
    write(denied, "127.0.0.3\n")
    assert proxy.reload_access_lists() == []
    assert [refused(proxy.address, f"127.0.0.{n}") for n in (1, 2, 3)] == [False, False, True]


def test_nobody_reloads_what_is_not_there(iocproxy: ProxyFactory, origin: Origin) -> None:
    proxy = iocproxy(upstream=origin)
    assert proxy.reload_access_lists() == []
    assert proxy.stats()["access"] == {}


async def test_only_a_running_proxy_reloads() -> None:
    sections: Mapping[str, Any] = {
        "listeners": [{"bind": "127.0.0.1:0"}],
        "upstreams": {"app": {"servers": ["http://127.0.0.1:9"]}},
    }
    proxy = Proxy(Config(**sections))
    calls: list[Callable[[], object]] = [lambda: proxy.deny("127.0.0.1", 1.0), lambda: proxy.pardon("127.0.0.1")]
    for when in ("made", "stopped"):
        with pytest.raises(RuntimeError, match=f"only a running proxy reloads access lists, and this one is {when}"):
            await proxy.reload_access_lists()
        for call in calls:
            with pytest.raises(RuntimeError, match=f"and this one is {when}"):
                call()
        if when == "made":
            await proxy.stop()


async def test_a_long_list_does_not_hold_the_loop(tmp_path: Path) -> None:
    """20,000 networks take longer to read than the loop may stand still."""
    file = tmp_path / "blocked.txt"
    sections: Mapping[str, Any] = {
        "listeners": [{"bind": "127.0.0.1:0"}],
        "upstreams": {"app": {"servers": ["http://127.0.0.1:9"]}},
        "limits": {"access": {"deny_files": [file], "check": False}},
        "logging": {"access": False},
    }
    write(file, "192.0.2.1\n")
    async with Proxy(Config(**sections)) as proxy:
        write(file, "".join(f"10.{number >> 8}.{number & 255}.0/24\n" for number in range(20_000)))
        turns = 0

        async def turning() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        task = asyncio.ensure_future(turning())
        assert await proxy.reload_access_lists() == []
        task.cancel()
        assert proxy.stats()["access"]["denied"] == 20_000
        assert turns > 20
