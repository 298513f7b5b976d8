"""How far from the reference the truth may be that the reference was drawn from. Pure.

With the chance 1 - delta / features the truth p of a feature lies in {p : KL(reference || p) <= q / (2 m)}, where q is
that quantile of 2 m KL over references of m rows. Wilks' chi-square is its limit, and too small where a slot has only a
few rows, so it is simulated.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

DELTA = 0.01
"""The chance, over all features, that the reference is too unlucky for the stated rate of false alarms to hold."""
DRAWS_MAX, DRAWS_MIN = 20_000, 2_000
_DRAWS_IN_ALL = 400_000  # a few seconds
_DRAWS_AT_A_TIME = 200  # about a millisecond, after which other threads may run
_TAIL = 0.01


def radii(counts: NDArray[np.int64], *, seed: int = 0) -> NDArray[np.float64]:
    """Return the radius of every feature of counts [features, slots], in nats per row.

    Features whose counts are the same but for their order share a simulation, which all continuous ones do.
    """
    level = DELTA / len(counts)
    ordered = np.sort(counts, axis=1)
    draws = int(np.clip(_DRAWS_IN_ALL // len(np.unique(ordered, axis=0)), DRAWS_MIN, DRAWS_MAX))
    known: dict[bytes, float] = {}
    found = np.empty(len(counts))
    for feature, own in enumerate(ordered):
        key = own.tobytes()
        if key not in known:
            known[key] = _quantile(own[own > 0], level, draws, np.random.default_rng(seed)) / (2 * own.sum())
        found[feature] = known[key]
    return found


def _quantile(counts: NDArray[np.int64], level: float, draws: int, rng: np.random.Generator) -> float:
    """Return the 1 - level quantile of 2 m KL.

    Beyond what the draws can tell, the tail is continued as that of a chi-square distribution: an exponential one.
    """
    statistic = np.sort(np.concatenate(list(_draws(counts, draws, rng))))
    tail = max(level, _TAIL)
    at_tail = float(np.quantile(statistic, 1.0 - tail))
    if level >= tail:
        return at_tail
    beyond = statistic[statistic > at_tail]
    mean_excess = float((beyond - at_tail).mean()) if len(beyond) else 2.0
    return at_tail + max(mean_excess, 2.0) * float(np.log(tail / level))


def _draws(counts: NDArray[np.int64], draws: int, rng: np.random.Generator) -> Iterator[NDArray[np.float64]]:
    """Yield 2 m KL(drawn || p) of references drawn from p = counts / m."""
    m = int(counts.sum())
    p = counts / m
    for _ in range(draws // _DRAWS_AT_A_TIME):
        drawn = rng.multinomial(m, p, size=_DRAWS_AT_A_TIME) / m
        ratio = np.where(drawn > 0, drawn / p, 1.0)
        yield 2 * m * (drawn * np.log(ratio)).sum(-1)
