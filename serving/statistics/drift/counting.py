"""Counts the rows of batches into blocks: exact, additive, and the same whichever way they are counted.

`count_in_numpy` says what counting means. The compiled kernel does the same, faster; whoever makes a counter chooses.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.statistics.derived import Deriver
from serving.statistics.drift.layout import CENTRE, COLUMN, FIRST_KEY, INVERSE, KNOWN, Layout, TensorTable
from serving.statistics.profile import EDGES, SLOTS_MAX, category_slots, deviations, number_slots
from serving.types import Array

Count = Callable[..., None]
"""Adds rows start, start + step, ... of x [rows, elements] to counts and sums: see `count_in_numpy`."""

Kernels = Mapping[Any, Count]
"""How to count, by the datatype of a tensor, and how to derive, by DERIVING and it; others are converted first."""
DERIVING = "derive"


class Block:
    """Counts of every feature since some moment: int64 [features, 64], sums [features, 2] of deviations and squares.

    Owned by whoever made it; one writer at a time.
    """

    __slots__ = ("counts", "rows", "sums")

    def __init__(self, features: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros((features, SLOTS_MAX), np.int64)
        self.sums: NDArray[np.float64] = np.zeros((features, 2), np.float64)
        self.rows = 0

    def add(self, other: "Block") -> None:
        """Add the counts of another block of the same features."""
        self.counts += other.counts
        self.sums += other.sums
        self.rows += other.rows

    def copy(self) -> "Block":
        """Return an independent block of the same counts."""
        twin = Block(len(self.counts))
        twin.add(self)
        return twin


def count_in_numpy(
    x: Array, start: int, step: int, table: NDArray[np.int64],
    reals: NDArray[np.float64], counts: NDArray[np.int64], sums: NDArray[np.float64],
) -> None:  # fmt: skip
    """Add rows `start`, `start + step`, ... of x [rows, elements] to counts [features, 64] and sums [features, 2]."""
    rows = x[start::step]
    for feature, (column, known, first) in enumerate(table[:, [COLUMN, KNOWN, FIRST_KEY]].tolist()):
        values = rows[:, column]
        if known:
            slots = category_slots(values, first, known)
        else:
            slots = number_slots(values, reals[feature, :EDGES])
            z = deviations(values, reals[feature, CENTRE], 1.0 / reals[feature, INVERSE])
            sums[feature] += z.sum(), (z * z).sum()
        counts[feature] += np.bincount(slots, minlength=SLOTS_MAX)


NUMPY: Kernels = {np.dtype(name): count_in_numpy for name in ("float32", "float64", "int64")}
"""Counting without numba."""


def count_batch(
    block: Block, layout: Layout, arrays: Sequence[Array], *, rows: int, start: int, step: int, kernels: Kernels,
    deriving: tuple[int, int] = (0, 1),
) -> None:  # fmt: skip
    """Add rows `start`, `start + step`, ... of a batch of `rows`: its inputs, then its outputs, in the model's order.

    Of these rows number deriving[0] and every deriving[1]-th behind it are looked at as a whole, which costs more.
    A tensor that has not the elements per row that the signature promised is passed over.
    """
    if start >= rows:
        return
    for table in layout.tables:
        array = arrays[table.position]
        if array.size != rows * table.elements:
            continue
        x = array.reshape(rows, table.elements)
        begin, end = table.first, table.last
        if table.derive is not None:
            own = {"start": start + deriving[0] * step, "step": deriving[1] * step}
            _count_derived(block, table, table.derive, x, **own, kernels=kernels)
            continue
        if table.texts:
            _count_texts(block, table, x[start::step])
            continue
        count = kernels.get(x.dtype)
        if count is None or not (x.flags.carray and x.flags.aligned):
            x, count, first, stride = *_converted(x[start::step], kernels), 0, 1
        else:
            first, stride = start, step
        count(x, first, stride, table.table, table.reals, block.counts[begin:end], block.sums[begin:end])
    block.rows += len(range(start, rows, step))


def _count_derived(
    block: Block, table: TensorTable, derive: Deriver, x: Array, *, start: int, step: int, kernels: Kernels
) -> None:  # fmt: skip
    """Count the features that are derived from the sampled rows of a tensor."""
    if start >= len(x):
        return
    if not table.is_of_texts and ((DERIVING, x.dtype) not in kernels or not (x.flags.carray and x.flags.aligned)):
        x, start, step = _converted(x[start::step], kernels)[0], 0, 1
    values = derive(x, kernels.get((DERIVING, x.dtype)), start, step)
    begin, end = table.first, table.last
    kernels[values.dtype](values, 0, 1, table.table, table.reals, block.counts[begin:end], block.sums[begin:end])


def _converted(x: Array, kernels: Kernels) -> tuple[Array, Count]:
    """Return sampled rows as an array that a kernel takes: writeable, side by side, of its datatype."""
    dtype = x.dtype
    if dtype not in kernels:
        dtype = np.dtype(np.float32 if dtype.kind == "f" else np.float64 if dtype == np.uint64 else np.int64)
    return np.array(x, dtype, order="C"), kernels[dtype]


def _count_texts(block: Block, table: TensorTable, x: Array) -> None:
    """Count texts, with Python's own hashing: they are Python objects already."""
    for feature, slots in enumerate(table.texts):
        counts = block.counts[table.first + feature]
        unseen = len(slots) - 1
        for value in x[:, table.table[feature, COLUMN]].tolist():
            counts[slots.get(value, unseen)] += 1
