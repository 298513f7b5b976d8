"""Requests that were decoded by the kernels, on their way through a servable: many of them as one entry of its queue.

What came in one turn of the event loop for one servable is one group. Its tensors lie side by side in the servable's
arena and its columns in the matrix beside it, so nothing here is done per request, except where a batch ends inside a
group, or somebody does not wait any more.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from serving.batching.arena import Arena, Lease
from serving.batching.entries import EXPIRED, PRIORITY_USUAL, Lane, Progress, Result
from serving.clock import TimerHandle
from serving.errors import Cancelled, DeadlineExceeded, ServingError
from serving.model import Servable
from serving.repository.handle import Handle
from serving.transport.native.connection import Connection
from serving.types import Array, Signature
from serving.wire.layout import NO_DEADLINE, S_GENERATION, S_STATE, STREAM_RESET
from serving.wire.plan import Plan
from serving.wire.records import (
    ID_BYTES_MAX,
    R_DEADLINE_NS,
    R_ROW,
    R_ROWS,
    R_STREAM,
    R_STREAM_GENERATION,
    REQUEST_COLUMNS,
)

Shapes = dict[tuple[tuple[int, ...], ...], tuple[NDArray[np.int64], list[int]]]
"""Output shapes as the encoder takes them, and their bytes per row, by the dimensions behind the first."""


class Segment(NamedTuple):
    """Requests [first, last) of a group that one connection brought in one read."""

    connection: Connection
    first: int
    last: int
    arrival_ns: int


class Settling(Protocol):
    """Who answers a group's requests, and lets them out."""

    streams: NDArray[np.int64]

    @property
    def deaths(self) -> int:
        """How many streams and connections went before their answers."""

    def settle(self, group: "RequestGroup", result: Result) -> None:
        """Answer every request of a group by its rows of the outputs, or by an error, and let them out."""

    @property
    def now_ns(self) -> Callable[[], int]:
        """The monotonic clock."""


class Place:
    """Where the requests of one servable are put, as long as it serves: tensors in `arena`, the rest beside its rows.

    Raises MemoryError.
    """

    __slots__ = ("arena", "columns", "ids", "lane", "shapes")

    def __init__(self, signature: Signature, rows_max: int) -> None:
        self.arena = Arena(signature, rows_max)
        self.columns: NDArray[np.int64] = np.zeros((self.arena.capacity, REQUEST_COLUMNS), np.int64)
        self.ids: NDArray[np.uint8] = np.zeros(self.arena.capacity * ID_BYTES_MAX, np.uint8)
        self.lane: Lane = tuple(spec.shape[1 if signature.batchable else 0 :] for spec in signature.inputs)
        self.shapes: Shapes = {}


@dataclass(slots=True, eq=False)
class Door:
    """One servable of a plan, and the group that is being filled for it."""

    handle: Handle
    plan: Plan
    slot: int
    place: Place
    group: "RequestGroup | None" = None


class Origin:
    """What the parts of a group share: the servable they hold, the columns of their requests, whose they are."""

    __slots__ = (
        "handle",
        "ids",
        "lease",
        "number",
        "open_requests",
        "plan",
        "requests",
        "row_bytes",
        "segments",
        "settling",
        "shapes",
        "timer",
    )

    def __init__(self, settling: Settling, number: int, door: Door, lease: Lease) -> None:
        self.settling = settling
        self.number = number
        self.handle = door.handle
        self.lease = lease
        self.plan = door.plan
        self.shapes = door.place.shapes
        self.requests = door.place.columns
        self.ids = door.place.ids
        self.row_bytes = door.place.arena.row_bytes
        self.segments: list[Segment] = []
        self.open_requests = 0
        self.timer: TimerHandle | None = None

    @property
    def servable(self) -> Servable:
        """The servable that the group holds."""
        return self.handle.servable


