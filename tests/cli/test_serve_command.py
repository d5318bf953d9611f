from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time

import pytest

from iocproxy.testing import RawClient
from iocproxy.testing.patience import PATIENCE

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to send")


def basic(origin, extra=""):
    return f'[[listeners]]\nbind = "127.0.0.1:0"\n[upstreams.app]\nservers = ["{origin.url}"]\n{extra}'


def until(happened):
    """Wait for what another process does; fails after `PATIENCE` seconds."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# -- serving


def test_listen_and_upstream_are_enough(command, iocproxy_origin_factory):
    first, second = iocproxy_origin_factory(), iocproxy_origin_factory()
    proxy = command(
        "serve", "--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--upstream", first.url, "--upstream", second.url
    )
    for scheme, address in proxy.addresses(2):
        assert scheme == "http"
        with RawClient(address) as client:
            for _ in range(2):
                assert json.loads(client.request("GET", "/a?b").body)["target"] == "/a?b"
    assert (len(first.requests), len(second.requests)) == (2, 2)
    proxy.wait_for(r"200 GET 127\.0\.0\.1:\d+/a\?b", 4)


def test_certificate_and_key_hold_for_every_listener(command, iocproxy_origin, iocproxy_certificates):
    pair = iocproxy_certificates.pair
    listen = ["--listen", "127.0.0.1:0"] * 2
    proxy = command("serve", *listen, "--upstream", iocproxy_origin.url, "--tls-cert", pair.cert, "--tls-key", pair.key)
    for scheme, address in proxy.addresses(2):
        assert scheme == "https"
        with RawClient(address, tls=iocproxy_certificates) as client:
            assert client.request("GET", "/status/204").status == 204


def test_a_file_is_served(command, config_file, iocproxy_origin):
    proxy = command("serve", "--config", config_file(basic(iocproxy_origin)))
    with RawClient(proxy.address()) as client:
        assert client.request("GET", "/status/201").status == 201


def test_the_default_file_is_found(command, config_file, iocproxy_origin):
    config_file(basic(iocproxy_origin), "iocproxy.toml")
    with RawClient(command("serve").address()) as client:
        assert client.request("GET", "/status/201").status == 201


def test_upstream_leaves_the_default_file_alone(command, config_file, iocproxy_origin):
    config_file("this is no TOML", "iocproxy.toml")
    proxy = command("serve", "--listen", "127.0.0.1:0", "--upstream", iocproxy_origin.url)
    with RawClient(proxy.address()) as client:
        assert client.request("GET", "/status/201").status == 201


def test_options_override_the_files_logging(command, config_file, iocproxy_origin):
    file = config_file(basic(iocproxy_origin, '[logging]\nformat = "console"\nlevel = "error"\naccess = true\n'))
    proxy = command("serve", "--config", file, "--log-format", "json", "--log-level", "debug")
    with RawClient(proxy.address()) as client:
        client.request("GET", "/seen")
    proxy.wait_for('"path":"/seen"')
    events = [json.loads(line)["event"] for line in proxy.lines]
    assert {"file_limit", "listening", "request"} <= set(events)


def test_the_files_logging_holds_otherwise(command, config_file, iocproxy_origin):
    proxy = command("serve", "--config", config_file(basic(iocproxy_origin, '[logging]\nformat = "json"\n')))
    proxy.wait_for('"event":"listening"')


# -- stopping


def test_a_signal_raised_in_the_process_stops_it(command, config_file, iocproxy_origin, stopper):
    """Everywhere, also where no signal can be sent from outside."""
    proxy = command("serve", "--config", config_file(basic(iocproxy_origin, stopper)))
    with RawClient(proxy.address()) as client:
        assert client.request("GET", "/raise/SIGTERM").status == 200  # in flight, and completed
        client.expect_closed()
    code, said, wrong = proxy.finish()
    assert (code, wrong) == (0, "")
    assert "signal=SIGTERM" in said
    assert said.rstrip().splitlines()[-1].split()[-1] == "stopped"


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=posix)])
def test_a_request_in_flight_is_completed(command, iocproxy_origin, number):
    proxy = command("serve", "--listen", "127.0.0.1:0", "--upstream", iocproxy_origin.url, interruptible=True)
    with RawClient(proxy.address()) as client:
        client.send(b"GET /delay/0.5 HTTP/1.1\r\nHost: a\r\n\r\n")
        iocproxy_origin.wait_for_requests(1)
        if number == signal.SIGINT:
            proxy.interrupt()
        else:
            proxy.signal(number)
        proxy.wait_for(rf"signal={number.name} requests_in_flight=1 drain=10s")
        assert client.read_response().status == 200
    code, _, wrong = proxy.finish()
    assert (code, wrong) == (0, "")


def test_a_second_signal_cuts_off(command, iocproxy_origin):
    proxy = command("serve", "--listen", "127.0.0.1:0", "--upstream", iocproxy_origin.url, interruptible=True)
    with RawClient(proxy.address()) as client:
        client.send(b"GET /delay/60 HTTP/1.1\r\nHost: a\r\n\r\n")
        iocproxy_origin.wait_for_requests(1)
        proxy.interrupt()
        proxy.wait_for("requests_in_flight=1")
        proxy.interrupt()
        code, said, wrong = proxy.finish()
    assert (code, wrong) == (0, "")
    assert "stopping_at_once" in said


def test_a_reader_that_goes_away_is_no_failure(command, iocproxy_origin):
    """``iocproxy serve … | head``: it serves on, and ends without a complaint."""
    arguments = ["serve", "--listen", "127.0.0.1:0", "--upstream", iocproxy_origin.url]
    proxy = command(*arguments, interruptible=True, read_until="listening")
    with RawClient(proxy.address()) as client:
        for _ in range(3):
            assert client.request("GET", "/").status == 200
    proxy.interrupt()
    code, _, wrong = proxy.finish()
    assert (code, wrong) == (0, "")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not rename a file that is open, see docs/logging.md")
def test_the_access_log_is_rotated_by_a_signal(command, config_file, iocproxy_origin, tmp_path):
    file, old = tmp_path / "access.log", tmp_path / "access.log.1"
    proxy = command("serve", "--config", config_file(basic(iocproxy_origin, '[logging]\naccess_file = "access.log"\n')))
    with RawClient(proxy.address()) as client:
        assert client.request("GET", "/before").status == 200
        until(lambda: "/before" in file.read_text())
        file.rename(old)
        proxy.signal(signal.SIGUSR1)
        until(file.exists)
        assert client.request("GET", "/after").status == 200
    proxy.signal(signal.SIGTERM)
    code, said, wrong = proxy.finish()
    assert (code, wrong) == (0, "")
    assert "signal=SIGUSR1" in said
    assert ["/before" in old.read_text(), "/after" in old.read_text()] == [True, False]
    assert ["/before" in file.read_text(), "/after" in file.read_text()] == [False, True]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not rename a file that is open, see docs/logging.md")
def test_the_signal_to_rotate_does_no_harm_where_there_is_no_file(command, iocproxy_origin):
    proxy = command("serve", "--listen", "127.0.0.1:0", "--upstream", iocproxy_origin.url)
    with RawClient(proxy.address()) as client:
        proxy.signal(signal.SIGUSR1)
        proxy.wait_for("signal=SIGUSR1")
        assert client.request("GET", "/").status == 200
    proxy.wait_for("200 GET")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP")
def test_a_signal_renews_the_certificates_and_access_lists(
    command, config_file, iocproxy_origin, iocproxy_certificates, tmp_path
):
    cert, key = tmp_path / "site.pem", tmp_path / "site.key"

    def put(pair):
        cert.write_bytes(pair.cert.read_bytes())
        key.write_bytes(pair.key.read_bytes())

    def serial():
        with RawClient(proxy.address(), tls=iocproxy_certificates) as client:
            return client.tls.getpeercert()["serialNumber"]

    put(iocproxy_certificates.issue("localhost"))
    (tmp_path / "blocked.txt").write_text("192.0.2.0/24\n")
    text = f"""
        server.certificate_check = false
        limits.access = {{ deny_files = ["blocked.txt"], check = false }}
        [[listeners]]
        bind = "127.0.0.1:0"
        tls.certificates = [{{ cert = "site.pem", key = "site.key" }}]
        [upstreams.app]
        servers = ["{iocproxy_origin.url}"]
    """
    proxy = command("serve", "--config", config_file(text))
    before = serial()
    put(iocproxy_certificates.issue("localhost"))
    with RawClient(proxy.address(), tls=iocproxy_certificates) as client:
        assert client.request("GET", "/").status == 200
        proxy.signal(signal.SIGHUP)
        proxy.wait_for(r"certificate_renewed .*site\.pem")
        assert client.request("GET", "/").status == 200
    assert serial() != before
    cert.write_text("broken")
    (tmp_path / "blocked.txt").write_text("192.0.2.0/24\n198.51.100.0/24\n")
    proxy.signal(signal.SIGHUP)
    proxy.wait_for(r"certificate_not_renewed .*site\.pem holds no PEM certificate")
    proxy.wait_for(r"access_list_reloaded .*blocked\.txt networks=2")
    proxy.signal(signal.SIGTERM)
    code, said, wrong = proxy.finish()
    assert (code, wrong) == (0, "")
    assert said.count("renewing ") == 2
    assert said.count("signal=SIGHUP") == 2


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP")
def test_the_end_of_its_terminal_ends_it(command, iocproxy_origin):
    """Closing the window sends the same signal as whoever wants the certificates renewed."""
    ours, theirs = os.openpty()
    try:
        proxy = command("serve", "--listen", "127.0.0.1:0", "--upstream", iocproxy_origin.url, stdin=theirs)
        proxy.address()
        proxy.signal(signal.SIGHUP)
        proxy.wait_for("renewing .*signal=SIGHUP")
    finally:
        os.close(ours)
        os.close(theirs)
    proxy.signal(signal.SIGHUP)
    code, said, wrong = proxy.finish()
    assert (code, wrong) == (0, "")
    assert said.count("renewing") == 1


# -- what is refused


def test_a_port_in_use(finished, iocproxy_origin):
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as other:
        binds = ["{}:{}".format(*each.getsockname()) for each in (taken, other)]
        listen = [word for bind in binds for word in ("--listen", bind)]
        code, _, wrong = finished("serve", *listen, "--upstream", iocproxy_origin.url)
    assert code == 2
    lines = wrong.splitlines()
    assert len(lines) == 2
    for bind, line in zip(binds, lines, strict=True):
        assert line.startswith(f"--listen: cannot listen on {bind}: ")


def test_every_fault_of_a_file_is_told(finished, config_file):
    file = config_file(
        '[[listeners]]\nbind = "127.0.0.1"\nbnd = 1\n[upstreams.app]\nservers = ["http://"]\n[timeouts]\n'
        'connect = 5.5\nkeep_alive = "soon"\n'
    )
    code, said, wrong = finished("serve", "--config", file)
    assert (code, said) == (2, "")
    assert [line.partition(": ")[0].rpartition(":")[2] for line in wrong.splitlines()] == ["2", "3", "5", "8"]
    assert "listeners[0].bind" in wrong
    assert "did you mean" in wrong
    assert "timeouts.keep_alive" in wrong


def test_faults_found_while_starting_have_their_place(finished, config_file, iocproxy_origin):
    file = config_file(
        basic(
            iocproxy_origin,
            '[[listeners]]\nbind = "127.0.0.1:0"\ntls.certificates = [{ cert = "no.pem", key = "no.key" }]\n'
            '[[middleware]]\nuse = "nowhere:Nothing"\n',
        )
    )
    code, said, wrong = finished("serve", "--config", file)
    assert code == 2
    assert "listening" not in said
    assert f"{file}:7: listeners[1].tls.certificates[0].cert: " in wrong
    assert f"{file}:9: middleware[0].use: " in wrong
    assert "Traceback" not in wrong


def test_faults_of_keys_and_of_what_they_name_are_told_together(finished, config_file, iocproxy_origin):
    tls = 'tls.certificates = [{ cert = "no.pem", key = "no.key" }]'
    file = config_file(basic(iocproxy_origin, f'[[listeners]]\nbind = "here"\n{tls}\n'))
    code, said, wrong = finished("serve", "--config", file)
    assert (code, said) == (2, "")
    assert [line.partition(": ")[2].partition(": ")[0] for line in wrong.splitlines()] == [
        "listeners[1].bind",
        "listeners[1].tls.certificates[0].cert",
        "listeners[1].tls.certificates[0].key",
    ]


def test_faults_of_options_and_of_what_they_name_are_told_together(finished):
    tls = ["--tls-cert", "a.pem", "--tls-key", "a.key"]
    code, _, wrong = finished("serve", "--upstream", "ftp://a", *tls)
    assert code == 2
    assert [line.partition(": ")[0] for line in wrong.splitlines()] == ["--upstream", "--tls-cert", "--tls-key"]
    code, _, wrong = finished("serve", "--upstream", "http://a", "--workers", "2", *tls)
    assert code == 2
    assert [line.partition(": ")[0] for line in wrong.splitlines()] == ["--workers", "--tls-cert", "--tls-key"]


def test_faults_of_options_are_in_terms_of_options(finished, tmp_path):
    (tmp_path / "a.pem").write_text("nonsense", encoding="utf-8")
    tls = ["--tls-cert", "a.pem", "--tls-key", "missing.pem"]
    listen = ["--listen", "127.0.0.1:0"]
    code, _, wrong = finished("serve", *listen, *listen, "--upstream", "http://127.0.0.1:9", *tls)
    assert code == 2
    assert all(line.startswith("--tls-") for line in wrong.splitlines())
    assert len(set(wrong.splitlines())) == len(wrong.splitlines())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["--config", "a.toml", "--upstream", "http://a"],
            ["--upstream: does not go with the configuration file a.toml"],
        ),
        (["--config", "a.toml", "--listen", "a:1"], ["--listen: does not go with"]),
        (["--upstream", "http://a", "--tls-cert", "a.pem"], ["--tls-cert: without --tls-key"]),
        (["--upstream", "http://a", "--tls-key", "a.pem"], ["--tls-key: without --tls-cert"]),
        (["--tls-cert", "a.pem", "--tls-key", "a.pem"], ["--tls-cert: without --upstream"]),
        (["--upstream", "http://a", "--workers", "auto"], ["--workers: auto is not available yet; allowed: 1"]),
        (["--upstream", "http://a", "--workers", "4"], ["--workers: 4 is not available yet; allowed: 1"]),
        (["--upstream", "http://a", "--workers", "0"], ['--workers: "0"; must be 1']),
        (["--upstream", "http://a", "--workers", "many"], ['--workers: "many"; must be 1']),
        (
            ["--upstream", "ftp://a", "--upstream", "http://a/b", "--listen", "a", "--workers", "2", "--tls-key", "k"],
            ["--workers", "--tls-key", "--listen", "--upstream", "--upstream"],
        ),
    ],
    ids=lambda value: None,
)
def test_contradictions_are_told_together(arguments, expected, tmp_path, monkeypatch):
    """In this process: nothing gets as far as a loop."""
    from typer.testing import CliRunner

    from iocproxy.cli.app import app

    (tmp_path / "a.toml").write_text(
        '[[listeners]]\nbind = "127.0.0.1:0"\n[upstreams.a]\nservers = ["http://127.0.0.1:9"]\n', encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["serve", *arguments])
    lines = result.stderr.splitlines()
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(lines) == len(expected)
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start)


def test_an_unknown_value_of_an_option(finished):
    code, _, wrong = finished("serve", "--log-format", "xml")
    assert code == 2
    assert "--log-format" in wrong
