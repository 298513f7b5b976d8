"""How sure a slice makes us that p99 <= X: the share of requests over X, and what its neighbours are worth.

p99 <= X holds when at most 1 % of requests take longer than X, so the number of those is what counts, and no quantile
is estimated. It would be binomial if requests were independent. They are not: a request that waits long has neighbours
that wait long. The *design effect* says by how much the share varies more from one stretch of the slice to the next
than independent requests would (the ratio estimator of cluster sampling; Kish, Survey Sampling, chapter 5), and as
many times fewer are the requests that the slice is worth. With these, Wilson's score interval decides.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from bench.slices import Interval, Recording

SHARE_MAX = 0.01
"""Of requests over X that p99 <= X allows."""
CONFIDENCE = 0.95
BLOCKS_MIN = 8
"""Stretches of a slice from which a variance is estimated."""
QUIET_DESIGN_EFFECT = 5.0
"""Of a slice with too few requests over X to estimate it; rather high, so that it decides rather late."""
OVER_MIN = 10


@dataclass(frozen=True, slots=True)
class TailShare:
    """Requests of a slice, those of them over X (too late, or failed), and how far their number varies.

    `counts`, shape (intervals, 2), holds the requests that ended in each interval and those of them over X.
    """

    requests: int
    over: int
    design_effect: float
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, recording: Recording) -> "TailShare":
        """Count a slice whose `slo_ms` is X. Errors, and requests without an answer, are over X."""
        counts = np.array([_counts(interval) for interval in recording.intervals], np.int64).reshape(-1, 2)
        lost = recording.unanswered + recording.unsent
        requests, over = (int(total) + lost for total in counts.sum(axis=0))
        return cls(requests, over, _design_effect(counts), counts)

    @property
    def share(self) -> float:
        """The share of requests over X; 1 when there were none, since nothing shows that it is less."""
        return self.over / self.requests if self.requests else 1.0

    @property
    def effective_requests(self) -> float:
        """How many independent requests would say as much."""
        return self.requests / self.design_effect

    def interval(self) -> tuple[float, float]:
        """Return the interval of the share: Wilson's score interval of the effective requests."""
        count, share = self.effective_requests, self.share
        if not count:
            return 0.0, 1.0
        z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
        middle = (share + z * z / (2 * count)) / (1 + z * z / count)
        half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
        return max(0.0, middle - half), min(1.0, middle + half)

    def passes(self) -> bool | None:
        """Return whether p99 <= X, or None when the slice leaves it open."""
        low, high = self.interval()
        if low > SHARE_MAX:
            return False
        return True if high < SHARE_MAX else None


def _counts(interval: Interval) -> tuple[int, int]:
    """Return the requests that ended in an interval, and those over X."""
    failed = interval.errors.total()
    return interval.answered + failed, interval.answered - interval.in_slo + failed


def _design_effect(counts: NDArray[np.int64]) -> float:
    """Return the largest design effect over stretches of one, two, four... intervals; at least 1."""
    requests, over = counts.sum(axis=0)
    if not OVER_MIN <= over <= requests - OVER_MIN:
        return QUIET_DESIGN_EFFECT
    effects = [1.0]
    length = 1
    while len(counts) // length >= BLOCKS_MIN:
        effects.append(_effect_of_blocks(blocks(counts, length)))
        length *= 2
    return max(effects)


def blocks(counts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Add up `length` intervals each; what is left over at the end is dropped."""
    whole = len(counts) // length * length
    sums: NDArray[np.int64] = counts[:whole].reshape(-1, length, 2).sum(axis=1)
    return sums


def _effect_of_blocks(counted: NDArray[np.int64]) -> float:
    requests, over = counted.sum(axis=0)
    if not 0 < over < requests:
        return 1.0
    share = over / requests
    residuals = counted[:, 1] - share * counted[:, 0]
    variance = len(counted) / (len(counted) - 1) * float(residuals @ residuals) / requests**2
    return float(variance / (share * (1 - share) / requests))
