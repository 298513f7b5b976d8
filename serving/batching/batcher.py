"""The queue of one servable: requests go in on the I/O thread, instance threads take batches out.

Late binding: a batch is formed when an instance asks for it, from what waits at that moment, so it grows while all
instances are busy. Requests whose open dimensions differ cannot share tensors and wait in lanes of their own; the lane
with the oldest request is served first. A request that is dropped (cancelled, expired) leaves the queue at once and
gives its rows and bytes back; one that already runs stays in its batch as dead rows, and only its answer is dropped.
"""

import enum
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from serving.batching.policy import Window, take_at_ns
from serving.clock import Clock
from serving.config import BatchingConfig
from serving.errors import Draining, InvalidRequest, Overloaded, ServingError
from serving.types import Array

RETRY_AFTER_MS_MAX = 10_000
_DECAY = 0.9
_MARGIN = 2  # a batch is begun so early that it may take twice its usual time and still make its first deadline
_MARGIN_NS = 2_000_000

Lane = tuple[tuple[int, ...], ...]
"""The shapes of a request's inputs without the batch dimension: equal lanes can share a batch."""


class Progress(enum.Enum):
    """How far a queued request has come."""

    WAITING = enum.auto()
    RUNNING = enum.auto()
    SETTLED = enum.auto()


class QueuedRequest:
    """One request on its way through a servable.

    `inputs` are in the model's order, `rows` long in the first dimension when the model is batchable. `settle` is
    called exactly once, on the I/O thread, with the outputs in the model's order or the error.
    """

    __slots__ = (
        "arrival_ns",
        "deadline_ns",
        "input_bytes",
        "inputs",
        "lane",
        "outputs",
        "progress",
        "rows",
        "settle",
    )

    def __init__(
        self,
        inputs: list[Array],
        *,
        rows: int,
        lane: Lane,
        input_bytes: int,
        arrival_ns: int,
        deadline_ns: int | None,
        settle: Callable[[list[Array] | ServingError], None],
    ) -> None:
        self.inputs = inputs
        self.rows = rows
        self.lane = lane
        self.input_bytes = input_bytes
        self.arrival_ns = arrival_ns
        self.deadline_ns = deadline_ns
        self.settle = settle
        self.progress = Progress.WAITING
        self.outputs: list[Array] | ServingError | None = None


@dataclass(slots=True)
class Batch:
    """Requests that run together, and how long each step took in all its runs. Owned by the instance that took it."""

    requests: list[QueuedRequest]
    rows: int
    taken_ns: int
    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0
    scattered_ns: int = 0
    reruns: int = 0
    expired: list[QueuedRequest] = field(default_factory=list)


@dataclass(slots=True)
class _LaneQueue:
    """The waiting requests of one lane, in order of arrival."""

    requests: OrderedDict[QueuedRequest, None] = field(default_factory=OrderedDict)
    rows: int = 0


