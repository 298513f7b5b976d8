"""XGBoost to ONNX, by onnxmltools: estimators of its scikit-learn interface, and plain boosters."""

import contextlib
import json
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxmltools
import xgboost
from onnxmltools.convert.common.data_types import FloatTensorType

from converters.adapters.answers import Answer, asking, fitted, margin_of, outputs_of
from converters.adapters.boosters import classifier, matrix_of, regressor, rows_of_matrix
from converters.adapters.scikit_learn_parts import plain_parameters
from converters.draft import Draft
from converters.runner import one_line
from converters.sample import MATRIX, Array, Sample
from converters.target import Target
from serving.errors import ConfigError

_OPSET_MAX = 15
"""onnxmltools refuses opsets that it has not heard of; its graphs use nothing that newer ones changed."""
_CLASSES = ("binary:logistic", "multi:softprob")
"""Objectives of plain boosters that give probabilities."""


def draft(model: Any, sample: Sample, target: Target) -> Draft:
    """Convert a fitted model. Raises ConfigError that says what to do for what cannot be converted."""
    booster = model if isinstance(model, xgboost.Booster) else model.get_booster()
    if any(kind == "c" for kind in booster.feature_types or ()):
        raise ConfigError(
            "the model has categorical features, which onnxmltools cannot convert; train on one-hot or ordinal codes, "
            "or in a scikit-learn pipeline with an encoder"
        )
    exact, columns = matrix_of(sample, list(booster.feature_names or ()), booster.num_features())
    answers = _answers(model, booster)
    converted = _convert(model, booster, target)
    answers = fitted(converted, answers, exact, rows_of_matrix)
    return Draft(
        model=converted,
        framework="XGBoost",
        versions={"xgboost": xgboost.__version__, "onnxmltools": onnxmltools.__version__},
        exact=exact,
        outputs=outputs_of(answers),
        answer=asking(answers, rows_of_matrix),
        kind="trees",
        margin=margin_of(answers),
        labels=tuple(map(str, getattr(model, "classes_", ()))),
        feature_names=columns,
        parameters={"objective": _objective(booster), **plain_parameters(model)},
    )


def _answers(model: Any, booster: Any) -> list[Answer]:
    if hasattr(model, "predict_proba"):
        return classifier(
            lambda rows: np.asarray(model.predict(rows)), lambda rows: np.asarray(model.predict_proba(rows))
        )
    if model is not booster:
        return regressor(lambda rows: np.asarray(model.predict(rows)))

    def scores(rows: Array) -> Array:
        return np.asarray(booster.inplace_predict(rows))

    if _objective(booster) not in _CLASSES:
        return regressor(scores)

    def label(rows: Array) -> Array:
        found = scores(rows)
        return np.asarray(found.argmax(axis=1) if found.ndim > 1 else found > 0.5, np.int64)

    return classifier(label, scores)


def _convert(model: Any, booster: Any, target: Target) -> Any:
    types = [(MATRIX, FloatTensorType([None, booster.num_features()]))]
    with _numbered_features(booster), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return onnxmltools.convert_xgboost(model, initial_types=types, target_opset=min(target.opset, _OPSET_MAX))
        except Exception as error:  # onnxmltools raises all kinds
            raise ConfigError(f"onnxmltools cannot convert this model of XGBoost: {one_line(error, 200)}") from None


@contextlib.contextmanager
def _numbered_features(booster: Any) -> Iterator[None]:
    """Let features have no names meanwhile: onnxmltools reads only f0, f1 and so on."""
    names = booster.feature_names
    booster.feature_names = None
    try:
        yield
    finally:
        booster.feature_names = names


def _objective(booster: Any) -> str:
    return str(json.loads(booster.save_config())["learner"]["objective"]["name"])
