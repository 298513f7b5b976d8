"""Durations and counts of one servable, as plain integers that grow for ever, see `stages`.

All updates happen on the I/O thread, one call per batch; readers on that thread see whole
batches only.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from serving.statistics.stages import (
    BUCKETS,
    CARRY,
    CARRY_BITS,
    COLUMNS,
    COUNT,
    FIRST_OCTAVE,
    OCTAVES,
    PARTS_BITS,
    STAGES,
    TOTAL_NS,
    bucket_of,
    edges_ns,
)


def octave_edges_ns() -> list[int]:
    """Return the upper edges, in ns, of the buckets merged per power of two, as Prometheus shows them."""
    return [1 << (FIRST_OCTAVE + index) for index in range(OCTAVES + 1)]


class Histogram:
    """Counts per bucket and the exact sum of the durations: a row of COLUMNS integers."""

    __slots__ = ("_row",)

    def __init__(self, row: NDArray[np.int64] | None = None) -> None:
        self._row = np.zeros(COLUMNS, np.int64) if row is None else row

    @property
    def count(self) -> int:
        """How many durations were counted."""
        return int(self._row[COUNT])

    @property
    def total_ns(self) -> int:
        """Their sum."""
        return (int(self._row[CARRY]) << CARRY_BITS) + int(self._row[TOTAL_NS])

    @property
    def buckets(self) -> NDArray[np.int64]:
        """How many durations each bucket counts."""
        return self._row[:BUCKETS]

    def add(self, duration_ns: int, times: int = 1) -> None:
        """Count a duration that `times` requests had."""
        total_ns = self.total_ns + duration_ns * times
        self._row[bucket_of(duration_ns)] += times
        self._row[COUNT] += times
        self._row[CARRY], self._row[TOTAL_NS] = total_ns >> CARRY_BITS, total_ns & ((1 << CARRY_BITS) - 1)

    @classmethod
    def of(cls, buckets: NDArray[np.int64], total_ns: int) -> Self:
        """Make a histogram of counts [BUCKETS] and the sum of what they count."""
        row = np.zeros(COLUMNS, np.int64)
        row[:BUCKETS], row[COUNT] = buckets, buckets.sum()
        row[CARRY], row[TOTAL_NS] = total_ns >> CARRY_BITS, total_ns & ((1 << CARRY_BITS) - 1)
        return cls(row)

    def quantile_ns(self, quantile: float) -> float:
        """Return what so many of the durations lie below, taken as even within a bucket; NaN without any."""
        if not self.count:
            return math.nan
        below, rank = np.cumsum(self.buckets), max(1.0, quantile * self.count)
        bucket = int(np.searchsorted(below, rank))
        within = (rank - (int(below[bucket]) - int(self.buckets[bucket]))) / int(self.buckets[bucket])
        return float(_EDGES_NS[bucket] + within * (_EDGES_NS[bucket + 1] - _EDGES_NS[bucket]))

    def since(self, earlier: "Histogram") -> "Histogram":
        """Return what was counted after an earlier copy; all of it when the earlier one has counted something else."""
        buckets, total_ns = self.buckets - earlier.buckets, self.total_ns - earlier.total_ns
        if total_ns < 0 or (buckets < 0).any():
            return self.copy()
        return Histogram.of(buckets, total_ns)

    def copy(self) -> "Histogram":
        """Return an independent histogram of the same counts."""
        return Histogram(self._row.copy())

    def cumulative_by_octave(self) -> list[int]:
        """Return how many durations lie below each of `octave_edges_ns`."""
        below = np.cumsum(self.buckets)[:: 1 << PARTS_BITS].tolist()
        below[-1] -= int(self.buckets[-1])  # the last bucket is open above
        counts: list[int] = below
        return counts


_EDGES_NS = np.array(edges_ns(), np.float64)


@dataclass(slots=True)
class Duration:
    """How often, and how long in all."""

    count: int = 0
    total_ns: int = 0

    def add(self, duration_ns: int, times: int = 1) -> None:
        """Count a duration that happened `times` times."""
        self.count += times
        self.total_ns += duration_ns * times


@dataclass(slots=True)
class BatchStatistics:
    """Durations of the executed batches of one size."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


