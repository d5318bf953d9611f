"""`AccessMap` against the ipaddress module: of all networks that hold an address, the longest prefix decides."""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from iocproxy.limits import AccessMap, Networks, access
from iocproxy.limits.access import ContestedError, Network, network_of, read_network

Net = IPv4Network | IPv6Network


def listed(*networks: str) -> Networks:
    return Networks(map(read_network, networks))


def brute_force(address: str, allow: list[Net], deny: list[Net], *, otherwise: bool) -> bool:
    given = ipaddress.ip_address(address)
    meant = getattr(given, "ipv4_mapped", None) or given
    best, answer = -1, otherwise
    for networks, verdict in ((allow, True), (deny, False)):
        for network in networks:
            if network.version == meant.version and meant in network and network.prefixlen > best:
                best, answer = network.prefixlen, verdict
    return answer


#: Networks close to each other, so that they nest, touch and coincide.
ipv4 = st.builds(
    lambda low, prefix: IPv4Network((low << 20 | low, prefix), strict=False), st.integers(0, 4095), st.integers(0, 32)
)
ipv6 = st.builds(
    lambda low, prefix: IPv6Network((low << 116 | low, prefix), strict=False), st.integers(0, 4095), st.integers(0, 128)
)
networks = st.lists(st.one_of(ipv4, ipv6), max_size=12)


def near(nets: list[Net]) -> list[str]:
    """Every address at an edge, and some others."""
    found = ["0.0.0.0", "255.255.255.255", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "127.0.0.1", "2001:db8::1"]
    for network in nets:
        size = 1 << network.max_prefixlen
        first, last = int(network.network_address), int(network.broadcast_address)
        kind: Any = IPv4Address if network.version == 4 else IPv6Address
        found += [str(kind(number % size)) for number in (first - 1, first, last, last + 1)]
    return found


@given(networks, networks, st.booleans())
@example([IPv4Network("0.0.0.0/0")], [IPv4Network("255.255.255.255/32")], True)
@example([IPv4Network("10.0.0.0/9")], [IPv4Network("10.128.0.0/9")], False)  # they touch
@example([IPv4Network("10.0.0.0/24")], [IPv4Network("10.0.0.0/8")], True)  # the same beginning
@example([IPv4Network("10.255.0.0/16")], [IPv4Network("10.0.0.0/8")], True)  # the same end
def test_the_most_specific_network_decides(allow: list[Net], deny: list[Net], otherwise: bool) -> None:
    deny = [network for network in deny if network not in allow]
    subject = AccessMap([Networks(map(network_of, allow))], [Networks(map(network_of, deny))], otherwise=otherwise)
    for address in near([*allow, *deny]):
        want = brute_force(address, allow, deny, otherwise=otherwise)
        assert [subject.allows(address), subject.allows(address)] == [want, want], address


def test_nested_to_any_depth() -> None:
    subject = AccessMap(
        [listed("10.0.0.0/8"), listed("10.1.2.0/24", "10.1.2.4/32")],
        [listed("10.1.0.0/16"), listed("10.1.2.0/28")],
        otherwise=False,
    )
    asked = ["9.255.255.255", "10.0.0.0", "10.1.0.0", "10.1.2.200", "10.1.2.3", "10.1.2.4", "10.1.2.5", "10.2.0.0"]
    assert [subject.allows(address) for address in asked] == [False, True, False, True, False, True, False, True]
    assert repr(subject) == "<AccessMap 8 IPv4 and 0 IPv6 edges, all others denied>"


def test_mapped_addresses_are_ipv4() -> None:
    subject = AccessMap([], [listed("::ffff:192.0.2.0/120", "2001:db8::/32")], otherwise=True)
    assert not subject.allows("192.0.2.7")
    assert not subject.allows("::ffff:192.0.2.7")
    assert subject.allows("192.0.3.7")
    everything = AccessMap([], [listed("::/0")], otherwise=True)
    assert everything.allows("192.0.2.7")
    assert not everything.allows("fe80::1%eth0")


def test_the_same_network_on_both_sides_is_told() -> None:
    with pytest.raises(ContestedError, match=r"allowed and denied at once: 10\.0\.0\.0/8, 2001:db8::/32") as told:
        AccessMap(
            [listed("10.0.0.0/8", "10.0.0.0/9", "2001:db8::/32")],
            [listed("10.0.0.0/8", "2001:db8::/32"), listed("10.0.0.0/8")],
            otherwise=True,
        )
    assert [network.bits for network in told.value.networks] == [32, 128]
    # the same network twice on one side is no contradiction
    twice = AccessMap([], [listed("10.0.0.0/8", "10.0.0.0/8"), listed("10.0.0.0/8")], otherwise=True)
    assert not twice.allows("10.1.1.1")


@pytest.mark.parametrize("address", ["", "localhost", "1.2.3", "1.2.3.4/32", "01.2.3.4", "::1::"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        AccessMap([], [], otherwise=True).allows(address)


@given(st.one_of(ipv4, ipv6, st.builds(IPv6Network, st.ip_addresses(v=6))))
@example(IPv6Network("::ffff:10.0.0.0/104"))
@example(IPv6Network("::ffff:0:0/96"))
@example(IPv6Network("::/95"))
def test_reading_is_what_ipaddress_reads(network: Net) -> None:
    assert read_network(str(network)) == network_of(network)
    assert read_network(network.exploded) == network_of(network)


@given(st.text("0123456789abcf:./ %+-\u0661", max_size=20))
@example("10.0.0.0/")
@example("10.0.0.0/08")
@example("10.0.0.1/24")
@example("10.0.0.0/33")
@example("::ffff:10.0.0.0/90")
@example("fe80::%1/64")
@example("10.0.0.0/\u0661")
def test_nothing_is_read_that_ipaddress_would_not_read_alike(text: str) -> None:
    try:
        found = read_network(text)
    except ValueError:
        return
    assert found == network_of(ipaddress.ip_network(text))


def test_networks_are_sorted_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_SLICE", 3)
    breaths: list[None] = []
    subject = Networks(
        map(read_network, [f"10.0.{number * 7 % 11}.0/24" for number in range(22)] + ["2001:db8::/32"]),
        breathe=lambda: breaths.append(None),
    )
    assert list(subject.ipv4) == sorted({read_network(f"10.0.{number}.0/24").code for number in range(11)})
    assert len(subject) == 12
    assert read_network("10.0.3.0/24") in subject
    assert read_network("10.0.3.0/25") not in subject
    assert read_network("2001:db8::/32") in subject
    assert Network(32, 0) not in subject
    assert len(breaths) >= 14  # in reading and in merging
    assert repr(subject) == "<Networks 11 IPv4, 1 IPv6>"


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_CACHE", 4)
    subject = AccessMap([], [listed("10.0.0.0/30")], otherwise=True)
    answers = [subject.allows(f"10.0.0.{number}") for number in range(8)]
    assert answers == [False] * 4 + [True] * 4
    assert len(subject._cache) <= 4
