"""Every policy on one workload, and whether ours keeps the rules of comparison.

The rules: goodput under the objective within 5 % of the best fixed window, chosen in hindsight for each workload, on
median, and within 10 % at worst; never more than 2 % below natural batching; ahead of AIMD and of BentoML on median.
Rivals that are compared drop early and refuse at the door as ours does; as published they are shown beside.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.simulation.engine import BATCH_COUNT, BUSY_NS, LARGEST, simulate
from bench.simulation.workloads import ROWS_MAX, Workload
from bench.simulation.world import AIMD, BENTO, DROPPED, OURS, REFUSED, WINDOW, Floats, Rival, World

DELAYS_MS = (0.0, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
CAPS = tuple(1 << power for power in range(9))

NAMED = {
    "none": Rival(WINDOW, 1, 0.0, guarded=True),
    "natural": Rival(WINDOW, ROWS_MAX, 0.0, guarded=True),
    "aimd": Rival(AIMD, ROWS_MAX, 0.0, guarded=True),
    "bentoml": Rival(BENTO, ROWS_MAX, 0.0, guarded=True),
}
OURS_RIVAL = Rival(OURS, ROWS_MAX, 0.0, guarded=True)
MEDIAN_BELOW_MAX, WORST_BELOW_MAX, BELOW_NATURAL_MAX = 0.05, 0.10, 0.02


@dataclass(frozen=True, slots=True)
class Score:
    """What a policy reached, as means over seeds: `goodput` is the part of all requests answered within the objective.

    `mean_ms` and `p99_ms` are of answered requests; `refused` and `dropped` are parts of all requests; `largest` is
    the largest batch, `used` the part of the instances' time that batches took.
    """

    goodput: float
    mean_ms: float
    p99_ms: float
    refused: float
    dropped: float
    rows_per_batch: float
    used: float
    largest: float


@dataclass(frozen=True, slots=True)
class Row:
    """One workload: the scores by policy, and which window was the best one."""

    workload: Workload
    scores: dict[str, Score]
    best_window: tuple[float, int]

    def ratio(self, other: str) -> float:
        """Return our goodput over another policy's."""
        theirs = self.scores[other].goodput
        return self.scores["ours"].goodput / theirs if theirs > 0.0 else 1.0


def judge(workload: Workload, *, seeds: int, requests: int, hard: bool) -> Row:
    """Run all policies on the same arrivals."""
    worlds = [workload.world(seed=seed, requests=requests, hard=hard) for seed in range(seeds)]
    scores = {"ours": score(worlds, OURS_RIVAL)}
    for name, rival in NAMED.items():
        scores[name] = score(worlds, rival)
        scores[f"{name}, as published"] = score(worlds, rival._replace(guarded=False))
    scores["window"], best = _best_window(worlds)
    return Row(workload, scores, best)


def score(worlds: Sequence[World], rival: Rival) -> Score:
    """Run one policy in all worlds; return the means."""
    runs = [simulate(world, rival) for world in worlds]
    return Score(*np.mean([_numbers(world, *run) for world, run in zip(worlds, runs, strict=True)], axis=0).tolist())


def _numbers(world: World, latency_ns: Floats, totals: Floats) -> tuple[float, ...]:
    """Return what a score holds, in its order."""
    answered = latency_ns[latency_ns >= 0.0]
    count, batches = latency_ns.size, max(1.0, totals[BATCH_COUNT])
    ends_ns = world.times_ns[-1] + max(0.0, float(latency_ns[-1]))
    return (
        float((answered <= world.slack_ns).sum()) / count,
        float(answered.mean()) / 1e6 if answered.size else 0.0,
        float(np.quantile(answered, 0.99)) / 1e6 if answered.size else 0.0,
        float((latency_ns == REFUSED).sum()) / count,
        float((latency_ns == DROPPED).sum()) / count,
        answered.size / batches,
        min(1.0, totals[BUSY_NS] / (ends_ns * world.instances)),
        totals[LARGEST],
    )


def _best_window(worlds: Sequence[World]) -> tuple[Score, tuple[float, int]]:
    """Return the best fixed window in hindsight, as (ms, rows)."""
    best, best_window = score(worlds, NAMED["none"]), (0.0, 1)
    for delay_ms in DELAYS_MS:
        for cap in CAPS[1:]:
            found = score(worlds, Rival(WINDOW, cap, delay_ms * 1e6, guarded=True))
            if found.goodput > best.goodput:
                best, best_window = found, (delay_ms, cap)
            if found.largest * len(worlds) < cap and found.refused == 0.0:
                break  # no batch was full and nobody was refused, so a larger batch would change nothing
    return best, best_window


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of the rules, over some workloads: our goodput over the others'."""

    window_median: float
    window_worst: float
    natural_worst: float
    aimd_median: float
    bentoml_median: float

    @property
    def kept(self) -> bool:
        """Whether all rules hold."""
        return (
            self.window_median >= 1.0 - MEDIAN_BELOW_MAX
            and self.window_worst >= 1.0 - WORST_BELOW_MAX
            and self.natural_worst >= 1.0 - BELOW_NATURAL_MAX
            and self.aimd_median >= 1.0
            and self.bentoml_median >= 1.0
        )


def verdict(rows: Sequence[Row]) -> Verdict:
    """Apply the rules."""
    return Verdict(
        window_median=statistics.median(row.ratio("window") for row in rows),
        window_worst=min(row.ratio("window") for row in rows),
        natural_worst=min(row.ratio("natural") for row in rows),
        aimd_median=statistics.median(row.ratio("aimd") for row in rows),
        bentoml_median=statistics.median(row.ratio("bentoml") for row in rows),
    )