class BatchTimes(NamedTuple):
    """When a batch was taken, in monotonic ns, and how long its steps took, over all its runs.

    `rows` and `reruns` are counts.
    """

    rows: int
    taken_ns: int
    input_ns: int
    infer_ns: int
    output_ns: int
    reruns: int


class Answered(NamedTuple):
    """The requests of a batch that get outputs: when they came, how many each time, and their rows in all.

    `missed` requests are answered too late for the model's target.
    """

    arrivals: Sequence[tuple[int, int]]
    rows: int
    missed: int = 0


CountBatch = Callable[[NDArray[np.int64], NDArray[np.int64], int, int, int, int, int], None]
"""Counts a batch, see `stage_kernel.count_batch`."""


def count_plainly(
    stages: NDArray[np.int64], arrivals: NDArray[np.int64], taken_ns: int, now_ns: int,
    input_ns: int, infer_ns: int, output_ns: int,
) -> None:  # fmt: skip
    """Do what the kernel does, where there is no numba."""
    request, queue, *steps = (Histogram(row) for row in stages)
    requests = 0
    for arrival_ns, count in arrivals.tolist():
        request.add(now_ns - arrival_ns, count)
        queue.add(taken_ns - arrival_ns, count)
        requests += count
    for step, duration_ns in zip(steps, (input_ns, infer_ns, output_ns), strict=True):
        step.add(duration_ns, requests)


class ServableStatistics:
    """What one servable did. Lives on the I/O thread. `count_batch` counts, in plain Python unless it is the kernel."""

    def __init__(self, count_batch: CountBatch = count_plainly) -> None:
        self._count_batch = count_batch
        self._stages = np.zeros((len(STAGES), COLUMNS), np.int64)
        self.stages = {stage: Histogram(row) for stage, row in zip(STAGES, self._stages, strict=True)}
        self.fail = Duration()
        self.batches: dict[int, BatchStatistics] = {}
        self.inference_count = 0
        self.execution_count = 0
        self.rerun_count = 0
        self.missed_count = 0
        self.dead_rows = 0
        self.last_inference_ms = 0

    def batch_done(self, times: BatchTimes, answered: Answered, *, now_ns: int, wall_ns: int) -> None:
        """Count one executed batch, whose `answered` requests are being given their outputs now."""
        arrivals = np.array(answered.arrivals, np.int64).reshape(-1, 2)
        self._count_batch(
            self._stages, arrivals, times.taken_ns, now_ns, times.input_ns, times.infer_ns, times.output_ns
        )
        by_rows = self.batches.get(times.rows)
        if by_rows is None:
            by_rows = self.batches[times.rows] = BatchStatistics()
        by_rows.compute_input.add(times.input_ns)
        by_rows.compute_infer.add(times.infer_ns)
        by_rows.compute_output.add(times.output_ns)
        self.inference_count += answered.rows
        self.execution_count += 1 + times.reruns
        self.rerun_count += times.reruns
        self.missed_count += answered.missed
        self.last_inference_ms = wall_ns // 1_000_000

    def batches_by_rows(self) -> dict[int, int]:
        """Return how many batches of each size have answered a request."""
        return {rows: entry.compute_infer.count for rows, entry in self.batches.items()}

    def empty_done(self, duration_ns: int) -> None:
        """Count a request of zero rows, which is answered without waiting or running."""
        for stage in STAGES:
            self.stages[stage].add(duration_ns if stage == "request" else 0)

    def failed(self, duration_ns: int, requests: int = 1) -> None:
        """Count requests that reached this servable and were not answered with outputs."""
        self.fail.add(duration_ns, requests)
