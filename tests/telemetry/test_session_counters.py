"""Sessions of one listener: what was counted stays counted, whatever becomes of the contexts."""

from __future__ import annotations

import re
from pathlib import Path

from iocproxy.message import TlsInfo
from iocproxy.telemetry import Counters
from iocproxy.telemetry.sessions import SessionCounters

FULL = TlsInfo("TLSv1.3", "c", resumed=False, server_name="", alpn="")
RESUMED = FULL._replace(resumed=True, offered=True)
MISSED = FULL._replace(offered=True)
PAGE = Path(__file__).parents[2].joinpath("docs", "logging.md").read_text(encoding="utf-8")


def test_handshakes() -> None:
    counters = SessionCounters()
    for tls in (FULL, FULL, RESUMED, MISSED):
        counters.handshake(tls)
    assert counters.snapshot({}) == {
        "handshakes_full": 3,
        "handshakes_resumed": 1,
        "sessions_missed": 1,
        "sessions_expired": 0,
        "sessions_pushed_out": 0,
        "sessions_cached": 0,
    }
    assert repr(counters) == "<SessionCounters full=3 resumed=1 missed=1>"


def test_a_context_that_is_gone_takes_no_count_with_it() -> None:
    counters = SessionCounters()
    counters.handshake(RESUMED)
    old = {"number": 7, "timeouts": 2, "cache_full": 3, "hits": 1}
    before = counters.snapshot(old)
    counters.retire(old)
    after = counters.snapshot({"number": 0, "timeouts": 0, "cache_full": 0, "hits": 0})
    assert after == before | {"sessions_cached": 0}
    counters.retire({"timeouts": 1})
    assert counters.snapshot({"timeouts": 1, "number": 4})["sessions_expired"] == 4


def test_each_listener_has_its_own_and_all_have_a_sum() -> None:
    counters = Counters()
    counters.handshake("a:1", FULL)
    counters.handshake("a:2", RESUMED)
    counters.handshake("a:2", FULL)
    assert (counters.handshakes_full, counters.handshakes_resumed) == (2, 1)
    assert {name: (each.full, each.resumed) for name, each in counters.sessions.items()} == {
        "a:1": (1, 0),
        "a:2": (1, 1),
    }


def test_every_count_is_explained() -> None:
    section = PAGE.split("\n## Sessions\n")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == list(SessionCounters().snapshot({}))
