"""The wheel on a loop whose time stands still until told to move, and on the real one."""

import asyncio
import gc
import time
import weakref
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iocproxy.net.deadlines import DeadlineWheel

TICK = 0.1
SLACK = 1e-6 + time.get_clock_info("monotonic").resolution  # floats, and what the wheel adds


class StillLoop:
    """The part of an event loop that the wheel uses."""

    def __init__(self, now=1_000.0):
        self.now = now
        self.timers = []
        self.most_timers = 0
        self.ran = 0
        self.reported = []

    def time(self):
        return self.now

    def call_at(self, when, callback, *args):
        handle = asyncio.TimerHandle(when, callback, args, self)
        self.timers.append(handle)
        self.most_timers = max(self.most_timers, len(self.timers))
        return handle

    def call_exception_handler(self, context):
        self.reported.append(context)

    def get_debug(self):
        return False

    def _timer_handle_cancelled(self, handle):
        self.timers.remove(handle)

    def advance(self, seconds):
        """Run each timer at its time."""
        end = self.now + seconds
        while self.timers and (first := min(self.timers)).when() <= end:
            self.now = max(self.now, first.when())
            self._run(first)
        self.now = end

    def stall(self, seconds):
        """Be away, then run what has come due meanwhile."""
        self.now += seconds
        while self.timers and (first := min(self.timers)).when() <= self.now:
            self._run(first)

    def _run(self, handle):
        self.timers.remove(handle)
        self.ran += 1
        handle._callback(*handle._args)


@pytest.fixture
def loop():
    return StillLoop()


@pytest.fixture
def wheel(loop):
    wheel = DeadlineWheel(loop, TICK)
    wheel.start()
    yield wheel
    wheel.stop()


def stamper(loop):
    """A list of times, and a callback that adds the present one."""
    times = []
    return times, lambda: times.append(loop.now)


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("arm"), st.integers(0, 3), st.floats(0, 12)),
        st.tuples(st.just("cancel"), st.integers(0, 3), st.none()),
        st.tuples(st.just("advance"), st.none(), st.floats(0, 6)),
        st.tuples(st.just("stall"), st.none(), st.floats(0, 30)),
    ),
    max_size=30,
)


@given(OPERATIONS)
def test_each_arming_expires_once_never_early_and_at_most_a_tick_late(operations):
    loop = StillLoop()
    wheel = DeadlineWheel(loop, TICK)
    wheel.start()
    due = [inf] * 4

    def expired(number):
        assert due[number] <= loop.now, "early, or not armed"
        assert loop.now <= due[number] + TICK + SLACK or loop.stalled, "late"
        due[number] = inf

    timers = [wheel.timer(lambda number=number: expired(number)) for number in range(4)]
    for operation, number, value in operations:
        loop.stalled = operation == "stall"
        if operation == "arm":
            timers[number].arm(value)
            due[number] = loop.now + value
        elif operation == "cancel":
            timers[number].cancel()
            due[number] = inf
        else:
            getattr(loop, operation)(value)
            assert all(when > loop.now - TICK - SLACK for when in due), "overdue"
        assert [timer.when for timer in timers] == due
        assert len(wheel) <= 4
    loop.stalled = False
    loop.advance(13)
    assert due == [inf] * 4
    loop.advance(TICK * 2)
    assert len(wheel) == 0
    assert loop.most_timers == 1


def test_one_timer_for_any_number_of_deadlines(loop, wheel):
    times, stamp = stamper(loop)
    timers = [wheel.timer(stamp) for _ in range(1000)]
    for number, timer in enumerate(timers):
        timer.arm(number / 100)
    assert len(loop.timers) == 1
    loop.advance(10.2)
    assert len(times) == 1000
    assert times == sorted(times)
    assert loop.most_timers == 1


def test_moving_to_a_later_time_stays_in_its_slot_until_that_comes(loop, wheel):
    times, stamp = stamper(loop)
    timer = wheel.timer(stamp)
    timer.arm(1)
    slot = timer._slot
    for _ in range(5):
        loop.advance(0.1)
        timer.arm(1)
        assert timer._slot is slot
    loop.advance(0.9)
    assert times == []
    loop.advance(0.2 + SLACK)
    assert times == [pytest.approx(1001.5, abs=TICK + SLACK)]


def test_arming_earlier_expires_earlier(loop, wheel):
    times, stamp = stamper(loop)
    timer = wheel.timer(stamp)
    timer.arm(60)
    timer.arm(1)
    assert len(wheel) == 1
    loop.advance(1 + TICK + SLACK)
    assert len(times) == 1
    loop.advance(120)
    assert len(times) == 1


def test_a_time_that_passed_is_the_next_tick_and_an_endless_one_never(loop, wheel):
    times, stamp = stamper(loop)
    timer = wheel.timer(stamp)
    timer.arm(-5.0)
    loop.advance(TICK + SLACK)
    assert len(times) == 1
    assert timer.when == inf
    timer.arm(inf)
    loop.advance(1e4)
    assert len(times) == 1


