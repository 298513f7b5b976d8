"""How much more panes differ from each other than panes of independent rows would. Pure.

Rows that come in clusters (sessions, batches of a job, hours of the day) vary more between panes than a multinomial
distribution allows. Dividing counts by this design effect gives the number of independent rows that vary as much. It
is estimated, so its upper bound is used, and it holds for the sampling rate and the cycles that the panes have seen.
"""

import numpy as np
from numpy.typing import NDArray

from serving.config import CALIBRATION_PANES_MIN

_QUANTILE = 1.645  # 95 % of a normal distribution, one-sided
_EXPECTED_MIN = 1.0


def design_effects(panes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the 95 % upper bound of each feature's design effect, at least 1, from counts [panes, features, slots].

    Pearson's dispersion statistic of every pane against all of them together (McCullagh, Nelder 1989, 4.5.2), whose
    spread over panes says how sure its mean is.
    """
    assert len(panes) >= CALIBRATION_PANES_MIN, "bug: calibrated on too few panes"
    return np.array([_design_effect(panes[:, feature]) for feature in range(panes.shape[1])])


def _design_effect(counts: NDArray[np.int64]) -> float:
    merged = _without_rare_slots(counts.astype(np.float64))
    rows = merged.sum(1, keepdims=True)
    expected = rows * (merged.sum(0) / merged.sum())
    slots = merged.shape[1]
    if slots < 2:
        return 1.0
    panes = len(merged)
    degrees = (slots - 1) * (1.0 - 1.0 / panes)
    dispersion = ((merged - expected) ** 2 / expected).sum(1) / degrees
    upper = dispersion.mean() + _QUANTILE * dispersion.std(ddof=1) / np.sqrt(panes)
    return max(1.0, float(upper))


def _without_rare_slots(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Merge the slots that a pane hardly ever has a row in: a statistic of theirs would be mostly chance."""
    mean = counts.mean(0)
    rare = mean < _EXPECTED_MIN
    merged = counts[:, ~rare]
    rest = counts[:, rare].sum(1, keepdims=True)
    return np.concatenate([merged, rest], axis=1) if rest.any() else merged
