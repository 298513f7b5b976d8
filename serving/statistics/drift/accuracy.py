"""How often a model is probably right, before anybody says what would have been right. Pure.

The confidences of labelled, held-out rows tell how often the model is right at each of them; counts of live confidences
then give the mean. It is assumed that a row of a given confidence is right as often as it was among the held-out rows:
other rows are noticed, another truth behind the same rows is not. (Guo et al. 2017; Garg et al. 2022.)
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.statistics.derived import Derivation
from serving.statistics.profile import Feature

_Z95 = 1.959964
_PRIOR_ROWS = 2.0
"""A slot of few held-out rows is taken to be right as often as all of them: with the weight of so many rows."""


@dataclass(frozen=True, slots=True)
class ExpectedAccuracy:
    """The expected share of right predictions among `rows` live ones, its 95 % interval, and the held-out share."""

    value: float
    low: float
    high: float
    held_out: float
    held_out_rows: int
    rows: int


def expected_accuracy(
    feature: Feature, counts: NDArray[np.int64], *, design_effect: float = 1.0
) -> ExpectedAccuracy | None:
    """Return what the live counts [slots] of a confidence lead to expect; None without held-out or live rows."""
    if feature.derivation is not Derivation.CONFIDENCE or feature.held_out is None or feature.held_out_right is None:
        return None
    live = np.asarray(counts[: feature.slots], np.float64)
    rows, held_out_rows = float(live.sum()), int(feature.held_out.sum())
    if not rows or not held_out_rows:
        return None
    overall = feature.held_out_right.sum() / held_out_rows
    weight = feature.held_out + _PRIOR_ROWS
    right = (feature.held_out_right + _PRIOR_ROWS * overall) / weight
    shares = live / rows
    value = float(shares @ right)
    of_slots = float((shares**2 * right * (1 - right) / weight).sum())
    of_rows = float(shares @ (right - value) ** 2) * design_effect / rows
    half = _Z95 * math.sqrt(of_slots + of_rows)
    return ExpectedAccuracy(
        value, max(0.0, value - half), min(1.0, value + half), float(overall), held_out_rows, int(rows)
    )


def as_json(found: ExpectedAccuracy | None) -> dict[str, Any] | None:
    """Return what is expected, for machines."""
    if found is None:
        return None
    return {
        "value": found.value,
        "interval": [found.low, found.high],
        "held_out": found.held_out,
        "held_out_rows": found.held_out_rows,
        "rows": found.rows,
        "assumes": "a row of a given confidence is right as often as it was among the held-out rows",
    }
