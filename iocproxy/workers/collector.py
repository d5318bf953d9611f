"""Python's garbage collector, set for a process that serves for months."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

#: Allocations between two collections of the youngest generation; Python's own default is 700, or 2,000 from 3.13.
THRESHOLD = 10_000


@contextmanager
def settled_heap() -> Iterator[None]:
    """Take what exists now (modules, models, the compiled configuration) out of every collection to come.

    A full collection walks every object that can hold another, and the loop stands still meanwhile; what was made at
    start-up lives to the end and need not be walked. What the proxy makes for a connection or a request is freed by its
    reference count (tests/proxy/test_nothing_kept.py). So collections may come further apart.
    """
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(THRESHOLD, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
