"""`[limits.bandwidth]` and `[routes.limits.bandwidth]`: what is read, what is refused, and what holds for a route."""

from __future__ import annotations

from pathlib import Path

import pytest

from iocproxy.config import Config, parse_config
from iocproxy.errors import ConfigError

LEAST = 'listeners = [{ bind = "127.0.0.1:0" }]\nupstreams.app.servers = ["http://app"]\n'
ROUTE = '[[routes]]\nupstream = "app"\n'
SIZE = 'must be a size from 1KiB to 1024GiB, such as "8KiB", or a number of bytes, or false for none'

NONE = "there is none to be lifted"


def parse(text: str) -> Config:
    return parse_config(LEAST + text, file=Path("proxy.toml"))


@pytest.mark.parametrize(
    ("text", "everywhere", "route"),
    [
        ("", (None, None), (None, None)),
        ('[limits.bandwidth]\nreceive = "1KiB"\nsend = 2000\n', (1024, 2000), (1024, 2000)),
        ("[limits.bandwidth]\nreceive = false\n", (None, None), (None, None)),
        (f'{ROUTE}limits.bandwidth.send = "1MiB"\n', (None, None), (None, 2**20)),
        (
            f'[limits.bandwidth]\nreceive = "1MiB"\nsend = "1MiB"\n{ROUTE}limits.bandwidth.send = false\n',
            (2**20, 2**20),
            (2**20, None),
        ),
        (
            f'[limits.bandwidth]\nreceive = "1MiB"\n{ROUTE}limits.bandwidth.receive = "2MiB"\n',
            (2**20, None),
            (2**21, None),
        ),
    ],
)
def test_what_holds_everywhere_and_for_a_route(
    text: str, everywhere: tuple[int | None, int | None], route: tuple[int | None, int | None]
) -> None:
    config = parse(text)
    usual, own = config.limits.bandwidth, config.bandwidth_of(config.effective_routes[0])
    assert (usual.receive, usual.send) == everywhere
    assert (own.receive, own.send) == route
    # a model that says the same is as good
    assert Config(listeners=config.listeners, upstreams=config.upstreams, limits=config.limits, routes=config.routes)


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        (
            '[limits.bandwidth]\nreceive = "1B"\nsend = true\nboth = 1\n',
            [
                f'4: limits.bandwidth.receive: "1B"; {SIZE}',
                f"5: limits.bandwidth.send: true; {SIZE}",
                "6: limits.bandwidth.both: unknown key; allowed: receive, send",
            ],
        ),
        (
            f"{ROUTE}limits.bandwidth.receive = 0\n",
            [f"5: routes[0].limits.bandwidth.receive: 0; {SIZE}"],
        ),
        (
            f'[limits.bandwidth]\nsend = "1MiB"\n{ROUTE}limits.bandwidth = {{ receive = false, send = false }}\n',
            [f"7: routes[0].limits.bandwidth.receive: `receive = false` without limits.bandwidth.receive; {NONE}"],
        ),
        (
            f"[limits.bandwidth]\nsend = false\n{ROUTE}limits.bandwidth.send = false\n",
            [f"7: routes[0].limits.bandwidth.send: `send = false` without limits.bandwidth.send; {NONE}"],
        ),
    ],
)
def test_what_makes_no_sense_is_told_with_its_place(text: str, faults: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert [str(fault).replace("proxy.toml:", "") for fault in caught.value.faults] == faults
