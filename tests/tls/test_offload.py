"""Which handshakes the loop takes itself."""

import asyncio
from math import inf

import pytest

from iocproxy.tls import CertificateStore
from iocproxy.tls.offload import PER_TURN, Turns, step_cost
from iocproxy.tls.pipeline import TlsPipeline


def test_what_a_step_costs_the_loop() -> None:
    assert step_cost("ecdsa-secp256r1") < step_cost("rsa-2048") < step_cost("ecdsa-secp384r1") <= PER_TURN
    for slow in ("rsa-3072", "rsa-4096", "rsa-2047", "ecdsa-brainpoolP512r1"):
        assert step_cost(slow) == inf
    for key in ("ed25519", "rsa-8192"):
        assert step_cost(key, "never") == 0
        assert step_cost(key, "always") == inf


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