def test_a_callback_may_arm_and_cancel(loop, wheel):
    times, stamp = stamper(loop)

    def again():
        stamp()
        other.cancel()
        if len(times) < 3:
            timer.arm(0)

    timer = wheel.timer(again)
    other = wheel.timer(lambda: pytest.fail("cancelled by the first"))
    timer.arm(1)
    other.arm(1.15)
    loop.stall(1.3)
    assert len(times) == 1, "armed in a callback: not within the same tick"
    loop.advance(1)
    assert len(times) == 3


def test_a_callback_that_raises_is_reported_and_the_others_run(loop, wheel):
    times, stamp = stamper(loop)

    def broken():
        raise ValueError("no such thing")

    for expired in (stamp, broken, stamp, broken):
        wheel.timer(expired).arm(1)
    loop.advance(1.2)
    assert len(times) == 2
    assert [str(context["exception"]) for context in loop.reported] == ["no such thing"] * 2
    assert "broken" in loop.reported[0]["message"]


def test_after_a_stall_only_the_slots_that_exist_are_looked_at(loop, wheel):
    times, stamp = stamper(loop)
    wheel.timer(stamp).arm(5)
    wheel.timer(stamp).arm(864_000)
    ran = loop.ran
    loop.stall(600)
    assert len(times) == 1
    assert loop.ran == ran + 1, "one tick makes up for all those missed"
    loop.stall(864_000)
    assert len(times) == 2


def test_a_cancelled_deadline_is_let_go_within_a_tick(loop, wheel):
    class Connection:
        def __init__(self):
            self.timer = wheel.timer(self.expired)
            self.timer.arm(75)

        def expired(self):
            pytest.fail("it was cancelled")

    connection = Connection()
    gone = weakref.ref(connection)
    connection.timer.cancel()
    connection.timer.cancel()
    del connection
    loop.advance(TICK + SLACK)
    gc.collect()
    assert gone() is None
    assert len(wheel) == 0


def test_cancelled_and_armed_again_it_keeps_its_slot(loop, wheel):
    times, stamp = stamper(loop)
    timer = wheel.timer(stamp)
    timer.arm(1)
    timer.cancel()
    timer.arm(2)
    loop.advance(0.5)
    assert len(wheel) == 1
    loop.advance(1.4)
    assert times == []
    loop.advance(0.3)
    assert len(times) == 1


def test_a_timer_run_early_by_the_clocks_resolution_does_not_spin(loop):
    """Windows runs timers up to 15.6 ms before their time while the clock stands still."""
    wheel = DeadlineWheel(loop, TICK)
    wheel._resolution = 0.0156
    times, stamp = stamper(loop)
    wheel.timer(stamp).arm(0.25)
    wheel.start()
    while loop.now < 1_001:
        ran = loop.ran
        while loop.timers and min(loop.timers).when() < loop.now + wheel._resolution:
            loop._run(min(loop.timers))
            assert loop.ran - ran <= 1
        loop.now += 0.0156
    assert len(times) == 1
    assert 1_000.25 <= times[0] <= 1_000.25 + TICK + 2 * 0.0156
    wheel.stop()


def test_a_stopped_wheel_is_silent_and_can_start_again(loop, wheel):
    times, stamp = stamper(loop)
    timer = wheel.timer(stamp)
    timer.arm(1)
    wheel.stop()
    wheel.stop()
    assert loop.timers == []
    assert timer.when == inf
    loop.now += 10
    wheel.start()
    wheel.start()
    assert len(loop.timers) == 1
    loop.advance(10)
    assert times == []
    timer.arm(1)
    loop.advance(1.2)
    assert len(times) == 1


def test_a_callback_may_stop_the_wheel(loop, wheel):
    calls = []

    def stop():
        calls.append("stop")
        wheel.stop()

    for _ in range(3):
        wheel.timer(stop).arm(1)
    loop.advance(5)
    assert calls == ["stop"]


@pytest.mark.parametrize("tick", [0, -1, 1.5])
def test_a_tick_is_at_most_a_second(loop, tick):
    with pytest.raises(ValueError, match="at most 1 second"):
        DeadlineWheel(loop, tick)


def test_their_repr_shows_their_state(loop, wheel):
    timer = wheel.timer(print)
    assert repr(timer) == "<Deadline idle>"
    timer.arm(2)
    assert repr(timer) == "<Deadline in 2.000 s>"
    assert repr(wheel) == "<DeadlineWheel ticking tick=0.1 deadlines=1>"


async def test_on_the_real_loop():
    loop = asyncio.get_running_loop()
    wheel = DeadlineWheel(loop, 0.02)
    wheel.start()
    expired = loop.create_future()
    timer = wheel.timer(lambda: expired.set_result(loop.time()))
    timer.arm(30)
    timer.arm(0.05)
    when = timer.when
    async with asyncio.timeout(10):
        assert await expired >= when
    wheel.stop()


def test_a_dropped_deadline_calls_nobody_and_holds_nobody():
    class Connection:
        def expired(self):
            called.append(self)

    called = []
    loop = StillLoop()
    wheel = DeadlineWheel(loop, TICK)
    wheel.start()
    connection = Connection()
    deadline = wheel.timer(connection.expired)
    deadline.arm(5)
    gone = weakref.ref(connection)
    deadline.drop()
    assert deadline.when == inf
    del connection
    assert gone() is None
    deadline.arm(1)  # a mistake, and harmless
    loop.advance(10)
    assert called == loop.reported == []
    assert len(wheel) == 0
