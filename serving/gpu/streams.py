"""The way of arrays into a GPU's memory, on two streams that take turns.

Rows are copied in chunks: while a chunk is on its way, what was begun on the other stream goes on. Pinned memory
(`Gpu.pinned`) is copied by the GPU itself; other memory the driver stages in pieces, which was measured to be faster
than copying it to pinned memory here first.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numba import cuda

from serving.types import Array

CHUNK_BYTES = 64 << 20
"""About so many bytes are copied at a time, which takes several times as long as starting functions for a chunk."""


class StreamPair:
    """Two streams. Belongs to one thread at a time; it is made, and used, while its GPU is `active`."""

    def __init__(self) -> None:
        self._streams = (cuda.stream(), cuda.stream())

    def chunks(self, rows: int, row_bytes: int) -> Iterator[tuple[Any, int, int]]:
        """Yield a stream, whose turn it is, and a chunk's first row and the one behind its last, for each chunk."""
        step = chunk_rows(rows, row_bytes)
        for turn, begin in enumerate(range(0, rows, step)):
            yield self._streams[turn % 2], begin, min(begin + step, rows)

    def join(self) -> None:
        """Wait until nothing is under way any more."""
        for stream in self._streams:
            stream.synchronize()


def packed(array: Array) -> Array:
    """Return an array, or a copy of it, as `upload` takes it: row-major, and without strides of 0.

    Those may be left where a dimension is 1, and numba refuses them as broadcasts.
    """
    return array.copy() if 0 in array.strides else np.ascontiguousarray(array)


def upload(rows: Array, target: Any, stream: Any) -> None:
    """Begin to copy `packed` rows to numba's array of their shape and dtype; keep both until the stream has ended."""
    if rows.size:
        target.copy_to_device(rows, stream=stream)


def chunk_rows(rows: int, row_bytes: int) -> int:
    """Return how many rows to copy at a time: as many as fit a chunk, one at least, the whole batch at most."""
    return max(1, min(CHUNK_BYTES // max(1, row_bytes), rows))
