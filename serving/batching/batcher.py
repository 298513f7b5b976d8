"""The queue of one servable: requests go in on the I/O thread, instances take batches out.

Late binding: a batch is formed when somebody asks for it, an instance or, for a cheap model, the I/O thread, from what
waits at that moment, so it grows while all instances are busy. Requests whose open dimensions differ cannot share
tensors and wait in lanes of their own; the lane with the oldest entry is served first. A request that is dropped
(cancelled, expired) leaves the queue at once; one that already runs stays in its batch as dead rows, and only its
answer is dropped.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from serving.batching.entries import Batch, Entry, Lane, Over, Progress
from serving.batching.policy import Window, take_at_ns
from serving.clock import Clock
from serving.config import BatchingConfig
from serving.errors import Draining, InvalidRequest, Overloaded

RETRY_AFTER_MS_MAX = 10_000
_DECAY = 0.9
_MARGIN = 2  # a batch is begun so early that it may take twice its usual time and still make its first deadline
_MARGIN_NS = 2_000_000
_NO_LIMIT = 2**62


@dataclass(slots=True)
class _LaneQueue:
    """The waiting entries of one lane, in order of arrival."""

    entries: OrderedDict[Entry, None] = field(default_factory=OrderedDict)
    rows: int = 0


class Batcher:
    """Groups waiting requests into batches.

    `submit`, `reserve`, `room_rows`, `refusal`, `drop`, `sift`, `set_inline` and `take_now` are called on the I/O
    thread, `take`, `observe` and `stop_grouping` on instance threads too, `end_windows` and `close` anywhere. One lock
    guards the queue; the totals are read without it where only the I/O thread adds to them. Bounds: `queue_rows_max`
    and `queue_bytes_max`, beyond which `submit` raises Overloaded.
    """

    def __init__(self, config: BatchingConfig, clock: Clock, *, instances: int, batchable: bool) -> None:
        self._config = config
        self._clock = clock
        self._instances = instances
        self._grouping = batchable
        self._window = Window(config.batch_rows_max, config.queue_delay_us_max * 1_000 if batchable else 0)
        self._waiting: OrderedDict[Entry, None] = OrderedDict()  # all of them, in order of arrival
        self._lanes: dict[Lane, _LaneQueue] = {}
        self._ready = threading.Condition(threading.Lock())
        self._closed = False
        self._is_inline = False
        self._ns_per_row = 0.0
        self.queued_rows = 0
        self.queued_bytes = 0
        self._reserved_rows = 0
        self._reserved_bytes = 0

    @property
    def has_window(self) -> bool:
        """Whether rows may wait for more while an instance is idle."""
        return self._window.queue_delay_ns_max > 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits; requests of zero rows do as well."""
        return not self._waiting

    def submit(self, entry: Entry) -> None:
        """Queue an entry. Raises Overloaded at a bound, InvalidRequest for what can never fit, Draining at the end."""
        with self._ready:
            if self._closed:
                raise Draining("this model version is being unloaded; ask again for the version that replaces it")
            self._check_bounds(entry)
            self._add(entry)
            if not self._is_inline:
                self._ready.notify()

    def set_inline(self, is_inline: bool) -> None:
        """Leave what waits to `take_now`, or to instance threads again."""
        if is_inline != self._is_inline:
            with self._ready:
                self._is_inline = is_inline
                self._ready.notify_all()

    def reserve(self, rows: int, input_bytes: int) -> None:
        """Count what will be submitted at the end of the turn, instead of what was reserved before."""
        self._reserved_rows = rows
        self._reserved_bytes = input_bytes

    def room_rows(self, row_bytes: int) -> int:
        """Return how many more rows of so many bytes the queue takes."""
        rows = self._config.queue_rows_max - self.queued_rows - self._reserved_rows
        free_bytes = self._config.queue_bytes_max - self.queued_bytes - self._reserved_bytes
        return max(0, min(rows, free_bytes // row_bytes if row_bytes else rows))

    def refusal(self, rows: int, input_bytes: int) -> InvalidRequest | Overloaded:
        """Return the error for a request for which there is no room now, or never."""
        config = self._config
        if input_bytes > config.queue_bytes_max:
            return InvalidRequest(
                f"the inputs take {input_bytes} bytes, the model's queue holds at most "
                f"queue_bytes_max = {config.queue_bytes_max}; send fewer rows at a time"
            )
        queued_rows, queued_bytes = self.queued_rows + self._reserved_rows, self.queued_bytes + self._reserved_bytes
        if queued_rows + rows > config.queue_rows_max:
            held = f"{queued_rows} of queue_rows_max = {config.queue_rows_max} rows"
        elif queued_bytes + input_bytes > config.queue_bytes_max:
            held = f"{queued_bytes} of queue_bytes_max = {config.queue_bytes_max} bytes"
        else:
            held = f"queue_rows_max = {config.queue_rows_max} requests"
        return Overloaded(
            f"the model's queue holds {held} and this request brings {rows} rows, "
            f"{input_bytes} bytes; try again later or add capacity",
            retry_after_ms=self._retry_after_ms(),
        )

    def drop(self, entry: Entry) -> None:
        """Take an entry out of the queue, or leave its rows to run for nobody. The caller settles it."""
        with self._ready:
            if entry in self._waiting:
                self._take_out(entry, entry)
            entry.progress = Progress.SETTLED

    def sift(self, entry: Entry) -> Sequence[Over]:
        """Take what is over out of an entry that still waits; the caller settles it."""
        with self._ready:
            return self._sift(entry, self._clock.now_ns()) if entry in self._waiting else ()

    def take(self) -> Batch | None:
        """Wait for rows and return the next batch, or None once the batcher is closed and empty.

        Requests whose deadline has passed are handed over in `over`, unrun; such a batch may hold no entries.
        """
        with self._ready:
            while True:
                if not self._waiting and self._closed:
                    return None
                if not self._waiting or (self._is_inline and not self._closed):
                    self._ready.wait()
                    continue
                now_ns = self._clock.now_ns()
                lane, due_ns = self._next_lane(now_ns)
                if due_ns <= now_ns:
                    batch = self._form(lane, now_ns, self._window.batch_rows_max)
                    if self._waiting:
                        self._ready.notify()
                    return batch
                self._ready.wait((due_ns - now_ns) / 1e9)

    def take_now(self, rows_max: int) -> Batch | None:
        """Return a batch of at most `rows_max` rows of what waits; None when nothing does.

        It is without entries when the first request has more rows.
        """
        with self._ready:
            if not self._waiting:
                return None
            lane = self._lanes[next(iter(self._waiting)).lane]
            return self._form(lane, self._clock.now_ns(), min(rows_max, self._window.batch_rows_max), must_fit=True)

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

    def _check_bounds(self, entry: Entry) -> None:
        config = self._config
        if (
            self.queued_rows + self._reserved_rows + entry.rows > config.queue_rows_max
            or self.queued_bytes + self._reserved_bytes + entry.input_bytes > config.queue_bytes_max
            or len(self._waiting) >= config.queue_rows_max  # requests of zero rows count as well
        ):
            raise self.refusal(entry.rows, entry.input_bytes)

    def _retry_after_ms(self) -> int:
        """Estimate when the present queue will have been worked off."""
        backlog_ns = self.queued_rows * self._ns_per_row / self._instances
        return min(RETRY_AFTER_MS_MAX, max(1, round(backlog_ns / 1e6)))

    def _next_lane(self, now_ns: int) -> tuple[_LaneQueue, int]:
        """Return the lane to serve next, and from when: that of the oldest entry, or a full one while that waits."""
        oldest = self._lanes[next(iter(self._waiting)).lane]
        due_ns = self._due_ns(oldest)
        if due_ns <= now_ns or self._closed:
            return oldest, now_ns
        full = (lane for lane in self._lanes.values() if lane.rows >= self._window.batch_rows_max)
        return next(((lane, now_ns) for lane in full), (oldest, due_ns))

    def _due_ns(self, lane: _LaneQueue) -> int:
        head = next(iter(lane.entries))
        due_ns = take_at_ns(self._window, rows=lane.rows, head_arrival_ns=head.arrival_ns)
        if head.deadline_ns is None:
            return due_ns
        return min(due_ns, head.deadline_ns - round(_MARGIN * lane.rows * self._ns_per_row) - _MARGIN_NS)

    def _form(self, lane: _LaneQueue, now_ns: int, rows_max: int, *, must_fit: bool = False) -> Batch:
        """Take the requests of a lane that fit into one batch, in order of arrival: the first in any case, or none."""
        batch = Batch([], 0, now_ns)
        while lane.entries:
            entry = next(iter(lane.entries))
            if entry.is_stale(now_ns):
                batch.over += self._sift(entry, now_ns)
                continue
            if batch.entries and not self._grouping:
                break
            part = entry.take(max(0, rows_max - batch.rows), _NO_LIMIT if self._grouping else 1)
            if part is None and (batch.entries or must_fit):
                break
            part = part or entry.take(_NO_LIMIT, 1)
            assert part is not None, "bug: an entry without requests waits"
            self._take_out(entry, part)
            part.progress = Progress.RUNNING
            batch.entries.append(part)
            batch.rows += part.rows
        return batch

    def _sift(self, entry: Entry, now_ns: int) -> Sequence[Over]:
        """Take what is over out of an entry that waits."""
        over = entry.sift(now_ns)
        if over:
            self._take_out(entry, *(part for part, _ in over))
        return over

    def _add(self, entry: Entry) -> None:
        self._waiting[entry] = None
        lane = self._lanes.setdefault(entry.lane, _LaneQueue())
        lane.entries[entry] = None
        lane.rows += entry.rows
        self.queued_rows += entry.rows
        self.queued_bytes += entry.input_bytes

    def _take_out(self, entry: Entry, *parts: Entry) -> None:
        """Take parts of a waiting entry, or all of it, out of the queue."""
        lane = self._lanes[entry.lane]
        for part in parts:
            lane.rows -= part.rows
            self.queued_rows -= part.rows
            self.queued_bytes -= part.input_bytes
        if entry.requests and entry not in parts:
            return
        del self._waiting[entry]
        del lane.entries[entry]
        if not lane.entries:
            del self._lanes[entry.lane]
