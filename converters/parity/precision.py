"""What rounding to the graph's datatypes does to numbers that a client sends, and which column suffers.

A measurement that loses its eighth digit stays the same measurement. A whole number above 16,777,216 that a float32
cannot hold is another number, and a category or an identifier becomes one that the model has never seen. Pure.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from converters.draft import Kind
from converters.parity.errors import Flags
from converters.runner import rows_of
from converters.sample import MATRIX, Tensors

SHARE_MAX: dict[Kind, float] = {"numeric": 1e-2, "trees": 2e-1, "embedding": 1e-2}
"""Rows that may be answered otherwise because a measurement was rounded. Trees split half-way between values, and where
data lie on a grid (2.2, 2.3, 2.4) that is a value too: 6 of 150 rows in a forest on scikit-learn's iris data."""
CHANGE = "the framework's answers to the sample as it came, against the graph's to what a client can send of it"
REMEDY = (
    "give identifiers and categories as whole numbers (int64) or words, which keep all digits, in a column of their "
    "own; take an offset off large measurements, such as timestamps, before training"
)
_COLUMNS_TRIED_MAX = 32


@dataclass(frozen=True, slots=True)
class _Column:
    """A number of every row: an input and its place in the flattened row; `whole` when a whole number was changed."""

    input: str
    place: int
    whole: bool


def whole_changed(exact: Tensors, cast: Tensors) -> Flags:
    """Tell in which rows a whole number became another number."""
    rows = len(next(iter(exact.values())))
    found = np.zeros(rows, np.bool_)
    for name, item in exact.items():
        found |= (_changed(item, cast[name]) & _is_whole(item)).reshape(rows, -1).any(axis=1)
    return found


def whole_column(exact: Tensors, cast: Tensors) -> str:
    """Name a column in which a whole number becomes another one, and what to do; nothing when there is none."""
    columns = [column for column in _columns(exact, cast) if column.whole]
    return f"{_told(columns[0], exact, cast, ())}; {REMEDY}" if columns else ""


def cause(exact: Tensors, cast: Tensors, *, names: Sequence[str], differs: Callable[[Tensors], Flags]) -> str:
    """Name the column whose rounding changes the answers to most of these rows, with a number that it changes.

    `names` are those of a matrix's columns; `differs` tells which rows the framework answers otherwise than before.
    """
    blamed, most = None, 0
    for column in _columns(exact, cast)[:_COLUMNS_TRIED_MAX]:
        tried = dict(exact)
        tried[column.input] = _with_place(exact[column.input], cast[column.input], column.place)
        if (count := int(differs(tried).sum())) > most:
            blamed, most = column, count
    return f"rounding {_told(blamed, exact, cast, names)} changes answers; {REMEDY}"


def affected(exact: Tensors, wrong: Flags) -> Tensors:
    """Return the rows whose answers were wrong, a few hundred at most: enough to find out why."""
    return rows_of(exact, np.flatnonzero(wrong)[:256])


def _columns(exact: Tensors, cast: Tensors) -> list[_Column]:
    """Return the columns that rounding changes, those with whole numbers first."""
    found = []
    for name, item in exact.items():
        changed = _changed(item, cast[name]).reshape(len(item), -1)
        whole = changed & _is_whole(item).reshape(len(item), -1)
        found += [
            _Column(name, int(place), bool(whole[:, place].any())) for place in np.flatnonzero(changed.any(axis=0))
        ]
    return sorted(found, key=lambda column: not column.whole)


def _told(column: _Column | None, exact: Tensors, cast: Tensors, names: Sequence[str]) -> str:
    if column is None:
        return "several columns together"
    before, after = (tensors[column.input].reshape(len(exact[column.input]), -1)[:, column.place]
                     for tensors in (exact, cast))  # fmt: skip
    index = int(np.argmax(_changed(before, after)))
    is_matrix = column.input == MATRIX or exact[column.input].reshape(len(before), -1).shape[1] > 1
    name = column.input
    if is_matrix:
        name = names[column.place] if column.place < len(names) else f"{column.input}[{column.place}]"
    shown = [f"{item[index]:.0f}" if column.whole else f"{item[index]:.17g}" for item in (before, after)]
    return f"column '{name}' ({shown[0]} becomes {shown[1]} in {after.dtype})"


def _with_place(exact: Any, cast: Any, place: int) -> Any:
    mixed = exact.reshape(len(exact), -1).copy()
    mixed[:, place] = cast.reshape(len(cast), -1)[:, place].astype(exact.dtype)
    return mixed.reshape(exact.shape)


def _changed(exact: Any, cast: Any) -> Flags:
    if exact.dtype.kind not in "fiu":
        return np.zeros(exact.shape, np.bool_)
    back = cast.astype(np.float64) if exact.dtype.kind == "f" or cast.dtype.kind == "f" else cast
    changed: Flags = (back != exact) & np.isfinite(exact)
    return changed


def _is_whole(item: Any) -> Flags:
    if item.dtype.kind != "f":
        return np.ones(item.shape, np.bool_) if item.dtype.kind in "iu" else np.zeros(item.shape, np.bool_)
    whole: Flags = item == np.floor(item)
    return whole
