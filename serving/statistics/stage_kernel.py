"""A batch into the histograms of its stages, in one compiled call. It knows their layout alone, and brings numba."""

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
)
from serving.wire.compiler import kernel, part

_REQUEST, _QUEUE, _INPUT, _INFER, _OUTPUT = range(len(STAGES))


@part
def bucket_of(duration_ns: int) -> int:
    """Return the bucket that counts a duration."""
    if duration_ns < 1 << FIRST_OCTAVE:
        return 0
    octave = FIRST_OCTAVE
    while octave < FIRST_OCTAVE + OCTAVES and duration_ns >> (octave + 1):
        octave += 1
    part_of = (duration_ns >> (octave - PARTS_BITS)) - (1 << PARTS_BITS)
    return min(BUCKETS - 1, 1 + ((octave - FIRST_OCTAVE) << PARTS_BITS) + part_of)


@part
def add(histogram: NDArray[np.int64], duration_ns: int, times: int) -> None:
    """Count a duration that `times` requests had; all of one call sum up to less than 2**CARRY_BITS ns."""
    histogram[bucket_of(duration_ns)] += times
    histogram[COUNT] += times
    histogram[TOTAL_NS] += duration_ns * times
    if histogram[TOTAL_NS] >> CARRY_BITS > 0:
        histogram[CARRY] += 1
        histogram[TOTAL_NS] -= 1 << CARRY_BITS


@kernel("void(i8[:, ::1], i8[:, ::1], i8, i8, i8, i8, i8)")
def count_batch(
    stages: NDArray[np.int64],
    arrivals: NDArray[np.int64],
    taken_ns: int,
    now_ns: int,
    input_ns: int,
    infer_ns: int,
    output_ns: int,
) -> None:
    """Count the requests of a batch in the histograms of STAGES.

    arrivals[:, 0] is when some came, in monotonic ns, and arrivals[:, 1] how many of them. The batch was taken and is
    answered at the given times, and its steps took so long, which each of its requests has waited for.
    """
    assert stages.shape[0] == _OUTPUT + 1, "bug: there is a histogram per stage"
    assert stages.shape[1] == COLUMNS, "bug: these are no histograms"
    assert arrivals.shape[1] == 2, "bug: these are no arrivals"
    requests = 0
    for k in range(arrivals.shape[0]):
        arrival_ns, count = arrivals[k, 0], arrivals[k, 1]
        add(stages[_REQUEST], now_ns - arrival_ns, count)
        add(stages[_QUEUE], taken_ns - arrival_ns, count)
        requests += count
    add(stages[_INPUT], input_ns, requests)
    add(stages[_INFER], infer_ns, requests)
    add(stages[_OUTPUT], output_ns, requests)
