"""Runs on the Windows Python: prints, one per line, what its site-packages lack of the requirements given.

Follows the requirements of what is installed, with the markers evaluated where they count, on Windows.
"""

from __future__ import annotations

import importlib.metadata
import sys

from packaging.requirements import Requirement


def missing(wanted: list[str]) -> set[str]:
    absent = set()
    queue = [requirement for text in wanted if _applies(requirement := Requirement(text), {""})]
    seen = set()
    while queue:
        requirement = queue.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        requirement.marker = None
        try:
            distribution = importlib.metadata.distribution(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            absent.add(str(requirement))
            continue
        if not requirement.specifier.contains(distribution.version, prereleases=True):
            absent.add(str(requirement))
        for text in distribution.requires or ():
            needed = Requirement(text)
            if _applies(needed, {"", *requirement.extras}):
                queue.append(needed)
    return absent


def _applies(requirement: Requirement, extras: set[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras)


print("\n".join(sorted(missing(sys.argv[1:]))))
