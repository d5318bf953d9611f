"""A proxy that cannot start says everything that is wrong, with its place, and leaves nothing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iocproxy import ConfigError, Proxy, load_config
from iocproxy.testing import Certificates


async def faults_of(proxy: Proxy) -> dict[str, Any]:
    threads = asyncio.all_tasks()
    with pytest.raises(ConfigError) as caught:
        await proxy.start()
    assert asyncio.all_tasks() == threads
    assert proxy.addresses == ()
    assert repr(proxy) == "<Proxy stopped>"
    await proxy.stop()
    with pytest.raises(RuntimeError):
        await proxy.start()
    return {fault.path: fault for fault in caught.value.faults}


@pytest.fixture
def taken() -> Any:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


async def test_a_port_in_use(make_config: Any, taken: int, connects: Any) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        free = sock.getsockname()[1]
    binds = [{"bind": f"127.0.0.1:{free}"}, {"bind": f"127.0.0.1:{taken}"}]
    found = await faults_of(Proxy(make_config(listeners=binds)))
    assert list(found) == ["listeners[1].bind"]
    assert f"127.0.0.1:{taken}" in found["listeners[1].bind"].found
    assert not connects(("127.0.0.1", free))


async def test_taken_ports_are_told_together(make_config: Any, taken: int, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        ports = [taken, other.getsockname()[1]]
        config = make_config(
            listeners=[{"bind": f"127.0.0.1:{port}"} for port in ports],
            logging={"access_file": str(tmp_path / "access.log")},
        )
        assert list(await faults_of(Proxy(config))) == ["listeners[0].bind", "listeners[1].bind"]


async def test_two_listeners_on_one_port(make_config: Any) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        free = sock.getsockname()[1]
    with pytest.raises(ConfigError):
        await Proxy(make_config(listeners=[{"bind": f"127.0.0.1:{free}"}] * 2)).start()


async def test_an_access_file_that_cannot_be_written(make_config: Any, tmp_path: Path) -> None:
    found = await faults_of(Proxy(make_config(logging={"access_file": str(tmp_path / "none" / "access.log")})))
    assert list(found) == ["logging.access_file"]


async def test_all_faults_of_a_file_at_once_with_their_lines(
    tmp_path: Path,
    taken: int,
    iocproxy_certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    own_threads: Callable[[], list[str]],
) -> None:
    (tmp_path / "garbage.pem").write_text("not a certificate")
    other = iocproxy_certificates.issue("other.test")
    (tmp_path / "iocproxy_half_good.py").write_text("class Strict:\n    def on_request(self, request): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "iocproxy.toml"
    lines = [
        "[[listeners]]",
        f'bind = "127.0.0.1:{taken}"',
        "[[listeners]]",
        'bind = "127.0.0.1:0"',
        "[listeners.tls]",
        "certificates = [",
        f"  {{ cert = '{iocproxy_certificates.cert}', key = '{other.key}' }},",
        "  { cert = 'garbage.pem', key = 'none.pem' },",
        "]",
        "[upstreams.app]",
        "servers = ['https://127.0.0.1:9']",
        "ca = 'garbage.pem'",
        "[[middleware]]",
        "use = 'iocproxy_half_good:Strict'",
        "options = { colour = 'red' }",
        "[[middleware]]",
        "use = 'no_such_module_at_all:Class'",
        "[logging]",
        "access_file = 'none/access.log'",
    ]
    file.write_text("\n".join(lines))
    found = await faults_of(Proxy(load_config(file)))
    # that its first port is taken as well is for the next time: binding is not tried with anything else wrong
    wanted = {
        "upstreams.app.ca": 12,
        "middleware[0].options": 15,
        "middleware[1].use": 17,
        "logging.access_file": 19,
    }
    assert {path: found[path].line for path in wanted} == wanted
    certificates = {path: fault.line for path, fault in found.items() if path not in wanted}
    assert {path.partition("].tls.certificates")[2][:3] for path in certificates} == {"[0]", "[1]"}
    assert set(certificates.values()) <= {7, 8}
    assert {fault.file for fault in found.values()} == {str(file)}
    assert [fault.line for fault in found.values()] == sorted(fault.line for fault in found.values())
    assert own_threads() == []


async def test_a_start_that_failed_did_not_touch_the_access_log_or_leave_it_open(
    make_config: Any, taken: int, tmp_path: Path
) -> None:
    log = tmp_path / "access.log"
    config = make_config(listeners=[{"bind": f"127.0.0.1:{taken}"}], logging={"access_file": str(log)})
    await faults_of(Proxy(config))
    if log.exists():
        log.unlink()  # on Windows only a closed file can be removed


async def test_an_address_that_is_not_of_this_machine(make_config: Any) -> None:
    found = await faults_of(Proxy(make_config(listeners=[{"bind": "192.0.2.1:0"}])))
    assert list(found) == ["listeners[0].bind"]
