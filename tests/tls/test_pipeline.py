"""The pipeline from memory to memory: no socket, no loop."""

from __future__ import annotations

import os
import random

import pytest

from iocproxy.errors import ProxyError, Side
from iocproxy.tls import CertificateStore, Ended, ServerPolicy, TlsPipeline
from iocproxy.tls.pipeline import BATCH, RECORD


class Both:
    """A server's and a client's end, and the wire between them."""

    def __init__(self, store: CertificateStore, context, name: str = "localhost") -> None:
        self.server = TlsPipeline(store.identities[0].context)
        self.client = TlsPipeline(context, server_name=name)

    def shake(self, portion: int = 1 << 20) -> None:
        """Run the handshake, each flight cut into portions of that many bytes."""
        ends = [(self.client, self.server), (self.server, self.client)]
        done = {self.client: self.client.handshake(), self.server: False}
        while not all(done.values()):
            for one, other in ends:
                flight = one.take_outgoing()
                for start in range(0, len(flight), portion):
                    other.feed(flight[start : start + portion])
                    done[other] = done[other] or other.handshake()
        # The tickets of TLS 1.3
        self.client.feed(self.server.take_outgoing())
        assert self.client.read() == b""


@pytest.fixture(params=["TLSv1_2", "TLSv1_3"])
def both(request, store, trusting):
    made = Both(store, trusting(request.param))
    made.shake()
    assert made.server.object.version() == request.param.replace("_", ".")
    return made


def read_all(pipeline: TlsPipeline) -> bytes:
    chunks = []
    while chunk := pipeline.read():
        assert len(chunk) < BATCH + RECORD
        chunks.append(chunk)
    return b"".join(chunks)


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("portion", [1, 7, 100])
def test_handshake_in_portions(store, trusting, version, portion) -> None:
    both = Both(store, trusting(version))
    both.shake(portion)
    both.client.feed(both.server.write(b"hello"))
    assert both.client.read() == b"hello"


def test_byte_by_byte(both) -> None:
    wire = both.client.write(b"request") + both.client.close_notify()
    got = b""
    for octet in wire:
        assert both.server.ended is None
        both.server.feed(bytes((octet,)))
        got += both.server.read()
    assert got == b"request"
    assert both.server.ended is Ended.CLOSED


@pytest.mark.parametrize("size", [1, 100, RECORD, RECORD + 1, BATCH, BATCH + 1, 1_000_000])
def test_sizes(both, size) -> None:
    data = os.urandom(size)
    both.server.feed(both.client.write(data))
    assert read_all(both.server) == data
    assert not both.server.readable


def test_random_portions_both_ways(both) -> None:
    dice = random.Random(4)
    for one, other in ((both.client, both.server), (both.server, both.client)):
        data = dice.randbytes(400_000)
        wire = b"".join(one.write(data[start : start + 30_011]) for start in range(0, len(data), 30_011))
        got, position = [], 0
        while position < len(wire):
            step = dice.choice((1, 5, 1000, 16_384, 100_000))
            other.feed(wire[position : position + step])
            position += step
            if dice.random() < 0.7:  # or let it pile up, as a paused reader does
                got.append(other.read())
        got.append(read_all(other))
        assert b"".join(got) == data


def test_a_small_message_is_one_record(both) -> None:
    overhead = len(both.server.write(b"x")) - 1
    assert overhead < 40
    assert len(both.server.write(b"x" * RECORD)) == RECORD + overhead
    assert len(both.server.write(b"x" * (RECORD + 1))) == RECORD + 1 + 2 * overhead


def test_nothing_is_readable_when_all_was_read(both) -> None:
    both.server.feed(both.client.write(b"one") + both.client.write(b"two"))
    assert both.server.readable
    assert both.server.read() == b"onetwo"
    assert not both.server.readable
    assert both.server.read() == b""


def test_close_notify_is_a_clean_end(both) -> None:
    both.server.feed(both.client.write(b"last") + both.client.close_notify())
    both.server.feed_eof()
    assert both.server.read() == b"last"
    assert both.server.read() == b""
    assert both.server.ended is Ended.CLOSED
    both.server.feed(b"whatever follows")
    assert not both.server.readable


def test_a_bare_end_is_truncation(both) -> None:
    both.server.feed(both.client.write(b"last"))
    both.server.feed_eof()
    assert both.server.read() == b"last"
    assert both.server.ended is None
    assert both.server.readable
    assert both.server.read() == b""
    assert both.server.ended is Ended.TRUNCATED


