"""Durations and counts of one servable, as plain integers that grow for ever.

Buckets are log-linear: each power of two from 1 us to 137 s is cut into 16 equal parts, so a bucket's middle is within
3.2 % of every value in it. All updates happen on the I/O thread, one call per batch; readers on that thread see whole
batches only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

_PARTS_BITS = 4
_FIRST_OCTAVE = 10  # 2**10 ns, just above 1 us
_OCTAVES = 27
BUCKETS = 1 + (_OCTAVES << _PARTS_BITS)
"""Bucket 0 holds everything below 1.024 us, the last bucket everything above its lower edge."""


def bucket_of(duration_ns: int) -> int:
    """Return the bucket that counts `duration_ns`."""
    octave = duration_ns.bit_length() - 1
    if octave < _FIRST_OCTAVE:
        return 0
    part = (duration_ns >> (octave - _PARTS_BITS)) - (1 << _PARTS_BITS)
    return min(BUCKETS - 1, 1 + ((octave - _FIRST_OCTAVE) << _PARTS_BITS) + part)


def octave_edges_ns() -> list[int]:
    """Return the upper edges, in ns, of the buckets merged per power of two, as Prometheus shows them."""
    return [1 << (_FIRST_OCTAVE + index) for index in range(_OCTAVES + 1)]


class Histogram:
    """Counts per bucket and the exact sum of the durations."""

    __slots__ = ("buckets", "count", "total_ns")

    def __init__(self) -> None:
        self.buckets = [0] * BUCKETS
        self.count = 0
        self.total_ns = 0

    def add(self, duration_ns: int, times: int = 1) -> None:
        """Count a duration that `times` requests had."""
        self.buckets[bucket_of(duration_ns)] += times
        self.count += times
        self.total_ns += duration_ns * times

    def copy(self) -> "Histogram":
        """Return an independent histogram of the same counts."""
        twin = Histogram()
        twin.buckets, twin.count, twin.total_ns = self.buckets.copy(), self.count, self.total_ns
        return twin

    def cumulative_by_octave(self) -> list[int]:
        """Return how many durations lie below each of `octave_edges_ns`."""
        parts = 1 << _PARTS_BITS
        total = self.buckets[0]
        counts = [total]
        for start in range(1, BUCKETS, parts):
            total += sum(self.buckets[start : start + parts])
            counts.append(total)
        counts[-1] -= self.buckets[-1]  # the last bucket is open above
        return counts


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


@dataclass(frozen=True, slots=True)
class BatchTimes:
    """When a batch was taken, in monotonic ns, and how long its steps took, over all its runs.

    `rows` and `reruns` are counts.
    """

    rows: int
    taken_ns: int
    input_ns: int
    infer_ns: int
    output_ns: int
    reruns: int


@dataclass(frozen=True, slots=True)
class Answered:
    """The requests of a batch that get outputs: when they came, how many each time, and their rows in all.

    `missed` requests are answered too late for the model's target.
    """

    arrivals: Sequence[tuple[int, int]]
    rows: int
    missed: int = 0


STAGES = ("request", "queue", "compute_input", "compute_infer", "compute_output")


class ServableStatistics:
    """What one servable did. Lives on the I/O thread."""

    def __init__(self) -> None:
        self.stages = {stage: Histogram() for stage in STAGES}
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
        requests = 0
        for arrival_ns, count in answered.arrivals:
            self.stages["queue"].add(times.taken_ns - arrival_ns, count)
            self.stages["request"].add(now_ns - arrival_ns, count)
            requests += count
        self.stages["compute_input"].add(times.input_ns, requests)
        self.stages["compute_infer"].add(times.infer_ns, requests)
        self.stages["compute_output"].add(times.output_ns, requests)
        by_rows = self.batches.setdefault(times.rows, BatchStatistics())
        by_rows.compute_input.add(times.input_ns)
        by_rows.compute_infer.add(times.infer_ns)
        by_rows.compute_output.add(times.output_ns)
        self.inference_count += answered.rows
        self.execution_count += 1 + times.reruns
        self.rerun_count += times.reruns
        self.missed_count += answered.missed
        self.last_inference_ms = wall_ns // 1_000_000

    def empty_done(self, duration_ns: int) -> None:
        """Count a request of zero rows, which is answered without waiting or running."""
        for stage in STAGES:
            self.stages[stage].add(duration_ns if stage == "request" else 0)

    def failed(self, duration_ns: int, requests: int = 1) -> None:
        """Count requests that reached this servable and were not answered with outputs."""
        self.fail.add(duration_ns, requests)
