"""Addresses as limits see them: the key a client is counted by, and sets of networks.

Both go through `octets_of`, so both agree that an IPv4-mapped IPv6 address (::ffff:192.0.2.1, what a dual-stack
listener reports) *is* the IPv4 address, and that a scope id (fe80::1%eth0) is no part of an address.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_network

MAPPED = bytes(10) + b"\xff\xff"  # RFC 4291 section 2.5.5.2

#: Answers remembered by address text. A full cache is emptied whole: cheaper than keeping an order, and a flood of
#: ever new addresses costs one parse each either way.
_CACHE = 8_192


def octets_of(address: str) -> bytes:
    """The address in network order: 4 bytes for IPv4 and IPv4-mapped IPv6, 16 for IPv6. Raises ValueError."""
    if ":" in address:
        packed = IPv6Address(address).packed
        return packed[12:] if packed.startswith(MAPPED) else packed
    try:
        packed = bytes(map(int, address.split(".")))
        # int() is lenient (blanks, "+1", "010", other alphabets' digits): only the one canonical spelling is equal
        if len(packed) == 4 and ".".join(map(str, packed)) == address:
            return packed
    except ValueError:
        pass
    raise ValueError(f"not an IP address: {address!r}")


class ClientKeys:
    """Turns a client's address into the key that limits count by: the network it is in, packed.

    A key has 4 bytes for IPv4, 8 for IPv6 with a prefix up to 64 and 16 beyond that, so keys of different families
    never meet. One IPv6 subscriber has 2^64 addresses at least: that is why the default prefix is 64.
    Raises ValueError for a prefix outside 0 to 32 (IPv4) or 0 to 128 (IPv6).
    """

    __slots__ = ("_cache", "_ipv4_mask", "_ipv6_length", "_ipv6_mask", "ipv4_prefix", "ipv6_prefix")

    def __init__(self, ipv4_prefix: int = 32, ipv6_prefix: int = 64) -> None:
        if not 0 <= ipv4_prefix <= 32:
            raise ValueError(f"an IPv4 prefix is 0 to 32, not {ipv4_prefix}")
        if not 0 <= ipv6_prefix <= 128:
            raise ValueError(f"an IPv6 prefix is 0 to 128, not {ipv6_prefix}")
        self.ipv4_prefix = ipv4_prefix
        self.ipv6_prefix = ipv6_prefix
        self._ipv4_mask = (1 << 32) - (1 << 32 - ipv4_prefix)
        self._ipv6_length = 8 if ipv6_prefix <= 64 else 16
        bits = 8 * self._ipv6_length
        self._ipv6_mask = (1 << bits) - (1 << bits - ipv6_prefix)
        self._cache: dict[str, bytes] = {}

    def key(self, address: str) -> bytes:
        """The key of an address as a socket reports it. Raises ValueError for what is no IP address."""
        key = self._cache.get(address)
        if key is None:
            key = self._compute(address)
            if len(self._cache) >= _CACHE:
                self._cache.clear()
            self._cache[address] = key
        return key

    def _compute(self, address: str) -> bytes:
        packed = octets_of(address)
        if len(packed) == 4:
            if self.ipv4_prefix == 32:
                return packed
            return (int.from_bytes(packed, "big") & self._ipv4_mask).to_bytes(4, "big")
        length = self._ipv6_length
        return (int.from_bytes(packed[:length], "big") & self._ipv6_mask).to_bytes(length, "big")

    def __repr__(self) -> str:
        return f"<ClientKeys IPv4 /{self.ipv4_prefix}, IPv6 /{self.ipv6_prefix}>"


class NetworkSet:
    """A fixed set of IP networks; `address in networks` costs one binary search however many there are.

    Networks may overlap and touch: they are merged into sorted disjoint ranges, kept as a flat list of edges
    (first address, first address after, first address, …). An address lies within when the number of edges at or
    below it is odd. IPv6 networks inside ::ffff:0:0/96 stand for the IPv4 networks they map; a wider IPv6 network
    (::/0) holds no IPv4 address. Raises ValueError for a string that is no network or has host bits set.
    """

    __slots__ = ("_cache", "_ipv4", "_ipv6")

    def __init__(self, networks: Iterable[IPv4Network | IPv6Network | str] = ()) -> None:
        ipv4: list[tuple[int, int]] = []
        ipv6: list[tuple[int, int]] = []
        for given in networks:
            network = ip_network(given) if isinstance(given, str) else given
            packed = network.network_address.packed
            first, size = int.from_bytes(packed, "big"), network.num_addresses
            if network.version == 4:
                ipv4.append((first, first + size))
            elif network.prefixlen >= 96 and packed.startswith(MAPPED):
                first &= 0xFFFF_FFFF
                ipv4.append((first, first + size))
            else:
                ipv6.append((first, first + size))
        self._ipv4 = _edges(ipv4)
        self._ipv6 = _edges(ipv6)
        self._cache: dict[str, bool] = {}

    def __contains__(self, address: str) -> bool:
        """Whether the address lies in one of the networks. Raises ValueError for what is no IP address."""
        found = self._cache.get(address)
        if found is None:
            packed = octets_of(address)
            edges = self._ipv4 if len(packed) == 4 else self._ipv6
            found = bisect_right(edges, int.from_bytes(packed, "big")) & 1 == 1
            if len(self._cache) >= _CACHE:
                self._cache.clear()
            self._cache[address] = found
        return found

    def __bool__(self) -> bool:
        """Whether it holds any address at all."""
        return bool(self._ipv4 or self._ipv6)

    def __repr__(self) -> str:
        return f"<NetworkSet of {len(self._ipv4) // 2} IPv4 and {len(self._ipv6) // 2} IPv6 ranges>"


def _edges(ranges: list[tuple[int, int]]) -> list[int]:
    """Half-open ranges, merged where they overlap or touch, as one rising list of edges."""
    edges: list[int] = []
    for first, end in sorted(ranges):
        if edges and first <= edges[-1]:
            edges[-1] = max(edges[-1], end)
        else:
            edges += first, end
    return edges
