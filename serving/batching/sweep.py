"""How long batches of each size take, measured before anybody waits: the warm-up of every size, and the first estimate.

Sizes run from the smallest up, each a few times. The sweep ends where the next size would leave its bounds of time and
memory, judged by how the sizes before it grew. Pure but for the runs: clock and memory are handed in.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

RUNS = 3
"""Runs per size. The first one tells nothing: buffers of a new size are made then."""
SWEEP_NS_MAX = 1_000_000_000
"""So long a sweep may take, roughly: a run that has begun is not broken off."""
MEMORY_SHARE = 0.25
"""A batch may need this part of the memory that is free when it is measured."""

Sample = tuple[int, float]
"""Rows, and how long a batch of so many takes, in ns."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a sweep measures with: a run of so many rows, the clock in ns, memory in use and to be had in bytes."""

    run: Callable[[int], object]
    now_ns: Callable[[], int]
    resident_bytes: Callable[[], int]
    available_bytes: Callable[[], int]


def sweep(probe: Probe, sizes: Sequence[int], *, one_row_ns: float = 0.0) -> list[Sample]:
    """Return a sample per size that was run. Raises what a run raises.

    `one_row_ns` is how long one row is known to take, padded to the first size if that is larger; if it is long, it is
    taken as it is, and nothing is run.
    """
    samples: list[Sample] = []
    if RUNS * one_row_ns > SWEEP_NS_MAX:
        return [(sizes[0], one_row_ns)]
    began_ns, resident_at_first = probe.now_ns(), probe.resident_bytes()
    for rows in sizes:
        spent_ns = probe.now_ns() - began_ns
        if samples:
            rows_before, ns_before = samples[-1]
            expected_ns = RUNS * ns_before * rows / rows_before
            grown_bytes = max(0, probe.resident_bytes() - resident_at_first)
            needs_bytes = grown_bytes * rows / rows_before
            if spent_ns + expected_ns > SWEEP_NS_MAX or needs_bytes > MEMORY_SHARE * probe.available_bytes():
                break
        samples.append((rows, _shortest_ns(probe, rows)))
    return samples


def ended_by_time(samples: Sequence[Sample], next_rows: int) -> bool:
    """Say whether a sweep that found these samples ended for want of time and not of memory, roughly."""
    rows, last_ns = samples[-1]
    return RUNS * (sum(ns for _, ns in samples) + last_ns * next_rows / rows) > SWEEP_NS_MAX / 2


def _shortest_ns(probe: Probe, rows: int) -> float:
    """Return how long a batch takes undisturbed: the shortest of its runs but the first, if there are more."""
    times_ns: list[int] = []
    for _ in range(RUNS):
        started_ns = probe.now_ns()
        probe.run(rows)
        times_ns.append(probe.now_ns() - started_ns)
        if times_ns[-1] > SWEEP_NS_MAX:
            break
    return float(min(times_ns[1:] or times_ns))
