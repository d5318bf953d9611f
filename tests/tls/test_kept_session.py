"""The session kept for an upstream server: when it is offered, when one is read, and when it goes."""

from __future__ import annotations

import ssl

import pytest

from iocproxy.tls import CertificateStore, KeptSession, TlsPipeline
from iocproxy.tls.kept_session import FIRST_PAUSE, LONGEST_PAUSE, WORTH


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Side:
    """A server with a context of its own, a client's context, and what is kept between them."""

    def __init__(self, store: CertificateStore, context: ssl.SSLContext) -> None:
        self.clock = Clock()
        self.kept = KeptSession(self.clock)
        self.server = store.identities[0].context
        self.context = context
        self.read = 0  # how often `.session` was

    def connect(self) -> bool:
        """A connection as `ClientLink` makes one, up to the first data; returns whether it was resumed."""
        offered = self.kept.offer()
        client, resumed = shake(self.server, self.context, offered)
        if self.kept.opened(offered, resumed=resumed):
            self.kept.take(Counting(client.object, self))
        return resumed


class Counting:
    """An `ssl.SSLObject` for `KeptSession.take`: what is read of it is counted."""

    def __init__(self, real: ssl.SSLObject, side: Side) -> None:
        self._real = real
        self._side = side

    @property
    def session(self) -> ssl.SSLSession | None:
        self._side.read += 1
        return self._real.session

    def version(self) -> str | None:
        return self._real.version()


def shake(
    server_context: ssl.SSLContext, context: ssl.SSLContext, offered: ssl.SSLSession | None
) -> tuple[TlsPipeline, bool]:
    server = TlsPipeline(server_context)
    client = TlsPipeline(context, server_name="localhost", session=offered)
    done = False
    client.handshake()
    while not done:
        server.feed(client.take_outgoing())
        done = server.handshake()
        client.feed(server.take_outgoing())
        client.handshake()
    client.feed(server.write(b"data"))
    assert client.read() == b"data"
    return client, bool(client.object.session_reused)


@pytest.fixture(params=["TLSv1_2", "TLSv1_3"])
def side(request, pair, trusting):
    return Side(CertificateStore([pair("localhost")]), trusting(request.param))


def test_it_is_read_once_and_then_resumed(side) -> None:
    assert [side.connect() for _ in range(50)] == [False] + [True] * 49
    assert side.read == 1
    assert (side.kept.handshakes_full, side.kept.handshakes_resumed) == (1, 49)
    assert repr(side.kept) == "<KeptSession served 49 full=1 resumed=49>"


def test_many_at_once_read_one(side) -> None:
    """None is offered to any of them, as none is done when the last begins."""
    offers = [side.kept.offer() for _ in range(20)]
    assert offers == [None] * 20
    clients = [shake(side.server, side.context, None)[0] for _ in offers]
    assert all(side.kept.opened(None, resumed=False) for _ in clients)
    for client in clients:
        side.kept.take(Counting(client.object, side))
    assert side.read == 1
    assert side.connect()


def test_an_expired_one_is_not_offered(side) -> None:
    for _ in range(1 + WORTH):
        side.connect()
    side.clock.now += 7199
    assert side.kept.offer()
    side.clock.now += 1
    assert side.kept.offer() is None
    assert not side.connect()
    assert (side.connect(), side.read) == (True, 2)


def test_one_that_was_worth_it_is_replaced_at_once(side, pair) -> None:
    for _ in range(1 + WORTH):
        side.connect()
    side.server = CertificateStore([pair("localhost")]).identities[0].context  # restarted: other keys
    assert [side.connect() for _ in range(3)] == [False, True, True]
    assert side.read == 2


def test_a_server_that_forgets_is_read_less_and_less_often(side, pair) -> None:
    """Every session is refused: 100,000 connections in a day cost no more than the pauses allow."""
    gaps, last = [], side.clock.now
    while len(gaps) < 14:
        before = side.read
        side.server = CertificateStore([pair("localhost")]).identities[0].context
        side.connect()
        if side.read > before:
            gaps.append(side.clock.now - last)
            last = side.clock.now
        side.clock.now += max(FIRST_PAUSE, gaps[-1] / 8)
    assert gaps == sorted(gaps)
    assert max(gaps) <= 1.3 * LONGEST_PAUSE
    assert gaps[-1] >= LONGEST_PAUSE
    assert side.kept.handshakes_resumed == 0


def test_a_server_without_sessions_is_asked_less_and_less_often(pair, trusting) -> None:
    """With TLS 1.3, where none comes without a ticket."""
    store = CertificateStore([pair("localhost")])
    server = store.identities[0].context
    server.num_tickets = 0
    side = Side(store, trusting("TLSv1_3"))
    for _ in range(100):
        assert not side.connect()
        side.clock.now += 1
    # after 0, 1, 3, 7, 15, 31 and 63 seconds
    assert side.read == 7


def test_what_was_resumed_before_the_pause_ends_is_not_lost(side) -> None:
    side.kept.take(shake(side.server, side.context, None)[0].object)
    first = side.kept.offer()
    assert first is not None
    side.kept.drop(first)
    assert side.kept.offer() is None
    assert not side.connect()
    assert side.read == 0
    side.clock.now += FIRST_PAUSE
    assert [side.connect(), side.connect()] == [False, True]


def test_only_what_was_offered_is_dropped(side) -> None:
    """A late failure says nothing against the session that has taken the place of its own."""
    side.connect()
    first = side.kept.offer()
    side.kept.drop(first)
    side.clock.now += FIRST_PAUSE
    side.connect()
    side.kept.drop(first)
    side.kept.opened(first, resumed=False)
    second = side.kept.offer()
    assert second is not None
    assert second is not first
    side.kept.drop_any()
    side.kept.drop_any()
    assert side.kept.offer() is None


class Session:
    def __init__(self, *, timeout=7200, hint=0, has_ticket=True, identifier=b"id") -> None:
        self.timeout = timeout
        self.ticket_lifetime_hint = hint
        self.has_ticket = has_ticket
        self.id = identifier


@pytest.mark.parametrize(
    ("session", "version", "lifetime"),
    [
        (Session(hint=300), "TLSv1.3", 300),
        (Session(timeout=100, hint=300), "TLSv1.3", 100),
        (Session(timeout=10**7, hint=10**7), "TLSv1.3", 604_800),
        (Session(hint=0), "TLSv1.3", 0),
        (Session(has_ticket=False), "TLSv1.3", 0),
        (Session(hint=300), "TLSv1.2", 300),
        (Session(hint=0), "TLSv1.2", 7200),
        (Session(has_ticket=False), "TLSv1.2", 7200),
        (Session(has_ticket=False, identifier=b""), "TLSv1.2", 0),
        (None, "TLSv1.3", 0),
    ],
)
def test_how_long_it_is_kept(session, version, lifetime) -> None:
    clock = Clock()
    kept = KeptSession(clock)

    class Connection:
        def __init__(self) -> None:
            self.session = session

        def version(self) -> str:
            return version

    assert kept.take(Connection()) is (session if lifetime else None)
    clock.now += lifetime - 0.5
    assert kept.offer() is (session if lifetime else None)
    clock.now += 0.5
    assert kept.offer() is None


def test_it_belongs_to_its_context(side, trusting) -> None:
    """A session made under one authority cannot be taken up under another: OpenSSL insists."""
    side.connect()
    with pytest.raises(ValueError, match="different SSLContext"):
        TlsPipeline(trusting(), server_name="localhost", session=side.kept.offer())
