"""Times counted in log-linear buckets, as HdrHistogram does: every bucket is at most 1/1024 as wide as its times.

A time of `t` ns below 2048 has a bucket of its own; above, the 1024 buckets of each power of two are equally wide. The
generator's kernel counts by the same rule (`bucket_of`), and a histogram travels as the buckets that are not empty.
"""

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

SUB_BITS = 10
"""log2 of the buckets per power of two."""
TIME_NS_MAX = (1 << 40) - 1
"""About 18 minutes; longer times count as this."""
BUCKETS = (40 - SUB_BITS + 1) << SUB_BITS
"""As many as there are up to `TIME_NS_MAX`."""


def buckets_of(times_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the bucket of each time; negative times count as 0."""
    times_ns = np.clip(times_ns, 0, TIME_NS_MAX)
    shift = np.maximum(np.frexp(times_ns.astype(np.float64))[1].astype(np.int64) - 1 - SUB_BITS, 0)
    buckets: NDArray[np.int64] = (shift << SUB_BITS) + (times_ns >> shift)
    return buckets


def middles_of(buckets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the middle of each bucket, in ns."""
    shift = np.maximum((buckets >> SUB_BITS) - 1, 0)
    lowest = (buckets - (shift << SUB_BITS)) << shift
    middles: NDArray[np.float64] = lowest + ((1 << shift) - 1) / 2
    return middles


@dataclass(slots=True)
class Histogram:
    """How many times fell into each bucket. `total_ns` and `max_ns` are exact."""

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BUCKETS, np.int64))
    total_ns: int = 0
    max_ns: int = 0

    @classmethod
    def of(cls, times_ns: NDArray[np.int64]) -> Self:
        """Count some times."""
        times_ns = np.clip(times_ns, 0, TIME_NS_MAX)
        counts = np.bincount(buckets_of(times_ns), minlength=BUCKETS).astype(np.int64)
        return cls(counts, int(times_ns.sum()), int(times_ns.max(initial=0)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as the buckets that are not empty."""
        filled = np.flatnonzero(self.counts)
        return _filled, (filled, self.counts[filled], self.total_ns, self.max_ns)

    @property
    def count(self) -> int:
        """How many times were counted."""
        return int(self.counts.sum())

    @property
    def mean_ns(self) -> float:
        """The mean; NaN when nothing was counted."""
        return self.total_ns / self.count if self.count else float("nan")

    def add(self, other: "Histogram") -> None:
        """Add what another histogram has counted."""
        self.counts += other.counts
        self.total_ns += other.total_ns
        self.max_ns = max(self.max_ns, other.max_ns)

    def quantile_ns(self, quantile: float) -> float:
        """Return the time below or at which a share of all times lies, to half a bucket; NaN when there is none.

        It is the smallest counted time with at least `quantile * count` times at or below it (the inverse of the
        empirical distribution), so that 0.99 of 100 times is the 99th.
        """
        count = self.count
        if not count:
            return float("nan")
        rank = max(1, int(np.ceil(quantile * count - 1e-9)))
        bucket = int(np.searchsorted(np.cumsum(self.counts), rank))
        return min(float(middles_of(np.array([bucket]))[0]), float(self.max_ns))

    def share_within(self, time_ns: float) -> float:
        """Return the share of times at or below a time, to a bucket; NaN when nothing was counted."""
        count = self.count
        last = int(buckets_of(np.array([int(min(time_ns, TIME_NS_MAX))]))[0])
        return int(self.counts[: last + 1].sum()) / count if count else float("nan")


def _filled(buckets: NDArray[np.int64], counts: NDArray[np.int64], total_ns: int, max_ns: int) -> Histogram:
    """Make a histogram of what has travelled."""
    histogram = Histogram(total_ns=total_ns, max_ns=max_ns)
    histogram.counts[buckets] = counts
    return histogram
