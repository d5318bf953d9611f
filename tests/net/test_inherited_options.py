"""What an accepted socket has, whether it was set on it or came with the listener."""

from __future__ import annotations

import socket
import sys

import pytest

from iocproxy.net.sockets import KEEPALIVE_IDLE, UNSENT, bind_listener, prepare_client


@pytest.mark.parametrize("host", ["127.0.0.1", "::"])
def test_an_accepted_socket_has_no_delay_and_keepalive(host: str) -> None:
    with bind_listener(host, 0) as listener, socket.create_connection(("127.0.0.1", listener.getsockname()[1])):
        listener.setblocking(True)
        accepted, _ = listener.accept()
        with accepted:
            prepare_client(accepted)
            assert accepted.gettimeout() == 0
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            if sys.platform == "linux":
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == UNSENT
            if sys.platform == "win32":
                return  # SIO_KEEPALIVE_VALS cannot be read back
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            idle = socket.TCP_KEEPALIVE if sys.platform == "darwin" else socket.TCP_KEEPIDLE
            assert accepted.getsockopt(socket.IPPROTO_TCP, idle) == KEEPALIVE_IDLE
