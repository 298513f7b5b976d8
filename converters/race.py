"""Which of two callables is faster, when the machine is shared and its speed wanders.

They run in turn, A B then B A, so that a drift falls on both alike; a pair is one observation, and the 95 % interval of
the geometric mean of their ratios is bootstrapped over pairs.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

PAIRS = 24
PAIR_SECONDS = 0.02
"""About how long each side of a pair runs; a call is repeated until it has taken that long."""
_RESAMPLES = 4_000


@dataclass(frozen=True, slots=True)
class Race:
    """Time of B over time of A, with the interval that holds it; and the time of one call of A, in us."""

    ratio: float
    low: float
    high: float
    a_us: float

    @property
    def b_is_faster(self) -> bool:
        """Whether the whole interval says so."""
        return self.high < 1

    def sentence(self) -> str:
        """Say it for people."""
        if self.low <= 1 <= self.high:
            return f"no difference in speed shown ({self.low:.2f} to {self.high:.2f} of the time)"
        word = "faster" if self.b_is_faster else "slower"
        return f"{word}: {self.ratio:.2f} of the time ({self.low:.2f} to {self.high:.2f})"


def race(a: Callable[[], object], b: Callable[[], object], *, pairs: int = PAIRS, seed: int = 0) -> Race:
    """Run A and B in turn. Both are warmed up first."""
    repeats = [_repeats(a), _repeats(b)]
    times = np.empty((pairs, 2))
    for pair in range(pairs):
        for side in (0, 1) if pair % 2 == 0 else (1, 0):
            times[pair, side] = _time((a, b)[side], repeats[side])
    logs = np.log(times[:, 1] / times[:, 0])
    samples = logs[np.random.default_rng(seed).integers(0, pairs, (_RESAMPLES, pairs))].mean(axis=1)
    low, high = np.exp(np.quantile(samples, [0.025, 0.975]))
    return Race(float(np.exp(logs.mean())), float(low), float(high), float(np.median(times[:, 0]) * 1e6))


def _repeats(call: Callable[[], object]) -> int:
    call()
    once = max(_time(call, 1), 1e-7)
    return max(1, min(10_000, round(PAIR_SECONDS / once)))


def _time(call: Callable[[], object], repeats: int) -> float:
    """Return the seconds that one call takes."""
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - started) / repeats
