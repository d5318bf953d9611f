"""Servers that are down, slow, not to be found or not to be trusted; and several of them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from iocproxy.testing import Certificates, Origin, OriginFactory, ProxyFactory, RawClient, RawResponse, RunningProxy
from iocproxy.testing.patience import PATIENCE


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as sock:
        sock.bind((host, 0))
        return sock.getsockname()[1]


def nobody() -> str:
    """The URL of a port where nobody listens."""
    return f"http://127.0.0.1:{free_port()}"


@contextlib.contextmanager
def full_backlog() -> Iterator[str]:
    """The URL of a server that listens and whose queue is full: a connection attempt gets no answer.

    Raises `pytest.skip` where the system answers nevertheless."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(300):
            sock = stack.enter_context(socket.socket())
            sock.settimeout(0.2)
            try:
                sock.connect(listener.getsockname())
            except TimeoutError:
                break
            except OSError as error:
                pytest.skip(f"a full queue refuses here: {error}")
        else:
            pytest.skip("the queue of a listening socket has no end here")
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def get(proxy: RunningProxy, target: str = "/status/204") -> RawResponse:
    with RawClient(proxy.address) as client:
        response = client.request("GET", target)
        # whatever came of it, the connection is as good as before
        assert client.request("GET", target).status == response.status
        return response


def test_down(iocproxy: ProxyFactory) -> None:
    proxy = iocproxy(upstream=nobody())
    answer = get(proxy)
    assert answer.status == 502
    assert answer.header("Proxy-Status") == "iocproxy; error=connection_refused"
    assert answer.header("Content-Type") == "text/html; charset=utf-8"
    assert len(answer.body) < 512
    record = proxy.wait_for_records(2)[0]
    assert (record.status, record.upstream) == (502, "")
    assert record.error.startswith("upstream")
    assert proxy.stats()["upstream_connect_failures"] == 2


def test_a_program_gets_the_error_as_json(iocproxy: ProxyFactory) -> None:
    proxy = iocproxy(upstream=nobody())
    with RawClient(proxy.address) as client:
        answer = client.request("GET", "/", headers=[("Accept", "application/json")])
        assert answer.header("Content-Type") == "application/json"
        assert b'"status": 502' in answer.body
        head = client.request("HEAD", "/")
        assert (head.status, head.body) == (502, b"")


def test_a_name_that_nobody_has(iocproxy: ProxyFactory) -> None:
    proxy = iocproxy(upstream="http://no-such-name.invalid:80", timeouts={"connect": "50s"})
    answer = get(proxy)
    assert answer.status == 502
    assert answer.header("Proxy-Status") == "iocproxy; error=dns_error"


def test_a_server_by_name(iocproxy: ProxyFactory, iocproxy_origin: Origin) -> None:
    proxy = iocproxy(upstream=f"http://localhost:{iocproxy_origin.address[1]}")
    assert get(proxy).status == 204


def test_connecting_takes_too_long(iocproxy: ProxyFactory) -> None:
    with full_backlog() as url:
        proxy = iocproxy(upstream=url, timeouts={"connect": "300ms"})
        answer = get(proxy)
        assert answer.status == 504
        assert answer.header("Proxy-Status") == "iocproxy; error=connection_timeout"
        assert 0.25 <= proxy.wait_for_records(2)[0].duration < PATIENCE
        proxy.stop()


def test_no_response_in_time(iocproxy: ProxyFactory, iocproxy_origin: Origin) -> None:
    proxy = iocproxy(upstream=iocproxy_origin, timeouts={"upstream_response": "300ms"})
    answer = get(proxy, "/delay/30")
    assert answer.status == 504
    assert answer.header("Proxy-Status") == "iocproxy; error=http_response_timeout"
    assert 0.25 <= proxy.wait_for_records(2)[0].duration < PATIENCE


# ── several servers ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_they_take_turns_by_weight(iocproxy: ProxyFactory, iocproxy_origin_factory: OriginFactory) -> None:
    origins = [iocproxy_origin_factory() for _ in range(3)]
    servers = [{"url": origin.url, "weight": weight} for origin, weight in zip(origins, (3, 1, 1), strict=True)]
    proxy = iocproxy(upstreams={"app": {"servers": servers}})
    with RawClient(proxy.address) as client:
        for _ in range(10):
            assert client.request("GET", "/status/204").status == 204
    names = {f"127.0.0.1:{origin.address[1]}": "abc"[index] for index, origin in enumerate(origins)}
    took = "".join(names[record.upstream] for record in proxy.wait_for_records(10))
    assert took == "abaca" * 2
    assert [len(origin.requests) for origin in origins] == [6, 2, 2]


def test_one_is_down_and_the_next_is_tried(iocproxy: ProxyFactory, iocproxy_origin_factory: OriginFactory) -> None:
    origins = [iocproxy_origin_factory() for _ in range(2)]
    proxy = iocproxy(upstream=[nobody(), origins[0], nobody(), origins[1]])
    with RawClient(proxy.address) as client:
        for number in range(8):
            body = b"%d" % number
            answer = client.request("POST" if number % 2 else "GET", f"/{number}", body=body if number % 2 else b"")
            assert answer.status == 200
    assert sorted(len(origin.requests) for origin in origins) == [4, 4]
    assert proxy.wait_for_event("upstream_skipped")["level"] == "warning"
    assert proxy.stats()["upstream_connect_failures"] >= 2


