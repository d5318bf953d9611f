"""Names to addresses: one lookup for all who ask, kept for a while, and nobody waits for one that hangs."""

import asyncio
import errno
import gc
import socket
import sys
import threading
import weakref

import pytest

from iocproxy.clock import ManualClock
from iocproxy.net.resolver import KEPT, KEPT_FAILURE, LOOKUPS, Resolver
from iocproxy.testing.patience import PATIENCE

FOUND = [(socket.AF_INET, ("192.0.2.1", 80))]
SIX = (socket.AF_INET6, ("2001:db8::1", 80, 5, 7))


class System:
    """Stands in for the system's resolver: each call waits until the test answers it."""

    def __init__(self):
        self.calls = []
        self.begun = threading.Semaphore(0)
        self._answers = {}

    def __call__(self, host, port):
        ready, answer = self._answers[host] = threading.Event(), []
        self.calls.append((host, port))
        self.begun.release()
        assert ready.wait(PATIENCE)
        if isinstance(answer[0], BaseException):
            raise answer[0]
        return answer[0]

    async def called(self, count=1):
        """Wait until that many more lookups have begun."""
        for _ in range(count):
            assert await asyncio.to_thread(self.begun.acquire, timeout=PATIENCE)

    def answer(self, host, result=FOUND):
        ready, answer = self._answers.pop(host)
        answer.append(result)
        ready.set()

    def close(self):
        for host in list(self._answers):
            self.answer(host)


@pytest.fixture
def system():
    made = System()
    yield made
    made.close()


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
async def resolver(system, clock):
    made = Resolver(asyncio.get_running_loop(), now=clock, ask=system)
    yield made
    made.close()


async def resolved(resolver, system, host="a.test", result=FOUND, port=80):
    """What the resolver says where it has to ask and `system` answers `result`."""
    asking = asyncio.create_task(resolver.resolve(host, port))
    await system.called()
    system.answer(host, result)
    return await asking


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "fe80::1"])
async def test_a_literal_address_is_never_looked_up(resolver, system, host):
    ((_, sockaddr),) = await resolver.resolve(host, 8080)
    assert sockaddr[:2] == (host, 8080)
    assert system.calls == []


async def test_a_name_that_the_system_knows():
    resolver = Resolver(asyncio.get_running_loop())
    found = await resolver.resolve("localhost", 8080)
    assert {sockaddr[:2] for _, sockaddr in found} & {("127.0.0.1", 8080), ("::1", 8080)}
    assert await resolver.resolve("localhost", 9) == [(kind, (where[0], 9, *where[2:])) for kind, where in found]
    resolver.close()


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example"])
async def test_what_cannot_be_a_name_is_a_gaierror(host):
    resolver = Resolver(asyncio.get_running_loop())
    with pytest.raises(socket.gaierror):
        await resolver.resolve(host, 80)
    resolver.close()


async def test_whoever_asks_meanwhile_shares_the_lookup(resolver, system):
    asking = [asyncio.create_task(resolver.resolve("a.test", port)) for port in (80, 80, 81)]
    await system.called()
    assert repr(resolver) == "<Resolver kept=0 asked=1 running=1>"
    system.answer("a.test", [*FOUND, SIX])
    assert await asyncio.gather(*asking) == [
        [*FOUND, SIX],
        [*FOUND, SIX],
        [(socket.AF_INET, ("192.0.2.1", 81)), (socket.AF_INET6, ("2001:db8::1", 81, 5, 7))],
    ]
    assert system.calls == [("a.test", 80)]


async def test_an_answer_is_kept_for_a_while(resolver, system, clock):
    assert await resolved(resolver, system) == FOUND
    clock.advance(KEPT - 0.001)
    assert await resolver.resolve("a.test", 80) == FOUND
    clock.advance(0.001)
    assert await resolved(resolver, system, result=[SIX]) == [SIX]
    assert len(system.calls) == 2


async def test_a_failure_is_kept_for_a_shorter_while(resolver, system, clock):
    unknown = socket.gaierror(socket.EAI_NONAME, "never heard of it")
    for _ in range(2):
        with pytest.raises(socket.gaierror, match="never heard of it") as first:
            await resolved(resolver, system, result=unknown)
        clock.advance(KEPT_FAILURE - 0.001)
        with pytest.raises(socket.gaierror, match="never heard of it") as second:
            await resolver.resolve("a.test", 80)
        assert first.value.errno == second.value.errno == socket.EAI_NONAME
        assert first.value is not second.value
        clock.advance(0.001)
    assert len(system.calls) == 2


async def test_a_lookup_that_failed_for_want_of_files_is_not_kept(resolver, system):
    """It says nothing about the name."""
    with pytest.raises(OSError, match="Too many") as caught:
        await resolved(resolver, system, result=OSError(errno.EMFILE, "Too many open files"))
    assert caught.value.errno == errno.EMFILE
    assert await resolved(resolver, system) == FOUND


