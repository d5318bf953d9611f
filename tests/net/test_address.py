import socket

import pytest

from iocproxy.net.address import Address


@pytest.mark.parametrize(
    ("sockaddr", "address", "text"),
    [
        (("127.0.0.1", 80), ("127.0.0.1", 80), "127.0.0.1:80"),
        (("::1", 443, 0, 0), ("::1", 443), "[::1]:443"),
        (("fe80::1%eth0", 1, 7, 2), ("fe80::1", 1), "[fe80::1]:1"),
        (("::ffff:1.2.3.4", 9, 0, 0), ("1.2.3.4", 9), "1.2.3.4:9"),
        (("::ffff:0:1", 9, 0, 0), ("::ffff:0:1", 9), "[::ffff:0:1]:9"),
        (("2001:db8::1.2.3.4", 9, 0, 0), ("2001:db8::1.2.3.4", 9), "[2001:db8::1.2.3.4]:9"),
    ],
)
def test_a_sockaddr_becomes_an_address(sockaddr, address, text):
    found = Address.of(sockaddr)
    assert found == address
    assert str(found) == text
    assert f"{found}" == text


def test_it_is_what_the_system_says():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        assert Address.of(sock.getsockname()) == sock.getsockname()
