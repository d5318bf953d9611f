from __future__ import annotations

import json
import os
import subprocess
import sys

import httptools
import pytest
from typer.testing import CliRunner

from iocproxy import __version__
from iocproxy.cli.app import app
from iocproxy.config import config_schema, example_toml, load_config
from iocproxy.testing.patience import PATIENCE

RUNNER = CliRunner()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a command in this process, in `tmp_path`; returns (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments):
        result = RUNNER.invoke(app, [str(argument) for argument in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout, result.stderr

    return invoke


# -- check


def test_check_says_what_it_would_do(run, config_file, iocproxy_certificates, quoted):
    pair = iocproxy_certificates.issue("localhost")
    file = config_file(f"""
[[listeners]]
bind = "127.0.0.1:1"
[[listeners]]
bind = "[::1]:2"
tls = {{ certificates = [{{ cert = {quoted(str(pair.cert))}, key = {quoted(str(pair.key))} }}], min_version = "1.3" }}
[upstreams.app]
servers = ["http://127.0.0.1:3", {{ url = "http://127.0.0.1:4", weight = 2 }}]
[upstreams.spare]
servers = ["https://127.0.0.1:5"]
verify = false
[[routes]]
host = "*.example.com"
path = "/v1/"
upstream = "app"
limits.requests.rate = "20/1s"
[limits]
exempt = ["127.0.0.0/8"]
[limits.connections]
rate = false
concurrent = false
[limits.requests]
dry_run = true
[logging]
format = "json"
access_file = "access.log"
""")
    code, said, wrong = run("check", "--config", file)
    assert (code, wrong) == (0, "")
    assert said.startswith(f"{file}: good\n")
    for line in (
        "  http://127.0.0.1:1\n",
        f"  https://[::1]:2     TLS 1.3 or newer, {pair.cert}\n",
        "  *.example.com /v1/  -> app   20 requests in any 1s a client, counted on its own\n",
        "  app    http://127.0.0.1:3, http://127.0.0.1:4 (weight 2)\n",
        "         no route leads to: spare\n",
        "  connections  unlimited\n",
        "               any number open a client, 10000 open in all\n",
        "  handshakes   30 that failed in any 60s a client\n",
        "  requests     300 requests in any 10s a client (dry run: only counted)\n",
        "  exempt       127.0.0.0/8\n",
        f"  json, info  a line for every request, in {file.parent / 'access.log'}\n",
        f"  listeners[1].tls.certificates[0]  {pair.cert} holds no certificate of its issuer, ",
        "  upstreams.spare.verify            certificates are not checked: whoever sits between here and ",
    ):
        assert line in said
    assert not (file.parent / "access.log").exists()


def test_check_says_the_limits_per_request_in_words(run, config_file):
    file = config_file("""
listeners = [{ bind = "127.0.0.1:1" }]
upstreams.app.servers = ["http://127.0.0.1:3"]
[limits.requests]
rate = ["20/1s", "600/1m"]
concurrent = 50
ratelimit_fields = true
[[limits.rules]]
name = "writes"
methods = ["POST", "PUT"]
rate = "60/1m"
key = ["header:X-Api-Key", "path:1"]
missing = "skip"
status = 503
[limits.bandwidth]
receive = "1MiB"
send = "10MiB"
[[limits.rules]]
name = "all"
concurrent = 900
key = "everyone"
dry_run = true
[[routes]]
path = "/search"
upstream = "app"
limits.cost = 5
limits.bandwidth = { receive = "64KiB", send = false }
[[routes.limits.rules]]
name = "searches"
rate = "30/1m"
key = "cookie:sid"
missing = "refuse"
""")
    code, said, wrong = run("check", "--config", file)
    assert (code, wrong) == (0, "")
    for line in (
        "  any host /search  -> app   each request counts for 5   64KiB a second from a connection and ",
        " and any number of octets a second to a connection\n",
        "                    searches: 30 requests in any 60s for each cookie:sid, 403 without\n",
        "  requests     20 requests in any 1s and 600 requests in any 60s and 50 requests under way a client, ",
        " under way a client, RateLimit fields\n",
        "  writes       60 POST and PUT in any 60s for each header:x-api-key + path:1, answered with 503, ",
        ", answered with 503, uncounted without\n",
        "  bandwidth    1MiB a second from a connection and 10MiB a second to a connection\n",
        "  all          900 requests under way of all clients together (dry run: only counted)\n",
    ):
        assert line in said, said


def test_check_shows_access_lists_and_penalties(run, config_file):
    file = config_file("""
[[listeners]]
bind = "127.0.0.1:1"
[upstreams.app]
servers = ["http://127.0.0.1:3"]
[limits.access]
allow = ["10.0.0.0/8"]
deny_files = ["blocked.txt", "more.txt"]
dry_run = true
[[limits.penalties]]
name = "guessing"
statuses = [401, "5xx"]
rate = ["20/1m", "100/1h"]
deny = "10m"
dry_run = true
""")
    (file.parent / "blocked.txt").write_text("192.0.2.1 # one\n192.0.2.0/24\n")
    (file.parent / "more.txt").write_text("2001:db8::/32\n")
    code, said, wrong = run("check", "--config", file)
    assert (code, wrong) == (0, "")
    for line in (
        "  access       1 network allowed, 3 networks denied, all others are refused (dry run: only counted)\n",
        f"               denied: {file.parent / 'blocked.txt'}, 2 networks\n",
        f"               denied: {file.parent / 'more.txt'}, 1 network\n",
        (
            "  guessing     denied for 10m after 20 answers of 401, 5xx in any 60s and 100 answers of 401, 5xx in any "
            "1h a client (dry run: only counted)\n"
        ),
    ):
        assert line in said
    (file.parent / "more.txt").write_text("# fine\n10.0.0.1/8\n")
    code, said, wrong = run("check", "--config", file)
    assert (code, said) == (2, "")
    assert f'{file}:8: limits.access.deny_files[1]: {file.parent / "more.txt"}:2: "10.0.0.1/8"; bits set' in wrong


def test_check_looks_at_access_files_beside_other_faults(run, config_file):
    file = config_file("""
[[listeners]]
bind = "nowhere"
[upstreams.app]
servers = ["http://127.0.0.1:3"]
[limits.access]
deny_files = ["blocked.txt"]
check = 1
dry_run = "no"
""")
    (file.parent / "blocked.txt").write_text("nonsense\n")
    code, _, wrong = run("check", "--config", file)
    assert code == 2
    assert [line.removeprefix(f"{file}:").partition(": ")[0] for line in wrong.splitlines()] == ["3", "7", "9"]


def test_check_binds_nothing(run, config_file):
    """The address is nobody's on this machine (RFC 5737); serving it would fail."""
    file = config_file('[[listeners]]\nbind = "192.0.2.1:80"\n[upstreams.a]\nservers = ["http://127.0.0.1:1"]\n')
    assert run("check", "--config", file)[0] == 0


def test_check_finds_what_loading_finds(run, config_file):
    file = config_file(
        '[[listeners]]\nbind = "127.0.0.1:0"\ntls.certificates = [{ cert = "no.pem", key = "no.key" }]\n'
        '[upstreams.a]\nservers = ["https://127.0.0.1:1"]\nca = "no-ca.pem"\n[[middleware]]\nuse = "nowhere:Nothing"\n'
    )
    code, said, wrong = run("check", "--config", file)
    assert (code, said) == (2, "")
    for place in (":3: listeners[0].tls", ":6: upstreams.a.ca", ":8: middleware[0].use"):
        assert f"{file}{place}" in wrong


def test_check_finds_everything_in_one_go(run, config_file, iocproxy_certificates, quoted):
    """Faults of keys do not hide those of the files and classes that other keys name, in whatever sections."""
    own, other = iocproxy_certificates.issue("own.test"), iocproxy_certificates.issue("other.test")
    file = config_file(f"""
[[listeners]]
bind = "nowhere"
[listeners.tls]
min_version = "1.1"
certificates = [
  {{ cert = {quoted(str(own.cert))}, key = {quoted(str(other.key))} }},
  {{ cert = "no.pem", key = {quoted(str(own.key))} }},
  {{ cert = "no.pem", kay = "no.key" }},
]
[upstreams."my app"]
servers = ["https://127.0.0.1:1", "nonsense"]
max_idle = -1
ca = "no-ca.pem"
[upstreams.b]
servers = ["http://127.0.0.1:2"]
ca = "never-read.pem"
[[middleware]]
use = "nowhere:Nothing"
[[middleware]]
use = "nothing"
[logging]
format = "xml"
access_file = "nowhere/access.log"
""")
    code, said, wrong = run("check", "--config", file)
    assert (code, said) == (2, "")
    found = [line.removeprefix(f"{file}:").partition(": ") for line in wrong.splitlines()]
    assert [(int(line), rest.partition(": ")[0]) for line, _, rest in found] == [
        (3, "listeners[0].bind"),
        (5, "listeners[0].tls.min_version"),
        (7, "listeners[0].tls.certificates[0]"),
        (8, "listeners[0].tls.certificates[1].cert"),
        (9, "listeners[0].tls.certificates[2].key"),
        (9, "listeners[0].tls.certificates[2].kay"),
        (11, 'upstreams."my app"'),
        (11, "upstreams"),
        (12, 'upstreams."my app".servers[1]'),
        (13, 'upstreams."my app".max_idle'),
        (14, 'upstreams."my app".ca'),
        (17, "upstreams.b.ca"),
        (19, "middleware[0].use"),
        (21, "middleware[1].use"),
        (23, "logging.format"),
        (24, "logging.access_file"),
    ]


def test_check_finds_a_log_that_cannot_be_written_and_makes_none(run, config_file, tmp_path):
    least = '[[listeners]]\nbind = "127.0.0.1:0"\n[upstreams.a]\nservers = ["http://127.0.0.1:1"]\n[logging]\n'
    (tmp_path / "directory").mkdir()
    for path in ("nowhere/access.log", "directory", "proxy.toml/access.log"):
        code, _, wrong = run("check", "--config", config_file(f'{least}access_file = "{path}"\n'))
        assert (code, len(wrong.splitlines())) == (2, 1)
        assert ":6: logging.access_file: " in wrong
        assert "cannot be written" in wrong
    assert sorted(each.name for each in tmp_path.iterdir()) == ["directory", "proxy.toml"]


def test_middleware_may_lie_beside_the_file(tmp_path, environ):
    """In a process of its own, from another directory, and with a module that must not take the place of Python's."""
    place = tmp_path / "site"
    place.mkdir()
    (place / "beside_the_file.py").write_text("class Greeter:\n    def on_request(self, request): return None\n")
    (place / "sched.py").write_text("raise SystemExit('not the one of the standard library')\n")
    file = place / "iocproxy.toml"
    file.write_text(
        '[[listeners]]\nbind = "127.0.0.1:0"\n[upstreams.app]\nservers = ["http://127.0.0.1:9"]\n'
        '[[middleware]]\nuse = "beside_the_file:Greeter"\n'
    )
    code = f"import sys; from iocproxy.cli import main; sys.argv = ['iocproxy', 'check', '--config', {str(file)!r}]; "
    code += "assert 'sched' not in sys.modules; import atexit; atexit.register(lambda: __import__('sched')); main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "beside_the_file:Greeter" in done.stdout


def test_check_without_a_file(run):
    code, said, wrong = run("check")
    assert (code, said) == (2, "")
    assert wrong.startswith("iocproxy.toml: cannot be read: ")


def test_what_stands_in_a_file_cannot_move_the_cursor(run, config_file):
    file = config_file(
        '[[listeners]]\nbind = "127.0.0.1:0"\n[upstreams.a]\nservers = ["http://127.0.0.1:1"]\n'
        '[logging]\naccess_file = "a\\u001b[2J.log"\n'
    )
    code, said, _ = run("check", "--config", file)
    assert code == 0
    assert "\x1b" not in said


# -- init


def test_init_writes_a_file_that_is_good(run, tmp_path):
    code, said, _ = run("init")
    assert code == 0
    assert "iocproxy check --config iocproxy.toml" in said
    assert (tmp_path / "iocproxy.toml").read_bytes() == example_toml().encode()
    load_config(tmp_path / "iocproxy.toml")
    assert run("check")[0] == 0


def test_init_overwrites_only_when_told(run, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("mine", encoding="utf-8")
    code, said, wrong = run("init", "mine.toml")
    assert (code, said, wrong) == (2, "", "mine.toml: exists already; --force overwrites it\n")
    assert file.read_text(encoding="utf-8") == "mine"
    assert run("init", "mine.toml", "--force")[0] == 0
    assert file.read_text(encoding="utf-8") == example_toml()


def test_init_where_nothing_can_be_written(run):
    code, _, wrong = run("init", "nowhere/mine.toml")
    assert code == 2
    assert "cannot be written" in wrong


# -- schema, version, and what there is not


def test_schema_is_the_configurations(run):
    code, said, _ = run("schema")
    assert code == 0
    assert json.loads(said) == config_schema()


@pytest.mark.parametrize("arguments", [["version"], ["--version"]])
def test_versions(run, arguments):
    code, said, _ = run(*arguments)
    rows = dict(line.split(maxsplit=1) for line in said.replace("event loop", "loop").splitlines())
    assert code == 0
    assert rows["iocproxy"] == __version__
    assert rows["python"].startswith(sys.version.split()[0])
    assert rows["loop"] == ("ProactorEventLoop" if sys.platform == "win32" else "SelectorEventLoop")
    assert rows["openssl"].startswith("OpenSSL ")
    assert rows["httptools"] == httptools.__version__


@pytest.mark.parametrize("name", ["reload", "status", "top", "service"])
def test_commands_that_do_not_exist_yet(run, name):
    code, _, wrong = run(name)
    assert code == 2
    assert "No such command" in wrong


# -- as processes


def test_a_reader_with_enough_is_no_failure(tmp_path, environ):
    """``iocproxy schema | head -1``, with more to say than a pipe holds in one go."""
    child = subprocess.Popen(
        [sys.executable, "-m", "iocproxy", "schema"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=environ,
    )
    try:
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(PATIENCE) == 0
    finally:
        child.kill()
        child.wait()
        child.stderr.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is Linux's")  # noqa: PTH110
def test_a_full_disk_is_a_failure(tmp_path, environ):
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-m", "iocproxy", "version"],
            stdout=full,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env=environ,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith(b"failed: ")
    assert b"Traceback" not in done.stderr


def test_a_fault_beyond_the_consoles_characters(finished):
    code, _, wrong = finished("serve", "--upstream", "http://\u00fc\u4e2d", PYTHONIOENCODING="ascii", PYTHONUTF8="1")
    assert code == 2
    assert "--upstream" in wrong
    assert wrong.isascii()