class Batcher:
    """Groups waiting requests into batches.

    `submit` and `drop` are called on the I/O thread, `take`, `observe` and `stop_grouping` on instance threads,
    `end_windows` and `close` anywhere; one lock guards everything. Bounds: `queue_rows_max` and
    `queue_bytes_max`, beyond which `submit` raises Overloaded.
    """

    def __init__(self, config: BatchingConfig, clock: Clock, *, instances: int, batchable: bool) -> None:
        self._config = config
        self._clock = clock
        self._instances = instances
        self._grouping = batchable
        self._window = Window(config.batch_rows_max, config.queue_delay_us_max * 1_000 if batchable else 0)
        self._waiting: OrderedDict[QueuedRequest, None] = OrderedDict()  # all of them, in order of arrival
        self._lanes: dict[Lane, _LaneQueue] = {}
        self._ready = threading.Condition(threading.Lock())
        self._closed = False
        self._ns_per_row = 0.0
        self.queued_rows = 0
        self.queued_bytes = 0

    def submit(self, request: QueuedRequest) -> None:
        """Queue a request. Raises Overloaded at a bound, InvalidRequest for what can never fit, Draining at the end."""
        with self._ready:
            if self._closed:
                raise Draining("this model version is being unloaded; ask again for the version that replaces it")
            self._check_bounds(request)
            self._add(request)
            self._ready.notify()

    def drop(self, request: QueuedRequest) -> None:
        """Take a request out of the queue, or leave its rows to run for nobody. The caller settles it."""
        with self._ready:
            if request in self._waiting:
                self._remove(request)
            request.progress = Progress.SETTLED

    def take(self) -> Batch | None:
        """Wait for rows and return the next batch, or None once the batcher is closed and empty.

        Requests whose deadline has passed are handed over in `expired`, unrun; such a batch may hold no other requests.
        """
        with self._ready:
            while True:
                if not self._waiting:
                    if self._closed:
                        return None
                    self._ready.wait()
                    continue
                now_ns = self._clock.now_ns()
                lane, due_ns = self._next_lane(now_ns)
                if due_ns <= now_ns:
                    return self._form(lane, now_ns)
                self._ready.wait((due_ns - now_ns) / 1e9)

    def observe(self, batch: Batch) -> None:
        """Learn from a finished batch how long a row takes; used to say when trying again makes sense."""
        ns_per_row = (batch.scattered_ns - batch.taken_ns) / max(1, batch.rows)
        with self._ready:
            before = self._ns_per_row or ns_per_row
            self._ns_per_row = _DECAY * before + (1 - _DECAY) * ns_per_row

    def stop_grouping(self) -> None:
        """From now on make every batch of one request."""
        with self._ready:
            self._grouping = False
            self._window = Window(self._window.batch_rows_max, 0)
            self._ready.notify_all()

    def end_windows(self) -> None:
        """From now on take what waits without waiting for more."""
        with self._ready:
            self._window = Window(self._window.batch_rows_max, 0)
            self._ready.notify_all()

    def close(self) -> None:
        """Refuse further requests; instances finish what waits and then get None."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()

    def _check_bounds(self, request: QueuedRequest) -> None:
        config = self._config
        if request.input_bytes > config.queue_bytes_max:
            raise InvalidRequest(
                f"the inputs take {request.input_bytes} bytes, the model's queue holds at most "
                f"queue_bytes_max = {config.queue_bytes_max}; send fewer rows at a time"
            )
        if self.queued_rows + request.rows > config.queue_rows_max:
            full = f"{self.queued_rows} of queue_rows_max = {config.queue_rows_max} rows"
        elif self.queued_bytes + request.input_bytes > config.queue_bytes_max:
            full = f"{self.queued_bytes} of queue_bytes_max = {config.queue_bytes_max} bytes"
        elif len(self._waiting) >= config.queue_rows_max:  # requests of zero rows count as well
            full = f"queue_rows_max = {config.queue_rows_max} requests"
        else:
            return
        raise Overloaded(
            f"the model's queue holds {full} and this request brings {request.rows} rows, "
            f"{request.input_bytes} bytes; try again later or add capacity",
            retry_after_ms=self._retry_after_ms(),
        )

    def _retry_after_ms(self) -> int:
        """Estimate when the present queue will have been worked off."""
        backlog_ns = self.queued_rows * self._ns_per_row / self._instances
        return min(RETRY_AFTER_MS_MAX, max(1, round(backlog_ns / 1e6)))

    def _next_lane(self, now_ns: int) -> tuple[_LaneQueue, int]:
        """Return the lane to serve next, and from when: that of the oldest request, or a full one while that waits."""
        oldest = self._lanes[next(iter(self._waiting)).lane]
        due_ns = self._due_ns(oldest)
        if due_ns <= now_ns or self._closed:
            return oldest, now_ns
        full = (lane for lane in self._lanes.values() if lane.rows >= self._window.batch_rows_max)
        return next(((lane, now_ns) for lane in full), (oldest, due_ns))

    def _due_ns(self, lane: _LaneQueue) -> int:
        head = next(iter(lane.requests))
        due_ns = take_at_ns(self._window, rows=lane.rows, head_arrival_ns=head.arrival_ns)
        if head.deadline_ns is None:
            return due_ns
        return min(due_ns, head.deadline_ns - round(_MARGIN * lane.rows * self._ns_per_row) - _MARGIN_NS)

    def _form(self, lane: _LaneQueue, now_ns: int) -> Batch:
        """Take the requests of a lane that fit into one batch, in order of arrival."""
        batch = Batch([], 0, now_ns)
        while lane.requests:
            request = next(iter(lane.requests))
            expired = request.deadline_ns is not None and request.deadline_ns <= now_ns
            if not expired and batch.requests and not self._joins(batch, request):
                break
            self._remove(request)
            if expired:
                batch.expired.append(request)
                continue
            request.progress = Progress.RUNNING
            batch.requests.append(request)
            batch.rows += request.rows
        if self._waiting:
            self._ready.notify()
        return batch

    def _joins(self, batch: Batch, request: QueuedRequest) -> bool:
        return self._grouping and batch.rows + request.rows <= self._window.batch_rows_max

    def _add(self, request: QueuedRequest) -> None:
        self._waiting[request] = None
        lane = self._lanes.setdefault(request.lane, _LaneQueue())
        lane.requests[request] = None
        lane.rows += request.rows
        self.queued_rows += request.rows
        self.queued_bytes += request.input_bytes

    def _remove(self, request: QueuedRequest) -> None:
        del self._waiting[request]
        lane = self._lanes[request.lane]
        del lane.requests[request]
        lane.rows -= request.rows
        if not lane.requests:
            del self._lanes[request.lane]
        self.queued_rows -= request.rows
        self.queued_bytes -= request.input_bytes