def test_all_are_down(iocproxy: ProxyFactory) -> None:
    proxy = iocproxy(upstream=[nobody(), nobody(), nobody()])
    assert get(proxy).status == 502
    assert len(proxy.events("upstream_skipped")) == 4
    assert proxy.stats()["upstream_connect_failures"] == 6


def test_a_large_body_survives_that_the_first_server_is_down(iocproxy: ProxyFactory, iocproxy_origin: Origin) -> None:
    proxy = iocproxy(upstream=[nobody(), iocproxy_origin])
    body = bytes(range(251)) * 8_000
    with RawClient(proxy.address) as client:
        assert client.request("POST", "/echo", body=body).status == 200
    assert iocproxy_origin.requests[0].body == body


# ── https ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def secure_upstream(origin: Origin, **options: object) -> dict[str, object]:
    return {"app": {"servers": [origin.url], **options}}


def test_a_server_is_checked_against_the_authority(
    iocproxy: ProxyFactory, iocproxy_origin_factory: OriginFactory, iocproxy_certificates: Certificates
) -> None:
    origin = iocproxy_origin_factory(tls=True)
    proxy = iocproxy(upstreams=secure_upstream(origin, ca=str(iocproxy_certificates.ca)))
    assert get(proxy).status == 204
    assert origin.requests[0].secure
    assert not [event for event in proxy.log if event["event"] == "configuration"]


def test_a_server_without_a_known_authority_is_not_spoken_to(
    iocproxy: ProxyFactory, iocproxy_origin_factory: OriginFactory
) -> None:
    origin = iocproxy_origin_factory(tls=True)
    proxy = iocproxy(upstreams=secure_upstream(origin))  # the system's authorities
    answer = get(proxy)
    assert answer.status == 502
    assert answer.header("Proxy-Status") == "iocproxy; error=tls_certificate_error"
    assert origin.requests == []


def test_a_certificate_for_another_name_is_refused(
    iocproxy: ProxyFactory, iocproxy_origin_factory: OriginFactory, iocproxy_certificates: Certificates
) -> None:
    origin = iocproxy_origin_factory(tls=iocproxy_certificates.issue("other.test"))
    proxy = iocproxy(upstream=origin)
    answer = get(proxy)
    assert answer.status == 502
    assert answer.header("Proxy-Status") == "iocproxy; error=tls_certificate_error"
    assert "certificate" in proxy.wait_for_records(1)[0].error.lower()
    assert origin.requests == []
    assert proxy.stats()["upstream_connect_failures"] == 2


def test_verify_false_takes_any_certificate_and_is_logged(
    iocproxy: ProxyFactory, iocproxy_origin_factory: OriginFactory, iocproxy_certificates: Certificates
) -> None:
    origin = iocproxy_origin_factory(tls=iocproxy_certificates.issue("other.test"))
    proxy = iocproxy(upstreams=secure_upstream(origin, verify=False))
    assert get(proxy).status == 204
    warned = proxy.wait_for_event("configuration")
    assert (warned["level"], warned["key"]) == ("warning", "upstreams.app.verify")


def test_https_to_a_plain_server(iocproxy: ProxyFactory, iocproxy_origin: Origin) -> None:
    """The origin takes the ClientHello for a request; the client gets a clear answer."""
    iocproxy_origin.script([])  # reads whatever comes and stays silent
    iocproxy_origin.script([])
    url = f"https://127.0.0.1:{iocproxy_origin.address[1]}"
    proxy = iocproxy(upstreams={"app": {"servers": [url], "verify": False}}, timeouts={"connect": "400ms"})
    answer = get(proxy)
    assert answer.status == 504
    assert answer.header("Proxy-Status") == "iocproxy; error=connection_timeout"


def test_a_server_that_hangs_up_in_the_handshake(iocproxy: ProxyFactory) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        proxy = iocproxy(upstreams={"app": {"servers": [url], "verify": False}})
        with RawClient(proxy.address) as client:
            client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
            listener.settimeout(PATIENCE)
            sock, _ = listener.accept()
            with sock:
                sock.recv(1)  # the rest stays unread: a reset where the system does that
            assert client.read_response().status == 502


def test_connections_over_tls_are_reused(iocproxy: ProxyFactory, iocproxy_origin_factory: OriginFactory) -> None:
    origin = iocproxy_origin_factory(tls=True)
    proxy = iocproxy(upstream=origin)
    with RawClient(proxy.address) as client:
        for _ in range(5):
            assert client.request("GET", "/bytes/100000").status == 200
    assert origin.connections == 1
    assert proxy.stats()["upstream_reused"] == 4


def test_an_authority_that_cannot_be_read_is_a_fault(iocproxy: ProxyFactory, tmp_path: Path) -> None:
    from iocproxy import ConfigError

    with pytest.raises(ConfigError) as caught:
        iocproxy(upstreams={"app": {"servers": ["https://127.0.0.1:9"], "ca": str(tmp_path / "none.pem")}})
    (fault,) = caught.value.faults
    assert fault.path == "upstreams.app.ca"
