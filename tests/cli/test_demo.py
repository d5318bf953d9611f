from __future__ import annotations

import json
import re
import shlex
import shutil
import socket
import ssl
import stat
import subprocess
import sys

import pytest

from iocproxy.testing import RawClient, websocket
from iocproxy.testing.patience import PATIENCE


@pytest.fixture
def temporary(tmp_path):
    """The children's directory for temporary files."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    return directory


@pytest.fixture
def demo(command, temporary):
    """The demo on ports of the system's choice, listening."""
    variables = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))
    child = command("serve", "--listen", "127.0.0.1:0", interruptible=True, **variables)
    child.wait_for("Stop with Ctrl")
    return child


@pytest.fixture(scope="module")
def shared(start_command, tmp_path_factory):
    """A demo that several tests look at and nobody stops. Together they stay below its limits."""
    child = start_command(["serve", "--listen", "127.0.0.1:0"], tmp_path_factory.mktemp("shared"))
    child.wait_for("Stop with Ctrl")
    return child


@pytest.fixture
def trusting():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@pytest.fixture
def http(shared):
    with RawClient(shared.addresses(2)[0][1]) as client:
        yield client


@pytest.fixture
def https(shared, trusting):
    scheme, address = shared.addresses(2)[1]
    assert scheme == "https"
    with RawClient(address, tls=trusting) as client:
        yield client


def test_it_says_where_it_is_and_what_to_try(shared):
    (_, plain), (_, secure) = shared.addresses(2)
    said = "\n".join(shared.lines)
    assert f"http://127.0.0.1:{plain[1]}/ " in said
    assert f"https://127.0.0.1:{secure[1]}/ " in said
    assert len(re.findall(r"^  curl(?:\.exe)? ", said, re.MULTILINE)) == 3
    assert "Stop with Ctrl+C" in said
    assert "warning" not in said


def test_the_page_shows_the_request_as_it_arrived(http):
    answer = http.request("GET", "/?<b>", headers=[("X-Mine", "<script>alert('1')</script>"), ("Host", "a.example")])
    page = answer.body.decode()
    assert answer.status == 200
    assert answer.header("Content-Type") == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.header("Content-Security-Policy")
    assert "&lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt;" in page
    assert "<script>alert" not in page
    assert "GET /?&lt;b&gt;" in page
    assert re.search(r'X-Forwarded-Host <span class="ours">set by iocproxy</span></th><td>a\.example<', page)
    assert "<!--" not in page
    for name in re.findall(r'(?:href|src)="(/[^"]*)"', page):
        if not name.startswith(("/slow", "/bytes")):
            assert http.request("GET", name).status == 200, name


def test_https_with_a_certificate_made_on_the_spot(https):
    seen = json.loads(https.request("GET", "/json").body)
    assert ["X-Forwarded-Proto", "https"] in seen["headers"]


def test_the_key_is_private(demo, temporary):
    (directory,) = temporary.iterdir()
    key = directory / "demo.key"
    assert key.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    if sys.platform != "win32":  # there the directory is private because the user's is
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


@pytest.mark.parametrize("size", [0, 1, 65_536, 3_000_001])
def test_bytes(http, size):
    answer = http.request("GET", f"/bytes/{size}")
    assert answer.status == 200
    assert len(answer.body) == size
    assert answer.header("Content-Length") == str(size)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/bytes/x", 400),
        ("/bytes/", 400),
        ("/bytes/1000000001", 400),
        ("/bytes/\u00b2".encode().decode("latin-1").replace("\u00c2\u00b2", "%C2%B2"), 400),
        ("/slow/61", 400),
        ("/slow/nan", 400),
        ("/slow/x", 400),
        ("/nothing", 404),
        ("/style.css/more", 404),
        ("/index.html", 404),
        ("/upload", 405),
        ("/slow/0.01", 200),
        ("/ws", 200),
    ],
)
def test_what_is_answered(http, target, status):
    assert http.request("GET", target).status == status


def test_head_has_no_body(http):
    answer = http.request("HEAD", "/bytes/1000")
    assert (answer.status, answer.body, answer.header("Content-Length")) == (200, b"", "1000")
    assert http.request("GET", "/json").status == 200


