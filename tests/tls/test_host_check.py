"""Which hosts a connection may be asked for: those under its own policy."""

from __future__ import annotations

import pytest

from iocproxy.tls import CertificateStore, ServerPolicy
from iocproxy.tls.hosts import host_name

LISTENER, STRICT, LOOSE = ServerPolicy(), ServerPolicy(min_version="1.3"), ServerPolicy(num_tickets=0)


@pytest.fixture
def store(pair):
    hosts = {"a.test": STRICT, "*.a.test": STRICT, "open.a.test": LOOSE, "same.a.test": LISTENER}
    return CertificateStore([pair("localhost")], LISTENER, hosts)


@pytest.mark.parametrize(
    ("host", "policy"),
    [
        (b"", LISTENER),
        (b"b.test", LISTENER),
        (b"test", LISTENER),
        (b"127.0.0.1", LISTENER),
        (b"[::1]:443", LISTENER),
        (b"a.test", STRICT),
        (b"A.TEST:8443", STRICT),
        (b"a.test.", STRICT),
        (b"a.test.:443", STRICT),
        (b"x.y.a.test", STRICT),
        (b"open.a.test", LOOSE),
        (b"x.open.a.test", STRICT),
        (b"same.a.test", LISTENER),
        (b"ba.test", LISTENER),
        (b"%61.test", None),
        (b"b%2etest", None),
    ],
)
def test_a_host_is_allowed_where_its_policy_is_the_connections(store, host, policy) -> None:
    for each in (LISTENER, STRICT, LOOSE):
        check = store.host_check(each)
        assert [check.allows(host) for _ in range(2)] == [each == policy] * 2


def test_nothing_is_checked_where_all_hosts_are_alike(pair) -> None:
    for hosts in ({}, {"a.test": ServerPolicy()}):
        assert CertificateStore([pair("localhost")], LISTENER, hosts).host_check(LISTENER) is None


def test_hosts_that_clients_make_up_are_not_all_remembered(store) -> None:
    check = store.host_check(LISTENER)
    for number in range(2000):
        assert check.allows(b"%d.test" % number)
    assert len(check._known) <= 512
    assert not check.allows(b"a.test")


@pytest.mark.parametrize(
    ("host", "name"),
    [(b"A.test:1", "a.test"), (b"[2001:DB8::1]:443", "[2001:db8::1]"), (b"[::1]", "[::1]"), (b"", ""), (b"a.", "a")],
)
def test_a_name(host, name) -> None:
    assert host_name(host) == name
