"""Whose failed handshakes are counted together."""

from __future__ import annotations

import pytest

from iocproxy.limits import ClientKeys, NetworkSet, Windows
from iocproxy.message import Client
from iocproxy.middleware.handshake_limits import HandshakeLimits

KEYS = ClientKeys()


def client(address: str) -> Client:
    return Client(address, 50_000, KEYS.key(address), "127.0.0.1:443")


@pytest.mark.parametrize(
    ("address", "refused"),
    [
        ("2001:db8::1", True),
        ("2001:db8::ffff:1", True),  # of the same /64, which one subscriber has to himself
        ("2001:db8:0:1::1", False),
        ("192.0.2.1", False),
    ],
)
def test_a_64_of_ipv6_is_one_client(address: str, refused: bool) -> None:
    said: list[Client] = []
    limits = HandshakeLimits(
        Windows([(2, 60.0)], max_clients=8), NetworkSet(), lambda: 1.0, dry_run=False, refused=said.append
    )
    limits.failed(client("2001:db8::1"))
    assert not limits.refuses(client(address))
    limits.failed(client("2001:db8::2"))
    assert limits.refuses(client(address)) is refused
    assert [refusal.address for refusal in said] == [address] * refused


def test_a_flood_of_addresses_does_not_wash_out_who_is_over_the_limit() -> None:
    limits = HandshakeLimits(
        Windows([(1, 60.0)], max_clients=4), NetworkSet(), lambda: 1.0, dry_run=False, refused=lambda _: None
    )
    for number in range(4):
        limits.failed(client(f"192.0.2.{number}"))
    for number in range(200):
        limits.failed(client(f"198.51.100.{number}"))
    assert all(limits.refuses(client(f"192.0.2.{number}")) for number in range(4))
