"""A clock that moves only when a test says so, with its timers."""

import heapq
import itertools


class FakeClock:
    """`serving.clock.Clock` and `Timers` in one; time starts at one second."""

    def __init__(self) -> None:
        self.time_ns = 1_000_000_000
        self._timers: list[tuple[int, int, FakeTimer]] = []
        self._order = itertools.count()

    def now_ns(self) -> int:
        return self.time_ns

    def wall_ns(self) -> int:
        return self.time_ns + 1_700_000_000_000_000_000

    def thread_ns(self) -> int:
        return self.time_ns

    def call_at_ns(self, when_ns, callback):
        timer = FakeTimer(callback)
        heapq.heappush(self._timers, (when_ns, next(self._order), timer))
        return timer

    @property
    def pending(self) -> int:
        """Timers that are set: neither fired nor cancelled."""
        return sum(not timer.cancelled for _, _, timer in self._timers)

    def advance(self, duration_ns: int) -> None:
        """Move on, firing timers at their own times."""
        end_ns = self.time_ns + duration_ns
        while self._timers and self._timers[0][0] <= end_ns:
            self.time_ns, _, timer = heapq.heappop(self._timers)
            if not timer.cancelled:
                timer.callback()
        self.time_ns = end_ns


class FakeTimer:
    """A timer of `FakeClock`."""

    def __init__(self, callback) -> None:
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
