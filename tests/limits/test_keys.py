"""`ClientKeys` and `NetworkSet`, against the ipaddress module."""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iocproxy.limits import ClientKeys, NetworkSet, keys

NOT_ADDRESSES = [
    *(
        "",
        ".",
        "1.2.3",
        "1.2.3.4.5",
        "256.1.1.1",
        "1.2.3.-4",
        "01.2.3.4",
        " 1.2.3.4",
        "1.2.3.4 ",
        "+1.2.3.4",
        "1_0.2.3.4",
    ),
    *("\u0661.2.3.4", "1.2.3.4:80", "localhost", "1.2.3.4%eth0", "1.2.3.4/32"),
    *(":", "::1::", "fe80::1%", "12345::", "::ffff:1.2.3.256"),
]


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", b"\xc0\x00\x02\x01"),
        ("0.0.0.0", b"\x00\x00\x00\x00"),
        ("255.255.255.255", b"\xff\xff\xff\xff"),
        ("::ffff:192.0.2.1", b"\xc0\x00\x02\x01"),
        ("::ffff:c000:201", b"\xc0\x00\x02\x01"),
        ("::", bytes(8)),
        ("2001:db8:1:2:3:4:5:6", b"\x20\x01\x0d\xb8\x00\x01\x00\x02"),
        ("2001:db8:1:2:ffff::", b"\x20\x01\x0d\xb8\x00\x01\x00\x02"),
        ("2001:DB8:1:3::", b"\x20\x01\x0d\xb8\x00\x01\x00\x03"),
        ("fe80::1%eth0", b"\xfe\x80\x00\x00\x00\x00\x00\x00"),
        ("fe80::1%7", b"\xfe\x80\x00\x00\x00\x00\x00\x00"),
    ],
)
def test_keys(address: str, key: bytes) -> None:
    subject = ClientKeys()
    assert [subject.key(address), subject.key(address)] == [key, key]


@given(
    st.integers(0, 32), st.integers(0, 128), st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)),
)  # fmt: skip
def test_a_key_is_the_network(ipv4_prefix: int, ipv6_prefix: int, address: IPv4Address | IPv6Address) -> None:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    meant = mapped or address
    prefix = ipv4_prefix if meant.version == 4 else ipv6_prefix
    packed = ipaddress.ip_network((meant, prefix), strict=False).network_address.packed
    length = 4 if meant.version == 4 else 8 if prefix <= 64 else 16
    assert ClientKeys(ipv4_prefix, ipv6_prefix).key(str(address)) == packed[:length]


@pytest.mark.parametrize("address", NOT_ADDRESSES)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        ClientKeys().key(address)
    for networks in ((), ("0.0.0.0/0", "::/0")):
        with pytest.raises(ValueError, match=r"."):
            assert address in NetworkSet(networks)


@pytest.mark.parametrize(("ipv4", "ipv6"), [(33, 64), (-1, 64), (32, 129), (32, -1)])
def test_prefixes_out_of_range(ipv4: int, ipv6: int) -> None:
    with pytest.raises(ValueError, match="prefix is 0 to"):
        ClientKeys(ipv4, ipv6)


def test_the_caches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_CACHE", 10)
    subject, networks = ClientKeys(), NetworkSet(["10.0.0.0/24"])
    for number in range(1_000):
        address = str(IPv4Address(0x0A000000 + number))
        assert subject.key(address) == IPv4Address(address).packed
        assert (address in networks) == (number < 256)
        assert max(len(subject._cache), len(networks._cache)) <= 10


def test_networks() -> None:
    subject = NetworkSet(["10.0.0.0/8", "127.0.0.1", ipaddress.ip_network("2001:db8::/32"), "::ffff:192.0.2.0/120"])
    inside = ["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3", "127.0.0.1", "2001:db8::1", "192.0.2.7", "2001:db8::%x"]
    outside = ["9.255.255.255", "11.0.0.0", "127.0.0.2", "2001:db7:ffff::", "2001:db9::", "192.0.3.0", "::", "0.0.0.0"]
    assert [address in subject for address in inside] == [True] * len(inside)
    assert [address in subject for address in outside] == [False] * len(outside)
    assert repr(subject) == "<NetworkSet of 3 IPv4 and 1 IPv6 ranges>"


def test_everything_and_nothing() -> None:
    assert not NetworkSet()
    assert "1.2.3.4" not in NetworkSet()
    assert "255.255.255.255" in NetworkSet(["0.0.0.0/0"])
    assert "::1" not in NetworkSet(["0.0.0.0/0"])
    assert "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff" in NetworkSet(["::/0"])
    assert "1.2.3.4" not in NetworkSet(["::/0"])
    assert NetworkSet(["::/0"])


@pytest.mark.parametrize("network", ["10.0.0.1/8", "10.0.0.0/33", "example.com", "", "::1/64"])
def test_what_is_no_network(network: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        NetworkSet([network])


SMALL_NETWORKS = st.builds(
    lambda base, prefix: ipaddress.ip_network((0x0A000000 + base, prefix), strict=False),
    st.integers(0, 255),
    st.integers(22, 32),
)


@given(st.lists(SMALL_NETWORKS, max_size=12), st.integers(-3, 300))
def test_against_every_network_in_turn(networks: list[ipaddress.IPv4Network], offset: int) -> None:
    address = IPv4Address(0x0A000000 + offset)
    assert (str(address) in NetworkSet(networks)) == any(address in network for network in networks)
    assert (f"::ffff:{address}" in NetworkSet(map(str, networks))) == any(address in network for network in networks)
