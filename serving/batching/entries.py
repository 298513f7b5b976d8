"""What waits in a servable's queue and what leaves it as a batch.

An entry is one request, or many that came together over the wire and lie side by side in an arena. The batcher counts
its rows, splits it where a batch ends, and never looks inside.
"""

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

from serving.batching.arena import Arena
from serving.batching.policy import Reason
from serving.errors import DeadlineExceeded, ServingError
from serving.types import Array

Lane = tuple[tuple[int, ...], ...]
"""The shapes of a request's inputs without the batch dimension: equal lanes can share a batch."""

Result = list[Array] | ServingError
"""Outputs in the model's order, or what the request ends with instead."""

EXPIRED = "the deadline passed while the request waited for an instance"
OUT_OF_REACH = "the deadline could not be met any more when the request's turn came; allow more time"

PRIORITY_USUAL = 100
"""The priority of a request that has none. Lower ones go first."""


class Progress(enum.Enum):
    """How far an entry has come."""

    WAITING = enum.auto()
    RUNNING = enum.auto()
    SETTLED = enum.auto()


class Entry(Protocol):
    """One or many requests of one lane, in order of arrival until `arrange`.

    `rows` and `input_bytes` count all of it, `requests` how many requests it holds. `arrivals` are (monotonic ns, how
    many requests came then), `deadline_ns` is the earliest one, `priority` that of all of them, the lower the sooner.
    `arena` and `row` say where its rows lie in an arena; without one, `inputs` are arrays of its own. `outputs` are set
    by the instance that ran it.
    """

    lane: Lane
    priority: int
    rows: int
    requests: int
    input_bytes: int
    deadline_ns: int | None
    progress: Progress
    outputs: Result | None
    arena: Arena | None

    @property
    def row(self) -> int:
        """Where its rows begin in the arena."""

    @property
    def arrival_ns(self) -> int:
        """When the oldest of its requests came."""

    @property
    def arrivals(self) -> Sequence[tuple[int, int]]:
        """When its requests came, and how many each time."""

    @property
    def inputs(self) -> list[Array]:
        """The inputs, in the model's order."""

    def is_stale(self, now_ns: int) -> bool:
        """Say whether `sift` would drop something."""

    def sift(self, now_ns: int) -> Sequence["Over"]:
        """Take out what nobody waits for any more: parts of this entry, or the entry itself when that is all of it."""

    def part_due(self, before_ns: float) -> Sequence["Entry"]:
        """Take out what has a deadline before a moment: parts of this entry, or the entry itself."""

    def arrange(self) -> None:
        """Put the requests in order of their deadlines, those without one behind the others."""

    def take(self, rows_max: int, requests_max: int) -> "Entry | None":
        """Take requests from the front: as many as fit and lie side by side; None when not even the first one fits.

        What is left is still this entry; its `requests` are 0 when that is nothing, unless it is what was returned.
        """

    def singles(self) -> Sequence["Entry"]:
        """Return an entry for each request."""

    def place_of(self, request: int) -> tuple[int, int]:
        """Return where the rows of one of its requests begin among its own, and how many; of a part that ran."""

    def finished(self, outputs: list[Array], now_ns: int) -> Sequence[tuple["Entry", Result]]:
        """Return what to settle, and with what, when it has run: those that nobody waits for any more get an error.

        On the I/O thread, once, before anything is counted.
        """

    def settle(self, result: Result) -> None:
        """Give every request of it its one and only answer. On the I/O thread; harmless when it was settled before."""


Over = tuple[Entry, ServingError]
"""What is not going to run, and why."""


class QueuedRequest:
    """One request on its way through a servable, as an entry.

    `inputs` are in the model's order, `rows` long in the first dimension when the model is batchable. The callback is
    called once, on the I/O thread, with the outputs in the model's order or the error, unless the request is dropped.
    """

    __slots__ = (
        "_settle",
        "arrival_ns",
        "deadline_ns",
        "input_bytes",
        "inputs",
        "lane",
        "outputs",
        "priority",
        "progress",
        "rows",
    )

    arena: Arena | None = None
    row = 0
    requests = 1

    def __init__(
        self,
        inputs: list[Array],
        *,
        rows: int,
        lane: Lane,
        input_bytes: int,
        arrival_ns: int,
        deadline_ns: int | None,
        settle: Callable[[Result], None],
        priority: int = PRIORITY_USUAL,
    ) -> None:
        self.inputs = inputs
        self.rows = rows
        self.lane = lane
        self.input_bytes = input_bytes
        self.arrival_ns = arrival_ns
        self.deadline_ns = deadline_ns
        self.priority = priority
        self.progress = Progress.WAITING
        self.outputs: Result | None = None
        self._settle = settle

    @property
    def arrivals(self) -> Sequence[tuple[int, int]]:
        """See `Entry`."""
        return ((self.arrival_ns, 1),)

    def is_stale(self, now_ns: int) -> bool:
        """See `Entry`."""
        return self.deadline_ns is not None and self.deadline_ns <= now_ns

    def sift(self, now_ns: int) -> Sequence[Over]:
        """See `Entry`."""
        return ((self, DeadlineExceeded(EXPIRED)),) if self.is_stale(now_ns) else ()

    def part_due(self, before_ns: float) -> Sequence[Self]:
        """See `Entry`."""
        return (self,) if self.deadline_ns is not None and self.deadline_ns < before_ns else ()

    def arrange(self) -> None:
        """See `Entry`."""

    def take(self, rows_max: int, requests_max: int) -> Self | None:  # noqa: ARG002 - there is nothing to split
        """See `Entry`."""
        return self if self.rows <= rows_max else None

    def singles(self) -> Sequence[Self]:
        """See `Entry`."""
        return (self,)

    def place_of(self, request: int) -> tuple[int, int]:  # noqa: ARG002 - there is only one
        """See `Entry`."""
        return 0, self.rows

    def finished(self, outputs: list[Array], now_ns: int) -> Sequence[tuple[Self, Result]]:
        """See `Entry`; whoever has queued it settles it when it expires, but not while it runs on that thread."""
        return ((self, DeadlineExceeded(EXPIRED) if self.is_stale(now_ns) else outputs),)

    def settle(self, result: Result) -> None:
        """See `Entry`."""
        if self.progress is not Progress.SETTLED:
            self.progress = Progress.SETTLED
            self._settle(result)


@dataclass(slots=True)
class Batch:
    """Entries that run together, and how long each step took in all its runs. Owned by whoever took it.

    `over` left the queue with them and is not run. `reason` says why it was taken then. `cpu_ns` is what the thread
    that ran it has worked, `wall_ns` what passed meanwhile. `is_clean` says that the time it took tells about its rows.
    """

    entries: list[Entry]
    rows: int
    taken_ns: int
    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0
    reruns: int = 0
    reason: Reason = Reason.IDLE
    is_clean: bool = True
    cpu_ns: int = 0
    wall_ns: int = 0
    over: list[Over] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """How many requests run."""
        return sum(entry.requests for entry in self.entries)
