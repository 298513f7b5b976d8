"""Time, injected: monotonic nanoseconds for durations and deadlines, wall time for people, and timers.

Deadlines are points on the monotonic clock, never on the wall clock, so that a clock step cannot expire a request.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """Where time comes from."""

    def now_ns(self) -> int:
        """Monotonic time in ns; only differences mean anything."""

    def wall_ns(self) -> int:
        """Ns since the Unix epoch."""

    def thread_ns(self) -> int:
        """CPU time of the calling thread in ns; only differences mean anything."""


class TimerHandle(Protocol):
    """A timer that has been set."""

    def cancel(self) -> None:
        """Forget the timer; harmless when it has fired."""


class Timers(Protocol):
    """Runs callbacks later, on the I/O thread."""

    def call_at_ns(self, when_ns: int, callback: Callable[[], None]) -> TimerHandle:
        """Call back once the monotonic clock has reached `when_ns`."""


class MonotonicClock:
    """The machine's own clocks."""

    now_ns = staticmethod(time.monotonic_ns)  # read a dozen times per batch, so nothing lies in between
    wall_ns = staticmethod(time.time_ns)
    thread_ns = staticmethod(time.thread_time_ns)


class LoopTimers:
    """Timers of an event loop. Lives on the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self._loop = loop
        self._clock = clock

    def call_at_ns(self, when_ns: int, callback: Callable[[], None]) -> TimerHandle:
        """See `Timers`. The loop counts in whole ms of its own, so a timer fires up to 2 ms late, never early."""
        delay_ns = max(0, when_ns - self._clock.now_ns())
        return self._loop.call_later((delay_ns // 1_000_000 + 2) / 1_000, callback)
