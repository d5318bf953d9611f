"""Who may come at all: from an address to yes or no, by the most specific network that holds it.

Networks nest or are disjoint, never anything between. So they are flattened once, from the sorted networks in one pass
with a stack of those around: what is left are the addresses at which the answer changes, in rising order. As there are
two answers only, they take turns, and the number of edges at or below an address says which one holds there. However
many networks there are, a look-up is one binary search.

As in limits/keys.py an IPv4-mapped IPv6 address is the IPv4 one, a network of such addresses is the IPv4 network, and
no wider IPv6 network holds an IPv4 address.

A network is one int here, `first address << 8 | prefix length`: sorted, a network comes right before those within it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, MutableSequence, Sequence
from heapq import merge
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from iocproxy.limits.keys import MAPPED, octets_of

#: Answers remembered by address text, as in `NetworkSet`.
_CACHE = 8_192

#: Networks that are worked off at a time (about 2 ms), before whoever builds a list lets others have their turn.
_SLICE = 1_024


class Network(NamedTuple):
    """One network; `bits` is 32 or 128."""

    bits: int
    code: int

    def __str__(self) -> str:
        first, prefix = self.code >> 8, self.code & 0xFF
        return str(IPv4Network((first, prefix)) if self.bits == 32 else IPv6Network((first, prefix)))


def network_of(given: IPv4Network | IPv6Network) -> Network:
    first, prefix = int(given.network_address), given.prefixlen
    if given.version == 4:
        return Network(32, first << 8 | prefix)
    if prefix >= 96 and given.network_address.packed.startswith(MAPPED):
        return Network(32, (first & 0xFFFF_FFFF) << 8 | prefix - 96)
    return Network(128, first << 8 | prefix)


def read_network(text: str) -> Network:
    """A network in its usual spelling, "192.0.2.0/24", or a single address; several times as fast as `ipaddress`.

    Raises ValueError for everything else, of which `ipaddress` may still read some (a netmask behind the slash).
    """
    address, slash, length = text.partition("/")
    octets = octets_of(address)
    if "%" in address:
        raise ValueError(f"a zone in {text!r}")
    bits, mapped = (128, len(octets) == 4) if ":" in address else (32, False)
    prefix = bits
    if slash:
        if not (length.isascii() and length.isdigit() and len(length) <= 3):
            raise ValueError(f"not a prefix length: {length!r}")
        prefix = int(length)
    if mapped:
        # What begins within ::ffff:0:0/96 and has a shorter prefix has host bits set.
        bits, prefix = 32, prefix - 96
    first = int.from_bytes(octets, "big")
    if not 0 <= prefix <= bits or first & (1 << bits - prefix) - 1:
        raise ValueError(f"not a network: {text!r}")
    return Network(bits, first << 8 | prefix)


def _nothing() -> None:
    """For whoever holds nobody up."""


class Networks:
    """A list of networks, as it is kept: sorted, each once. 8 bytes for an IPv4 network.

    `breathe` is called every few milliseconds while it is made.
    """

    __slots__ = ("ipv4", "ipv6")

    def __init__(self, networks: Iterable[Network] = (), *, breathe: Callable[[], None] = _nothing) -> None:
        # Sorted in slices and then merged: sorting all of it in one go would hold the interpreter for that long.
        slices: dict[int, list[list[int]]] = {32: [[]], 128: [[]]}
        for bits, code in networks:
            last = slices[bits][-1]
            if len(last) == _SLICE:
                last.sort()
                last = []
                slices[bits].append(last)
                breathe()
            last.append(code)
        for each in slices.values():
            each[-1].sort()
        self.ipv4: Sequence[int] = array("Q", _once(merge(*slices[32]), breathe))
        self.ipv6: Sequence[int] = list(_once(merge(*slices[128]), breathe))

    def __contains__(self, network: Network) -> bool:
        codes = self.ipv4 if network.bits == 32 else self.ipv6
        place = bisect_left(codes, network.code)
        return place < len(codes) and codes[place] == network.code

    def __len__(self) -> int:
        return len(self.ipv4) + len(self.ipv6)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Networks) and (self.ipv4, self.ipv6) == (other.ipv4, other.ipv6)

    __hash__ = None  # type: ignore[assignment]  # it is a list

    def __repr__(self) -> str:
        return f"<Networks {len(self.ipv4)} IPv4, {len(self.ipv6)} IPv6>"


def _once(rising: Iterator[int], breathe: Callable[[], None]) -> Iterator[int]:
    last = -1
    for count, code in enumerate(rising, 1):
        if code != last:
            yield code
            last = code
        if count % _SLICE == 0:
            breathe()


class ContestedError(ValueError):
    """The same networks are allowed and denied."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self.networks = tuple(networks)
        super().__init__(f"allowed and denied at once: {', '.join(map(str, self.networks))}")


