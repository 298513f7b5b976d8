"""Rows that a model is tried on: one matrix, one named tensor per input, or the named columns of a table.

What frameworks and data frames hand over becomes numpy arrays here, in the precision in which it came; adapters decide
which tensors a model wants and the graph decides their datatypes. Knows neither frameworks nor ONNX.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.errors import ConfigError

Array = NDArray[Any]
Tensors = Mapping[str, Array]
"""Named arrays whose first dimension counts rows."""

MATRIX = "features"
"""The name of the one tensor that a matrix becomes."""
ROWS_MAX = 100_000
"""Rows of a sample that are looked at; further ones are left out, since answers are held in memory several times."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows in the order in which they came. `is_table`: each array is a column, of shape (rows,)."""

    arrays: Tensors
    is_table: bool

    @property
    def rows(self) -> int:
        """How many there are; at least one."""
        return len(next(iter(self.arrays.values())))

    @classmethod
    def of(cls, values: Any) -> "Sample":
        """Take a numpy array, a mapping of names to arrays, a pandas or a polars data frame.

        Raises ConfigError for what is none of these, has no rows, or has arrays of different lengths.
        """
        if isinstance(values, Sample):
            return values
        if isinstance(values, np.ndarray):
            arrays, is_table = {MATRIX: column(MATRIX, values)}, False
        elif hasattr(values, "columns") and hasattr(values, "__getitem__"):
            arrays, is_table = {str(name): column(str(name), values[name]) for name in values.columns}, True
        elif isinstance(values, Mapping):
            arrays = {str(name): column(str(name), item) for name, item in values.items()}
            is_table = bool(arrays) and all(item.ndim == 1 for item in arrays.values())
        else:
            raise ConfigError(
                f"a sample of {type(values).__name__} cannot be read; give a numpy array, a mapping of names to "
                "arrays, or a pandas or polars data frame"
            )
        _check(arrays)
        return cls({name: item[:ROWS_MAX] for name, item in arrays.items()}, is_table)

    def matrix(self) -> Array:
        """Return one array of shape (rows, features). Raises ConfigError when columns hold something else."""
        if not self.is_table and len(self.arrays) == 1:
            return next(iter(self.arrays.values()))
        words = [name for name, item in self.arrays.items() if item.dtype.kind not in "fiub"]
        if words or not self.is_table:
            named = ", ".join((words or list(self.arrays))[:5])
            raise ConfigError(
                f"the model takes one matrix of numbers, and the sample has {named} besides; "
                "encode them in a pipeline (ColumnTransformer) that is converted with the model"
            )
        kind = np.int64 if all(item.dtype.kind in "iub" for item in self.arrays.values()) else np.float64
        return np.stack([item.astype(kind) for item in self.arrays.values()], axis=1)

    def take(self, names: list[str]) -> "Sample":
        """Return these columns, in this order. Raises ConfigError when one is missing."""
        missing = [name for name in names if name not in self.arrays]
        if missing:
            raise ConfigError(
                f"the sample lacks {', '.join(missing[:5])}, which the model was trained with; it has "
                f"{', '.join(list(self.arrays)[:10])}"
            )
        return Sample({name: self.arrays[name] for name in names}, self.is_table)

    def digest(self) -> str:
        """Return the SHA-256 of names, dtypes, shapes and values, so that equal samples have equal digests."""
        state = hashlib.sha256()
        for name, item in self.arrays.items():
            state.update(f"{name}\0{item.dtype.str}\0{item.shape}\0".encode())
            if item.dtype == object:
                state.update("\0".join(map(str, item.reshape(-1))).encode())
            else:
                state.update(np.ascontiguousarray(item).tobytes())
        return state.hexdigest()


def column(name: str, values: Any) -> Array:
    """Return a column as numbers or as an object array of `str`. Raises ConfigError for a missing string."""
    array = np.asarray(values.to_numpy() if hasattr(values, "to_numpy") else values)
    if array.dtype.kind in "fiub":
        return array
    if array.dtype.kind in "US":
        return array.astype(str).astype(object)
    if array.dtype.kind != "O":
        raise ConfigError(f"column '{name}' holds {array.dtype}; give numbers or strings")
    flat = array.reshape(-1)
    if all(isinstance(item, bool | np.bool_) for item in flat):
        return array.astype(np.bool_)
    if all(item is None or isinstance(item, int | float | np.number) for item in flat):
        return array.astype(np.float64)
    for index, item in enumerate(flat):
        if not isinstance(item, str):
            raise ConfigError(
                f"column '{name}' holds {item!r} in row {index} among strings; ONNX has no missing string, so fill it "
                "with a word of its own (such as 'missing') before training and in the sample"
            )
    return array


def _check(arrays: Tensors) -> None:
    if not arrays:
        raise ConfigError("the sample has no columns")
    lengths = {name: len(item) if item.ndim else 0 for name, item in arrays.items()}
    if len(set(lengths.values())) != 1:
        told = ", ".join(f"{name} {length}" for name, length in list(lengths.items())[:5])
        raise ConfigError(f"the arrays of the sample have different numbers of rows: {told}")
    if not next(iter(lengths.values())):
        raise ConfigError("the sample has no rows; parity is proved on rows that look like the model's real ones")
