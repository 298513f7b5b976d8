"""CatBoost to ONNX, by its own export; ZipMap is taken off. Models with categorical features cannot be exported."""

import tempfile
from pathlib import Path
from typing import Any

import catboost
import numpy as np
import onnx

from converters import graph
from converters.adapters.answers import Answer, asking, fitted, margin_of, outputs_of
from converters.adapters.boosters import classifier, matrix_of, regressor, rows_of_matrix
from converters.draft import Draft
from converters.runner import one_line
from converters.sample import Sample
from converters.target import Target
from serving.errors import ConfigError


def draft(model: Any, sample: Sample, _target: Target) -> Draft:
    """Convert a fitted model. Raises ConfigError that says what to do for what cannot be converted."""
    if model.get_cat_feature_indices():
        raise ConfigError(
            "CatBoost exports no model with categorical features to ONNX; train on one-hot or ordinal codes instead"
        )
    exact, columns = matrix_of(sample, list(model.feature_names_ or ()), len(model.feature_names_))
    converted = _export(model)
    labels = graph.strip_zipmap(converted)
    graph.rename(converted, {graph.graph_inputs(converted)[0].name: next(iter(exact))})
    answers = fitted(converted, _answers(model, bool(labels)), exact, rows_of_matrix)
    return Draft(
        model=converted,
        framework="CatBoost",
        versions={"catboost": catboost.__version__},
        exact=exact,
        outputs=outputs_of(answers),
        answer=asking(answers, rows_of_matrix),
        kind="trees",
        margin=margin_of(answers),
        labels=labels,
        feature_names=columns,
        parameters={name: str(value) for name, value in sorted(model.get_params().items())
                    if isinstance(value, str | bool | int | float)},
    )  # fmt: skip


def _answers(model: Any, classifies: bool) -> list[Answer]:
    if not classifies:
        return regressor(lambda rows: np.asarray(model.predict(rows)))
    return classifier(
        lambda rows: np.asarray(model.predict(rows, prediction_type="Class")).reshape(-1),
        lambda rows: np.asarray(model.predict(rows, prediction_type="Probability")),
    )


def _export(model: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            model.save_model(str(path), format="onnx")
        except Exception as error:  # CatBoost's own errors
            raise ConfigError(f"CatBoost cannot export this model: {one_line(error, 200)}") from None
        return onnx.load(str(path))
