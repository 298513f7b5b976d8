"""The way of arrays into a GPU's memory, on two lanes that take turns.

A lane is a stream and a piece of pinned host memory, which a GPU can read by itself while the CPU goes on. Rows are
copied in chunks: while the GPU fetches a chunk from one lane and computes on it, the CPU fills the other lane's memory.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numba import cuda
from numpy.typing import NDArray

from serving.types import Array

CHUNK_BYTES = 4 << 20
"""About so many bytes are copied at a time: far more than starting a copy costs, far less than a batch of images."""
_ALIGNED_BYTES = 64


class Lane:
    """A stream and its pinned memory, which grows to the largest chunk. Belongs to one thread at a time.

    It is made, and used, while its GPU is `active`.
    """

    def __init__(self) -> None:
        self.stream: Any = cuda.stream()
        self._pinned: NDArray[np.uint8] = np.empty(0, np.uint8)  # there is no pinned memory of no bytes
        self._used_bytes = 0

    def begin(self, wanted_bytes: int) -> None:
        """Wait until nothing is under way on this lane, and make room for `upload` of so many bytes in all."""
        self.stream.synchronize()
        self._used_bytes = 0
        if len(self._pinned) < wanted_bytes:
            self._pinned = cuda.pinned_array(wanted_bytes, np.uint8)

    def upload(self, rows: Array, target: Any) -> None:
        """Begin to copy rows to a GPU's array of their shape and dtype; they may be changed when this returns."""
        if not rows.size:
            return
        begin, end = self._used_bytes, self._used_bytes + rows.nbytes
        staged = self._pinned[begin:end].view(rows.dtype).reshape(rows.shape)
        np.copyto(staged, rows)
        target.copy_to_device(staged, stream=self.stream)
        self._used_bytes = _aligned(end)


class Lanes:
    """Two lanes. Belongs to one thread at a time; see `Lane`."""

    def __init__(self) -> None:
        self._lanes = (Lane(), Lane())

    def chunks(self, rows: int, row_bytes: Sequence[int]) -> Iterator[tuple[Lane, int, int]]:
        """Go over a batch in chunks: the lane whose turn it is, with room for the chunk, and its rows from, and to.

        `row_bytes` are those of each array that will be uploaded.
        """
        step = chunk_rows(rows, sum(row_bytes))
        room = sum(_aligned(step * each) for each in row_bytes)
        for turn, begin in enumerate(range(0, rows, step)):
            lane = self._lanes[turn % 2]
            lane.begin(room)
            yield lane, begin, min(begin + step, rows)

    def join(self) -> None:
        """Wait until nothing is under way any more."""
        for lane in self._lanes:
            lane.stream.synchronize()


def chunk_rows(rows: int, row_bytes: int) -> int:
    """Return how many rows to copy at a time: halves of a batch at most where it is large enough to be shared out."""
    fitting = max(1, CHUNK_BYTES // max(1, row_bytes))
    return max(1, min(fitting, rows))


def bytes_per_row(dims: Sequence[int], dtype: np.dtype[np.generic]) -> int:
    """Return the bytes of a row of these dimensions."""
    return math.prod(dims) * dtype.itemsize


def _aligned(count: int) -> int:
    return -(-count // _ALIGNED_BYTES) * _ALIGNED_BYTES
