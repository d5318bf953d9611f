"""Cases by number: what `run.py` runs for as long as it is told, and the bounded test a few of.

A case is made by ``Random("SEED/NUMBER")`` and by nothing else, so these two say all about one that failed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from random import Random
from typing import Any, Protocol, Self

from fuzzing import mutations
from fuzzing.agreement import check_requests, check_responses
from fuzzing.live import CaseError
from fuzzing.towards_client import TowardsClient
from fuzzing.towards_origin import TowardsOrigin


class Campaign(Protocol):
    def __enter__(self) -> Self: ...

    def __exit__(self, *error: Any) -> None: ...

    def run(self, name: str, random: Random) -> None:
        """One case. Raises CaseError, here or at the end, with the name and the octets."""
        ...


class Readers:
    """The pure modules against a strict reader, without a proxy."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def run(self, name: str, random: Random) -> None:
        data = mutations.requests(random)
        self._try(name, data, lambda: check_requests(data, mutations.cuts(random, data)))
        upgrade = random.random() < 0.1
        method = random.choice(["GET", "GET", "HEAD"])
        answer = mutations.responses(random, upgrade=upgrade)
        offered = b"x" if upgrade else b""
        self._try(
            f"{name} {method} {offered!r}",
            answer,
            lambda: check_responses(answer, mutations.cuts(random, answer), method, offered),
        )

    @staticmethod
    def _try(name: str, data: bytes, check: Any) -> None:
        try:
            check()
        except Exception as error:
            raise CaseError(f"{name}: {type(error).__name__}: {error}\n{data!r}") from error


CAMPAIGNS: dict[str, type[Campaign]] = {"requests": TowardsOrigin, "responses": TowardsClient, "readers": Readers}


def run_cases(what: str, seed: str, numbers: Iterable[int]) -> None:
    """These cases of one campaign, with a proxy of their own. Raises CaseError for the first that fails."""
    if what == "requests" and sys.platform == "darwin":  # no address in 127/8 there but one: a proxy for each case
        batches = [[number] for number in numbers]
    else:
        batches = [list(numbers)]
    for batch in batches:
        try:
            with CAMPAIGNS[what]() as campaign:
                for number in batch:
                    campaign.run(f"--only {what} --seed {seed} --case {number}", Random(f"{seed}/{number}"))
        except CaseError as error:
            if "--case" in str(error):
                raise
            # what shows in the end only, such as a leak
            raise CaseError(f"--only {what} --seed {seed}, one of {batch[0]} to {batch[-1]}: {error}") from error
