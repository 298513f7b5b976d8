"""Whether B is slower than A, and by how much: pairs of slices in turn, and an interval that the noise has been put in.

Requests of one slice share the same moment of the machine, so they are no independent observations, and a test over
requests finds differences in noise. Here a *pair of slices* is one observation: its ratio B / A. Pairs run in the order
A B, B A, A B, ... so that a drift of the machine falls on either side alike, and both slices of a pair send at the same
intended moments. The estimate is the geometric mean of the ratios; its 95 % interval comes from a studentized bootstrap
over pairs (Efron and Tibshirani, An Introduction to the Bootstrap, 12.5), which for few observations covers better than
percentiles do. When the interval contains 1, no difference is shown.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.outcome import Outcome
from bench.slices import Measure, OpenLoop, Slice
from serving.errors import ConfigError

PAIRS_MIN = 20
PAIRS_MAX = 10_000
CONFIDENCE = 0.95
RESAMPLES = 10_000
FIGURES: Mapping[str, Callable[[Outcome], float]] = {
    "latency mean": lambda outcome: outcome.latency_us.mean,
    "latency p50": lambda outcome: outcome.latency_us.p50,
    "latency p99": lambda outcome: outcome.latency_us.p99,
    "throughput": lambda outcome: outcome.throughput_rps,
}
"""What is compared: a positive number of each slice."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What A and B have shown side by side."""

    a: Outcome
    b: Outcome


@dataclass(frozen=True, slots=True)
class Ratio:
    """B / A of one figure, and the interval that holds it with 95 % confidence."""

    figure: str
    estimate: float
    low: float
    high: float

    @property
    def shows_difference(self) -> bool:
        """Whether the interval excludes 1."""
        return not self.low <= 1 <= self.high

    def verdict(self) -> str:
        """Say it in a sentence."""
        low, high = (_percent(end) for end in (self.low, self.high))
        if not self.shows_difference:
            return f"{self.figure}: no difference shown (B is between {low} and {high} of A)"
        word = "higher" if self.estimate > 1 else "lower"
        return f"{self.figure}: B is {abs(self.estimate - 1):.1%} {word} (between {low} and {high} of A)"


@dataclass(frozen=True, slots=True)
class Comparison:
    """All pairs, and the ratio of each figure; no ratios from fewer than two pairs.

    `failure` says why it ended before its time; the pairs before are kept.
    """

    pairs: tuple[Pair, ...]
    ratios: tuple[Ratio, ...]
    failure: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON holds it."""
        return {
            "pairs": [{"a": pair.a.to_json(), "b": pair.b.to_json()} for pair in self.pairs],
            "ratios": [dataclasses.asdict(item) | {"shows_difference": item.shows_difference} for item in self.ratios],
            "failure": self.failure,
        }


def compare(
    measure: Measure,
    a: Slice,
    *,
    b: Slice,
    pairs: int = PAIRS_MIN,
    rows: int = 1,
    seed: int = 0,
    on_pair: Callable[[Pair], None] = lambda _: None,
) -> Comparison:
    """Measure A and B in `pairs` pairs. Raises ConfigError for too few pairs to say anything."""
    if not PAIRS_MIN <= pairs <= PAIRS_MAX:
        raise ConfigError(
            f"pairs = {pairs}, expected {PAIRS_MIN} to {PAIRS_MAX}; with fewer, chance looks like a change"
        )
    done: list[Pair] = []
    failure = None
    for number in range(pairs):
        sides = [_numbered(a, number), _numbered(b, number)]
        order = [0, 1] if number % 2 == 0 else [1, 0]
        outcomes: dict[int, Outcome] = {}
        for side in order:
            outcomes[side] = Outcome.of(measure(sides[side]), rows)
            if failure := _failure(outcomes[side], "AB"[side], number):
                break
        if failure:
            break
        done.append(Pair(outcomes[0], outcomes[1]))
        on_pair(done[-1])
    return Comparison(tuple(done), tuple(ratios(done, seed)), failure)


def ratios(pairs: list[Pair], seed: int) -> list[Ratio]:
    """Return the ratio of each figure over pairs; none from fewer than two."""
    if len(pairs) < 2:
        return []
    found = []
    for figure, read in FIGURES.items():
        logs = np.log([read(pair.b) / read(pair.a) for pair in pairs])
        low, high = interval_of_mean(logs, seed)
        found.append(Ratio(figure, float(np.exp(logs.mean())), float(np.exp(low)), float(np.exp(high))))
    return found


def interval_of_mean(values: NDArray[np.float64], seed: int) -> tuple[float, float]:
    """Return the interval that holds the mean of what `values`, shape (n,) of n > 1, are drawn from."""
    count, mean = len(values), float(values.mean())
    error = values.std(ddof=1) / np.sqrt(count)
    samples = values[np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))]
    errors = samples.std(axis=1, ddof=1) / np.sqrt(count)
    # A sample of one value over and over has no error; it is as good as impossible where the values differ.
    scores = np.divide(samples.mean(axis=1) - mean, errors, out=np.zeros(RESAMPLES), where=errors > 0)
    tail = (1 - CONFIDENCE) / 2
    lowest, highest = np.quantile(scores, [tail, 1 - tail])
    return mean - float(highest * error), mean - float(lowest * error)


def _numbered(slice_: Slice, number: int) -> Slice:
    """Give the slices of one pair moments of their own, the same on both sides."""
    if not isinstance(slice_.load, OpenLoop):
        return slice_
    load = dataclasses.replace(slice_.load, seed=slice_.load.seed + number)
    return dataclasses.replace(slice_, load=load)


def _failure(outcome: Outcome, side: str, number: int) -> str | None:
    if outcome.failure:
        return f"pair {number + 1}, {side}: {outcome.failure}"
    if not outcome.answered:
        codes = ", ".join(f"{count} {code}" for code, count in outcome.errors.items())
        return f"pair {number + 1}, {side}: no request was answered ({codes or 'no answer came'})"
    return None


def _percent(ratio: float) -> str:
    return f"{ratio:.1%}"
