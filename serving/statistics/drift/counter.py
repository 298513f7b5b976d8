"""What an executor of batches counts for drift: its own block, which the watch takes away when a pane ends."""

import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.clock import Clock
from serving.statistics.drift.counting import Block, Kernels, count_batch
from serving.statistics.drift.governor import Governor
from serving.statistics.drift.layout import Layout
from serving.statistics.profile import KEY_CHARACTERS_MAX, columns_watched
from serving.types import Array

Sample = list[NDArray[np.generic]]
"""Rows of every watched tensor, [rows, watched columns]."""


DERIVED_EVERY = 8
"""While not all rows are sampled, one in so many of them is looked at as a whole, which costs more than elements."""


class Collector:
    """The first rows, for a reference when there is no profile. Bound: `rows_max`, and `BYTES_MAX`."""

    BYTES_MAX = 32 << 20

    def __init__(self, elements: Sequence[int], rows_max: int) -> None:
        self._columns = {position: columns_watched(count) for position, count in enumerate(elements) if count}
        self._elements = elements
        self.samples: list[Sample] = []
        self.rows_left = rows_max
        self._bytes_left = self.BYTES_MAX

    @property
    def is_full(self) -> bool:
        """Whether there are enough rows."""
        return self.rows_left <= 0 or self._bytes_left <= 0

    def take(self, arrays: Sequence[Array], *, rows: int, start: int, step: int) -> None:
        """Copy the sampled rows of a batch; a batch of other shapes than promised is passed over."""
        if self.is_full or any(arrays[k].size != rows * self._elements[k] for k in self._columns):
            return
        sample = [_kept(arrays[k].reshape(rows, -1)[start::step, columns]) for k, columns in self._columns.items()]
        self.samples.append(sample)
        self.rows_left -= len(sample[0])
        self._bytes_left -= sum(_bytes(part) for part in sample)


class Kept(NamedTuple):
    """A batch of which the sampled rows are still to be counted: copies of its inputs, its outputs, which rows."""

    inputs: list[Array]
    outputs: Sequence[Array]
    rows: int
    sampled: range


