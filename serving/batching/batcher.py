"""The queue of one servable: requests go in on the I/O thread, instances take batches out.

Late binding: a batch is formed when somebody asks for it, an instance or, for a cheap model, the I/O thread, from what
waits at that moment, so it grows while all instances are busy. What to take, and whether to wait for more, the policy
decides in mode `adaptive`, two knobs in mode `window`; in mode `none` every request runs alone. In all modes nobody is
let in who cannot be answered in time, and nobody is run who cannot be any more. A request that is dropped (cancelled,
expired) leaves the queue at once; one that already runs stays in its batch as dead rows, and only its answer is
dropped.
"""

import threading
from collections.abc import Sequence

from serving.batching.entries import OUT_OF_REACH, Batch, Entry, Over, Progress
from serving.batching.outlook import Outlook
from serving.batching.policy import NEVER, Decision, Newcomer, Reason, Window, decide_in_window
from serving.batching.queue import LaneQueue, Queue, due_ns
from serving.batching.sweep import Sample
from serving.clock import Clock
from serving.config import BatchingConfig
from serving.errors import DeadlineOutOfReach, Draining, InvalidRequest, Overloaded

RETRY_AFTER_MS_MAX = 10_000
ASIDE_TARGETS = 2.0
"""What was set aside and is as old as so many targets waits no longer for rows that it can ride along with."""

_MARGIN = 2  # a window ends so early that its batch may take twice its usual time and still make its first deadline
_MARGIN_NS = 2_000_000
_NO_LIMIT = 2**62