def test_an_upload_is_counted(https):
    body = b"x" * 300_000
    assert json.loads(https.request("POST", "/upload", body=body).body) == {"bytes": 300_000}
    https.send(b"PUT /upload HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    assert https.read_response().status == 100
    https.send(b"abc")
    assert json.loads(https.read_response().body) == {"bytes": 3}
    https.send(b"PUT /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n")
    assert json.loads(https.read_response().body) == {"bytes": 5}


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_websocket_echoes(request, scheme):
    socket = websocket.connect(request.getfixturevalue(scheme))
    socket.send("hello")
    assert socket.receive() == websocket.Frame(websocket.TEXT, b"hello")
    socket.send(b"x" * 200_000)
    assert socket.receive() == websocket.Frame(websocket.BINARY, b"x" * 200_000)
    socket.send(b"now", opcode=websocket.PING)
    assert socket.receive() == websocket.Frame(websocket.PONG, b"now")
    assert socket.close(1000) == 1000


@pytest.mark.skipif(shutil.which("curl") is None, reason="the lines to try are for curl")
def test_the_lines_to_try_do_what_they_say(demo):
    """Each is run as it was printed."""
    lines = [line.partition("     ")[0].strip() for line in demo.lines if line.startswith(("  curl ", "  curl.exe "))]
    outputs = []
    for line in lines:
        words = shlex.split(line)
        outputs.append(
            subprocess.run(
                [words[0], "--noproxy", "*", *words[1:]], capture_output=True, timeout=PATIENCE * 3, check=True
            ).stdout.decode()
        )
    assert [json.loads(text)["target"] for text in outputs[:2]] == ["/json", "/json"]
    statuses = outputs[2].split()
    assert len(statuses) == 310
    assert statuses[-1] == "429"
    assert set(statuses) == {"200", "429"}


def test_a_slow_answer_outlives_ctrl_c(demo, temporary):
    (_, address), _ = demo.addresses(2)
    with RawClient(address) as client:
        client.send(b"PUT /slow/1 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n")
        assert client.read_response().status == 100  # so the origin has it
        demo.interrupt()
        demo.wait_for("requests_in_flight=1")
        assert client.read_response().body == b"this took 1 s\n"
    code, said, wrong = demo.finish()
    assert (code, wrong) == (0, "")
    assert said.endswith("stopped")
    assert list(temporary.iterdir()) == []  # neither certificate nor key are left


def test_output_that_nobody_reads_holds_nobody_up(command):
    """A paused console, a pipe that is full: requests are answered, and Ctrl+C ends it."""
    child = command("serve", "--listen", "127.0.0.1:0", interruptible=True, hold_after="Stop with Ctrl")
    (_, plain), (_, secure) = child.addresses(2)
    assert child.held.wait(PATIENCE)
    target = "/json?" + "x" * 4_000
    with RawClient(plain) as client:
        for _ in range(100):  # more lines than any pipe holds
            assert client.request("GET", target).status == 200
        with RawClient(secure) as stranger:  # an event
            stranger.send(b"GET / HTTP/1.1\r\n\r\n")
            assert stranger.read_response().status == 400
        assert client.request("GET", "/json").status == 200
    child.interrupt()
    assert child.process.wait(PATIENCE) == 0
    child.read_on()
    code, _, wrong = child.finish()
    assert (code, wrong) == (0, "")


def test_output_that_is_read_late_is_complete(command):
    child = command("serve", "--listen", "127.0.0.1:0", interruptible=True, hold_after="Stop with Ctrl")
    _, (_, secure) = child.addresses(2)
    assert child.held.wait(PATIENCE)
    with RawClient(secure) as stranger:
        stranger.send(b"GET / HTTP/1.1\r\n\r\n")
        assert stranger.read_response().status == 400
    child.read_on()
    child.wait_for("handshake_failed")
    child.interrupt()
    code, said, wrong = child.finish()
    assert (code, wrong) == (0, "")
    assert said.endswith("stopped")


def test_json_lines_stay_json(command):
    child = command("serve", "--listen", "127.0.0.1:0", "--log-format", "json")
    with RawClient(child.addresses(2)[0][1]) as client:
        client.request("GET", "/json")
    child.wait_for('"event":"request"')
    assert all(json.loads(line) for line in child.lines)


def test_a_taken_port_is_named_with_the_way_out(finished):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = "127.0.0.1:{}".format(taken.getsockname()[1])  # noqa: UP032
        code, said, wrong = finished("serve", "--listen", bind)
    assert code == 2
    assert "listening" not in said
    assert wrong.startswith(f"--listen: cannot listen on {bind}: ")
    assert "iocproxy serve --listen" in wrong
    assert len(wrong.splitlines()) == 1


def test_a_listen_that_cannot_be_read(finished):
    code, said, wrong = finished("serve", "--listen", "8080")
    assert code == 2
    assert "listening" not in said
    assert all(line.startswith('--listen: "8080') for line in wrong.splitlines())
    assert len(wrong.splitlines()) == 1
