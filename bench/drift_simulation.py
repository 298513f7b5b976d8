"""When the drift detector alarms, in simulation: `python -m bench.drift_simulation`.

Three questions, each with independent streams of panes of 100 rows and a reference of 10,000: how many panes pass until
a shift is found (tolerance 0), how often a stream without drift alarms, and what clusters of rows do to that before and
after calibration.
"""

import argparse
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.config import CALIBRATION_PANES_MIN
from serving.statistics.drift.calibration import design_effects
from serving.statistics.drift.detector import Detector, log_sum_exp
from serving.statistics.drift.evidence import Reference
from serving.statistics.drift.radius import DELTA, radii

REFERENCE_ROWS = 10_000
PANE_ROWS = 100
ALARM = 1_000.0
STATED = {16: {0.5: 3, 0.3: 9, 0.2: 24}, 36: {0.5: 6, 0.3: 24, 0.2: 96}}
"""Panes until a shift of so many sigma is found, by the number of slots: one feature, and one of 30 in the mean."""

Probabilities = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class World:
    """`streams` of `features` normally distributed numbers, each cut into `slots` by quantiles of its own reference."""

    streams: int
    features: int
    slots: int
    edges: NDArray[np.float64]
    detector: Detector

    @classmethod
    def make(cls, streams: int, features: int, slots: int, rng: np.random.Generator) -> "World":
        """Draw the references, and set a detector up for all streams side by side."""
        both = streams * features
        cuts = (np.arange(1, slots) * REFERENCE_ROWS) // slots
        edges = np.sort(rng.normal(size=(both, REFERENCE_ROWS)), axis=1)[:, cuts]
        counts = np.diff(np.concatenate([[0], cuts, [REFERENCE_ROWS]]))
        radius = radii(np.tile(counts, (features, 1)))[0]
        reference = Reference.of(np.tile(counts, (both, 1)), np.full(both, slots), np.full(both, radius))
        return cls(streams, features, slots, edges, Detector(reference))

    def probabilities(self, sigma: float) -> Probabilities:
        """Return where rows fall when the first feature of every stream is shifted."""
        shift = np.zeros((self.streams, self.features, 1))
        shift[:, 0] = sigma
        below = _normal(self.edges - shift.reshape(-1, 1))
        whole = np.concatenate([np.zeros((len(below), 1)), below, np.ones((len(below), 1))], axis=1)
        return np.diff(whole, axis=1)

    def alarms(self, logs: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
        """Return which streams alarm: where the mean over features reaches the threshold."""
        by_stream = logs.reshape(self.streams, self.features).T
        alarmed: NDArray[np.bool_] = log_sum_exp(by_stream) - math.log(self.features) >= math.log(threshold)
        return alarmed


def delays(
    world: World, sigma: float, *, quiet_panes: int, panes_max: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return how many panes after its beginning each stream's shift is found; `panes_max` + 1 where it is not."""
    quiet, shifted = world.probabilities(0.0), world.probabilities(sigma)
    for _ in range(quiet_panes):
        world.detector.add(rng.multinomial(PANE_ROWS, quiet).astype(np.float64))
    found = np.full(world.streams, panes_max + 1)
    for pane in range(1, panes_max + 1):
        alarmed = world.alarms(world.detector.add(rng.multinomial(PANE_ROWS, shifted).astype(np.float64)), ALARM)
        found[alarmed & (found > panes_max)] = pane
        if (found <= panes_max).all():
            break
    return found


def false_alarms(
    world: World, *, panes: int, threshold: float, rng: np.random.Generator, cluster_rows: int = 1,
    calibrated: bool = False,
) -> tuple[int, int]:  # fmt: skip
    """Return how many streams without drift alarm, and how many panes they were at risk until then."""
    p = world.probabilities(0.0)

    def pane() -> NDArray[np.int64]:
        return rng.multinomial(PANE_ROWS // cluster_rows, p) * cluster_rows

    effect = np.ones(len(p))
    if calibrated:
        effect = design_effects(np.stack([pane() for _ in range(CALIBRATION_PANES_MIN)]))
    at_risk = np.ones(world.streams, np.bool_)
    panes_at_risk = alarms = 0
    for _ in range(panes):
        panes_at_risk += int(at_risk.sum())
        alarmed = world.alarms(world.detector.add(pane() / effect[:, None]), threshold) & at_risk
        alarms += int(alarmed.sum())
        at_risk &= ~alarmed
    return alarms, panes_at_risk


def print_delays(slots: int, features: int, streams: int, quiet_panes: int) -> None:
    """Print a row of the table beside what is stated."""
    for sigma, stated in STATED[slots].items():
        rng = np.random.default_rng(int(sigma * 100))
        world = World.make(streams, features, slots, rng)
        found = delays(world, sigma, quiet_panes=quiet_panes, panes_max=4 * stated, rng=rng)
        missed = int((found > 4 * stated).sum())
        tail = f", {missed} of {streams} not within {4 * stated}" if missed else ""
        print(
            f"{features:2} features of {slots} slots, shift {sigma} sigma after {quiet_panes:3} panes: found in "
            f"{found.mean():5.1f} panes (median {np.median(found):.0f}), stated {stated}{tail}",
            flush=True,
        )


def print_false_alarms(streams: int, panes: int) -> None:
    """Print how often streams without drift alarm, for several thresholds."""
    for name, options in {
        "independent rows": {},
        "clusters of five, as if independent": {"cluster_rows": 5},
        "clusters of five, calibrated": {"cluster_rows": 5, "calibrated": True},
    }.items():
        for threshold in (20.0, ALARM):
            rng = np.random.default_rng(11)
            world = World.make(streams, 1, 16, rng)
            alarms, at_risk = false_alarms(world, panes=panes, threshold=threshold, rng=rng, **options)  # type: ignore[arg-type]
            print(
                f"{name}, A = {threshold:g}: {alarms} of {streams} streams alarmed, once in "
                f"{at_risk / max(1, alarms):,.0f} panes{' or less often' if not alarms else ''} "
                f"({at_risk:,} panes; guaranteed for independent rows: at most once in {threshold:g}, "
                f"but for a chance of {DELTA})",
                flush=True,
            )


def main() -> None:
    """Print all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=200, help="independent streams of one feature")
    parser.add_argument("--wide-streams", type=int, default=16, help="independent streams of 30 features")
    parser.add_argument("--panes", type=int, default=600, help="panes without drift per stream")
    options = parser.parse_args()
    for quiet_panes in (0, 200):
        print_delays(16, 1, options.streams, quiet_panes)
    print_delays(36, 30, options.wide_streams, 0)
    print_false_alarms(options.streams, options.panes)


def _normal(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the standard normal distribution function."""
    erf = np.vectorize(math.erf, otypes=[np.float64])
    result: NDArray[np.float64] = 0.5 * (1.0 + erf(x / math.sqrt(2.0)))
    return result


if __name__ == "__main__":
    main()