class AccessMap:
    """`allows(address)`; immutable. Who is in no network gets the answer `otherwise`.

    Raises `ContestedError` where a network is in both lists. `breathe` is as for `Networks`.
    """

    __slots__ = ("_cache", "_ipv4", "_ipv6", "_otherwise")

    def __init__(
        self,
        allow: Iterable[Networks],
        deny: Iterable[Networks],
        *,
        otherwise: bool,
        breathe: Callable[[], None] = _nothing,
    ) -> None:
        self._otherwise = otherwise
        self._cache: dict[str, bool] = {}
        given = [*((each, 1) for each in allow), *((each, 0) for each in deny)]
        contested: list[Network] = []
        self._ipv4: MutableSequence[int] = array("I")
        self._ipv6: MutableSequence[int] = []
        for bits, edges in ((32, self._ipv4), (128, self._ipv6)):
            lists = [_judged(each.ipv4 if bits == 32 else each.ipv6, verdict) for each, verdict in given]
            twice = _flatten(merge(*lists), edges, bits, int(otherwise), breathe)
            contested.extend(Network(bits, code) for code in twice)
        if contested:
            raise ContestedError(contested)

    def allows(self, address: str) -> bool:
        """Raises ValueError for what is no IP address."""
        found = self._cache.get(address)
        if found is None:
            octets = octets_of(address)
            edges = self._ipv4 if len(octets) == 4 else self._ipv6
            found = (bisect_right(edges, int.from_bytes(octets, "big")) & 1 == 1) is not self._otherwise
            if len(self._cache) >= _CACHE:
                self._cache.clear()
            self._cache[address] = found
        return found

    def __repr__(self) -> str:
        said = "allowed" if self._otherwise else "denied"
        return f"<AccessMap {len(self._ipv4)} IPv4 and {len(self._ipv6)} IPv6 edges, all others {said}>"


def _judged(codes: Sequence[int], verdict: int) -> Iterator[int]:
    return (code << 1 | verdict for code in codes)


def _flatten(
    judged: Iterator[int], edges: MutableSequence[int], bits: int, otherwise: int, breathe: Callable[[], None]
) -> list[int]:
    """Fill `edges` from codes with their verdicts in the last bit, rising; returns the codes that have both."""
    limit = 1 << bits
    around: list[tuple[int, int]] = []  # (end, verdict) of the networks that hold the place reached, widest first
    contested: list[int] = []
    holds = otherwise  # the verdict at the place reached
    last = -1

    def turn(place: int) -> None:
        """The answer changes here; where it just has, it is what it was before."""
        if edges and edges[-1] == place:
            edges.pop()
        elif place < limit:
            edges.append(place)

    def leave(before: int) -> None:
        """Step out of the networks that end at or before that address."""
        nonlocal holds
        while around and around[-1][0] <= before:
            end = around.pop()[0]
            outer = around[-1][1] if around else otherwise
            if outer != holds:
                turn(end)
                holds = outer

    for count, code in enumerate(judged, 1):
        if count % _SLICE == 0:
            breathe()
        verdict, network = code & 1, code >> 1
        if network == last:
            if verdict != holds and (not contested or contested[-1] != network):
                contested.append(network)
            continue
        last = network
        first, prefix = network >> 8, network & 0xFF
        leave(first)
        if verdict != holds:
            turn(first)
            holds = verdict
        around.append((first + (1 << bits - prefix), verdict))
    leave(limit)
    return contested
