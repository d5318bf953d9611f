"""`[limits.access]` and `[[limits.penalties]]`: what contradicts itself is told with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from iocproxy.config import Config, Rate, parse_config
from iocproxy.errors import ConfigError

LEAST = 'listeners = [{ bind = "127.0.0.1:0" }]\nupstreams.app.servers = ["http://app"]\n'
SETTINGS: dict[str, Any] = {
    "listeners": [{"bind": "127.0.0.1:0"}],
    "upstreams": {"app": {"servers": ["http://app"]}},
}
RULE = '\nrate = "5/1m"\n'
PENALTY = '\nstatuses = [401]\nrate = "5/1m"\ndeny = "1m"\n'
BEYOND = "bits set beyond the prefix, did you mean '10.0.0.0/8'?"
NETWORK = 'must be an IP network, such as "10.0.0.0/8" or "2001:db8::/32"'
RATE = 'must be a rate "COUNT/DURATION", such as "300/10s", or an array of them'
DENY = 'must be a duration from 1s to 30d, such as "5s", or a number of seconds'
ANSWER = 'must be a status from 200 to 599, or "2xx" to "5xx"'
CHECK = 'must be a duration from 50ms to 1h, such as "5s", or a number of seconds, or false for none'

BAD: dict[str, tuple[str, list[str]]] = {
    "values": (
        "[limits.access]\nallow = ['10.0.0.1/8']\ndeny = 'x'\nallow_files = [1]\ncheck = '1ms'\ndry_run = 1\n",
        [
            f'4: limits.access.allow[0]: "10.0.0.1/8"; {BEYOND}; {NETWORK}',
            '5: limits.access.deny: "x"; must be an array',
            "6: limits.access.allow_files[0]: 1; must be a file's path",
            f'7: limits.access.check: "1ms"; {CHECK}',
            "8: limits.access.dry_run: 1; must be true or false",
        ],
    ),
    "overlapping exemptions": (
        "[limits]\nexempt = ['10.0.0.0/8', '10.1.0.0/16', '10.0.0.0/8', '::ffff:10.0.0.0/104', '::/0', '192.0.2.1']\n",
        [
            '4: limits.exempt[1]: "10.1.0.0/16"; lies within 10.0.0.0/8, which is limits.exempt[0]',
            '4: limits.exempt[2]: "10.0.0.0/8"; the same network as limits.exempt[0]',
            '4: limits.exempt[3]: "10.0.0.0/8"; the same network as limits.exempt[0]',
        ],
    ),
    "allowed and denied": (
        "[limits.access]\nallow = ['10.0.0.0/8', '2001:db8::/32']\ndeny = ['10.0.0.0/8', '2001:db8::/32']\n",
        [
            '5: limits.access.deny[0]: "10.0.0.0/8"; is also limits.access.allow[0]; one of the two',
            '5: limits.access.deny[1]: "2001:db8::/32"; is also limits.access.allow[1]; one of the two',
        ],
    ),
    "networks that change nothing": (
        (
            "[limits.access]\nallow = ['10.0.0.0/8', '10.9.0.0/16', '10.1.2.0/24']\n"
            "deny = ['10.1.0.0/16', '10.1.3.0/24', '10.1.2.7', '10.1.0.0/16']\n"
        ),
        [
            (
                '4: limits.access.allow[1]: "10.9.0.0/16"; lies within 10.0.0.0/8, which is limits.access.allow[0], '
                "and changes nothing"
            ),
            (
                '5: limits.access.deny[1]: "10.1.3.0/24"; lies within 10.1.0.0/16, which is limits.access.deny[0], and '
                "changes nothing"
            ),
            '5: limits.access.deny[3]: "10.1.0.0/16"; the same network as limits.access.deny[0]',
        ],
    ),
    "the same file": (
        "[limits.access]\nallow_files = ['a.txt', 'b.txt']\ndeny_files = ['./b.txt', 'c.txt', 'c.txt']\n",
        [
            '5: limits.access.deny_files[0]: "./b.txt"; the same file as limits.access.allow_files[1]',
            '5: limits.access.deny_files[2]: "c.txt"; the same file as limits.access.deny_files[1]',
        ],
    ),
    "settings about nothing": (
        "[limits.access]\ncheck = '10s'\ndry_run = true\n",
        [
            "4: limits.access.check: `check` without files; it is for `allow_files` and `deny_files`",
            (
                "5: limits.access.dry_run: `dry_run` without networks; it is for `allow`, `deny`, `allow_files` and "
                "`deny_files`"
            ),
        ],
    ),
    "check without files": (
        "[limits.access]\ndeny = ['10.0.0.0/8']\ncheck = false\ndry_run = true\n",
        ["5: limits.access.check: `check` without files; it is for `allow_files` and `deny_files`"],
    ),
    "penalties": (
        (
            "[[limits.penalties]]\nname = 'requests'\nstatuses = []\nrate = false\ndeny = '0s'\n"
            "[[limits.penalties]]\nname = 'x'\nstatuses = [99, '6xx', '4XX']\nrate = '0/1m'\n"
        ),
        [
            (
                '4: limits.penalties[0].name: "requests"; a built-in limit has this name; must be a name of 1 to 64 '
                "letters, digits, dots, dashes and underscores, a letter first"
            ),
            "5: limits.penalties[0].statuses: an empty array; must have at least one",
            f"6: limits.penalties[0].rate: false; {RATE}",
            f'7: limits.penalties[0].deny: "0s"; {DENY}',
            f"8: limits.penalties[1].deny: missing; {DENY}",
            f"10: limits.penalties[1].statuses[0]: 99; {ANSWER}",
            f'10: limits.penalties[1].statuses[1]: "6xx"; {ANSWER}',
            f'10: limits.penalties[1].statuses[2]: "4XX"; {ANSWER}',
            f'11: limits.penalties[1].rate: "0/1m"; the count must be 1 to 1000000; {RATE}',
        ],
    ),
    "statuses": (
        (
            "[[limits.penalties]]\nname = 'x'\nstatuses = [404, '4xx', '404', 499, '4xx', 500]\n"
            "rate = '5/1m'\ndeny = '1m'\n"
        ),
        [
            "5: limits.penalties[0].statuses[0]: 404; lies within 4xx, which is limits.penalties[0].statuses[1]",
            "5: limits.penalties[0].statuses[2]: 404; the same as limits.penalties[0].statuses[0]",
            '5: limits.penalties[0].statuses[4]: "4xx"; the same as limits.penalties[0].statuses[1]',
        ],
    ),
    "names": (
        (
            f"[[limits.rules]]\nname = 'a'{RULE}"
            f"[[limits.penalties]]\nname = 'b'{PENALTY}[[limits.penalties]]\nname = 'a'{PENALTY}"
            f"[[routes]]\nupstream = 'app'\n[[routes.limits.rules]]\nname = 'b'{RULE}"
            f"[[routes.limits.rules]]\nname = 'B'{RULE}"
        ),
        [
            '12: limits.penalties[1].name: "a"; must be another name than limits.rules[0].name',
            '19: routes[0].limits.rules[0].name: "b"; must be another name than limits.penalties[0].name',
        ],
    ),
}


@pytest.mark.parametrize(("text", "expected"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_told_where_it_stands(text: str, expected: list[str]) -> None:
    with pytest.raises(ConfigError) as told:
        parse_config(LEAST + text, "c.toml")
    assert [str(fault).removeprefix("c.toml:") for fault in told.value.faults] == expected


GOOD = """
[limits]
exempt = ["10.0.0.0/8", "11.0.0.0/8", "::/0"]
[limits.access]
allow = ["10.0.0.0/8", "10.1.2.0/24", "::/0"]
deny = ["10.1.0.0/16", "10.1.2.128/25", "192.0.2.1"]
allow_files = ["partners.txt"]
deny_files = ["blocked.txt"]
check = false
dry_run = true
[[limits.penalties]]
name = "guessing"
statuses = [401, "5xx", 499, "4xx"]
rate = ["20/1m", "60/10m"]
deny = "10m"
"""


def test_what_is_right(tmp_path: Path) -> None:
    text = GOOD.replace('401, "5xx", 499, "4xx"', '401, "5xx", 499')
    config = parse_config(LEAST + text, tmp_path / "c.toml")
    lists, (penalty,) = config.limits.access, config.limits.penalties
    assert lists.allow_files == (tmp_path / "partners.txt",)
    assert lists.check is None
    assert penalty.statuses == ("401", "5xx", "499")
    assert penalty.rate == (Rate(20, 60.0), Rate(60, 600.0))
    assert penalty.deny == 600.0
    assert Config(**dict(config)) == config  # models say what a file says, and no more


def test_a_class_does_not_hold_what_no_client_was_answered() -> None:
    text = GOOD.replace('401, "5xx", 499, "4xx"', '499, "4xx"')
    assert parse_config(LEAST + text).limits.penalties[0].statuses == ("499", "4xx")


def test_the_defaults_contradict_nothing() -> None:
    config = Config(**SETTINGS)
    assert Config(**dict(config)) == config
    assert config.limits.access.check == 30.0


def test_within_files_nobody_knows_what_changes_nothing() -> None:
    """A network of a file may lie between the two."""
    Config(**SETTINGS, limits={"access": {"deny": ["10.0.0.0/8", "10.1.0.0/16"], "allow_files": ["a.txt"]}})
