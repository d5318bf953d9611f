"""`limits.storage` and `[limits.redis]`: what may stand there, and that a password is never shown."""

from __future__ import annotations

import pytest

from iocproxy.config import Config, parse_config
from iocproxy.config.redis_url import RedisUrl, read_storage, write_storage
from iocproxy.config.values import RefusedError, show
from iocproxy.errors import ConfigError

LEAST = 'listeners = [{ bind = "127.0.0.1:0" }]\nupstreams.app.servers = ["http://app"]\n[limits]\n'
URL = 'must be "memory", or "redis://[USER:PASSWORD@]HOST[:PORT][/DB]", with TLS "rediss://…"'
TIMEOUT = 'must be a duration from 1ms to 1s, such as "5s", or a number of seconds'
PREFIX = "must be a text of 1 to 64 printable ASCII characters without blanks and braces"


@pytest.mark.parametrize(
    ("text", "found", "shown"),
    [
        ("redis://10.0.0.5", RedisUrl(False, "10.0.0.5"), "redis://10.0.0.5:6379/0"),
        ("redis://Cache.Example:1/15", RedisUrl(False, "cache.example", 1, 15), "redis://cache.example:1/15"),
        ("redis://[2001:DB8::1]/", RedisUrl(False, "2001:db8::1"), "redis://[2001:db8::1]:6379/0"),
        ("rediss://[::1]:65535/2", RedisUrl(True, "::1", 65535, 2), "rediss://[::1]:65535/2"),
        ("redis://:secret@h", RedisUrl(False, "h", password="secret"), "redis://h:6379/0"),
        ("redis://me:s%40%2F%3A%3F%25x@h:1", RedisUrl(False, "h", 1, 0, "me", "s@/:?%x"), "redis://h:1/0"),
        ("redis://me:a:b@h:1", RedisUrl(False, "h", 1, 0, "me", "a:b"), "redis://h:1/0"),
    ],
)
def test_urls(text: str, found: RedisUrl, shown: str) -> None:
    url = read_storage(text)
    assert url == found
    assert str(url) == shown
    assert repr(url) == f"<RedisUrl {shown}>"
    assert read_storage(url) == url
    assert read_storage(write_storage(url)) == url
    config = parse_config(f'{LEAST}storage = "{text}"')
    assert config.limits.storage == url
    assert Config(**config.model_dump(mode="json")).limits.storage == url
    assert "secret" not in repr(config)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Memory",
        "redis",
        "redis:",
        "redis:h",
        "redis://",
        "redis:///0",
        "REDIS://h",
        "http://h",
        "unix:///tmp/redis.sock",
        "redis://h/x",
        "redis://h/-1",
        "redis://h/65536",
        "redis://h/0/1",
        "redis://h:0",
        "redis://h:65536",
        "redis://h:x",
        "redis://::1",
        "redis://[h]",
        "redis://h?db=1",
        "redis://h/0?ssl_cert_reqs=none",
        "redis://h#0",
        "redis://h h",
        "redis://h\n",
        "redis://h\\",
        "redis://é",
        "redis://me@h",
        "redis://@h",
        "redis://me:@h",
        "redis://a b@h",
        "redis://_secret_:x@y@h",
        "redis://:_secret_/x@h",
        "redis://:_secret_?x@h",
        "redis://:_secret_ x@h",
        "redis://:_secret_",
        "redis://me:_secret_",
        "redis://me:_secret_/0",
        "redis://me:_secret_?",
        "redis://me:123456_secret_",
        1,
        True,
        None,
        ["redis://h"],
    ],
)
def test_what_is_refused(text: object) -> None:
    with pytest.raises(RefusedError) as refused:
        read_storage(text)
    assert "_secret_" not in f"{refused.value} {show(text)}"
    with pytest.raises(ConfigError) as raised:
        Config(
            listeners=[{"bind": "127.0.0.1:0"}], upstreams={"a": {"servers": ["http://a"]}}, limits={"storage": text}
        )
    (fault,) = raised.value.faults
    assert fault.path == "limits.storage"
    assert fault.allowed.endswith(URL)
    assert "_secret_" not in str(fault)


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        (
            'redis = { timeout = "10ms", on_failure = "deny", prefix = "x:", ca = "ca.pem" }\n',
            [
                f'4: limits.redis.{key}: `{key}` beside `storage = "memory"`; it is for `storage = "redis://…"` only'
                for key in ("timeout", "on_failure", "prefix", "ca")
            ],
        ),
        ('redis = { timeout = "20ms", on_failure = "local" }\n', []),  # as it is anyway
        (
            'storage = "redis://h"\nredis.ca = "ca.pem"\n',
            ['5: limits.redis.ca: `ca` beside `storage = "redis://…"`; it is for rediss:// only'],
        ),
        ('storage = "rediss://h"\nredis = { ca = "ca.pem", on_failure = "allow", prefix = "x" }\n', []),
        (
            'storage = "redis://h"\nredis = { timeout = "2s", on_failure = "open", prefix = "{x}", retries = 1 }\n',
            [
                f'5: limits.redis.timeout: "2s"; {TIMEOUT}',
                '5: limits.redis.on_failure: "open"; must be "local", "allow" or "deny"',
                f'5: limits.redis.prefix: "{{x}}"; {PREFIX}',
                "5: limits.redis.retries: unknown key; allowed: timeout, on_failure, prefix, ca",
            ],
        ),
        (
            'storage = "redis://h:x"\nredis.ca = "ca.pem"\n',
            [f'4: limits.storage: "redis://…"; the port must be 1 to 65535; {URL}'],
        ),
    ],
)
def test_what_contradicts_itself(text: str, faults: list[str]) -> None:
    found: list[str] = []
    try:
        parse_config(LEAST + text, "f.toml")
    except ConfigError as error:
        found = [str(fault).removeprefix("f.toml:") for fault in error.faults]
    assert sorted(found) == sorted(faults)


def test_a_configuration_with_memory_is_read_again() -> None:
    config = parse_config(LEAST)
    assert config.limits.storage == "memory"
    assert Config(**config.model_dump(mode="json")) == config
    assert Config(**dict(config)) == config
