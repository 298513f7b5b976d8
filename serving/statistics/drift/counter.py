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
    """A batch that is still to be counted: inputs and outputs, its rows, and the first one that is sampled.

    Arrays may lie on a GPU, if nobody overwrites them there until they are counted.
    """

    arrays: list[Array]
    rows: int
    first: int


class Counter:
    """Counts what one executor runs, on its thread; `swap`, `follow` and `collect` belong to the watch's.

    The lock is held for the time of one batch, from when it is kept until it is counted, or of one swap: so whoever
    has an answer finds its rows counted. `observe` and `keep` never wait for it: a batch that comes while a pane ends
    is not sampled, which says nothing about its rows.
    """

    KEPT_BYTES_MAX = 64 << 10
    """Inputs of more bytes are not copied to be counted later."""

    def __init__(self, clock: Clock, kernels: Kernels, *, overhead_max: float) -> None:
        self._clock = clock
        self._kernels = kernels
        self._lock = threading.Lock()
        self._layout: Layout | None = None
        self._block = Block(0)
        self._collector: Collector | None = None
        self._kept: Kept | None = None  # the lock is held while there is one
        self.governor = Governor(overhead_max)

    def observe(self, inputs: Sequence[Array], outputs: Sequence[Array], *, rows: int, infer_ns: int) -> None:
        """Count the sampled rows of a batch that has run."""
        if (first := self._first_row(rows, infer_ns)) >= 0:
            self._kept = Kept([*inputs, *outputs], rows, first)
            self.count_kept()

    def keep(self, inputs: Sequence[Array], outputs: Sequence[Array], *, rows: int, infer_ns: int) -> None:
        """Have `count_kept`, which must follow, count a batch whose inputs may be overwritten until then.

        They are copied, from a GPU to the host; large ones are counted at once.
        """
        self.count_kept()
        if sum([array.nbytes for array in inputs]) > self.KEPT_BYTES_MAX:
            self.observe(inputs, outputs, rows=rows, infer_ns=infer_ns)
        elif (first := self._first_row(rows, infer_ns)) >= 0:
            try:
                self._kept = Kept([*[np.array(array, order="C") for array in inputs], *outputs], rows, first)
            except BaseException:
                self._lock.release()
                raise

    def _first_row(self, rows: int, infer_ns: int) -> int:
        """Take the lock for a batch and return its first sampled row; -1, without the lock, when none is counted."""
        first = self.governor.first_row(rows, infer_ns)
        return first if first >= 0 and self._lock.acquire(blocking=False) else -1

    def count_kept(self) -> None:
        """Count what was kept, if anything was."""
        kept = self._kept
        if kept is None:
            return
        try:
            began_ns, step = self._clock.now_ns(), self.governor.step
            arrays = [np.asarray(array) for array in kept.arrays]  # what lies on a GPU is copied
            if self._layout is not None:
                count_batch(
                    self._block, self._layout, arrays, rows=kept.rows, start=kept.first, step=step,
                    kernels=self._kernels, deriving=self._deriving(),
                )  # fmt: skip
            elif self._collector is not None:
                self._collector.take(arrays, rows=kept.rows, start=kept.first, step=step)
            self.governor.spent(self._clock.now_ns() - began_ns, len(range(kept.first, kept.rows, step)))
        finally:
            self._kept = None
            self._lock.release()

    def _deriving(self) -> tuple[int, int]:
        """Return which of the sampled rows to look at as a whole: all while all are sampled, else a few."""
        if self.governor.step == 1:
            return 0, 1
        return self.governor.any_of(DERIVED_EVERY), DERIVED_EVERY

    def collect(self, collector: Collector) -> None:
        """From now on keep rows, until `follow`."""
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
            counted, self._block = self._block, fresh
        return counted


def _kept(part: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return a copy that keeps nothing of the request alive; of long texts only as much as tells that they are long."""
    if part.dtype != np.object_:
        return part
    kept = np.empty(part.shape, np.object_)
    kept.reshape(-1)[:] = [text[: KEY_CHARACTERS_MAX + 1].encode() for text in part.reshape(-1).tolist()]
    return kept


def _bytes(part: NDArray[np.generic]) -> int:
    return part.nbytes + (sum(map(len, part.reshape(-1).tolist())) if part.dtype == np.object_ else 0)
