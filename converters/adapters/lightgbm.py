"""LightGBM to ONNX, by onnxmltools: estimators of its scikit-learn interface, and plain boosters."""

import warnings
from collections import defaultdict
from typing import Any

import lightgbm
import numpy as np
import onnxmltools
from onnxmltools.convert.common.data_types import FloatTensorType

from converters.adapters.answers import Answer, asking, fitted, margin_of, outputs_of
from converters.adapters.boosters import classifier, matrix_of, regressor, rows_of_matrix
from converters.adapters.scikit_learn_parts import plain_parameters
from converters.draft import Draft
from converters.parity.thresholds import Thresholds
from converters.runner import one_line
from converters.sample import MATRIX, Array, Sample
from converters.target import Target
from serving.errors import ConfigError

_OPSET_MAX = 15
"""onnxmltools refuses opsets that it has not heard of; its graphs use nothing that newer ones changed."""


def draft(model: Any, sample: Sample, target: Target) -> Draft:
    """Convert a fitted model. Raises ConfigError that says what to do for what cannot be converted."""
    booster = model if isinstance(model, lightgbm.Booster) else model.booster_
    dumped = booster.dump_model()
    exact, columns = matrix_of(sample, list(booster.feature_name()), booster.num_feature())
    answers = _answers(model, booster, str(dumped.get("objective", "")))
    converted = _convert(model, booster, target)
    answers = fitted(converted, answers, exact, rows_of_matrix)
    return Draft(
        model=converted,
        framework="LightGBM",
        versions={"lightgbm": lightgbm.__version__, "onnxmltools": onnxmltools.__version__},
        exact=exact,
        outputs=outputs_of(answers),
        answer=asking(answers, rows_of_matrix),
        kind="trees",
        margin=margin_of(answers),
        labels=tuple(map(str, getattr(model, "classes_", ()))),
        feature_names=columns,
        parameters={"objective": str(dumped.get("objective", "")), **plain_parameters(model)},
        thresholds=_thresholds(dumped),
    )


def _answers(model: Any, booster: Any, objective: str) -> list[Answer]:
    if hasattr(model, "predict_proba"):
        return classifier(
            lambda rows: np.asarray(model.predict(rows)), lambda rows: np.asarray(model.predict_proba(rows))
        )

    def scores(rows: Array) -> Array:
        return np.asarray(model.predict(rows))

    if model is not booster or not objective.startswith(("binary", "multiclass")):
        return regressor(scores)

    def label(rows: Array) -> Array:
        found = scores(rows)
        return np.asarray(found.argmax(axis=1) if found.ndim > 1 else found > 0.5, np.int64)

    return classifier(label, scores)


def _convert(model: Any, booster: Any, target: Target) -> Any:
    types = [(MATRIX, FloatTensorType([None, booster.num_feature()]))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return onnxmltools.convert_lightgbm(
                model, initial_types=types, target_opset=min(target.opset, _OPSET_MAX), zipmap=False
            )
        except Exception as error:  # onnxmltools raises all kinds
            raise ConfigError(f"onnxmltools cannot convert this model of LightGBM: {one_line(error, 200)}") from None


def _thresholds(dumped: dict[str, Any]) -> tuple[Thresholds, ...]:
    """Return the splits in float64, which LightGBM compares in."""
    found: dict[int, set[float]] = defaultdict(set)
    waiting = [tree["tree_structure"] for tree in dumped["tree_info"]]
    while waiting:
        node = waiting.pop()
        if "split_feature" not in node:
            continue
        if node["decision_type"] == "<=":
            found[int(node["split_feature"])].add(float(node["threshold"]))
        waiting += [node["left_child"], node["right_child"]]
    return tuple(Thresholds(MATRIX, feature, np.array(sorted(values))) for feature, values in sorted(found.items()))
