"""Which columns of a source make up which tensor of a model, decided once before the first row. Pure.

In this order: an array or column of the tensor's own name; the one array of a source without names; the columns that
the package names for it, gathered by name in the model's order, whatever their order in the source. Columns in the
order of the file are taken only when the caller says so, because a model fed in the wrong order answers without
complaint.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from serving.errors import ConfigError
from serving.tables.cells import as_datatype
from serving.tables.rows import UNNAMED, Chunk
from serving.types import DYNAMIC, Array, Signature, TensorSpec


@dataclass(frozen=True, slots=True)
class TensorColumns:
    """One tensor and the columns that it comes from.

    `is_matrix`: they lie along its last dimension; else there is one, a column or an array of the tensor's own.
    """

    spec: TensorSpec
    names: tuple[str, ...]
    is_matrix: bool

    def tensor(self, chunk: Chunk) -> Array:
        """Return the rows of a chunk as this tensor. Raises ConfigError naming row and column."""
        if self.is_matrix:
            return self._matrix(chunk)
        (name,) = self.names
        values = chunk.columns[name]
        if values.ndim == 1 and len(self.spec.shape) == 2 and self.spec.shape[1] in {1, DYNAMIC}:
            values = values[:, None]
        if not _fits(values.shape[1:], self.spec.shape[1:]):
            raise ConfigError(
                f"{_called(name)} has rows of shape {list(values.shape[1:])}, input '{self.spec.name}' wants "
                f"{list(self.spec.shape[1:])} where -1 is any length"
            )
        return as_datatype(values, self.spec.datatype, column=name or self.spec.name, start=chunk.start)

    def _matrix(self, chunk: Chunk) -> Array:
        dtype = self.spec.datatype.dtype
        matrix: Array = np.empty((chunk.rows, len(self.names)), dtype)
        for index, name in enumerate(self.names):
            values = chunk.columns[name]
            if values.ndim != 1:
                raise ConfigError(f"'{name}' has {values.ndim} dimensions, expected a column")
            matrix[:, index] = as_datatype(values, self.spec.datatype, column=name, start=chunk.start)
        return matrix


def match(
    signature: Signature, columns: Mapping[str, Sequence[str]], names: Sequence[str],
    *, is_table: bool, label: str, file_order: bool = False,
) -> tuple[TensorColumns, ...]:  # fmt: skip
    """Match the inputs of a model with the names that a source has.

    `columns` are the model's own names of what lies along the last dimension of an input. `file_order` takes a table's
    columns as they come where the model has none. Raises ConfigError saying what is missing.
    """
    for spec in signature.inputs:
        if not spec.shape or spec.shape[0] != DYNAMIC:
            raise ConfigError(
                f"input '{spec.name}' has shape {list(spec.shape)}, whose first dimension does not count rows; "
                "such a model cannot score a table"
            )
    alone = len(signature.inputs) == 1
    return tuple(_match(spec, columns, names, is_table=is_table, label=label, file_order=file_order and alone)
                 for spec in signature.inputs)  # fmt: skip


def _match(
    spec: TensorSpec, columns: Mapping[str, Sequence[str]], names: Sequence[str],
    *, is_table: bool, label: str, file_order: bool,
) -> TensorColumns:  # fmt: skip
    if spec.name in names:
        return TensorColumns(spec, (spec.name,), is_matrix=False)
    if tuple(names) == (UNNAMED,):
        return TensorColumns(spec, (UNNAMED,), is_matrix=False)
    wanted = tuple(columns.get(spec.name, ()))
    if wanted and is_table and len(spec.shape) == 2:
        missing = [name for name in wanted if name not in names]
        if missing:
            raise ConfigError(
                f"{label} lacks column {_list(missing)}, which input '{spec.name}' is made of; it has {_list(names)}"
            )
        return TensorColumns(spec, wanted, is_matrix=True)
    if len(wanted) == 1 and wanted[0] in names:
        return TensorColumns(spec, wanted, is_matrix=False)
    if file_order and is_table and len(spec.shape) == 2:
        if spec.shape[1] not in {DYNAMIC, len(names)}:
            raise ConfigError(f"{label} has {len(names)} columns, input '{spec.name}' wants {spec.shape[1]}")
        return TensorColumns(spec, tuple(names), is_matrix=True)
    remedy = ""
    if is_table and len(spec.shape) == 2:
        remedy = (
            "; the model does not name its columns: score a package that does, or take the file's order (--file-order)"
        )
    raise ConfigError(f"{label} has no '{spec.name}', which the model takes; it has {_list(names)}{remedy}")


def _fits(actual: Sequence[int], expected: Sequence[int]) -> bool:
    return len(actual) == len(expected) and all(e in {DYNAMIC, a} for a, e in zip(actual, expected, strict=True))


def _called(name: str) -> str:
    return f"'{name}'" if name else "the array"


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:10])
    return f"{shown} and {len(names) - 10} more" if len(names) > 10 else shown
