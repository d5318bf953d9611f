"""Which handshakes the loop takes itself."""

import asyncio
from math import inf

import pytest

from iocproxy.tls import CertificateStore, ServerPolicy, load_client_auth
from iocproxy.tls.offload import PER_TURN, Turns, step_cost, verify_cost
from iocproxy.tls.pipeline import TlsPipeline


def test_what_a_step_costs_the_loop() -> None:
    assert step_cost("ecdsa-secp256r1") < step_cost("rsa-2048") < step_cost("ecdsa-secp384r1") <= PER_TURN
    for slow in ("rsa-3072", "rsa-4096", "rsa-2047", "ecdsa-brainpoolP512r1"):
        assert step_cost(slow) == inf
    for key in ("ed25519", "rsa-8192"):
        assert step_cost(key, "never") == 0
        assert step_cost(key, "always") == inf


def test_what_a_clients_certificate_costs() -> None:
    assert 0 < verify_cost() <= PER_TURN
    assert (verify_cost("never"), verify_cost("always")) == (0, inf)


async def test_a_turn_has_room_for_so_much() -> None:
    turns = Turns(asyncio.get_running_loop())
    for _ in range(3):
        assert [turns.take(200) for _ in range(6)] == [True] * 4 + [False] * 2
        assert turns.take(0)
        assert not turns.take(inf)
        await asyncio.sleep(0)
    assert turns.take(PER_TURN)
    assert not turns.take(1)


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self):
        super().__init__()
        self.sent = b""
        self.answered = asyncio.Event()

    def write(self, data):
        self.sent += data
        self.answered.set()

    def abort(self):
        pass


@pytest.mark.parametrize(
    ("rsa", "offload", "at_once"),
    [(False, "auto", 4), (True, "auto", 2), (True, "always", 0), (False, "always", 0), (True, "never", 6)],
)
async def test_those_that_come_at_once_are_shared_out(make_link, recorder, pair, trusting, rsa, offload, at_once):
    """Six hellos in one turn; the loop answers some of them itself, the executor's threads the rest."""
    store = CertificateStore([pair("localhost", rsa=rsa)], offload=offload)
    turns = Turns(asyncio.get_running_loop())
    client = TlsPipeline(trusting(), server_name="localhost")
    client.handshake()
    hello = client.take_outgoing()
    wires = []
    for _ in range(6):
        made = make_link(recorder(), store, turns=turns)
        wires.append(Wire())
        made.link.connection_made(wires[-1])
        made.link.data_received(hello)
    assert [bool(wire.sent) for wire in wires] == [True] * at_once + [False] * (6 - at_once)
    for wire in wires:
        await wire.answered.wait()


@pytest.mark.parametrize(("offload", "at_once"), [("auto", 1), ("always", 0), ("never", 4)])
@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
async def test_so_are_those_whose_certificates_come_at_once(
    make_link, recorder, pair, trusting, ca_file, version, offload, at_once
):
    """Four certificates of clients in one turn: each takes longer to look at than the server's takes to sign with."""
    auth, _ = load_client_auth(ca_file, required=True)
    store = CertificateStore([pair("localhost")], ServerPolicy(client_auth=auth), offload=offload)
    turns = Turns(asyncio.get_running_loop())
    context = trusting(version)
    own = pair("client")
    context.load_cert_chain(own.cert, own.key)
    met = []
    for _ in range(4):
        client = TlsPipeline(context, server_name="localhost")
        made = make_link(recorder(), store, turns=turns)
        wire = Wire()
        made.link.connection_made(wire)
        client.handshake()
        made.link.data_received(client.take_outgoing())
        await wire.answered.wait()
        await asyncio.sleep(0)  # a turn of its own for each hello
        client.feed(wire.sent)
        client.handshake()
        met.append((made, client))
    for made, client in met:
        made.link.data_received(client.take_outgoing())
    assert [made.inner.connected.done() for made, _ in met] == [True] * at_once + [False] * (4 - at_once)
    for made, _ in met:
        await made.inner.connected
        assert made.link.info.certificate is not None