class RequestGroup:
    """Compiled requests as an `Entry`, in one or several runs whose rows lie side by side.

    It grows on the I/O thread until it is submitted; then the batcher owns it. While it grows its rows end before
    `row_end`, and may reach to `row_bound` as long as its batcher has had no more than `seen_submissions`. `first` and
    `last` are the requests of its first run, which for a part that was taken is the only one. None of its requests has
    a priority of its own: those with parameters are not compiled.
    """

    __slots__ = (
        "_is_arranged",
        "_runs",
        "_seen_deaths",
        "arena",
        "deadline_ns",
        "input_bytes",
        "lane",
        "origin",
        "outputs",
        "progress",
        "requests",
        "row_bound",
        "row_end",
        "rows",
        "seen_submissions",
    )

    priority = PRIORITY_USUAL

    def __init__(self, origin: Origin, arena: Arena, lane: Lane, runs: list[tuple[int, int]]) -> None:
        self.origin = origin
        self.arena: Arena | None = arena
        self.lane = lane
        self.progress = Progress.WAITING
        self.outputs: Result | None = None
        self.deadline_ns: int | None = None
        self.requests = 0
        self.rows = 0
        self.row_end = self.row_bound = origin.lease.begin
        self.seen_submissions = 0
        self.input_bytes = 0
        self._runs = runs
        self._is_arranged = False
        self._seen_deaths = origin.settling.deaths

    @property
    def first(self) -> int:
        """The first request of the first run."""
        return self._runs[0][0]

    @property
    def last(self) -> int:
        """The request behind the first run."""
        return self._runs[0][1]

    @property
    def row(self) -> int:
        """Where the first run lies in the arena."""
        return int(self.origin.requests[self._runs[0][0], R_ROW])

    @property
    def inputs(self) -> list[Array]:
        """See `Entry`; of a part that was taken."""
        assert self.arena is not None, "bug: a group lies in no arena"
        row = self.row
        return self.arena.inputs(row, row + self.rows)

    @property
    def arrival_ns(self) -> int:
        """See `Entry`; of a part, when the first request of the whole group came, which none of its own came before."""
        return self.origin.segments[0].arrival_ns

    @property
    def arrivals(self) -> Sequence[tuple[int, int]]:
        """See `Entry`."""
        return [(part.arrival_ns, part.last - part.first) for part in self.segments()]

    def segments(self) -> list[Segment]:
        """Return whose requests the runs hold."""
        segments = self.origin.segments
        if len(self._runs) == 1 and self.first == segments[0].first and self.last == segments[-1].last:
            return segments
        return [
            Segment(segment.connection, max(first, segment.first), min(last, segment.last), segment.arrival_ns)
            for first, last in self._runs
            for segment in segments
            if max(first, segment.first) < min(last, segment.last)
        ]

    def grow(self, segment: Segment, row_end: int, deadline_ns: int) -> None:
        """Take in the requests of a segment, which lie behind those that are here, and whose rows end at `row_end`."""
        origin, first, last = self.origin, self._runs[0][0], segment.last
        origin.segments.append(segment)
        self._runs[0] = (first, last)
        self.requests = last - first
        self.rows = row_end - origin.lease.begin
        self.row_end = row_end
        self.input_bytes = self.rows * origin.row_bytes
        if deadline_ns < (self.deadline_ns or NO_DEADLINE):
            self.deadline_ns = deadline_ns

    def is_stale(self, now_ns: int) -> bool:
        """See `Entry`."""
        expired = self.deadline_ns is not None and self.deadline_ns <= now_ns
        return expired or self._seen_deaths != self.origin.settling.deaths

    def sift(self, now_ns: int) -> "Sequence[tuple[RequestGroup, ServingError]]":
        """See `Entry`: expired requests, and those whose stream or connection is gone."""
        self._seen_deaths = self.origin.settling.deaths
        over: list[tuple[RequestGroup, ServingError]] = []
        for error, is_over in (
            (Cancelled("the client cancelled the request"), self._is_dead),
            (DeadlineExceeded(EXPIRED), lambda columns: columns[:, R_DEADLINE_NS] <= now_ns),
        ):
            over += [(part, error) for part in self._remove(is_over)]
        self._find_deadline()
        return over

    def part_due(self, before_ns: float) -> "Sequence[RequestGroup]":
        """See `Entry`."""
        parts = self._remove(lambda columns: columns[:, R_DEADLINE_NS] < before_ns)
        self._find_deadline()
        return parts

    def arrange(self) -> None:
        """See `Entry`. Requests that lie side by side and are due together stay one run."""
        if self._is_arranged:
            return
        self._is_arranged = True
        numbers = np.concatenate([np.arange(first, last) for first, last in self._runs])
        deadlines = self.origin.requests[numbers, R_DEADLINE_NS]
        if (deadlines[1:] < deadlines[:-1]).any():
            numbers = numbers[np.argsort(deadlines, kind="stable")]
            edges = [0, *(np.flatnonzero(np.diff(numbers) != 1) + 1).tolist(), len(numbers)]
            self._runs = [(int(numbers[begin]), int(numbers[end - 1]) + 1) for begin, end in pairwise(edges)]

    def take(self, rows_max: int, requests_max: int) -> "RequestGroup | None":
        """See `Entry`."""
        first, last = self._runs[0]
        count = min(self._fitting(first, last, rows_max), requests_max)
        if count == 0:
            return None
        if count == self.requests:
            return self
        self._runs[:1] = [(first + count, last)] if first + count < last else []
        part = self._part_off(first, first + count)
        if self.deadline_ns is not None:
            self._find_deadline()
        return part

    def singles(self) -> "Sequence[RequestGroup]":
        """See `Entry`."""
        parts = [self._part(k, k + 1) for first, last in self._runs for k in range(first, last)]
        for part in parts:
            part.progress = self.progress
        return parts

    def place_of(self, request: int) -> tuple[int, int]:
        """See `Entry`."""
        columns = self.origin.requests[self.first + request]
        return int(columns[R_ROW]) - self.row, int(columns[R_ROWS])

    def finished(self, outputs: list[Array], now_ns: int) -> "Sequence[tuple[RequestGroup, Result]]":
        """See `Entry`: nobody waits any more for requests that have expired or were cancelled while they ran."""
        if not self.is_stale(now_ns):
            return ((self, outputs),)
        row, over = self.row, self.sift(now_ns)
        if not over:
            return ((self, outputs),)
        self.progress = Progress.SETTLED
        parts: list[tuple[RequestGroup, Result]] = list(over)
        for part in [self._part(*run) for run in self._runs]:
            begin = part.row - row
            parts.append((part, [output[begin : begin + part.rows] for output in outputs]))
        return parts

    def settle(self, result: Result) -> None:
        """See `Entry`."""
        if self.progress is not Progress.SETTLED:
            self.progress = Progress.SETTLED
            self.origin.settling.settle(self, result)

    def _is_dead(self, columns: NDArray[np.int64]) -> NDArray[np.bool_]:
        streams = self.origin.settling.streams[columns[:, R_STREAM]]
        gone = streams[:, S_GENERATION] != columns[:, R_STREAM_GENERATION]
        dead: NDArray[np.bool_] = gone | (streams[:, S_STATE] & STREAM_RESET != 0)
        return dead

    def _remove(self, is_over: Callable[[NDArray[np.int64]], NDArray[np.bool_]]) -> "list[RequestGroup]":
        """Take out the requests that a mask of their columns names; return them as parts."""
        removed: list[tuple[int, int]] = []
        kept: list[tuple[int, int]] = []
        for first, last in self._runs:
            mask = is_over(self.origin.requests[first:last])
            edges = [0, *(np.flatnonzero(mask[1:] != mask[:-1]) + 1).tolist(), last - first]
            for begin, end in pairwise(edges):
                (removed if mask[begin] else kept).append((first + begin, first + end))
        self._runs = kept
        return [self._part_off(*run) for run in removed]

    def _find_deadline(self) -> None:
        deadlines = [self.origin.requests[first:last, R_DEADLINE_NS].min() for first, last in self._runs]
        earliest = int(min(deadlines, default=NO_DEADLINE))
        self.deadline_ns = earliest if earliest < NO_DEADLINE else None

    def _fitting(self, first: int, last: int, rows_max: int) -> int:
        """Return how many of a run's requests have at most so many rows together."""
        if self.rows == self.requests:
            return min(last - first, rows_max)
        if self.rows <= rows_max:
            return last - first
        totals = np.cumsum(self.origin.requests[first:last, R_ROWS])
        return int(np.searchsorted(totals, rows_max, side="right"))

    def _part(self, first: int, last: int) -> "RequestGroup":
        """Return requests of this group as a group."""
        assert self.arena is not None, "bug: a group lies in no arena"
        part = RequestGroup(self.origin, self.arena, self.lane, [(first, last)])
        part.requests = last - first
        part.rows = int(self.origin.requests[first:last, R_ROWS].sum())
        part.input_bytes = part.rows * self.origin.row_bytes
        part.deadline_ns = self.deadline_ns
        part._seen_deaths = self._seen_deaths
        return part

    def _part_off(self, first: int, last: int) -> "RequestGroup":
        """Return requests of this group, which are in its runs no more, as a group."""
        part = self._part(first, last)
        self.requests -= part.requests
        self.rows -= part.rows
        self.input_bytes -= part.input_bytes
        return part
