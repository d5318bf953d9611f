from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import sys
import threading
import time

import pytest

from iocproxy.errors import ConfigError
from iocproxy.testing import RawClient
from iocproxy.testing.patience import PATIENCE
from iocproxy.workers.collector import THRESHOLD
from iocproxy.workers.signals import REOPENING, STOPPING

GET = b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def held(iocproxy_origin):
    """Requests for /held are answered when this event is set."""
    release = threading.Event()

    def answer(exchange):
        assert release.wait(PATIENCE)
        exchange.respond(200, b"held")

    iocproxy_origin.on("GET", "/held", answer)
    yield release
    release.set()


def in_flight(client, origin):
    """Send the request that is held, and return when the origin has it."""
    client.send(GET)
    until = time.monotonic() + PATIENCE
    while not origin.requests:
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.mark.parametrize("number", STOPPING, ids=lambda number: number.name)
def test_a_signal_ends_it_cleanly(foreground, log, settings, number):
    def script(process):
        log.wait_for("started")
        with RawClient(process.address) as client:
            assert client.request("GET", "/").status == 200
        process.signal(number)

    before = [signal.getsignal(each) for each in STOPPING + REOPENING]
    assert foreground.run(settings, script) == 0
    assert [signal.getsignal(each) for each in STOPPING + REOPENING] == before

    assert log.wait_for("signal")["signal"] == number.name
    assert log.events()[-1] == "stopped"
    assert log.wait_for("file_limit")["files"] > 0
    with pytest.raises(OSError, match=r".+"):
        socket.create_connection(foreground.address, timeout=2).close()


def test_a_request_in_flight_is_completed(foreground, log, settings, held, iocproxy_origin):
    def script(process):
        log.wait_for("started")
        with RawClient(process.address) as client:
            in_flight(client, iocproxy_origin)
            process.signal(signal.SIGINT)
            said = log.wait_for("signal")
            assert (said["requests_in_flight"], said["drain"]) == (1, "60s")
            assert "second signal" in said["hint"]
            log.wait_for("stopping")
            held.set()
            response = client.read_response()
            assert (response.status, response.body) == (200, b"held")
            client.expect_closed()

    assert foreground.run(settings, script) == 0
    assert "connections_cut_off" not in log.events()


def test_a_second_signal_stops_at_once(foreground, log, settings, held, iocproxy_origin):
    def script(process):
        log.wait_for("started")
        with RawClient(process.address) as client:
            in_flight(client, iocproxy_origin)
            process.signal(signal.SIGINT)
            log.wait_for("stopping")
            process.signal(signal.SIGTERM)
            process.signal(signal.SIGTERM)  # impatience changes nothing
            log.wait_for("connections_cut_off")
            # a reset, which Wine shows to a reader as an end
            with contextlib.suppress(ConnectionError):
                assert client.sock.recv(1) == b""

    assert foreground.run(settings, script) == 0
    assert log.events().count("stopping_at_once") == 1
    assert log.wait_for("stopping_at_once")["signal"] == "SIGTERM"
    assert not held.is_set()


def test_a_signal_while_starting_gives_up(foreground, log, settings, monkeypatch, tmp_path):
    (tmp_path / "slow_to_make.py").write_text(
        "import threading\n"
        "made, go_on = threading.Event(), threading.Event()\n"
        "class Slow:\n"
        "    def __init__(self):\n"
        "        made.set()\n"
        "        go_on.wait()\n"
        "    def on_request(self, request):\n"
        "        return None\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import slow_to_make

    def script(process):
        try:
            assert slow_to_make.made.wait(PATIENCE)
            process.signal(signal.SIGTERM)
            log.wait_for("start_given_up")
            process.signal(signal.SIGTERM)  # on its way out already
        finally:
            slow_to_make.go_on.set()

    assert foreground.run({**settings, "middleware": [{"use": "slow_to_make:Slow"}]}, script) == 0
    assert "listening" not in log.events()
    assert "started" not in log.events()


def test_faults_of_the_start_are_the_callers_to_tell(foreground, log, settings):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"cannot listen on {bind}"):
            foreground.run({**settings, "listeners": [{"bind": bind}]}, lambda process: None)
    assert "failed" not in log.events()


def test_a_failure_is_logged_and_gives_one(foreground, log, settings):
    def started(_proxy):
        raise LookupError("nothing to greet")

    assert foreground.run(settings, lambda process: None, started=started) == 1
    failed = log.wait_for("failed")
    assert failed["level"] == "error"
    assert isinstance(failed["exc_info"], LookupError)
    assert log.events()[-2:] == ["stopped", "failed"]


def test_what_asyncio_has_nobody_to_give_to_is_logged(foreground, log, settings):
    failure = OSError("lost")

    def started(_proxy):
        asyncio.get_running_loop().call_exception_handler({"message": "Nobody waits", "exception": failure})

    def script(process):
        assert log.wait_for("unhandled") == {
            "level": "error",
            "event": "unhandled",
            "message": "Nobody waits",
            "exc_info": failure,
        }
        log.wait_for("started")
        process.signal(signal.SIGINT)

    assert foreground.run(settings, script, started=started) == 0


def test_the_loop_is_the_platforms_own(foreground, log, settings):
    seen = []

    def script(process):
        log.wait_for("started")
        process.signal(signal.SIGINT)

    assert foreground.run(settings, script, started=lambda _: seen.append(asyncio.get_running_loop())) == 0
    name = "ProactorEventLoop" if sys.platform == "win32" else "_UnixSelectorEventLoop"
    assert type(seen[0]).__name__ == name


def test_the_collector_skips_what_start_up_made_and_is_put_back(foreground, log, settings):
    seen = []

    def script(process):
        log.wait_for("started")
        with RawClient(process.address) as client:
            assert client.request("GET", "/").status == 200  # so the loop has gone on from `started`
        seen.append((gc.get_freeze_count(), gc.get_threshold()[0]))
        process.signal(signal.SIGINT)

    before = gc.get_freeze_count(), gc.get_threshold()
    assert foreground.run(settings, script) == 0
    ((frozen, threshold),) = seen
    assert frozen > 10_000
    assert threshold == THRESHOLD
    assert (gc.get_freeze_count(), gc.get_threshold()) == (0, before[1])
