"""Settings of limits per request that contradict each other: each named with its key path and what is allowed."""

from __future__ import annotations

from typing import Any

import pytest

from iocproxy.config import Config, LimitRule, Route, parse_config
from iocproxy.config.request_limit_contradictions import FORWARDED_METHODS, UNSEEN_FIELDS
from iocproxy.errors import ConfigError, ProxyError
from iocproxy.http1.fields import FORWARDED, HOP_BY_HOP
from iocproxy.http1.heads import HeadLimits
from iocproxy.http1.request import RequestHeadParser

LEAST = 'listeners = [{ bind = "127.0.0.1:0" }]\nupstreams.app.servers = ["http://app"]\n'
RULE = "[[limits.rules]]\nname = 'a'\nrate = '5/1m'\n"
ROUTE = "[[routes]]\nupstream = 'app'\n"
TLS = "listeners = [{ bind = '127.0.0.1:0', tls = { certificates = [{ cert = 'a', key = 'b' }], %s } }]\n"

METHOD = "must be a method that is forwarded, such as GET, POST or PROPFIND"
OFF = "`rate` or `concurrent` must be given: nothing is refused"
RATE = 'must be a rate "COUNT/DURATION", such as "300/10s", an array of them, or false for none'
NAME = "must be a name of 1 to 64 letters, digits, dots, dashes and underscores, a letter first"

