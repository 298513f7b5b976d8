"""Where the knee is, given what all probes have shown: a posterior distribution on a grid.

Around the knee the odds of a request over X grow as a power of the rate: logit(share) = logit(1 %) + slope * ln(rate /
knee). Knee and slope are unknown, and all their values on a grid equally likely before; the distribution after says
where to probe next, and how sure the answer is. One probe that noise has turned is outvoted by the others, where plain
bisection would be lost.

Requests over X come in bunches, so all probes count less by the factor by which their number varies more than it would
if requests were independent (quasi-likelihood; McCullagh and Nelder, Generalized Linear Models, 4.5). One factor for
all: a probe that met a bunch must not count less for it, or the answer would be too high. Variation from probe to probe
is in it, so a machine that changes makes the answer less sure instead of wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.tail_share import CONFIDENCE, SHARE_MAX, TailShare, blocks

RATES = 160
"""Of the grid; first over the whole bracket, then over `SPAN` around the middle."""
SPAN = 1.5
SLOPES: NDArray[np.float64] = np.geomspace(1.5, 300, 24)
"""From a server that slows down gradually to one that falls over."""
NEAR = 1.3
"""Probes within this factor of the knee count in full. Farther away the power law is a sketch, and good for no more
than to tell a gentle slope from a steep one."""
FAR_REQUESTS = 50.0
"""That a far probe counts for."""
JACKKNIFE_ERRORS = 2.1
"""Standard errors on either side: Student's t for as few probes as there are."""
STRETCHES_MIN = 8
"""Of all near probes together, to estimate how much their counts vary."""

Grid = NDArray[np.float64]
Probes = Sequence[tuple[float, TailShare]]
"""Rate, and what it has shown."""


@dataclass(frozen=True, slots=True)
class Posterior:
    """The knee's distribution: `weights` of `rates`, ascending."""

    rates: Grid
    weights: Grid

    def quantile(self, share: float) -> float:
        """Return the rate below which the knee lies with a probability."""
        # A rate stands for the stretch around it, so that half of its weight lies below.
        below = np.cumsum(self.weights) - self.weights / 2
        return float(np.exp(np.interp(share, below, np.log(self.rates))))

    def interval(self) -> tuple[float, float]:
        """Return the interval that holds the knee with 95 % probability."""
        tail = (1 - CONFIDENCE) / 2
        return self.quantile(tail), self.quantile(1 - tail)


def fit(probes: Probes, low: float, high: float) -> Posterior:
    """Return the distribution of a knee that lies somewhere from `low` to `high`, given two probes or more."""
    likelihood, weights = _weighed(probes, low, high)
    return likelihood.posterior(weights)


def _weighed(probes: Probes, low: float, high: float) -> "tuple[_Likelihood, Grid]":
    """Return the likelihood on a fine grid around the knee, and what each probe counts."""
    worth = np.array([1 / share.design_effect for _, share in probes])
    rough = _Likelihood(np.geomspace(low, high, RATES), probes)
    middle = rough.posterior(rough.capped(worth, FAR_REQUESTS)).quantile(0.5)
    fine = _Likelihood(np.geomspace(max(low, middle / SPAN), min(high, middle * SPAN), RATES), probes)
    rates = np.array([rate for rate, _ in probes])
    near = (rates >= middle / NEAR) & (rates <= middle * NEAR)
    far = fine.capped(worth, FAR_REQUESTS)
    if not near.any():
        return rough, far
    expected = fine.expected(np.where(near, worth, far))
    dispersion = _dispersion(expected[near], [share for (_, share), counts in zip(probes, near, strict=True) if counts])
    return fine, np.where(near, 1 / dispersion, far)


def estimate(probes: Probes, low: float, high: float) -> tuple[float, float, float]:
    """Return the likeliest knee, and the ends of an interval that holds it with about 95 % confidence.

    The interval is the wider of two: the posterior's, which trusts the power law, and that of a jackknife over probes,
    which sees how much the answer hangs on single ones (Efron and Tibshirani, An Introduction to the Bootstrap, 11).
    """
    likelihood, weights = _weighed(probes, low, high)
    posterior = likelihood.posterior(weights)
    rate, (lowest, highest) = posterior.quantile(0.5), posterior.interval()
    others = 1 - np.eye(len(probes))
    without = [likelihood.posterior(weights * other).quantile(0.5) for other in others]
    count = len(without)
    half = JACKKNIFE_ERRORS * float(np.sqrt((count - 1) * np.log(without).var())) if count > 1 else 0.0
    return rate, min(lowest, rate * float(np.exp(-half))), max(highest, rate * float(np.exp(half)))


class _Likelihood:
    """The log-likelihood of every knee and slope; axes: knee, slope, probe. `weights` say what each probe counts."""

    def __init__(self, rates: Grid, probes: Probes) -> None:
        self._rates = rates
        ratios = np.array([rate for rate, _ in probes]) / rates[:, np.newaxis, np.newaxis]
        logits = np.log(SHARE_MAX / (1 - SHARE_MAX)) + SLOPES[:, np.newaxis] * np.log(ratios)
        self._log_over: Grid = -np.logaddexp(0, -logits)
        self._log_within: Grid = self._log_over - logits
        self._requests = np.array([share.requests for _, share in probes], np.float64)
        self._over = np.array([share.over for _, share in probes], np.float64)

    def capped(self, weights: Grid, requests: float) -> Grid:
        """Return the weights, made so small that no probe counts for more than so many requests."""
        return np.minimum(weights, requests / np.maximum(1.0, self._requests))

    def posterior(self, weights: Grid) -> Posterior:
        """Return the distribution of the knee, whatever the slope."""
        likelihood = self._of(weights)
        shares = np.exp(likelihood - likelihood.max()).sum(axis=1)
        return Posterior(self._rates, shares / shares.sum())

    def expected(self, weights: Grid) -> Grid:
        """Return the share over X of each probe under the likeliest knee and slope."""
        likelihood = self._of(weights)
        shares: Grid = np.exp(self._log_over[np.unravel_index(int(likelihood.argmax()), likelihood.shape)])
        return shares

    def _of(self, weights: Grid) -> Grid:
        likelihood: Grid = self._log_over @ (self._over * weights)
        likelihood += self._log_within @ ((self._requests - self._over) * weights)
        return likelihood


def _dispersion(expected: Grid, shares: Sequence[TailShare]) -> float:
    """Return Pearson's chi-squared per degree of freedom, at least 1.

    It is the largest over stretches of one, two, four... intervals, up to whole probes: how bunched requests over X are
    shows in stretches that are longer than a bunch.
    """
    found = [1.0]
    longest = max(len(share.counts) for share in shares)
    length = 1
    while length < 2 * longest:
        stretches = [blocks(share.counts, max(1, min(length, len(share.counts)))) for share in shares]
        of_probe = np.repeat(np.clip(expected, 1e-9, 1 - 1e-9), [len(each) for each in stretches])
        requests, over = np.concatenate(stretches).T
        mean = of_probe * requests
        scores = (over - mean)[mean > 0] ** 2 / (mean * (1 - of_probe))[mean > 0]
        if len(scores) >= STRETCHES_MIN:
            found.append(float(scores.sum()) / (len(scores) - 2))
        length *= 2
    return max(found)
