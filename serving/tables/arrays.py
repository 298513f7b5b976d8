"""Rows of .npy and .npz files, read from their streams: no array is ever held whole."""

import math
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from serving.errors import ConfigError
from serving.tables.rows import COLUMNS_MAX, UNNAMED, Chunk, reading
from serving.types import Array

ROW_BYTES_MAX = 1 << 30
"""The most bytes of one row of an array, so that a header cannot ask for any amount of memory."""


class NpySource:
    """A .npy file: one array without a name whose first dimension counts rows."""

    is_table = False
    is_text = False

    def __init__(self, path: Path) -> None:
        self.label = str(path)
        self._path = path
        with path.open("rb") as stream:
            self.rows_count: int | None = _Rows.of(UNNAMED, stream, self.label).count
        self.names = (UNNAMED,)

    def chunks(self, rows: int, *, skip: int = 0) -> Iterator[Chunk]:
        """See Source."""
        with reading(self.label), self._path.open("rb") as stream:
            yield from _array_chunks({UNNAMED: _Rows.of(UNNAMED, stream, self.label)}, rows, skip=skip)


class NpzSource:
    """A .npz file: arrays by name, all of the same number of rows; a table when each has one dimension."""

    is_text = False

    def __init__(self, path: Path) -> None:
        self.label = str(path)
        self._path = path
        with zipfile.ZipFile(path) as archive, ExitStack() as stack:
            arrays = self._arrays(archive, stack)
        if not arrays:
            raise ConfigError(f"{path} holds no arrays")
        counts = {name: array.count for name, array in arrays.items()}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"'{name}' {count}" for name, count in list(counts.items())[:5])
            raise ConfigError(f"{path}: the arrays differ in rows: {told}")
        self.names = tuple(arrays)
        self.rows_count: int | None = next(iter(counts.values()))
        self.is_table = all(array.row_shape == () for array in arrays.values())

    def chunks(self, rows: int, *, skip: int = 0) -> Iterator[Chunk]:
        """See Source."""
        with reading(self.label), zipfile.ZipFile(self._path) as archive, ExitStack() as stack:
            yield from _array_chunks(self._arrays(archive, stack), rows, skip=skip)

    def _arrays(self, archive: zipfile.ZipFile, stack: ExitStack) -> "dict[str, _Rows]":
        members = archive.namelist()
        if len(set(members)) != len(members) or len(members) > COLUMNS_MAX:
            raise ConfigError(f"{self.label} holds an array twice, or more than {COLUMNS_MAX}")
        streams = {name.removesuffix(".npy"): stack.enter_context(archive.open(name)) for name in members}
        return {name: _Rows.of(name, stream, self.label) for name, stream in streams.items()}


@dataclass(frozen=True, slots=True)
class _Rows:
    """An array in a stream, behind its header: `count` rows of `row_shape`."""

    stream: IO[bytes]
    count: int
    row_shape: tuple[int, ...]
    dtype: "np.dtype[Any]"

    @classmethod
    def of(cls, name: str, stream: IO[bytes], label: str) -> "_Rows":
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = header(stream)
        called = f"{label}: array '{name}'" if name else label
        if dtype.hasobject:
            raise ConfigError(f"{called} holds Python objects, which are not read; save numbers or strings")
        if not shape:
            raise ConfigError(f"{called} is a single value, expected rows")
        if fortran_order and len(shape) > 1:
            raise ConfigError(f"{called} lies column by column; save np.ascontiguousarray of it")
        rows = cls(stream, shape[0], tuple(shape[1:]), dtype)
        if not 0 < rows.row_bytes <= ROW_BYTES_MAX:
            raise ConfigError(f"{called} has rows of {rows.row_bytes} bytes, expected 1 to {ROW_BYTES_MAX}")
        return rows

    @property
    def row_bytes(self) -> int:
        return math.prod(self.row_shape) * self.dtype.itemsize

    def read(self, rows: int) -> Array:
        data = self.stream.read(rows * self.row_bytes)
        if len(data) != rows * self.row_bytes:
            raise ValueError("it ends before its last row and was cut off")
        return np.frombuffer(data, self.dtype).reshape(rows, *self.row_shape)


def _array_chunks(arrays: Mapping[str, _Rows], rows: int, *, skip: int) -> Iterator[Chunk]:
    count = next(iter(arrays.values())).count
    for array in arrays.values():
        array.stream.seek(min(skip, count) * array.row_bytes, 1)
    for start in range(min(skip, count), count, rows):
        length = min(rows, count - start)
        yield Chunk(start, length, {name: array.read(length) for name, array in arrays.items()})
