"""What the counts of a feature say about how it moved, beside the reference. Pure.

Each of these numbers is for people. None of them alarms: their usual thresholds are wrong at every sample size.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.statistics.profile import BINS, INF_SLOT, Feature, Kind

_Z95 = 1.959964
_FLOOR_DRAWS = 200
_MOVED = 3


@dataclass(frozen=True, slots=True)
class Ratio:
    """A share of rows, with its 95 % Wilson interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Moved:
    """A slot whose share of the rows changed: from `before` to `now`."""

    slot: str
    before: float
    now: float


@dataclass(frozen=True, slots=True)
class Distances:
    """How a feature's rows differ from its reference.

    `psi` with its `noise_floor`: what it would be in the mean without drift, at these numbers of rows. `jensen_shannon`
    in bits, `hellinger` and `kolmogorov_smirnov` in [0, 1]. `wasserstein` in interquartile ranges of the reference: a
    lower bound where rows lie outside its range. The last two, `mean_shift` in spreads of the reference and
    `spread_ratio` are None for categories. `chi_square` has `degrees` of freedom and the p-value `p_value`.
    `out_of_range` of a category is what is unseen.
    """

    rows: int
    psi: float
    noise_floor: float
    jensen_shannon: float
    hellinger: float
    kolmogorov_smirnov: float | None
    wasserstein: float | None
    chi_square: float
    degrees: int
    p_value: float
    missing: Ratio
    out_of_range: Ratio
    mean_shift: float | None
    spread_ratio: float | None
    moved: tuple[Moved, ...]


def distances(
    feature: Feature, counts: NDArray[np.int64], sums: NDArray[np.float64], *, noise_floor: float, design_effect: float
) -> Distances:
    """Compare the counts [slots] and sums [2] of a feature with its reference."""
    before, now = feature.counts, counts[: feature.slots]
    rows, is_number = int(now.sum()), feature.kind is Kind.NUMBER
    p, q = smoothed(now), smoothed(before)
    statistic, degrees = chi_square(before, now)
    outside = int(now[0] + now[BINS - 1] + now[INF_SLOT]) if is_number else int(now[len(feature.keys)])
    mean_shift, spread_ratio = _moments(feature, now, sums) if is_number else (None, None)
    return Distances(
        rows=rows,
        psi=float(psi(now, before)),
        noise_floor=noise_floor,
        jensen_shannon=jensen_shannon(p, q),
        hellinger=float(np.sqrt(max(0.0, 1.0 - np.sqrt(p * q).sum()))),
        kolmogorov_smirnov=kolmogorov_smirnov(before[:BINS], now[:BINS]) if is_number else None,
        wasserstein=_wasserstein(feature, now, mean_shift) if is_number else None,
        chi_square=statistic,
        degrees=degrees,
        p_value=chi_square_tail(statistic / design_effect, degrees),
        missing=wilson(int(now[feature.missing_slot]), rows, design_effect),
        out_of_range=wilson(outside, rows, design_effect),
        mean_shift=mean_shift,
        spread_ratio=spread_ratio,
        moved=_moved(feature, before, now),
    )


