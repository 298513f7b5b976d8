"""The tensors that a scikit-learn model takes, and how they become the rows that it was fitted on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from converters.adapters.scikit_learn_parts import parts
from converters.sample import MATRIX, Array, Sample, Tensors
from serving.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Inputs:
    """The sample as tensors, and `native`, which turns such tensors into what the model takes."""

    exact: Tensors
    feature_names: tuple[str, ...]
    native: Callable[[Tensors], Any]


def inputs_of(model: Any, sample: Sample) -> Inputs:
    """Choose between one matrix and one tensor per column. Raises ConfigError when the sample does not fit."""
    names = [str(name) for name in getattr(model, "feature_names_in_", ())]
    if names and sample.is_table:
        sample = sample.take(names)
    if sample.is_table and (_tells_columns_apart(model, bool(names)) or _has_words(sample)):
        exact = {name: item[:, None] for name, item in sample.arrays.items()}
        _check_width(model, len(exact))
        _check_categories(model, sample)
        return Inputs(exact, tuple(exact), _frame if names else _object_rows)
    matrix = sample.matrix()
    matrix = matrix[:, None] if matrix.ndim == 1 and not names else matrix
    if matrix.ndim > 1:
        _check_width(model, matrix.shape[1])
    told = tuple(names) or (tuple(sample.arrays) if sample.is_table else ())
    return Inputs({MATRIX: matrix}, told, lambda tensors: _wide(tensors[MATRIX]))


def _tells_columns_apart(model: Any, named: bool) -> bool:
    return named and any(type(part).__name__ == "ColumnTransformer" for part in parts(model))


def _has_words(sample: Sample) -> bool:
    return any(item.dtype.kind not in "fiub" for item in sample.arrays.values())


def _check_width(model: Any, width: int) -> None:
    expected = getattr(model, "n_features_in_", width)
    if expected != width:
        raise ConfigError(f"the sample has {width} features, and the model was trained with {expected}")


def _check_categories(model: Any, sample: Sample) -> None:
    """Refuse words where an encoder learned numbers, and numbers where it learned words: it would know none of them."""
    for part in parts(model):
        names = map(str, getattr(part, "feature_names_in_", ()))
        for name, known in zip(names, getattr(part, "categories_", ()), strict=False):
            learned_words = any(isinstance(item, str) for item in known)
            if len(known) and name in sample.arrays and learned_words != (sample.arrays[name].dtype == object):
                learned, given = ("words", "numbers") if learned_words else ("numbers", "words")
                raise ConfigError(
                    f"the model learned {learned} in column '{name}', such as {known[0]!s}, and the sample has {given} "
                    f"there, such as {sample.arrays[name][0]!s}; give a sample with {learned} there (a .csv does not "
                    "say which a column of digits is, a .parquet does)"
                )


def _frame(tensors: Tensors) -> Any:
    try:
        import pandas as pd  # noqa: PLC0415 - only models that were fitted on named columns need it
    except ImportError:
        raise ConfigError("a model of named columns is compared on data frames: pip install pandas") from None
    return pd.DataFrame({name: _wide(item[:, 0]) for name, item in tensors.items()})


def _wide(matrix: Array) -> Array:
    """Return the same numbers as float64: some estimators refuse float32 when they were fitted on float64."""
    return matrix.astype(np.float64) if matrix.dtype.kind == "f" else matrix


def _object_rows(tensors: Tensors) -> Any:
    return np.concatenate([item.astype(object) for item in tensors.values()], axis=1)