class Counter:
    """Counts what one executor runs, on its thread; `settle`, `swap`, `follow` and `collect` belong to the watch's.

    Counting takes as long for a row as for some dozens, so small batches are kept until they are some rows together.
    Bounds: `TOGETHER_ROWS` and the rows of a batch, `KEPT_BYTES_MAX` and a batch's outputs, wherever those lie; texts
    are counted with their batch. What cannot be counted takes along what was kept with it.

    The lock is held while a batch is kept or counted, and while what is kept is taken away: so whoever has an answer
    finds its rows counted. No executor ever waits for it: a batch that comes while a pane ends is not sampled, which
    says nothing about its rows.
    """

    TOGETHER_ROWS = 16
    """So many rows are counted together."""
    KEPT_BYTES_MAX = 64 << 10
    """Inputs of more bytes are not copied to be counted later."""

    def __init__(self, clock: Clock, kernels: Kernels, *, overhead_max: float) -> None:
        self._clock = clock
        self._kernels = kernels
        self._lock = threading.Lock()
        self._layout: Layout | None = None
        self._block = Block(0)
        self._collector: Collector | None = None
        self._kept: list[Kept] = []
        self._kept_rows = 0
        self._kept_bytes = 0
        self._keeping_ns = 0
        self.is_due = False  # whether `count_kept` has enough to do
        self.governor = Governor(overhead_max)

    def observe(self, inputs: Sequence[Array], outputs: Sequence[Array], *, rows: int, infer_ns: int) -> None:
        """Count the sampled rows of a batch that has run."""
        sampled = self.governor.sample(rows, infer_ns)
        if sampled and self._lock.acquire(blocking=False):
            try:
                self._count([*inputs, *outputs], rows, sampled)
            finally:
                self._lock.release()

    def keep(self, inputs: Sequence[Array], outputs: Sequence[Array], *, rows: int, infer_ns: int) -> None:
        """Copy the inputs of a batch, which may be overwritten, if it is sampled, and leave the rest to `count_kept`.

        They are copied from a GPU to the host; large ones are counted at once. The batch's answers wait for this, so
        nothing else is done here.
        """
        sampled = self.governor.sample(rows, infer_ns)
        if not sampled or not self._lock.acquire(blocking=False):
            return
        try:
            began_ns, kept_bytes = self._clock.now_ns(), 0
            for array in inputs:  # loops, and no functions of their own: those would be cold
                kept_bytes += array.nbytes
            if kept_bytes > self.KEPT_BYTES_MAX:
                self._count([*inputs, *outputs], rows, sampled)
                return
            copies = []
            for array in inputs:
                copies.append(np.array(array))
                self.is_due |= array.dtype == np.object_  # of texts
            for array in outputs:
                kept_bytes += array.nbytes
                self.is_due |= array.dtype == np.object_
            self._kept.append(Kept(copies, outputs, rows, sampled))
            self._kept_rows += len(sampled)
            self._kept_bytes += kept_bytes
            self.is_due |= self._kept_rows >= self.TOGETHER_ROWS or self._kept_bytes > self.KEPT_BYTES_MAX
            self._keeping_ns += self._clock.now_ns() - began_ns
        finally:
            self._lock.release()

    def count_kept(self) -> None:
        """Count what is kept, unless somebody takes it away just now."""
        if self._lock.acquire(blocking=False):
            try:
                self._count_kept()
            finally:
                self._lock.release()

    def settle(self) -> None:
        """Count what was kept, however little it is."""
        with self._lock:
            self._count_kept()

    def _count_kept(self) -> None:
        kept, self._kept = self._kept, []
        self._kept_rows = self._kept_bytes = 0
        self.is_due = False
        began_ns = self._clock.now_ns()
        alike: list[list[list[Array]]] = []
        for batch in kept:
            sampled = [_sampled(array, batch) for array in (*batch.inputs, *batch.outputs)]
            if not alike or not all(map(_are_alike, alike[-1][0], sampled)):
                alike.append([])
            alike[-1].append(sampled)
        together = [
            batches[0] if len(batches) == 1 else [np.concatenate(parts) for parts in zip(*batches, strict=True)]
            for batches in alike
        ]
        self._keeping_ns += self._clock.now_ns() - began_ns
        for arrays in together:
            rows = len(arrays[0])
            self._count(arrays, rows, range(rows))

    def _count(self, arrays: Sequence[Array], rows: int, sampled: range) -> None:
        began_ns = self._clock.now_ns()
        here = [np.asarray(array) for array in arrays]  # what lies on a GPU is copied
        if self._layout is not None:
            count_batch(
                self._block, self._layout, here, rows=rows, start=sampled.start, step=sampled.step,
                kernels=self._kernels, deriving=self._deriving(),
            )  # fmt: skip
        elif self._collector is not None:
            self._collector.take(here, rows=rows, start=sampled.start, step=sampled.step)
        spent_ns, self._keeping_ns = self._clock.now_ns() - began_ns + self._keeping_ns, 0
        self.governor.spent(spent_ns, len(sampled))

    def _deriving(self) -> tuple[int, int]:
        """Return which of the sampled rows to look at as a whole: all while all are sampled, else a few."""
        if self.governor.step == 1:
            return 0, 1
        return self.governor.any_of(DERIVED_EVERY), DERIVED_EVERY

    def collect(self, collector: Collector) -> None:
        """From now on collect rows, until `follow`."""
        with self._lock:
            self._collector = collector

    def follow(self, layout: Layout) -> None:
        """From now on count by this layout."""
        block = Block(len(layout.features))
        with self._lock:
            self._layout, self._block, self._collector = layout, block, None

    def swap(self) -> Block:
        """Take away what was counted."""
        fresh = Block(len(self._block.counts))
        with self._lock:
            self._count_kept()
            counted, self._block = self._block, fresh
        return counted


def _sampled(array: Array, batch: Kept) -> Array:
    """Return the sampled rows of a tensor as [rows, elements]; no elements when it does not follow the rows."""
    here = np.asarray(array)  # from a GPU
    if here.size % batch.rows:
        return np.empty((len(batch.sampled), 0), here.dtype)
    return here.reshape(batch.rows, -1)[batch.sampled.start :: batch.sampled.step]


def _are_alike(one: Array, other: Array) -> bool:
    return one.dtype == other.dtype and one.shape[1] == other.shape[1]


def _kept(part: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return a copy that keeps nothing of the request alive; of long texts only as much as tells that they are long."""
    if part.dtype != np.object_:
        return part
    kept = np.empty(part.shape, np.object_)
    kept.reshape(-1)[:] = [text[: KEY_CHARACTERS_MAX + 1].encode() for text in part.reshape(-1).tolist()]
    return kept


def _bytes(part: NDArray[np.generic]) -> int:
    return part.nbytes + (sum(map(len, part.reshape(-1).tolist())) if part.dtype == np.object_ else 0)