class Batcher:
    """Groups waiting requests into batches.

    `take`, `done` and `stop_grouping` are called on instance threads too, `seed`, `hurry` and `close` anywhere, the
    others on the I/O thread. One lock guards the queue; the totals are read without it where only the I/O thread adds
    to them. Bounds: `queue_rows_max` and `queue_bytes_max`, beyond which `submit` raises Overloaded, and the objective
    `target_ns`, infinite without one.
    """

    def __init__(
        self, config: BatchingConfig, clock: Clock, *, instances: int, batchable: bool, target_ns: float = NEVER
    ) -> None:
        self._config = config
        self._clock = clock
        self._grouping = batchable and config.mode != "none"
        delay_ns = config.queue_delay_us_max * 1_000
        self._window = Window(config.batch_rows_max, delay_ns, config.batch_rows_preferred)
        self._queue = Queue(target_ns)
        self.has_target = target_ns < NEVER
        self.outlook = Outlook(
            config.batch_rows_max if batchable else 1, config.queue_rows_max, instances=instances, target_ns=target_ns,
            rows_allowed=config.batch_rows_allowed if batchable else (),
        )  # fmt: skip
        self._lock = threading.Lock()
        self._ready = threading.Condition(self._lock)
        self._closed = False
        self._hurries = False
        self._is_inline = False
        self._reserved: Entry | None = None
        self.submissions = 0
        self.releases = [0] * len(Reason)  # batches, by the reason for which they were taken then
        self.waits = 0  # how often an idle instance was told to wait for more rows

    @property
    def queued_rows(self) -> int:
        """How many rows wait."""
        return self._queue.rows

    @property
    def queued_bytes(self) -> int:
        """How many bytes of input wait."""
        return self._queue.input_bytes

    @property
    def queued_requests(self) -> int:
        """How many requests wait; counted anew, so for who asks now and then."""
        with self._lock:
            return sum(entry.requests for entry in self._queue)

    @property
    def has_window(self) -> bool:
        """Whether rows may wait for more while an instance is idle, however cheap the model is."""
        return self._config.mode == "window" and self._window.queue_delay_ns_max > 0 and not self._hurries

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits; requests of zero rows do as well."""
        return self._queue.is_empty

    # ---- in --------------------------------------------------------------------------------------------------------

    def seed(self, samples: Sequence[Sample]) -> None:
        """Take over what a sweep has found."""
        with self._lock:
            self.outlook.seed(samples, self._clock.now_ns())

    def submit(self, entry: Entry) -> Sequence[Over]:
        """Queue an entry; return what is over, parts of it and of what waited before, which the caller settles.

        Raises Overloaded when nothing of it is let in, InvalidRequest for what can never fit, Draining at the end.
        """
        with self._lock:
            if self._closed:
                raise Draining("this model version is being unloaded; ask again for the version that replaces it")
            self._check_bounds(entry)
            now_ns = self._clock.now_ns()
            over = self._turn_away(entry, now_ns)
            if self._queue.head is not None:
                over += self._drop_hopeless(now_ns)
            if entry.requests:
                self.outlook.note_arrival(entry.rows, now_ns, entry.deadline_ns, may_wait=not self._is_inline)
                self._queue.add(entry)
                self.submissions += 1
                if not self._is_inline:
                    self._ready.notify()
            return over

    def set_inline(self, is_inline: bool) -> None:
        """Leave what waits to `take_now`, or to instance threads again."""
        if is_inline != self._is_inline:
            with self._lock:
                self._is_inline = is_inline
                self._ready.notify_all()

    def reserve(self, entry: Entry | None) -> None:
        """Count an entry that still grows and will be submitted at the end of the turn, in place of the last one."""
        self._reserved = entry

    def room_rows(self, row_bytes: int) -> int:
        """Return how many more rows of so many bytes the queue takes."""
        queued_rows, queued_bytes = self._bespoken()
        rows, free_bytes = self._config.queue_rows_max - queued_rows, self._config.queue_bytes_max - queued_bytes
        if self.has_target and queued_rows:
            with self._lock:
                in_time = self.outlook.rows_in_time(self._head_due_ns(), self._clock.now_ns()) - queued_rows
            rows = rows if in_time > rows else int(in_time)
        return max(0, min(rows, free_bytes // row_bytes if row_bytes else rows))

    def refusal(self, rows: int, input_bytes: int) -> InvalidRequest | Overloaded:
        """Return the error for a request for which there is no room now, or never."""
        with self._lock:
            return self._refusal(rows, input_bytes)

    def drop(self, entry: Entry) -> None:
        """Take an entry out of the queue, or leave its rows to run for nobody. The caller settles it."""
        with self._lock:
            if entry in self._queue:
                self._queue.shrink(entry, (entry,))
            entry.progress = Progress.SETTLED

    def sift(self, entry: Entry) -> Sequence[Over]:
        """Take what is over out of an entry that still waits; the caller settles it."""
        with self._lock:
            return self._sift(entry, self._clock.now_ns()) if entry in self._queue else ()

    # ---- out -------------------------------------------------------------------------------------------------------

    def take(self) -> Batch | None:
        """Wait for rows and return the next batch, or None once the batcher is closed and empty.

        Requests whose deadline has passed, or cannot be met any more, are handed over in `over`, unrun; such a batch
        may hold no entries.
        """
        with self._lock:
            while True:
                if self.is_empty and self._closed:
                    return None
                if self.is_empty or (self._is_inline and not self._closed):
                    self._ready.wait()
                    continue
                now_ns = self._clock.now_ns()
                batch = Batch([], 0, now_ns)
                at_ns = self._next(batch, self._config.batch_rows_max, is_inline=False)
                if batch.entries or batch.over:
                    if batch.entries:
                        self.outlook.note_begun(batch, now_ns)
                    if not self.is_empty:
                        self._ready.notify()
                    return batch
                if self.is_empty:
                    continue
                self.waits += 1
                self._ready.wait(max(0.0, at_ns - now_ns) / 1e9 if at_ns < NEVER else None)

    def take_now(self, rows_max: int) -> Batch | None:
        """Return a batch of at most `rows_max` rows of what waits; None when nothing does.

        It is without entries when the first request has more rows.
        """
        with self._lock:
            if self.is_empty:
                return None
            batch = Batch([], 0, self._clock.now_ns())
            if not self._take_lone(batch, rows_max):
                self._next(batch, rows_max, is_inline=True)
            return batch

    def done(self, batch: Batch, duration_ns: int) -> None:
        """Learn from a batch that has run: it has occupied an instance, or the I/O thread, for so long."""
        with self._lock:
            self.outlook.note_ended(batch, duration_ns, self._clock.now_ns())

    def answered(self, rows: int, missed_rows: int) -> None:
        """Learn how many rows got outputs, and how many of them too late for the target."""
        with self._lock:
            self.outlook.note_answered(rows, missed_rows)

    def settled(self, overhead_ns: float) -> None:
        """Learn how long a batch took outside of its run, from when it was taken until its answers were given."""
        with self._lock:
            self.outlook.note_overhead(overhead_ns)

    def stop_grouping(self) -> None:
        """From now on make every batch of one request."""
        with self._lock:
            self._grouping = False
            self._ready.notify_all()

    def hurry(self) -> None:
        """From now on take what waits without waiting for more."""
        with self._lock:
            self._hurries = True
            self._ready.notify_all()

    def close(self) -> None:
        """Refuse further requests; instances finish what waits and then get None."""
        with self._lock:
            self._closed = True
            self._ready.notify_all()

    def decision(self) -> Decision | None:
        """Return what an idle instance would be told now; None when nothing waits."""
        with self._lock:
            now_ns = self._clock.now_ns()
            return None if self.is_empty else self._decision(self._lane(now_ns)[0], now_ns, may_wait=True)[0]

    def chosen_rows(self) -> int:
        """Return how many rows a batch would have if many waited and none of them was due."""
        with self._lock:
            if self._config.mode == "adaptive" and self._grouping:
                return self.outlook.chosen_rows(self._clock.now_ns())
            return self._window.batch_rows_max if self._grouping else 1

    # ---- the door --------------------------------------------------------------------------------------------------

    def _bespoken(self) -> tuple[int, int]:
        """Return the rows and bytes that wait or will in this turn."""
        queue, reserved = self._queue, self._reserved
        if reserved is None:
            return queue.rows, queue.input_bytes
        return queue.rows + reserved.rows, queue.input_bytes + reserved.input_bytes

    def _check_bounds(self, entry: Entry) -> None:
        config, (rows, input_bytes) = self._config, self._bespoken()
        is_full = rows + entry.rows > config.queue_rows_max or input_bytes + entry.input_bytes > config.queue_bytes_max
        if is_full or len(self._queue) >= config.queue_rows_max:  # requests of zero rows count as well
            raise self._refusal(entry.rows, entry.input_bytes)

    def _refusal(self, rows: int, input_bytes: int) -> InvalidRequest | Overloaded:
        self.outlook.note_missed(rows)
        config, now_ns = self._config, self._clock.now_ns()
        if input_bytes > config.queue_bytes_max:
            return InvalidRequest(
                f"the inputs take {input_bytes} bytes, the model's queue holds at most "
                f"queue_bytes_max = {config.queue_bytes_max}; send fewer rows at a time"
            )
        queued_rows, queued_bytes = self._bespoken()
        reason = "queue_rows"
        if queued_rows + rows > config.queue_rows_max:
            held = f"{queued_rows} of queue_rows_max = {config.queue_rows_max} rows"
        elif queued_bytes + input_bytes > config.queue_bytes_max:
            held, reason = f"{queued_bytes} of queue_bytes_max = {config.queue_bytes_max} bytes", "queue_bytes"
        elif len(self._queue) >= config.queue_rows_max:
            held = f"queue_rows_max = {config.queue_rows_max} requests"
        else:
            retry_ns = self.outlook.backlog_ns(queued_rows, now_ns) - self._queue.target_ns
            return _too_late(self._queue.target_ns, queued_rows, retry_ns)
        return Overloaded(
            f"the model's queue holds {held} and this request brings {rows} rows, "
            f"{input_bytes} bytes; try again later or add capacity",
            retry_after_ms=_retry_after_ms(self.outlook.backlog_ns(queued_rows, now_ns)),
            reason=reason,
        )

    def _turn_away(self, entry: Entry, now_ns: int) -> list[Over]:
        """Refuse what of an entry would wait behind so much that it could not be answered in time."""
        if entry.deadline_ns is None and not self.has_target:
            return []
        due = due_ns(entry, self._queue.target_ns)
        rows, queued_rows = entry.rows // max(1, entry.requests), self.queued_rows
        newcomer = Newcomer(rows, due, queued_rows, now_ns)
        retry_ns = self.outlook.retry_after_ns(newcomer, entry.lane, head_due_ns=self._head_due_ns(), now_ns=now_ns)
        if retry_ns <= 0.0:
            return []
        slack_ns = due - entry.arrival_ns
        if entry.deadline_ns is None or due < entry.deadline_ns or entry.requests == 1:
            self.outlook.note_missed(entry.rows)
            raise _too_late(slack_ns, queued_rows, retry_ns)
        parts = entry.part_due(due + retry_ns)  # others of the same turn may have more time
        self.outlook.note_missed(sum(part.rows for part in parts))
        return [(part, _too_late(slack_ns, queued_rows, retry_ns)) for part in parts]

    def _head_due_ns(self) -> float:
        head = self._queue.head
        return NEVER if head is None else due_ns(head, self._queue.target_ns)

    # ---- what to run next ------------------------------------------------------------------------------------------

    def _next(self, batch: Batch, rows_max: int, *, is_inline: bool) -> float:
        """Fill a batch with what should run now; return when to ask again if that is nothing."""
        now_ns = batch.taken_ns
        while not self._queue.is_empty:
            batch.over += self._drop_hopeless(now_ns)
            if self._queue.is_empty:
                break
            lane, is_overdue = self._lane(now_ns)
            may_wait = not (is_inline or is_overdue or self._closed or self._hurries)
            decision, more_rows = self._decision(lane, now_ns, may_wait=may_wait)
            if decision.late_before_ns > 0.0 and (over := self._let_go(decision.late_before_ns, lane)) is not None:
                batch.over += over
                continue
            if not decision.rows and decision.at_ns > now_ns:
                return decision.at_ns
            batch.reason = self._reason(decision, lane)
            rows, first_rows_max = min(rows_max, decision.rows or 1), rows_max if is_inline else _NO_LIMIT
            while is_overdue and lane.aside and self._is_overdue(lane.aside[0], now_ns):
                if not self._take_of(lane.aside[0], batch, rows, first_rows_max):
                    break
            self._fill(batch, lane, rows, more_rows, first_rows_max)
            if batch.entries or is_inline:
                break
        if batch.entries:
            self.releases[batch.reason] += 1
        return NEVER

    def _take_lone(self, batch: Batch, rows_max: int) -> bool:
        """Take the only entry that waits, if all of it should run now; the shortest way through `_next` there is.

        Cheap batches are mostly that: what came in one turn, of which nothing has a deadline.
        """
        entry = self._queue.lone
        if entry is None or entry.rows > rows_max or entry.deadline_ns is not None or self.has_target:
            return False
        if not self._grouping or self._config.mode != "adaptive" or entry.is_stale(batch.taken_ns):
            return False
        reason = self.outlook.reason_to_take(max(1, entry.rows), batch.taken_ns)
        if reason is None:
            return False
        batch.reason = Reason.DRAIN if self._closed or self._hurries else reason
        self.releases[batch.reason] += 1
        self._queue.take_lone()
        entry.progress = Progress.RUNNING
        batch.entries.append(entry)
        batch.rows = entry.rows
        return True

    def _lane(self, now_ns: int) -> tuple[LaneQueue, bool]:
        """Return the lane to serve next, and whether that is because of what was set aside there too long ago.

        Otherwise it is that of the first entry, unless it may wait and another one is full.
        """
        head, oldest = self._queue.head, self._queue.oldest_aside
        if oldest is not None and (head is None or self._is_overdue(oldest, now_ns)):
            return self._queue.lanes[oldest.lane], True
        assert head is not None, "bug: nothing waits"
        first = self._queue.lanes[head.lane]
        if not self.has_window or self._closed or self._decide_in_window(first, now_ns).rows:
            return first, False
        full = (lane for lane in self._queue.lanes.values() if lane.rows >= self._window.batch_rows_max)
        return next(full, first), False

    def _is_overdue(self, entry: Entry, now_ns: int) -> bool:
        return now_ns - entry.arrival_ns > ASIDE_TARGETS * self._queue.target_ns

    def _decision(self, lane: LaneQueue, now_ns: int, *, may_wait: bool) -> tuple[Decision, int]:
        """Return what to do with the rows of a lane, and how many that were set aside ride along."""
        if not self._grouping:
            return Decision(max(1, lane.rows), now_ns, 0.0, Reason.IDLE), 0
        if not lane.places:
            return self.outlook.decide_aside(lane, now_ns), 0
        if self._config.mode == "adaptive":
            return self.outlook.decide(lane, now_ns, may_wait=may_wait)
        decision = self._decide_in_window(lane, now_ns)
        if not decision.rows and not may_wait:
            decision = Decision(max(1, lane.rows), now_ns, 0.0, Reason.IDLE)
        return decision, 0

    def _decide_in_window(self, lane: LaneQueue, now_ns: int) -> Decision:
        head = lane.head
        snapshot = self.outlook.snapshot(lane, now_ns)
        decision = decide_in_window(self._window, snapshot, head.arrival_ns)
        if decision.rows or head.deadline_ns is None:
            return decision
        at_ns = head.deadline_ns - _MARGIN * self.outlook.times.mean_ns(snapshot.rows) - _MARGIN_NS
        if at_ns <= now_ns:
            return Decision(snapshot.rows, now_ns, 0.0, Reason.DEADLINE)
        return decision._replace(at_ns=min(at_ns, decision.at_ns))

    def _reason(self, decision: Decision, lane: LaneQueue) -> Reason:
        """Return why a batch is taken now, with what only the queue knows."""
        if self._closed or self._hurries:
            return Reason.DRAIN
        if decision.reason is Reason.IDLE and lane.rows < self._queue.rows - self._queue.aside_rows:
            return Reason.SHAPE
        return decision.reason

    # ---- who leaves ------------------------------------------------------------------------------------------------

    def _drop_hopeless(self, now_ns: int) -> list[Over]:
        """Take from the front who cannot make a deadline any more; set aside who cannot make the target."""
        head = self._queue.head
        if head is None:
            return []
        over: list[Over] = []
        if head.is_stale(now_ns):
            over += self._sift(head, now_ns)
            head = self._queue.head
        while head is not None and (head.deadline_ns is not None or self.has_target):
            before_ns = self.outlook.hopeless_before_ns(now_ns, head.lane)
            gone = self._let_go(before_ns, self._queue.lanes[head.lane])
            if gone is None:
                break
            over += gone
            head = self._queue.head
        return over

    def _let_go(self, before_ns: float, lane: LaneQueue) -> list[Over] | None:
        """Let go of what is first of all and due before a moment, as long as that is of one lane.

        None when that is nothing, and the caller goes on without.
        """
        over: list[Over] = []
        has_gone = False
        while lane.places and (head := lane.head) is self._queue.head:
            if due_ns(head, self._queue.target_ns) >= before_ns:
                break
            parts = head.part_due(before_ns)
            if parts:
                self._queue.shrink(head, parts)
                over += [(part, DeadlineOutOfReach(OUT_OF_REACH)) for part in parts]
                self.outlook.note_missed(sum(part.rows for part in parts))
            else:
                self._queue.set_aside(head)
            has_gone = True
        return over if has_gone else None

    def _sift(self, entry: Entry, now_ns: int) -> Sequence[Over]:
        """Take what is over out of an entry that waits."""
        over = entry.sift(now_ns)
        if over:
            self._queue.shrink(entry, [part for part, _ in over])
        return over

    # ---- the batch -------------------------------------------------------------------------------------------------

    def _fill(self, batch: Batch, lane: LaneQueue, rows_max: int, more_rows: int, first_rows_max: int) -> None:
        """Take rows of a lane in their order, and `more_rows` of those that were set aside beside them.

        The first request of a batch may have more rows than asked for, but no more than `first_rows_max`.
        """
        while lane.places and self._take_of(lane.head, batch, rows_max, first_rows_max):
            pass
        if batch.entries:
            rows_max = min(self._config.batch_rows_max, batch.rows + more_rows)
        while lane.aside and self._take_of(lane.aside[0], batch, rows_max, first_rows_max):
            pass

    def _take_of(self, entry: Entry, batch: Batch, rows_max: int, first_rows_max: int) -> bool:
        """Take requests of one entry that fit into a batch; say whether to ask for more."""
        if entry.is_stale(batch.taken_ns):
            batch.over += self._sift(entry, batch.taken_ns)
            return True
        if batch.entries and not self._grouping:
            return False
        if entry.deadline_ns is not None and entry.rows > rows_max - batch.rows:
            entry.arrange()
        part = entry.take(max(0, rows_max - batch.rows), _NO_LIMIT if self._grouping else 1)
        if part is None and not batch.entries:
            part = entry.take(first_rows_max, 1)
        if part is None:
            return False
        self._queue.shrink(entry, (part,))
        part.progress = Progress.RUNNING
        batch.entries.append(part)
        batch.rows += part.rows
        return True


def _retry_after_ms(retry_ns: float) -> int:
    return min(RETRY_AFTER_MS_MAX, max(1, round(retry_ns / 1e6)))


def _too_late(slack_ns: float, queued_rows: int, retry_ns: float) -> Overloaded:
    return Overloaded(
        f"{queued_rows} rows wait for the model and cannot be worked off in the {slack_ns / 1e6:.0f} ms that this "
        "request leaves; try again later, allow more time or add capacity",
        retry_after_ms=_retry_after_ms(retry_ns),
        reason="objective",
    )
