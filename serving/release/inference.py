"""The statistics of the release gate: what a number on a sample says about the number behind it. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

CONFIDENCE = 0.95

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its interval."""

    number: float
    low: float
    high: float


def paired_difference(before: Numbers, after: Numbers) -> Estimate:
    """Return the mean of `after - before` over rows, with one-sided 95 % bounds on either side.

    Losses, shape (n,) each, of the same rows. Losses of 0 and 1 alone get Tango's score bounds, others those of
    Student's t. A test of non-inferiority at 5 % compares `high` with its margin.
    """
    assert len(before) == len(after) > 0, "bug: losses of different rows"
    if _is_binary(before) and _is_binary(after):
        worse, better = int(np.sum(after > before)), int(np.sum(after < before))
        return _tango(worse, better, len(after))
    return student(after - before, 1 - CONFIDENCE)


def mean_interval(values: Numbers, alpha: float) -> Estimate:
    """Return the mean of values, shape (n,), with a two-sided interval of level 1 - alpha.

    Wilson's score interval (JASA 22, 1927) for zeros and ones, Student's t for others.
    """
    if _is_binary(values):
        return _wilson(float(values.mean()), len(values), float(stats.norm.ppf(1 - alpha / 2)))
    return student(values, alpha / 2)


def student(values: Numbers, tail: float) -> Estimate:
    """Return the mean of values, shape (n,), with bounds of Student's t that each miss with probability `tail`."""
    mean = float(values.mean())
    if len(values) < 2:
        return Estimate(mean, -math.inf, math.inf)
    reach = float(stats.t.ppf(1 - tail, len(values) - 1)) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return Estimate(mean, mean - reach, mean + reach)


def worst_gap(losses: Mapping[str, Numbers], alpha: float = 1 - CONFIDENCE) -> Estimate:
    """Return the largest difference between the mean losses of two groups, with a simultaneous interval.

    Each of the m groups gets an interval of level 1 - alpha / m (Bonferroni), so with 1 - alpha all hold at once, and
    then the largest gap lies between the largest gap that the intervals force and the largest that they allow.
    """
    assert len(losses) >= 2, "bug: a gap needs two groups"
    estimates = [mean_interval(values, alpha / len(losses)) for values in losses.values()]
    means = [estimate.number for estimate in estimates]
    forced = max(estimate.low for estimate in estimates) - min(estimate.high for estimate in estimates)
    allowed = max(one.high - other.low for one in estimates for other in estimates if one is not other)
    return Estimate(max(means) - min(means), max(0.0, forced), allowed)


def corrected_resampled(values: Numbers, test_share: float) -> Estimate:
    """Return the mean of a metric over resamples, shape (k,) of k > 1, with a two-sided 95 % interval.

    Folds share training rows, so their variance over k is too small; it is corrected to (1 / k + n_test / n_train) s^2
    (Nadeau and Bengio, Inference for the Generalization Error, Machine Learning 52, 2003). `test_share` is n_test /
    n_train: 1 / (k - 1) for cross-validation in k folds.
    """
    count = len(values)
    assert count > 1, "bug: one fold has no spread"
    error = math.sqrt((1 / count + test_share) * float(values.var(ddof=1)))
    reach = float(stats.t.ppf(1 - (1 - CONFIDENCE) / 2, count - 1)) * error
    mean = float(values.mean())
    return Estimate(mean, mean - reach, mean + reach)


def homogeneity(reference: NDArray[np.int64], observed: NDArray[np.int64]) -> float:
    """Return the p-value that two rows of counts, shape (slots,) each, are from one distribution.

    Pearson's chi-square. Slots in which fewer than five are expected of either row are taken together (Cochran, Some
    Methods for Strengthening the Common chi-square Tests, Biometrics 10, 1954).
    """
    table = np.array([reference, observed], np.float64)
    table = table[:, table.sum(axis=0) > 0]
    expected_min = table.sum(axis=0) * table.sum(axis=1).min() / table.sum()
    rare = expected_min < 5
    if rare.any():
        table = np.column_stack([table[:, ~rare], table[:, rare].sum(axis=1)])
    if table.shape[1] < 2:
        return 1.0
    return float(stats.chi2_contingency(table, correction=False).pvalue)


def holm(p_values: Numbers) -> Numbers:
    """Return p-values, shape (m,), adjusted for being m (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    order = np.argsort(p_values)
    scaled = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(scaled)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return adjusted


def stability_index(reference: NDArray[np.int64], observed: NDArray[np.int64]) -> float:
    """Return the population stability index of two rows of counts, smoothed by half a count per slot (Jeffreys)."""
    shares = [(counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (reference, observed)]
    return float(np.sum((shares[1] - shares[0]) * np.log(shares[1] / shares[0])))


# ---- within --------------------------------------------------------------------------------------------------------


def _is_binary(values: Numbers) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def _wilson(share: float, count: int, z: float) -> Estimate:
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    reach = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Estimate(share, max(0.0, centre - reach), min(1.0, centre + reach))


def _tango(worse: int, better: int, count: int) -> Estimate:
    """Return the difference of two paired proportions with score bounds.

    Source: Tango, Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design, Statistics in Medicine 17, 1998, equations 8 to 10.
    """
    z = float(stats.norm.ppf(CONFIDENCE))

    def score(difference: float) -> float:
        a = 2 * count
        b = -worse - better + (2 * count - worse + better) * difference
        c = -better * difference * (1 - difference)
        shared = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
        variance = count * (2 * shared + difference * (1 - difference))
        distance = worse - better - count * difference
        return math.copysign(math.inf, distance) if variance <= 0 and distance else distance / math.sqrt(variance or 1)

    def bound(target: float, begin: float, end: float) -> float:
        return float(optimize.brentq(lambda difference: _clipped(score(difference) - target), begin, end, xtol=1e-10))

    estimate = (worse - better) / count
    low = -1.0 if estimate <= -1 else bound(z, -1 + 1e-12, estimate)
    high = 1.0 if estimate >= 1 else bound(-z, estimate, 1 - 1e-12)
    return Estimate(estimate, low, high)


def _clipped(value: float) -> float:
    return max(-1e9, min(1e9, value))
