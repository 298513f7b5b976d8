"""Splits of histogram boosting in scikit-learn's own float64, which the graph holds rounded to float32."""

from collections import defaultdict
from typing import Any

import numpy as np

from converters.parity.thresholds import Thresholds
from converters.sample import MATRIX


def native_thresholds(model: Any) -> tuple[Thresholds, ...]:
    """Return the splits of a HistGradientBoosting model that is no part of a pipeline; nothing for others.

    Its bins end at values of the training data, and it compares in float64, so whether a float32 is at a split is
    known only here. Other trees of scikit-learn compare float32, as the graph does.
    """
    if not type(model).__name__.startswith("HistGradientBoosting") or getattr(model, "_preprocessor", None) is not None:
        return ()
    found: dict[int, set[float]] = defaultdict(set)
    for iteration in model._predictors:
        for predictor in iteration:
            splits = predictor.nodes[(predictor.nodes["is_leaf"] == 0) & (predictor.nodes["is_categorical"] == 0)]
            for feature, value in zip(splits["feature_idx"], splits["num_threshold"], strict=True):
                found[int(feature)].add(float(value))
    return tuple(Thresholds(MATRIX, feature, np.array(sorted(values))) for feature, values in sorted(found.items()))
