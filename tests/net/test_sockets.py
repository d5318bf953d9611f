import socket
import sys

import pytest

from iocproxy.net.sockets import bind_listener, prepare_upstream, raise_file_limit


def ipv6_works():
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not ipv6_works(), reason="this machine has no IPv6")


def test_a_listener_is_non_blocking_and_takes_a_name():
    with bind_listener("localhost", 0) as sock:
        assert not sock.getblocking()
        assert sock.getsockname()[0] in {"127.0.0.1", "::1"}
        socket.create_connection(sock.getsockname()[:2]).close()


def test_a_port_in_use_is_said_by_the_system_and_leaves_nothing_open():
    with bind_listener("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(OSError, match=r"(?i)address|WinError") as caught:
            bind_listener("127.0.0.1", port)
        assert type(caught.value) in {OSError, PermissionError}


def test_what_cannot_be_a_name_is_an_oserror():
    with pytest.raises(OSError, match=r"'a\.\.b' is not a host name"):
        bind_listener("a..b", 0)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows gives no other listener the port in this state anyway")
def test_a_port_can_be_bound_again_at_once():
    with bind_listener("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        sock.setblocking(True)
        served, _ = sock.accept()
    served.close()  # the side that closes first keeps the port in TIME_WAIT
    client.close()
    bind_listener("127.0.0.1", port).close()


@needs_ipv6
def test_the_ipv6_wildcard_takes_both_families_and_an_ipv6_address_takes_one():
    with bind_listener("::", 0) as both, bind_listener("::1", 0) as only:
        port = both.getsockname()[1]
        socket.create_connection(("127.0.0.1", port)).close()
        socket.create_connection(("::1", port)).close()
        assert not both.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        assert only.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


def test_an_upstream_socket_is_set_up_before_it_connects():
    with socket.create_server(("127.0.0.1", 0)) as origin, socket.socket() as sock:
        prepare_upstream(sock)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        sock.setblocking(True)
        sock.connect(origin.getsockname())


def test_the_file_limit_is_raised():
    limit = raise_file_limit()
    assert limit >= 256
    assert raise_file_limit() == limit
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert soft in {hard, 10_240, limit}
