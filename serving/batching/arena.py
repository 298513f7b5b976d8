"""Where the inputs of a batch lie side by side: in an arena, or else in the staging of an instance.

An arena is a ring of rows in order of arrival. Requests are copied into it as they are decoded, so a batch of requests
that follow each other runs in place. When something lies between them, or some have arrays of their own, the instance
gathers them into its staging buffers. Numpy only: nothing here knows how the rows came.
"""

from collections import deque
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serving.types import DYNAMIC, Array, Datatype, Signature

ROWS_STEP = 64
"""The capacity of an arena is a multiple of this, so that every input begins on a cache line."""
KEPT_BYTES = 16 << 20
"""An arena that is empty again and had grown beyond this gives its memory back."""


class Lease:
    """Rows of an arena from `begin` on, `held` of which are not given back yet; how many is open while it `grows`."""

    __slots__ = ("begin", "grows", "held")

    def __init__(self, begin: int) -> None:
        self.grows = True
        self.begin = begin
        self.held = 0


class Arena:
    """A ring of rows, for a signature whose inputs have a fixed length per row. Lives on the I/O thread.

    `octets` holds all inputs one behind the other: input k, of `b` bytes per row, begins at `capacity` times the bytes
    per row of the inputs before it, and its row r at r * b behind that. `arrays` are these inputs as [capacity, ...].
    Bound: `capacity` rows; memory is used as far as rows are. Rows are given back in any order and used again in the
    order in which they were taken.
    """

    def __init__(self, signature: Signature, rows_max: int) -> None:
        self.capacity = -(-rows_max // ROWS_STEP) * ROWS_STEP
        self._signature = signature
        self._leases: deque[Lease] = deque()
        self._head = 0  # the row behind the newest lease
        self._used_rows = 0  # since the memory was new
        self.row_bytes = sum(row_bytes(signature))
        self._allocate()

    def _allocate(self) -> None:
        self.octets: NDArray[np.uint8] = np.zeros(self.capacity * self.row_bytes, np.uint8)
        self.arrays: list[Array] = []
        begin = 0
        for spec, count in zip(self._signature.inputs, row_bytes(self._signature), strict=True):
            end = begin + self.capacity * count
            dims = spec.shape[1:] if self._signature.batchable else spec.shape
            self.arrays.append(self.octets[begin:end].view(spec.datatype.dtype).reshape(self.capacity, *dims))
            begin = end
        self._used_rows = 0

    def lease(self, rows: int) -> Lease | None:
        """Begin a lease where `rows` free rows follow each other; None when there is no such place.

        The one before must have ended.
        """
        assert not self._leases or not self._leases[-1].grows, "bug: two leases of one arena would grow"
        for begin, end in self._free():
            if end - begin >= rows:
                lease = Lease(begin)
                self._leases.append(lease)
                self._head = begin
                return lease
        return None

    def room(self, lease: Lease) -> int:
        """Return the row before which the newest lease must end."""
        assert lease is self._leases[-1], "bug: only the newest lease grows"
        oldest = self._leases[0].begin
        return oldest if oldest > lease.begin else self.capacity

    def end(self, lease: Lease, end: int) -> None:
        """Let the newest lease reach to row `end`, and grow no more."""
        assert lease.begin <= end <= self.room(lease), "bug: a lease ends where it may not"
        lease.grows = False
        lease.held = end - lease.begin
        self._head = end
        self._used_rows = max(self._used_rows, end)
        self.give_back(lease, 0)

    def give_back(self, lease: Lease, rows: int) -> None:
        """Take rows of a lease back; they are free once all rows of it and of older ones are."""
        lease.held -= rows
        assert lease.held >= 0, "bug: rows were given back twice"
        while self._leases and not self._leases[0].held and not self._leases[0].grows:
            self._leases.popleft()
        if not self._leases:
            self._head = 0
            if self._used_rows * self.row_bytes > KEPT_BYTES:
                self._allocate()

    def inputs(self, begin: int, end: int) -> list[Array]:
        """Return rows [begin, end) of every input, as views; a model that is not batchable gets its one row."""
        if self._signature.batchable:
            return [array[begin:end] for array in self.arrays]
        return [array[begin, ...] for array in self.arrays]

    def _free(self) -> Sequence[tuple[int, int]]:
        """Return where free rows lie, in the order in which they should be used."""
        if not self._leases:
            return ((0, self.capacity),)
        tail = self._leases[0].begin
        return ((self._head, self.capacity), (0, tail)) if self._head > tail else ((self._head, tail),)


class Gathered(Protocol):
    """What staging needs to know of an entry."""

    rows: int
    arena: Arena | None

    @property
    def row(self) -> int:
        """Where its rows begin in the arena."""

    @property
    def inputs(self) -> list[Array]:
        """The inputs, in the model's order."""


class Staging:
    """The input buffers of one instance, grown to the largest batch it has gathered. Lives on the instance's thread.

    Strings are gathered into a new array each time: a kept one would keep the texts of past requests alive.
    """

    def __init__(self, signature: Signature) -> None:
        self._buffers = [
            np.empty((0, *spec.shape[1:]), spec.datatype.dtype)
            if DYNAMIC not in spec.shape[1:] and spec.datatype is not Datatype.BYTES and not spec.is_ragged
            else None
            for spec in signature.inputs
        ]

    def gather(self, entries: Sequence[Gathered]) -> list[Array]:
        """Return the inputs of a batch: where they lie if they lie side by side, otherwise copied."""
        first = entries[0]
        if len(entries) == 1:
            # What lies in a message as it came may begin anywhere; onnxruntime expects elements where C would put them.
            return first.inputs if first.arena is not None else [_aligned(array) for array in first.inputs]
        rows = sum(entry.rows for entry in entries)
        if first.arena is not None and _follow_each_other(entries):
            return first.arena.inputs(first.row, first.row + rows)
        columns = zip(*(entry.inputs for entry in entries), strict=True)
        return [self._concatenate(index, rows, arrays) for index, arrays in enumerate(columns)]

    def _concatenate(self, index: int, rows: int, arrays: Sequence[Array]) -> Array:
        buffer = self._buffers[index]
        if buffer is None:
            return np.concatenate(arrays)
        if len(buffer) < rows:
            capacity = 1 << (rows - 1).bit_length()
            buffer = self._buffers[index] = np.empty((capacity, *buffer.shape[1:]), buffer.dtype)
        return np.concatenate(arrays, out=buffer[:rows])


def row_bytes(signature: Signature) -> list[int]:
    """Return the bytes of one row of each input, 0 where the signature does not fix them."""
    return [
        0
        if DYNAMIC in (dims := spec.shape[1:] if signature.batchable else spec.shape)
        else int(np.prod(dims)) * spec.datatype.item_bytes
        for spec in signature.inputs
    ]


def _aligned(array: Array) -> Array:
    return array if array.flags.aligned else array.copy()


def _follow_each_other(entries: Sequence[Gathered]) -> bool:
    """Say whether entries lie one behind the other in one arena."""
    arena, row = entries[0].arena, entries[0].row
    for entry in entries:
        if entry.arena is not arena or entry.row != row:
            return False
        row += entry.rows
    return True
