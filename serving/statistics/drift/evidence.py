"""How much more likely counts are under some drift than under the most favourable distribution near the reference.

Rows that a pane counts have the likelihood prod p_k^n_k. The numerator averages it over Dirichlet distributions centred
on the reference, so it needs no guess of what drift will look like. The denominator is its largest value among all p
with KL(reference || p) <= radius. Their ratio is an e-process for "the rows come from within that ball": its mean, at
any time at which somebody may stop, is at most 1 (universal inference: Wasserman, Ramdas, Balakrishnan 2020;
Dirichlet-multinomial e-processes for counts: Lindon, Malek 2022). Pure; arrays in, arrays out.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]

CONCENTRATIONS = (20.0, 200.0, 2000.0)
"""How many rows each Dirichlet distribution of the mixture is worth: wide ones find large drift, narrow ones small."""

_ROOT_STEPS = 12
_W_MIN = 1e-9
_SHIFT = 8
_TINY = 1e-300


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What counts are compared with: `frequencies` float64 [..., slots], `radius` float64 [...] in nats per row.

    `rows` were counted. Slots beyond a feature's own have the frequency 0 and are never counted.
    """

    frequencies: Reals
    centres: Reals
    radius: Reals

    @classmethod
    def of(cls, counts: NDArray[Any], slots: NDArray[Any], radius: NDArray[Any]) -> "Reference":
        """Make a reference of counts [..., slots], of which the first `slots` [...] are a feature's own."""
        numbers = np.asarray(counts, np.float64)
        rows = numbers.sum(-1, keepdims=True)
        own = np.arange(numbers.shape[-1]) < np.asarray(slots)[..., None]
        centres = np.where(own, numbers + 0.5, 0.0)  # Jeffreys' smoothing, so that what was never seen is possible
        return cls(numbers / rows, centres / centres.sum(-1, keepdims=True), np.asarray(radius, np.float64))


def log_evidence(counts: Reals, reference: Reference) -> Reals:
    """Return the log of the ratio for counts [..., slots], which may be fractions: the reference's axes come last."""
    return log_mixture(counts, reference.centres) - log_supremum(counts, reference.frequencies, reference.radius)


def log_mixture(counts: Reals, centres: Reals) -> Reals:
    """Return the log likelihood of counts under the mixture of Dirichlet distributions around `centres`."""
    total = counts.sum(-1)
    parts = [_log_dirichlet(counts, total, concentration, centres) for concentration in CONCENTRATIONS]
    highest = np.maximum.reduce(parts)
    mean: Reals = highest + np.log(sum(np.exp(part - highest) for part in parts) / len(parts))
    return mean


def log_supremum(counts: Reals, frequencies: Reals, radius: Reals) -> Reals:
    """Return an upper bound of the largest log likelihood of counts within the ball, tight to rounding.

    The maximiser is p = w * counts / n + (1 - w) * frequencies, with the largest w in [0, 1] that stays in the ball:
    mu = n (1 - w) / w is the multiplier of the constraint. For any mu at all, the Lagrangian's maximum is an upper
    bound, so an inexact root never overstates the evidence.
    """
    n = counts.sum(-1)
    live = counts / np.maximum(n, _TINY)[..., None]
    w, kl = _mixing(live, frequencies, radius)
    p = np.maximum(w[..., None] * live + (1.0 - w[..., None]) * frequencies, _TINY)
    multiplier = n * (1.0 - w) / w
    bound: Reals = (counts * np.log(p)).sum(-1) + multiplier * (radius - kl)
    return bound


def _mixing(live: Reals, frequencies: Reals, radius: Reals) -> tuple[Reals, Reals]:
    """Return w and KL(frequencies || p(w)).

    KL grows like w^2 where the live rows fall into known slots and like w where they do not, so Newton's steps are
    taken on its logarithm over that of w; a step out of the bracket is one to the middle.
    """
    goal = np.log(np.maximum(radius, _TINY))
    low, high = np.full(live.shape[:-1], _W_MIN), np.ones(live.shape[:-1])
    high[((frequencies > 0) & (live <= 0)).any(-1)] = 1.0 - _W_MIN  # at w = 1 such a slot would be impossible
    at_high, _ = _divergence(high, live, frequencies)
    w = np.full(live.shape[:-1], 0.5)
    kl, slope = _divergence(w, live, frequencies)
    for _ in range(_ROOT_STEPS):
        inside = kl <= radius
        low, high = np.where(inside, w, low), np.where(inside, high, w)
        step = (goal - np.log(np.maximum(kl, _TINY))) * kl / np.maximum(w * slope, _TINY)
        newton = w * np.exp(np.clip(step, -50.0, 1.0))
        w = np.where((newton > low) & (newton < high), newton, 0.5 * (low + high))
        kl, slope = _divergence(w, live, frequencies)
    is_free = at_high <= radius
    return np.where(is_free, high, w), np.where(is_free, at_high, kl)


def _divergence(w: Reals, live: Reals, frequencies: Reals) -> tuple[Reals, Reals]:
    """Return KL(frequencies || p(w)) and its derivative by w."""
    p = w[..., None] * live + (1.0 - w[..., None]) * frequencies
    ratio = np.where(frequencies > 0, p / np.maximum(frequencies, _TINY), 1.0)
    kl = -(frequencies * np.log(np.maximum(ratio, _TINY))).sum(-1)
    slope = -((live - frequencies) / np.maximum(ratio, _TINY) * (frequencies > 0)).sum(-1)
    return kl, slope


def _log_dirichlet(counts: Reals, total: Reals, concentration: float, centres: Reals) -> Reals:
    alpha = concentration * centres
    held = np.maximum(alpha, _TINY)
    terms = np.where(centres > 0, log_gamma(held + counts) - log_gamma(held), 0.0)
    whole: Reals = log_gamma(concentration) - log_gamma(concentration + total) + terms.sum(-1)
    return whole


def log_gamma(x: Any) -> Reals:
    """Return log Gamma(x) for x > 0, to about 1e-11: Stirling's series (Abramowitz, Stegun 6.1.41), shifted by 8."""
    shifted = np.asarray(x, np.float64) + _SHIFT
    product = np.ones_like(shifted)
    for k in range(_SHIFT):
        product = product * (x + k)
    inverse = 1.0 / shifted
    square = inverse * inverse
    series = inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680)))
    result: Reals = (shifted - 0.5) * np.log(shifted) - shifted + 0.9189385332046727 + series - np.log(product)
    return result
