"""What a scikit-learn model answers, in the order of skl2onnx's outputs."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.base import is_classifier, is_clusterer, is_outlier_detector, is_regressor

from converters.adapters.answers import Answer
from converters.draft import nearest_two, top_two
from converters.sample import Array
from serving.errors import ConfigError

DISTANCE_FACTOR = 100.0
"""Distances are roots of differences of squares: near a centre half of the digits of a float32 are lost."""


def answers_of(model: Any, final: Any, taken: set[str]) -> list[Answer]:
    """Return the answers of a model; `taken` are names of inputs. Raises ConfigError for a model without any."""
    if isinstance(getattr(final, "classes_", None), list):
        raise ConfigError(
            f"{type(final).__name__} was fitted on several labels per row; train and convert one model per label"
        )
    answers = _answers(model, final)
    return [replace(item, name=_free(item.name, taken)) for item in answers]


def _answers(model: Any, final: Any) -> list[Answer]:
    label = Answer("label", "label", lambda rows: np.asarray(model.predict(rows)))
    if is_classifier(final) or (hasattr(model, "predict_proba") and not is_regressor(final)):
        for name, method in (("probabilities", "predict_proba"), ("scores", "decision_function")):
            if hasattr(model, method):
                scores = Answer(name, "scores", _method(model, method))
                return [replace(label, margin=top_two(name)), scores]
        return [label]
    if is_outlier_detector(final) and hasattr(model, "decision_function"):
        scores = Answer("scores", "values", _method(model, "decision_function"))
        return [replace(label, margin=top_two("scores")), scores]
    if is_regressor(final) and hasattr(model, "predict"):
        return [Answer("prediction", "values", _method(model, "predict"))]
    if is_clusterer(final) and hasattr(model, "predict") and hasattr(model, "transform"):
        distances = Answer("distances", "values", _method(model, "transform"), atol_factor=DISTANCE_FACTOR)
        return [replace(label, margin=nearest_two("distances")), distances]
    if hasattr(model, "transform"):
        return [Answer("transformed", "values", _method(model, "transform"))]
    raise ConfigError(
        f"{type(final).__name__} has neither predict nor transform for new rows, so there is nothing to serve; use an "
        "estimator that has"
    )


def _method(model: Any, name: str) -> Callable[[Any], Array]:
    def ask(rows: Any) -> Array:
        answer = getattr(model, name)(rows)
        return np.asarray(answer.toarray() if hasattr(answer, "toarray") else answer)

    return ask


def _free(name: str, taken: set[str]) -> str:
    return f"predicted_{name}" if name in taken else name