async def test_a_bug_in_the_lookup_is_told(resolver, system):
    with pytest.raises(OSError, match=r"looking up a\.test failed: ValueError"):
        await resolved(resolver, system, result=ValueError("no"))
    assert await resolved(resolver, system) == FOUND


async def test_what_has_expired_is_forgotten(resolver, system, clock):
    for number in range(3):
        await resolved(resolver, system, f"{number}.test")
    assert repr(resolver) == "<Resolver kept=3 asked=0 running=0>"
    clock.advance(KEPT)
    await resolved(resolver, system)
    assert repr(resolver) == "<Resolver kept=1 asked=0 running=0>"


async def test_giving_up_leaves_the_lookup_to_the_others(resolver, system):
    impatient, patient = (asyncio.create_task(resolver.resolve("a.test", 80)) for _ in range(2))
    await system.called()
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    system.answer("a.test")
    assert await patient == FOUND
    assert await resolver.resolve("a.test", 80) == FOUND


async def test_an_answer_that_nobody_waits_for_is_kept(resolver, system):
    impatient = asyncio.create_task(resolver.resolve("a.test", 80))
    await system.called()
    impatient.cancel()
    await asyncio.wait([impatient])
    system.answer("a.test")
    assert await resolver.resolve("a.test", 80) == FOUND
    assert len(system.calls) == 1


async def test_names_do_not_wait_for_each_other(resolver, system):
    hanging = asyncio.create_task(resolver.resolve("hangs.test", 80))
    await system.called()
    assert await resolved(resolver, system) == FOUND
    assert not hanging.done()
    system.answer("hangs.test")
    assert await hanging == FOUND


async def test_lookups_under_way_are_bounded(resolver, system):
    names = [f"{number}.test" for number in range(LOOKUPS + 3)]
    asking = [asyncio.create_task(resolver.resolve(name, 80)) for name in names]
    await system.called(LOOKUPS)
    assert repr(resolver) == f"<Resolver kept=0 asked={LOOKUPS + 3} running={LOOKUPS}>"
    for name in names[:3]:
        system.answer(name)
        await system.called()
    assert [host for host, _ in system.calls[LOOKUPS:]] == names[LOOKUPS:]
    for name in names[3:]:
        system.answer(name)
    assert await asyncio.gather(*asking) == [FOUND] * len(names)
    assert repr(resolver) == f"<Resolver kept={LOOKUPS + 3} asked=0 running=0>"


async def test_close_waits_for_nobody(resolver, system):
    hanging = asyncio.create_task(resolver.resolve("hangs.test", 80))
    await system.called()
    (thread,) = (each for each in threading.enumerate() if each.name == "iocproxy-lookup")
    assert thread.daemon, "the interpreter would wait for it"
    resolver.close()
    resolver.close()
    for asking in (hanging, resolver.resolve("late.test", 80)):
        with pytest.raises(OSError, match="stopping"):
            await asking
    system.answer("hangs.test")
    await asyncio.to_thread(thread.join, PATIENCE)
    await asyncio.sleep(0)  # its answer comes, and is nobody's
    assert repr(resolver) == "<Resolver kept=0 asked=0 running=0>"
    assert system.calls == [("hangs.test", 80)]


def test_a_lookup_may_outlive_the_loop(system):
    async def main():
        asking = asyncio.create_task(Resolver(asyncio.get_running_loop(), ask=system).resolve("a.test", 80))
        await system.called()
        asking.cancel()
        await asyncio.wait([asking])

    asyncio.run(main())
    (thread,) = (each for each in threading.enumerate() if each.name == "iocproxy-lookup")
    system.answer("a.test")
    thread.join(PATIENCE)  # an exception in it would be a warning, which is an error here
    assert not thread.is_alive()


async def test_two_share_nothing(resolver, system):
    other_system = System()
    other = Resolver(asyncio.get_running_loop(), ask=other_system)
    assert await resolved(resolver, system) == FOUND
    assert await resolved(other, other_system, result=[SIX]) == [SIX]
    other.close()


async def test_failures_leave_no_frames_behind(system):
    resolver = Resolver(asyncio.get_running_loop(), ask=system)

    class Mine:
        pass

    async def ask():
        mine = Mine()
        with pytest.raises(socket.gaierror):
            await resolved(resolver, system, result=socket.gaierror(socket.EAI_NONAME, "no"))
        with pytest.raises(socket.gaierror):
            await resolver.resolve("a.test", 80)
        return weakref.ref(mine)

    mine = await ask()
    await asyncio.sleep(0)  # the loop lets go of what it has just handled
    gc.collect()
    assert mine() is None
    assert "kept=1" in repr(resolver)
    resolver.close()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on open files to lower")
async def test_a_system_without_files_is_not_a_name_without_addresses():
    """glibc may say "Name or service not known" when it could not even open the hosts file."""
    import resource

    resolver = Resolver(asyncio.get_running_loop())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as free:
        lowest = free.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        with pytest.raises(OSError, match=r".") as caught:
            await resolver.resolve("localhost", 80)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.errno == errno.EMFILE
    assert await resolver.resolve("localhost", 80)
    resolver.close()
