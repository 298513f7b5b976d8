"""The kernels' counters, read off as intervals. Knows the shared row and the clock of the thread's CPU time."""

import time

from bench.histogram import Histogram
from bench.slices import Interval
from serving.wire.client.layout import (
    LAGS,
    LATENCIES,
    X_CODES,
    X_COUNTERS,
    X_IN_SLO,
    X_LAG_MAX_NS,
    X_LAG_TOTAL_NS,
    X_LATENCY_MAX_NS,
    X_LATENCY_TOTAL_NS,
    X_SENT,
    State,
)
from serving.wire.client.tally import CODE_NAMES

INTERVAL_NS = 250_000_000


class Meter:
    """Cuts a slice into intervals, from its first counted moment `zero_ns` on. One thread, the one that works.

    `next_ns` is when it wants to be asked next: first when counting begins, then every INTERVAL_NS.
    """

    def __init__(self, state: State, zero_ns: int) -> None:
        self._state = state
        self._zero_ns = zero_ns
        self._begin_ns: int | None = None
        self._cpu_ns = 0
        self.next_ns = zero_ns
        self._clear()

    def read(self, now_ns: int) -> Interval | None:
        """Return what was counted since the last reading; None before counting has begun."""
        self.next_ns += INTERVAL_NS * max(1, -(-(now_ns + 1 - self.next_ns) // INTERVAL_NS))
        begin_ns, cpu_ns = self._begin_ns, self._cpu_ns
        self._cpu_ns = time.thread_time_ns()
        if begin_ns is None:
            self._begin_ns = self._zero_ns
            return None
        self._begin_ns = now_ns
        interval = self._interval(begin_ns, now_ns)
        interval.busy_s = (self._cpu_ns - cpu_ns) / 1e9
        self._clear()
        return interval

    def _interval(self, begin_ns: int, end_ns: int) -> Interval:
        shared = self._state.shared
        codes = dict(zip(CODE_NAMES, shared[X_CODES:].tolist(), strict=True))
        interval = Interval(
            (begin_ns - self._zero_ns) / 1e9,
            (end_ns - self._zero_ns) / 1e9,
            sent=int(shared[X_SENT]),
            answered=codes.pop("OK"),
            in_slo=int(shared[X_IN_SLO]),
            latency=self._histogram(LATENCIES, X_LATENCY_TOTAL_NS, X_LATENCY_MAX_NS),
            lag=self._histogram(LAGS, X_LAG_TOTAL_NS, X_LAG_MAX_NS),
        )
        interval.errors.update({name: count for name, count in codes.items() if count})
        return interval

    def _histogram(self, row: int, total: int, highest: int) -> Histogram:
        return Histogram(
            self._state.counts[row].copy(), int(self._state.shared[total]), int(self._state.shared[highest])
        )

    def _clear(self) -> None:
        self._state.shared[slice(*X_COUNTERS)] = 0
        self._state.counts[:] = 0
