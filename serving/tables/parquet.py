"""Rows of a .parquet file, by pyarrow, which is loaded when such a file is opened."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from serving.errors import ConfigError
from serving.tables.rows import Chunk, Columns, reading
from serving.types import Array


class ParquetSource:
    """A .parquet file, read by pyarrow. Columns are as stored; a null is NaN among floats and None among others."""

    is_table = True
    is_text = False

    def __init__(self, path: Path) -> None:
        self.label = str(path)
        self._path = path
        with self._open() as file:
            self.names = tuple(file.schema_arrow.names)
            self.rows_count = int(file.metadata.num_rows)
        if len(set(self.names)) != len(self.names):
            raise ConfigError(f"{path} names a column twice, expected names that differ")

    def chunks(self, rows: int, *, skip: int = 0) -> Iterator[Chunk]:
        """See Source."""
        with reading(self.label), self._open() as file:
            group, before = self._first_group(file, skip)
            batches = file.iter_batches(batch_size=rows, row_groups=range(group, file.num_row_groups))
            yield from _rechunked((_arrays_of(batch) for batch in batches), rows, skip=skip - before, start=skip)

    def _first_group(self, file: Any, skip: int) -> tuple[int, int]:
        """Return the row group that holds row `skip`, and how many rows come before it."""
        before = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if before + rows > skip:
                return group, before
            before += rows
        return file.num_row_groups, before

    def _open(self) -> Any:
        try:
            from pyarrow.parquet import ParquetFile  # noqa: PLC0415 - behind the extra
        except ImportError:
            raise ConfigError("reading .parquet needs pyarrow: pip install 'penstock[tables]'") from None
        return ParquetFile(self._path)


def _arrays_of(batch: Any) -> Columns:
    """Return the columns of an Arrow batch as arrays."""
    return {name: _array_of(column) for name, column in zip(batch.schema.names, batch.columns, strict=True)}


def _array_of(column: Any) -> Array:
    """Return a column; integers with a null stay integers, since as floats 64-bit ones would lose digits."""
    array: Array = np.asarray(column.to_numpy(zero_copy_only=False))
    if column.null_count and array.dtype.kind == "f" and str(column.type).lstrip("u").startswith("int"):
        return np.array(column.to_pylist(), np.object_)
    return array


def _rechunked(parts: Iterator[Columns], rows: int, *, skip: int, start: int) -> Iterator[Chunk]:
    """Cut parts of any length into chunks of `rows` rows, the first `skip` rows left out."""
    held: list[Columns] = []
    held_rows = 0
    for part in parts:
        length = len(next(iter(part.values()), ()))
        dropped = min(skip, length)
        skip -= dropped
        held.append({name: column[dropped:] for name, column in part.items()})
        held_rows += length - dropped
        while held_rows >= rows:
            whole = _joined(held)
            yield Chunk(start, rows, {name: column[:rows] for name, column in whole.items()})
            held = [{name: column[rows:] for name, column in whole.items()}]
            held_rows, start = held_rows - rows, start + rows
    if held_rows:
        yield Chunk(start, held_rows, _joined(held))


def _joined(parts: list[Columns]) -> Columns:
    return parts[0] if len(parts) == 1 else {n: np.concatenate([part[n] for part in parts]) for n in parts[0]}