def smoothed(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return shares of counts [..., slots] with Jeffreys' half a row more in every slot."""
    more = np.asarray(counts, np.float64) + 0.5
    shares: NDArray[np.float64] = more / more.sum(-1, keepdims=True)
    return shares


def psi(now: NDArray[np.int64], before: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the population stability index of counts [..., slots]: the symmetric KL divergence, in nats."""
    p, q = smoothed(now), smoothed(before)
    index: NDArray[np.float64] = ((p - q) * np.log(p / q)).sum(-1)
    return index


def noise_floor(before: NDArray[np.int64], rows: int, *, seed: int = 0) -> float:
    """Return the mean index of `rows` rows without drift, by simulation with the same smoothing.

    The formula (B - 1)(1/n + 1/m) is far off where slots are empty or hold few rows.
    """
    if rows == 0:
        return 0.0
    rng = np.random.default_rng(seed)
    reference_rows = int(before.sum())
    p = before / reference_rows
    drawn = rng.multinomial(rows, p, size=_FLOOR_DRAWS)
    return float(psi(drawn, rng.multinomial(reference_rows, p, size=_FLOOR_DRAWS)).mean())


def jensen_shannon(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """Return the Jensen-Shannon divergence of two distributions without zeros, in bits (Lin 1991)."""
    middle = 0.5 * (p + q)
    return float(0.5 * (p * np.log2(p / middle) + q * np.log2(q / middle)).sum())


def kolmogorov_smirnov(before: NDArray[np.int64], now: NDArray[np.int64]) -> float:
    """Return the largest difference of the two distribution functions at the edges of the bins."""
    return float(np.abs(_steps(before) - _steps(now)).max())


def chi_square(before: NDArray[np.int64], now: NDArray[np.int64]) -> tuple[float, int]:
    """Return Pearson's statistic of homogeneity of two samples, and its degrees of freedom."""
    used = before + now > 0
    table = np.array([before[used], now[used]], np.float64)
    if table.shape[1] < 2 or not table.sum(1).all():
        return 0.0, 0
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    return float(((table - expected) ** 2 / expected).sum()), int(used.sum()) - 1


def chi_square_tail(statistic: float, degrees: int) -> float:
    """Return the chance of a larger statistic without drift, to about 3e-3 (Wilson, Hilferty 1931)."""
    if degrees == 0:
        return 1.0
    spread = 2.0 / (9.0 * degrees)
    z = ((statistic / degrees) ** (1.0 / 3.0) - (1.0 - spread)) / math.sqrt(spread)
    return 0.5 * math.erfc(z / math.sqrt(2.0))


def wilson(successes: int, rows: int, design_effect: float) -> Ratio:
    """Return a share and its 95 % Wilson interval at rows / design_effect independent rows."""
    if rows == 0:
        return Ratio(0.0, 0.0, 1.0)
    n, share = rows / design_effect, successes / rows
    centre = (share + _Z95**2 / (2 * n)) / (1 + _Z95**2 / n)
    half = _Z95 / (1 + _Z95**2 / n) * math.sqrt(share * (1 - share) / n + _Z95**2 / (4 * n * n))
    return Ratio(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def _steps(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the distribution function at the 31 edges."""
    total = max(1, int(counts.sum()))
    steps: NDArray[np.float64] = np.cumsum(counts)[:-1] / total
    return steps


def _moments(
    feature: Feature, now: NDArray[np.int64], sums: NDArray[np.float64]
) -> tuple[float | None, float | None]:  # fmt: skip
    """Return the shift of the mean in spreads of the reference, and the ratio of the spreads; None without rows."""
    live, reference = int(now[:BINS].sum()), int(feature.counts[:BINS].sum())
    if not live or not reference:
        return None, None
    mean, mean_before = sums[0] / live, feature.total / reference
    variance = max(0.0, sums[1] / live - mean**2)
    variance_before = max(0.0, feature.squares / reference - mean_before**2)
    ratio = math.sqrt(variance / variance_before) if variance_before > 0 else None
    return float(mean - mean_before), ratio


def _wasserstein(feature: Feature, now: NDArray[np.int64], mean_shift: float | None) -> float | None:
    """Return the area between the distribution functions over the edges, or the shift of the mean if that is more."""
    if mean_shift is None:
        return None
    edges, before = feature.edges, _steps(feature.counts[:BINS])
    low, high = (edges[min(int(np.searchsorted(before, share)), len(edges) - 1)] for share in (0.25, 0.75))
    unit = float(high - low) or feature.spread
    gaps = np.abs(before - _steps(now[:BINS]))
    with np.errstate(over="ignore"):
        area = float((0.5 * (gaps[:-1] + gaps[1:]) * (np.diff(edges) / unit)).sum())
    return max(area, abs(mean_shift) * feature.spread / unit)


def _moved(feature: Feature, before: NDArray[np.int64], now: NDArray[np.int64]) -> tuple[Moved, ...]:
    """Return the slots whose share changed most, largest change first."""
    shares_before, shares_now = before / max(1, before.sum()), now / max(1, now.sum())
    change = np.abs(shares_now - shares_before)
    names = feature.slot_names()
    largest = [int(slot) for slot in np.argsort(-change, kind="stable")[:_MOVED] if change[slot] > 0]
    return tuple(Moved(names[slot], float(shares_before[slot]), float(shares_now[slot])) for slot in largest)
