"""Opens where rows come from: a file by the end of its name, or an object in memory."""

import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from serving.errors import ConfigError
from serving.tables.arrays import NpySource, NpzSource
from serving.tables.parquet import ParquetSource
from serving.tables.rows import UNNAMED, Chunk, Source, reading
from serving.tables.text import CsvSource
from serving.types import Array

KINDS = (".csv", ".parquet", ".npz", ".npy")


def open_source(source: Any) -> Source:
    """Open a file by the end of its name, a pandas or polars frame, an array, or a mapping of arrays.

    Raises ConfigError for what cannot be read.
    """
    if not isinstance(source, str | Path):
        return FrameSource(source)
    path = Path(source)
    kinds: dict[str, Callable[[Path], Source]] = {
        ".csv": CsvSource,
        ".parquet": ParquetSource,
        ".npz": NpzSource,
        ".npy": NpySource,
    }
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise ConfigError(f"{path}: kind '{path.suffix}' is not known, expected {', '.join(KINDS)}")
    with reading(str(path)):
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"{path} is no plain file, and rows are read more than once; write them to one")
        return kind(path)


class FrameSource:
    """A pandas or polars frame, a mapping of names to arrays, or one array, already in memory."""

    is_text = False

    def __init__(self, values: Any) -> None:
        if isinstance(values, np.ndarray):
            arrays: dict[str, Array] = {UNNAMED: values}
        elif hasattr(values, "columns") and hasattr(values, "__getitem__"):
            arrays = {str(name): _plain(values[name]) for name in values.columns}
        elif isinstance(values, Mapping):
            arrays = {str(name): _plain(item) for name, item in values.items()}
        else:
            raise ConfigError(
                f"rows of {type(values).__name__} cannot be read; give a numpy array, a mapping of names to arrays, or "
                "a pandas or polars data frame"
            )
        self.label = f"the {type(values).__name__}"
        lengths = {len(array) if array.ndim else -1 for array in arrays.values()}
        if len(lengths) != 1 or lengths == {-1}:
            raise ConfigError(f"{self.label} has columns of different lengths, or none")
        self._arrays = arrays
        self.names = tuple(arrays)
        self.rows_count: int | None = lengths.pop()
        self.is_table = UNNAMED not in arrays and all(array.ndim == 1 for array in arrays.values())

    def chunks(self, rows: int, *, skip: int = 0) -> Iterator[Chunk]:
        """See Source."""
        count = self.rows_count or 0
        for start in range(skip, count, rows):
            part = {name: array[start : start + rows] for name, array in self._arrays.items()}
            yield Chunk(start, min(rows, count - start), part)


def _plain(values: Any) -> Array:
    return np.asarray(values.to_numpy() if hasattr(values, "to_numpy") else values)