BAD: dict[str, tuple[str, list[str]]] = {
    "two rules of one name": (
        LEAST + RULE + RULE,
        ['7: limits.rules[1].name: "a"; must be another name than limits.rules[0].name'],
    ),
    "rules of routes and a penalty of one name": (
        LEAST
        + RULE
        + "[[limits.penalties]]\nname = 'a'\nstatuses = [404]\nrate = '5/1m'\ndeny = '1m'\n"
        + ROUTE
        + "[[routes.limits.rules]]\nname = 'a'\nconcurrent = 1\n",
        [
            '7: limits.penalties[0].name: "a"; must be another name than limits.rules[0].name',
            '14: routes[0].limits.rules[0].name: "a"; must be another name than limits.rules[0].name',
        ],
    ),
    "missing beside a key that is never missing": (
        LEAST + "[limits.requests]\nmissing = 'skip'\n" + RULE + "key = ['method', 'route']\nmissing = 'refuse'\n",
        [
            ('4: limits.requests.missing: "skip" beside a key that is never missing; must be left out, or "address"'),
            ('9: limits.rules[0].missing: "refuse" beside a key that is never missing; must be left out, or "address"'),
        ],
    ),
    "a rule without anything to refuse": (
        LEAST + "[[limits.rules]]\nname = 'a'\n[[limits.rules]]\nname = 'b'\nrate = false\nconcurrent = false\n",
        [
            "3: limits.rules[0]: a rule without `rate` and `concurrent`; must have at least one of the two",
            "5: limits.rules[1]: a rule without `rate` and `concurrent`; must have at least one of the two",
        ],
    ),
    "a cost that no window holds": (
        LEAST
        + "[limits.requests]\nrate = ['4/1s', '9/1m']\n"
        + RULE
        + ROUTE
        + "limits.cost = 6\n[[routes]]\npath = '/own'\nupstream = 'app'\nlimits.cost = 5\n"
        "[routes.limits.requests]\nrate = '5/1s'\n[[routes.limits.rules]]\nname = 'b'\nrate = '3/1s'\n",
        [
            "10: routes[0].limits.cost: 6, more than the 4 of limits.requests.rate; no such request could ever pass",
            "10: routes[0].limits.cost: 6, more than the 5 of limits.rules[0].rate; no such request could ever pass",
            (
                "14: routes[1].limits.cost: 5, more than the 3 of routes[1].limits.rules[0].rate; "
                "no such request could ever pass"
            ),
        ],
    ),
    "a cost above the default": (
        LEAST + ROUTE + "limits.cost = 301\n",
        ["5: routes[0].limits.cost: 301, more than the 300 of limits.requests.rate; no such request could ever pass"],
    ),
    "methods": (
        LEAST + RULE + "methods = ['POST', 'GET', 'POST', 'CONNECT', 'BREW', 'TRACE']\n",
        [
            '6: limits.rules[0].methods[2]: "POST"; each method may stand once',
            '6: limits.rules[0].methods[3]: "CONNECT"; ' + METHOD,
            '6: limits.rules[0].methods[4]: "BREW"; ' + METHOD,
            '6: limits.rules[0].methods[5]: "TRACE"; needs `http.trace = true`: it is refused before any limit',
        ],
    ),
    "fields without a rate": (
        LEAST + "[limits.requests]\nrate = false\nconcurrent = 5\nratelimit_fields = true\n",
        [
            (
                "6: limits.requests.ratelimit_fields: `ratelimit_fields` without `rate`; "
                "`rate` must be given: the fields tell what is left of it"
            )
        ],
    ),
    "what is said of a limit that is off": (
        LEAST
        + "[limits.requests]\nrate = false\nstatus = 503\nkey = 'host'\n"
        + ROUTE
        + "[routes.limits.requests]\nrate = false\nmissing = 'skip'\nkey = 'host'\n"
        + "ratelimit_fields = true\ndry_run = true\n",
        [
            f"{line}: {table}.{key}: `{key}` of a limit that is off; {OFF}"
            for line, table, keys in [
                (5, "limits.requests", ["status"]),
                (6, "limits.requests", ["key"]),
                (11, "routes[0].limits.requests", ["missing"]),
                (12, "routes[0].limits.requests", ["key"]),
                (13, "routes[0].limits.requests", ["ratelimit_fields"]),
                (14, "routes[0].limits.requests", ["dry_run"]),
            ]
            for key in keys
        ],
    ),
    "keys that nobody could have": (
        LEAST
        + "[forwarding.client_certificate]\nsubject = 'X-Client'\n"
        + RULE
        + "key = 'header:Host'\n[[limits.rules]]\nname = 'b'\nrate = '5/1m'\n"
        + "key = ['header:X-Forwarded-For', 'certificate', 'header:X-Client']\n",
        [
            '8: limits.rules[0].key: "header:host"; a field that no limit gets to see; "host" may be what is meant',
            (
                '12: limits.rules[1].key[0]: "header:x-forwarded-for"; a field that no limit gets to see; '
                '"address" may be what is meant'
            ),
            (
                '12: limits.rules[1].key[1]: "certificate"; needs a listener with `client_auth = "optional"` or '
                '"required": no client is asked for one'
            ),
            (
                '12: limits.rules[1].key[2]: "header:x-client"; a field that no limit gets to see; '
                '"address" may be what is meant'
            ),
        ],
    ),
    "a rule that is called like a window": (
        LEAST
        + "[limits.requests]\nrate = ['5/10s', '9/1m']\nratelimit_fields = true\n"
        + "[[limits.rules]]\nname = 'requests-60s'\nrate = '5/1m'\nratelimit_fields = true\n",
        [
            (
                '7: limits.rules[0].name: "requests-60s"; must be another name: '
                "a window of limits.requests has this one in RateLimit-Policy"
            )
        ],
    ),
    "values that cannot be read are told once": (
        LEAST
        + "[limits.requests]\nrate = 'x'\n[[limits.rules]]\nname = 7\nrate = '5/0s'\nkey = 'y'\nmethods = ['get', 7]\n",
        [
            f'4: limits.requests.rate: "x"; {RATE}',
            f"6: limits.rules[0].name: 7; {NAME}",
            f'7: limits.rules[0].rate: "5/0s"; the window must be 50ms to 1d; {RATE}',
            (
                '8: limits.rules[0].key: "y"; must be "address", "certificate", "everyone", "host", "method", "route", '
                '"header:NAME", "cookie:NAME", "query:NAME" or "path:N", or an array of them'
            ),
            '9: limits.rules[0].methods[0]: "get"; must be a method, such as "POST"',
            '9: limits.rules[0].methods[1]: 7; must be a method, such as "POST"',
        ],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_contradictions(case: str) -> None:
    text, expected = BAD[case]
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "x.toml")
    assert [str(fault).removeprefix("x.toml:") for fault in caught.value.faults] == expected


GOOD = {
    "the default may be off": LEAST + "[limits.requests]\nrate = false\n",
    "and say what is the default": LEAST
    + "[limits.requests]\nrate = false\nconcurrent = false\nkey = ['address']\nmissing = 'address'\nstatus = 429\n"
    "ratelimit_fields = false\ndry_run = false\n",
    "a route may be without": LEAST + ROUTE + "limits.requests.rate = false\n",
    "what is under way has a status and a key": LEAST
    + "[limits.requests]\nrate = false\nconcurrent = 5\nstatus = 503\nkey = 'host'\nmissing = 'skip'\ndry_run = true\n",
    "a rule by what is under way": LEAST + "[[limits.rules]]\nname = 'a'\nconcurrent = 5\n",
    "missing where some part may be": LEAST + RULE + "key = ['address', 'path:1']\nmissing = 'refuse'\n",
    "a cost that just fits": LEAST + ROUTE + "limits = { cost = 300 }\n",
    "a cost where nothing counts": LEAST + "[limits.requests]\nrate = false\n" + ROUTE + "limits.cost = 1000\n",
    "a cost that a route's own limit holds": LEAST + ROUTE + "limits.cost = 500\nlimits.requests.rate = '500/1s'\n",
    "another route's rule is no matter": LEAST
    + ROUTE
    + "limits.cost = 9\n[[routes]]\npath = '/x'\nupstream = 'app'\n"
    + "[[routes.limits.rules]]\nname = 'a'\nrate = '1/1s'\n",
    "every method": LEAST + RULE + f"methods = {sorted(FORWARDED_METHODS - {'TRACE'})}\n",
    "TRACE that is passed on": LEAST + "http.trace = true\n" + RULE + "methods = ['TRACE']\n",
    "TRACE of a route": LEAST
    + ROUTE
    + "http.trace = true\n[[routes.limits.rules]]\nname = 'a'\nrate = '1/1s'\nmethods = ['TRACE']\n",
    "a key by certificate": TLS % "client_auth = 'optional', client_ca = 'c'"
    + LEAST.split("\n")[1]
    + "\n"
    + RULE
    + "key = 'certificate'\n",
    "of some hosts": TLS % "hosts = [{ names = ['a.test'], client_auth = 'required', client_ca = 'c' }]"
    + LEAST.split("\n")[1]
    + "\n"
    + RULE
    + "key = 'certificate'\n",
    "one window is called like its limit": LEAST
    + "[limits.requests]\nrate = '9/1m'\nratelimit_fields = true\n"
    + "[[limits.rules]]\nname = 'requests-60s'\nrate = '5/1m'\n",
}


@pytest.mark.parametrize("case", GOOD)
def test_no_contradiction(case: str) -> None:
    parse_config(GOOD[case])


def test_models_are_read_like_tables() -> None:
    rule = LimitRule(name="a", rate="5/1m")
    settings: dict[str, Any] = {
        "listeners": [{"bind": "127.0.0.1:0"}],
        "upstreams": {"app": {"servers": ["http://app"]}},
    }
    Config(**settings, limits={"rules": [rule]}, routes=[Route(upstream="app")])
    with pytest.raises(ConfigError) as caught:
        Config(**settings, limits={"rules": [rule, rule]}, routes=[Route(upstream="app", limits={"cost": 6})])
    paths = [*["routes[0].limits.cost"] * 2, "limits.rules[1].name"]
    assert [fault.path for fault in caught.value.faults] == paths


def test_the_methods_are_those_that_are_read() -> None:
    parser = RequestHeadParser(HeadLimits())
    for method in FORWARDED_METHODS:
        assert parser.parse(b"%b / HTTP/1.1\r\nHost: a\r\n\r\n" % method.encode()).method == method

    # others that llhttp knows: of HTTP/2's preface and of RTSP
    for method in ("PRI", "DESCRIBE", "ANNOUNCE", "SETUP", "PLAY", "PAUSE", "TEARDOWN", "RECORD", "FLUSH", "BREW"):
        with pytest.raises(ProxyError):
            parser.parse(b"%b / HTTP/1.1\r\nHost: a\r\n\r\n" % method.encode())


def test_the_fields_are_those_that_are_taken_out() -> None:
    assert {name.encode() for name in UNSEEN_FIELDS} >= HOP_BY_HOP | FORWARDED
    parser = RequestHeadParser(HeadLimits())
    for name in UNSEEN_FIELDS - {"host", "content-length", "transfer-encoding", "expect"}:
        assert not parser.parse(b"GET / HTTP/1.1\r\nHost: a\r\n%b: close\r\n\r\n" % name.encode()).fields
    framed = b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nExpect: 100-continue\r\n\r\n"
    assert not parser.parse(framed).fields
