"""One input of the coverage-guided fuzzer: a letter for what it is, an octet for how it is cut, and the rest."""

from __future__ import annotations

from random import Random

from fuzzing import mutations
from fuzzing.agreement import check_chunked, check_requests, check_responses

#: Requests; the response to GET, to HEAD, and to GET with an Upgrade; a body in the chunked coding.
LETTERS = b"QRHUC"


def try_input(data: bytes) -> None:
    """Read it. Raises where readers disagree, and whatever a reader raises beside its named errors."""
    if len(data) < 2:
        return
    letter = data[0] if data[0] in LETTERS else LETTERS[data[0] % len(LETTERS)]
    octets = data[2:]
    cuts = mutations.cuts(Random(data[1]), octets)
    match chr(letter):
        case "Q":
            check_requests(octets, cuts)
        case "R":
            check_responses(octets, cuts)
        case "H":
            check_responses(octets, cuts, "HEAD")
        case "U":
            check_responses(octets, cuts, "GET", b"x")
        case _:
            check_chunked(octets, cuts)


def mutate(data: bytes, random: Random) -> bytes:
    """A change that a message may survive."""
    if len(data) < 2 or random.random() < 0.05:
        fresh = mutations.requests(random) if random.random() < 0.5 else mutations.responses(random)
        return bytes([random.choice(LETTERS), random.randrange(256)]) + fresh
    prefix, octets = data[:2], data[2:]
    if random.random() < 0.1:
        prefix = bytes([random.choice(LETTERS), random.randrange(256)])
    if random.random() < 0.5:
        return prefix + mutations.change_octets(random, octets)
    # A line where a line may begin, or a piece of a chunked body.
    starts = [0, *(at + 2 for at in range(len(octets)) if octets.startswith(b"\r\n", at)), len(octets)]
    at = random.choice(starts)
    line = random.choice([*mutations.HOSTILE_LINES, *mutations.FIRST_LINES, *mutations.FIELDS]) + b"\r\n"
    piece = random.choice(mutations.CHUNK_PIECES) if random.random() < 0.4 else line
    end = random.choice([start for start in starts if start >= at]) if random.random() < 0.4 else at
    return prefix + octets[:at] + piece + octets[end:]
