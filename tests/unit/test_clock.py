import asyncio

from serving.clock import LoopTimers, MonotonicClock
from tests.support.clocks import FakeClock


def test_monotonic_time_never_goes_back():
    clock = MonotonicClock()
    times = [clock.now_ns() for _ in range(100)]
    assert times == sorted(times)


def test_wall_time_is_of_this_century():
    assert 1_600_000_000 < MonotonicClock().wall_ns() / 1e9 < 4_000_000_000


def test_a_timer_fires_never_early():
    async def run():
        clock, fired = MonotonicClock(), asyncio.get_running_loop().create_future()
        timers = LoopTimers(asyncio.get_running_loop(), clock)
        when_ns = clock.now_ns() + 3_300_000
        timers.call_at_ns(when_ns, lambda: fired.set_result(clock.now_ns()))
        assert await fired >= when_ns

    asyncio.run(run())


def test_a_time_in_the_past_is_now_and_a_cancelled_timer_never_fires():
    async def run():
        loop, fired = asyncio.get_running_loop(), asyncio.Event()
        timers = LoopTimers(loop, MonotonicClock())
        timers.call_at_ns(0, loop.stop).cancel()
        timers.call_at_ns(0, fired.set)
        await fired.wait()

    asyncio.run(run())


def test_the_fake_clock_fires_timers_in_order_and_at_their_own_times():
    clock, seen = FakeClock(), []
    start_ns = clock.now_ns()
    for delay in (5, 3, 9):
        clock.call_at_ns(start_ns + delay, lambda: seen.append(clock.now_ns() - start_ns))
    clock.advance(6)
    assert seen == [3, 5]
    assert clock.now_ns() == start_ns + 6
