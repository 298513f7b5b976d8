"""Where rows come from, behind one protocol: named columns or arrays, in chunks of bounded memory.

Rows are counted from 0, without a header. A .csv gives its cells as text, since only the reader of a column knows what
it wants; the others give numbers as they are stored.
"""

import csv
import itertools
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from serving.errors import ConfigError
from serving.types import Array

UNNAMED = ""
"""The name of the one array of a .npy file."""

KINDS = (".csv", ".parquet", ".npz", ".npy")
CELL_CHARACTERS_MAX = 1 << 20
COLUMNS_MAX = 100_000
ROW_BYTES_MAX = 1 << 30
"""The most bytes of one row of an array, so that a header cannot ask for any amount of memory."""

Columns = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows in a row: arrays by name, all as long as `rows`. `start` is the number of the first row."""

    start: int
    rows: int
    columns: Columns


class Source(Protocol):
    """Rows to be read. `names` are those of its columns, or of its arrays when `is_table` is false.

    `rows_count` is None when only reading tells.
    """

    @property
    def label(self) -> str:
        """How errors call it."""

    @property
    def names(self) -> tuple[str, ...]:
        """The columns or arrays, in their order."""

    @property
    def is_table(self) -> bool:
        """Whether each name is a column of a table."""

    @property
    def is_text(self) -> bool:
        """Whether cells come as text whatever they mean."""

    @property
    def rows_count(self) -> int | None:
        """How many rows there are, if that is known."""

    def chunks(self, rows: int, *, skip: int = 0) -> Iterator[Chunk]:
        """Yield chunks of `rows` rows (the last may have fewer) after the first `skip` rows. Raises ConfigError."""


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
        return kind(path)


@contextmanager
def reading(label: str) -> Iterator[None]:
    """Translate what a library says about a file."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{label} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{label} is not valid UTF-8 (byte {error.start}); save it as UTF-8") from None
    except (ValueError, EOFError, zipfile.BadZipFile, csv.Error, NotImplementedError, RuntimeError) as error:
        raise ConfigError(f"{label} cannot be read: {' '.join(str(error).split())[:300]}") from None


# ---- text ----------------------------------------------------------------------------------------------------------


class CsvSource:
    """A .csv file in UTF-8 with a header. Columns are object arrays of `str`, as the cells stand there."""

    is_table = True
    is_text = True
    rows_count = None

    def __init__(self, path: Path) -> None:
        self.label = str(path)
        self._path = path
        with self._open() as stream:
            header = next(self._reader(stream), None)
        if not header:
            raise ConfigError(f"{path} has no header, expected the names of the columns in its first line")
        doubled = sorted({name for name in header if header.count(name) > 1}) if len(set(header)) < len(header) else []
        if doubled:
            raise ConfigError(f"{path}: the header names column '{doubled[0]}' twice, expected names that differ")
        if len(header) > COLUMNS_MAX:
            raise ConfigError(f"{path} has {len(header)} columns, expected at most {COLUMNS_MAX}")
        self.names = tuple(header)

    def chunks(self, rows: int, *, skip: int = 0) -> Iterator[Chunk]:
        """See Source."""
        with reading(self.label), self._open() as stream:
            lines = self._reader(stream)
            next(lines)
            filled = (line for line in lines if line)  # an empty line at the end is no row
            start = sum(1 for _ in itertools.islice(filled, skip))
            while cells := list(itertools.islice(filled, rows)):
                yield Chunk(start, len(cells), self._columns(cells, start))
                start += len(cells)

    def _columns(self, cells: list[list[str]], start: int) -> Columns:
        width = len(self.names)
        for row, line in enumerate(cells, start):
            if len(line) != width:
                raise ConfigError(f"{self.label}: row {row} has {len(line)} cells, the header names {width} columns")
        table = np.array(cells, np.object_)
        return {name: table[:, index] for index, name in enumerate(self.names)}

    def _open(self) -> IO[str]:
        return self._path.open(encoding="utf-8-sig", newline="")

    def _reader(self, stream: IO[str]) -> Iterator[list[str]]:
        csv.field_size_limit(CELL_CHARACTERS_MAX)
        return csv.reader(stream, strict=True)


# ---- parquet -------------------------------------------------------------------------------------------------------


class ParquetSource:
    """A .parquet file, read by pyarrow. Columns are as stored; a null is NaN among numbers and None among others."""

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
    return {name: np.asarray(column.to_numpy(zero_copy_only=False)) for name, column in
            zip(batch.schema.names, batch.columns, strict=True)}  # fmt: skip


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


# ---- numpy ---------------------------------------------------------------------------------------------------------


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


# ---- objects in memory ---------------------------------------------------------------------------------------------


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