def test_half_a_record_is_truncation(both) -> None:
    both.server.feed(both.client.write(b"last")[:-1])
    both.server.feed_eof()
    assert both.server.read() == b""
    assert both.server.ended is Ended.TRUNCATED


def test_writing_goes_on_after_the_other_side_closed(both) -> None:
    both.server.feed(both.client.close_notify())
    assert both.server.read() == b""
    assert both.server.ended is Ended.CLOSED
    both.client.feed(both.server.write(b"answer"))
    both.client.feed(both.server.close_notify())
    assert both.client.read() == b"answer"
    assert both.client.read() == b""
    assert both.client.ended is Ended.CLOSED


@pytest.mark.parametrize("portion", [1, 20, 100, 1 << 20])
def test_reading_goes_on_after_our_close_notify(both, portion) -> None:
    """What was fed and is unread when we end our side must not be taken for the answer: OpenSSL is fatal about that."""
    payload = random.Random(7).randbytes(60_000)
    wire = both.client.write(b"a record of its own") + both.client.write(payload)
    fed = min(portion, len(wire))
    both.server.feed(wire[:fed])
    both.client.feed(both.server.close_notify())
    assert both.client.read() == b""
    assert both.client.ended is Ended.CLOSED
    wire += both.client.write(b"and this") + both.client.close_notify()
    for start in range(fed, len(wire), 5_000):
        both.server.feed(wire[start : start + 5_000])
    assert read_all(both.server) == b"a record of its own" + payload + b"and this"
    assert both.server.ended is Ended.CLOSED
    assert both.server.take_outgoing() == b""


def test_damage_after_our_close_notify(both) -> None:
    both.client.feed(both.server.close_notify())
    both.server.feed(both.client.write(b"good") + b"\x17\x03\x03\x00\x20" + bytes(32))
    assert both.server.read() == b"good"
    with pytest.raises(ProxyError):
        both.server.read()


def test_damage_is_reported_and_answered_with_an_alert(both) -> None:
    damaged = bytearray(both.client.write(b"bad"))
    damaged[-1] ^= 1
    both.server.feed(bytes(damaged))
    with pytest.raises(ProxyError, match="bad record mac") as caught:
        both.server.read()
    assert (caught.value.side, caught.value.stage, caught.value.status) == (Side.CLIENT, "body", 0)
    # The alert is there to be sent, and the client understands it.
    both.client.feed(both.server.take_outgoing())
    with pytest.raises(ProxyError, match="alert bad record mac") as caught:
        both.client.read()
    assert (caught.value.side, caught.value.stage, caught.value.status) == (Side.UPSTREAM, "response", 502)
    assert caught.value.proxy_status == "tls_alert_received"


def test_good_data_before_damage_is_delivered(both) -> None:
    good, bad = both.client.write(b"good"), bytearray(both.client.write(b"bad"))
    bad[-1] ^= 1
    both.server.feed(good + bad)
    assert both.server.read() == b"good"
    assert both.server.readable
    for _ in range(2):
        with pytest.raises(ProxyError, match="bad record mac"):
            both.server.read()


def test_a_name_that_is_not_in_the_certificate(store, trusting) -> None:
    both = Both(store, trusting(), name="other.example")
    with pytest.raises(ProxyError, match="certificate not accepted: Hostname mismatch") as caught:
        both.shake()
    error = caught.value
    assert (error.side, error.stage, error.status) == (Side.UPSTREAM, "handshake", 502)
    assert error.proxy_status == "tls_certificate_error"
    assert error.retryable
    # The server learns it from the alert.
    both.server.feed(both.client.take_outgoing())
    with pytest.raises(ProxyError, match=r"TLS handshake failed: .*alert bad certificate") as caught:
        both.server.handshake()
    assert (caught.value.side, caught.value.stage) == (Side.CLIENT, "handshake")


def test_nothing_in_common(pair, trusting) -> None:
    both = Both(CertificateStore([pair("localhost")], ServerPolicy(min_version="1.3")), trusting("TLSv1_2"))
    both.client.handshake()
    both.server.feed(both.client.take_outgoing())
    with pytest.raises(ProxyError, match="unsupported protocol"):
        both.server.handshake()
    alert = both.server.take_outgoing()
    assert alert[0] == 0x15
    assert alert[-2:] == b"\x02\x46"  # fatal, protocol_version
    both.client.feed(alert)
    with pytest.raises(ProxyError, match="alert protocol version"):
        both.client.handshake()


def test_alpn(store, trusting) -> None:
    context = trusting()
    context.set_alpn_protocols(["h2", "http/1.1"])
    both = Both(store, context)
    both.shake()
    assert both.server.object.selected_alpn_protocol() == "http/1.1"
