"""What gradient boosting libraries have in common: a matrix in; label and probabilities, or a number, out."""

from collections.abc import Callable
from typing import Any

import numpy as np

from converters.adapters.answers import Answer
from converters.draft import top_two
from converters.sample import MATRIX, Array, Sample, Tensors
from serving.errors import ConfigError


def matrix_of(sample: Sample, names: list[str], width: int) -> tuple[Tensors, tuple[str, ...]]:
    """Return the sample as the one tensor that boosters take, and the names of its columns."""
    if sample.is_table and names and set(names) <= set(sample.arrays):
        sample = sample.take(names)
    matrix = sample.matrix()
    if matrix.ndim != 2 or matrix.shape[1] != width:
        raise ConfigError(f"the sample has shape {matrix.shape}, and the model was trained with {width} features")
    columns = tuple(sample.arrays) if sample.is_table else ()
    return {MATRIX: matrix.astype(np.float64) if matrix.dtype.kind != "f" else matrix}, columns


def rows_of_matrix(tensors: Tensors) -> Array:
    """Return the matrix in float64, which holds the same numbers."""
    return tensors[MATRIX].astype(np.float64)


def classifier(predict: Callable[[Any], Array], probabilities: Callable[[Any], Array]) -> list[Answer]:
    """Return the answers of a classifier."""
    label = Answer("label", "label", predict, top_two("probabilities"))
    return [label, Answer("probabilities", "scores", probabilities)]


def regressor(predict: Callable[[Any], Array]) -> list[Answer]:
    """Return the answer of a regressor."""
    return [Answer("prediction", "values", predict)]
