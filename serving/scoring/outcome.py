"""Writes answers as the file that was asked for: .csv, .parquet, .npz or .npy. The bytes depend on the answers alone.

A .npz or .npy holds each output as an array. A table holds an output of one value per row as a column of its name, and
an output of several as columns NAME_LABEL, or NAME_0, NAME_1, ... when the model has no labels.
"""

import contextlib
import csv
import os
import secrets
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from serving.errors import ConfigError
from serving.types import Array

KINDS = (".csv", ".parquet", ".npz", ".npy")
_TABLES = frozenset({".csv", ".parquet"})
_DATE = (1980, 1, 1, 0, 0, 0)

Chunks = Callable[[], Iterable[list[Array]]]
"""Yields the answers from the first row on, one array per output; may be called several times."""


@dataclass(frozen=True, slots=True)
class Output:
    """One output: its name, the shape of a row of it, and the labels of its columns if it has some."""

    name: str
    row_shape: tuple[int, ...]
    labels: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of its columns in a table. Raises ConfigError when no table can hold it."""
        if len(self.row_shape) > 1:
            raise ConfigError(f"output '{self.name}' has rows of shape {list(self.row_shape)}; write a .npz")
        if self.row_shape in {(), (1,)}:
            return (self.name,)
        labels = self.labels or tuple(map(str, range(self.row_shape[0])))
        return tuple(f"{self.name}_{label}" for label in labels)


def check_kind(path: Path, outputs: Sequence[tuple[str, int]]) -> None:
    """Refuse a kind of file that cannot hold outputs of these names and dimensions, before anything is computed."""
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise ConfigError(f"{path}: kind '{path.suffix}' is not known, expected {', '.join(KINDS)}")
    if kind == ".npy" and len(outputs) > 1:
        names = ", ".join(name for name, _ in outputs)
        raise ConfigError(
            f"{path} can hold one output and the model has {names}; choose with --output, or write a .npz"
        )
    for name, dimensions in outputs:
        if kind in _TABLES and dimensions > 2:
            raise ConfigError(f"output '{name}' has {dimensions} dimensions, which no table holds; write a .npz")
    if kind == ".parquet":
        _pyarrow()


def write_outcome(path: Path, outputs: Sequence[Output], chunks: Chunks, *, rows: int) -> None:
    """Write the answers of `rows` rows, under another name first. Raises ConfigError."""
    writers: Mapping[str, Callable[..., None]] = {
        ".csv": _write_csv, ".parquet": _write_parquet, ".npz": _write_npz, ".npy": _write_npy,
    }  # fmt: skip
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with draft.open("xb") as file:
            writers[path.suffix.lower()](file, outputs, chunks, rows)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def _write_csv(file: IO[bytes], outputs: Sequence[Output], chunks: Chunks, rows: int) -> None:  # noqa: ARG001
    writer = csv.writer(_Encoded(file), lineterminator="\n")
    writer.writerow([name for output in outputs for name in output.columns])
    for arrays in chunks():
        writer.writerows(zip(*(_text(column) for column in _table(outputs, arrays)), strict=True))


def _write_parquet(file: IO[bytes], outputs: Sequence[Output], chunks: Chunks, rows: int) -> None:  # noqa: ARG001
    pyarrow, parquet = _pyarrow()
    names = [name for output in outputs for name in output.columns]
    writer = None
    for arrays in chunks():
        columns = [pyarrow.array(column.tolist() if column.dtype.kind == "U" else np.ascontiguousarray(column))
                   for column in _table(outputs, arrays)]  # fmt: skip
        table = pyarrow.table(columns, names=names)
        writer = writer or parquet.ParquetWriter(file, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def _write_npz(file: IO[bytes], outputs: Sequence[Output], chunks: Chunks, rows: int) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for index, output in enumerate(outputs):
            member = zipfile.ZipInfo(f"{output.name}.npy", _DATE)
            with archive.open(member, "w", force_zip64=True) as stream:
                _write_array(stream, output, (arrays[index] for arrays in chunks()), _dtype(chunks, index), rows)


def _write_npy(file: IO[bytes], outputs: Sequence[Output], chunks: Chunks, rows: int) -> None:
    _write_array(file, outputs[0], (arrays[0] for arrays in chunks()), _dtype(chunks, 0), rows)


def _write_array(stream: IO[bytes], output: Output, parts: Iterable[Array], dtype: Any, rows: int) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (rows, *output.row_shape)}
    np.lib.format.write_array_header_1_0(stream, header)
    for part in parts:
        stream.write(np.ascontiguousarray(part, dtype).tobytes())


def _dtype(chunks: Chunks, index: int) -> "np.dtype[Any]":
    """Return a dtype that holds every chunk: strings differ in length."""
    return np.result_type(*{arrays[index].dtype for arrays in chunks()})


def _table(outputs: Sequence[Output], arrays: Sequence[Array]) -> Iterator[Array]:
    """Yield the columns of a chunk."""
    for output, array in zip(outputs, arrays, strict=True):
        matrix = array.reshape(len(array), -1)
        for column in range(len(output.columns)):
            yield matrix[:, column]


def _text(column: Array) -> list[str]:
    """Write values as the shortest text that reads back as the same."""
    if column.dtype == np.bool_:
        return ["true" if value else "false" for value in column]
    texts: list[str] = column.astype(np.str_).tolist()
    return texts


class _Encoded:
    """What csv.writer wants of a file, over one of bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, text: str) -> int:
        return self._file.write(text.encode())


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow  # noqa: PLC0415 - behind the extra
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError:
        raise ConfigError("writing .parquet needs pyarrow: pip install 'penstock[tables]'") from None
    return pyarrow, parquet
