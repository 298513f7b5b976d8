"""What one servable has learnt of itself and its clients, and what follows for the batch to run now.

Around the pure policy this keeps what its snapshots are made of: how long batches take, how fast rows come, what runs.
The policy costs some tens of us, which is much beside a batch of a cheap model. So its answer is kept for as long as
nobody is near the moment at which they are due and what was learnt stays about the same, and of batches that follow
each other quickly only some are learnt from.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from serving.batching.demand import (
    CAME,
    DONE,
    MISSED,
    NUMBERS,
    note_arrival,
    note_batch,
    note_settled,
    rows_per_ns,
    utilisation,
)
from serving.batching.door import Door, rows_in_time, wait_ns
from serving.batching.entries import Batch, Lane
from serving.batching.exploration import Exploration
from serving.batching.lanes import LaneTimes
from serving.batching.policy import (
    NEVER,
    Bounds,
    Decision,
    Newcomer,
    Reason,
    Snapshot,
    decide,
    hopeless_before_ns,
    retry_after_ns,
    riders,
)
from serving.batching.queue import LaneQueue, due_ns
from serving.batching.service_time import ServiceTimes, ladder, nearest, seeded
from serving.batching.sweep import Sample, ended_by_time

LEARNING_INTERVAL_NS = 16_000_000
"""Batches that end sooner after one that was learnt from teach only sizes that are not known yet."""
PROBE_NS, PROBE_RUNS, PROBE_NS_MAX = 100_000_000, 8.0, 10_000_000_000
"""An estimate that keeps everybody out is put to the test again after so long, or so many times S(1), up to a bound."""

WORK_NS = 1_000_000_000
"""What passes between batches of a backlog is remembered for so long."""

_OVERHEAD_BATCHES = 64.0
_WORK_BATCHES = 16.0
_SLACK_ENTRIES = 64.0
_MATERIAL = 0.03
"""Decisions are kept until an estimate has moved by more than this part, and at least for KEPT_NS."""
KEPT_NS = 100_000_000
_STEP_BITS = 3
"""Of numbers of rows beyond some, those that share all but so many bits share a decision."""
ARRIVALS_NS = BATCHES_NS = 1_000_000
"""Rows that come, and batches that run, on the I/O thread are counted together as often as this."""
_STRETCH_MAX = 4.0
"""Batches take at most so many times what is expected of them; more is a disturbance."""
_FULL = 0.9
"""From this utilisation on what is let in leaves no time to those that come after."""
_SIZE_KNOWN_WEIGHT = 4.0
_SEED_WEIGHT = 3
"""A size of a sweep counts as so many batches."""


class Kept(NamedTuple):
    """A decision that holds while nobody is near the moment at which they are due; `is_all`: take what waits."""

    rows: int
    reason: Reason
    is_all: bool


class Outlook:
    """The learnt state of one servable. Takes no lock: its batcher holds one.

    `predicted_ns` and `actual_ns` add up how long the batches that were learnt from should have taken, and took.
    `rows_allowed` are the sizes of which batches run, smaller ones padded; any size does when there are none.
    Bounds: a number per size of the ladder, a kept decision per number of rows up to `batch_rows_max`.
    """

    def __init__(
        self, batch_rows_max: int, queue_rows_max: int, *,
        instances: int, target_ns: float, rows_allowed: Sequence[int] = (),
    ) -> None:  # fmt: skip
        self.times = ServiceTimes(rows_allowed or ladder(batch_rows_max), stepped=bool(rows_allowed))
        self._sizes = self.times.curve.sizes
        self.demand = [0.0] * NUMBERS
        self._lanes = LaneTimes()
        self.target_ns = target_ns
        self.overhead_ns = 0.0
        self.idle_since_ns = 0.0
        self._instances = instances
        self._batch_rows_max = batch_rows_max
        self._queue_rows_max = queue_rows_max
        self._slack_ns = target_ns
        self._bounds = self._bounds_now()
        self._running: dict[int, float] = {}  # by the batch's id: when it is expected to be done
        self._run_once: set[int] = set()  # levels of the ladder
        self._learnt_ns = -LEARNING_INTERVAL_NS
        self._known: set[int] = set()  # levels that have been learnt often enough
        self._came_rows = 0
        self._busy_ns = 0
        self._stretch = 1.0
        self._stretched_at_ns = -WORK_NS
        self._kept: dict[int, Kept] = {}
        self._kept_for: list[float] = []  # the estimates that they were made for
        self._kept_used = 0.0
        self._kept_until_ns = 0
        self._exploration = Exploration(len(self._sizes))
        self._chosen = 1
        self.predicted_ns = 0.0
        self.actual_ns = 0.0

    # ---- what happens ----------------------------------------------------------------------------------------------

    def note_arrival(self, rows: int, now_ns: int, deadline_ns: int | None, *, may_wait: bool) -> None:
        """Count rows that came in; those that run without waiting for more need no count of their own."""
        self._came_rows += rows
        if may_wait or now_ns - self.demand[CAME] >= ARRIVALS_NS:
            note_arrival(self.demand, self._came_rows, now_ns)
            self._came_rows = 0
        if deadline_ns is not None:
            slack_ns = min(self.target_ns, max(0.0, float(deadline_ns - now_ns)))
            known_ns = self._slack_ns if self._slack_ns < NEVER else slack_ns
            self._slack_ns = known_ns + (slack_ns - known_ns) / _SLACK_ENTRIES

    def note_missed(self, rows: int) -> None:
        """Count rows that were turned away or dropped."""
        note_settled(self.demand, rows, rows)

    def note_begun(self, batch: Batch, now_ns: int) -> None:
        """An instance runs a batch."""
        self._running[id(batch)] = now_ns + self.times.mean_ns(batch.rows)

    def note_ended(self, batch: Batch, duration_ns: int, now_ns: int) -> None:
        """Learn from a batch that occupied an instance, or the I/O thread, for so long."""
        if self._running:
            self._running.pop(id(batch), None)
        if self.target_ns < NEVER and batch.rows and batch.entries[0].arrival_ns <= self.idle_since_ns:
            self._note_work(batch.rows, duration_ns, now_ns)
        self.idle_since_ns = float(now_ns)
        self._busy_ns += duration_ns
        if batch.is_clean and batch.entries and batch.rows and not batch.reruns:
            share = self.times.curve.fitted_ns[0] / max(self.times.mean_ns(batch.rows), 1.0)
            self._lanes.note(batch.entries[0].lane, duration_ns * share)
        if now_ns - self.demand[DONE] >= BATCHES_NS or self._instances > 1:
            note_batch(self.demand, self._busy_ns, now_ns)
            self._busy_ns = 0
        level = bisect_left(self._sizes, batch.rows)
        if now_ns - self._learnt_ns < LEARNING_INTERVAL_NS and level in self._known:
            return
        if not batch.is_clean or batch.reruns or not batch.rows:
            return
        if self.times.curve.weights[nearest(self.times.curve.sizes, batch.rows)] <= 0.0 and level not in self._run_once:
            self._run_once.add(level)  # the first run of a shape is slow, and tells nothing of those that follow
            return
        self._learnt_ns = now_ns
        self.predicted_ns += self.times.mean_ns(batch.rows)
        self.actual_ns += duration_ns
        self.learn(batch.rows, duration_ns, now_ns)

    def note_answered(self, rows: int, missed_rows: int) -> None:
        """Count rows that are answered, some of them too late for the target."""
        if missed_rows or self.demand[MISSED] > 0.0:
            note_settled(self.demand, rows, missed_rows)

    def note_overhead(self, overhead_ns: float) -> None:
        """Learn what a batch takes outside of its run."""
        self.overhead_ns += (max(overhead_ns, 0.0) - self.overhead_ns) / _OVERHEAD_BATCHES
        if abs(self.overhead_ns - self._bounds.overhead_ns) > _MATERIAL * self._bounds.overhead_ns:
            self._bounds = self._bounds_now()

    def learn(self, rows: int, duration_ns: float, now_ns: int) -> None:
        """Learn how long so many rows take."""
        self.times.observe(rows, duration_ns, now_ns)
        level = nearest(self._sizes, rows)
        if self.times.curve.weights[level] >= _SIZE_KNOWN_WEIGHT:
            self._known.add(level)
        self._exploration.note(self.times.curve, rows, now_ns)
        if now_ns >= self._kept_until_ns and self._has_moved(now_ns):
            self._decide_anew(now_ns)

    def seed(self, samples: Sequence[Sample], now_ns: int) -> None:
        """Take over what a sweep has found: rows, and how long they take."""
        sizes = self.times.curve.sizes
        is_cut = bool(samples) and samples[-1][0] < sizes[-1]
        if is_cut and not ended_by_time(samples, sizes[nearest(sizes, samples[-1][0] + 1)]):
            self._exploration.forbid_growth()
        for rows, duration_ns in samples:
            for _ in range(_SEED_WEIGHT):
                self.learn(rows, duration_ns, now_ns)
        seeded(self.times.curve)
        self._decide_anew(now_ns)

    # ---- what follows ----------------------------------------------------------------------------------------------

    @property
    def idle(self) -> int:
        """How many instances run nothing."""
        return max(0, self._instances - len(self._running))

    @property
    def is_running(self) -> bool:
        """Whether an instance runs something."""
        return bool(self._running)

    def retry_after_ns(self, newcomer: Newcomer, lane: Lane, *, head_due_ns: float, now_ns: int) -> float:
        """Return 0 to admit a newcomer, or after how long it may try again. Whoever finds all idle is admitted.

        `head_due_ns` is when the first of the rows is due that wait, NEVER if none does.
        """
        due_ns, queued_rows = newcomer.due_ns, newcomer.queued_rows
        if due_ns >= NEVER or (not queued_rows and not self._running):
            return 0.0
        due_ns += (1.0 - self._share(lane)) * self.times.mean_ns(newcomer.rows)
        newcomer = newcomer._replace(due_ns=due_ns, free_ns=self._free_ns(now_ns))
        retry_ns = retry_after_ns(self._bounds, self.times.curve, newcomer)
        if retry_ns > 0.0 or not queued_rows or self.target_ns >= NEVER or not self.times.best_rows_per_s:
            return retry_ns
        door = self._door(due_ns, head_due_ns, now_ns)
        return wait_ns(self.times.curve, door, queued_rows + newcomer.rows)

    def rows_in_time(self, head_due_ns: float, now_ns: int) -> float:
        """Return how many rows can wait now without making one that comes behind them late for the target."""
        if not self.times.best_rows_per_s or self.target_ns >= NEVER:
            return NEVER
        return rows_in_time(self.times.curve, self._door(now_ns + self.target_ns, head_due_ns, now_ns))

    def backlog_ns(self, rows: int, now_ns: int) -> float:
        """Return how long so many rows keep all instances busy from now on; 0 while nothing is known."""
        rate = self.times.best_rows_per_s * 1e-9 * self._instances / self._stretch_now(now_ns)
        return self._free_ns(now_ns) - now_ns + rows / rate if rate > 0.0 else 0.0

    def _door(self, due_ns: float, head_due_ns: float, now_ns: int) -> Door:
        """Return what decides how long somebody waits who comes now and is due at a moment."""
        free_ns = self._free_ns(now_ns)
        if free_ns <= now_ns and self._running and not self.idle:
            free_ns += now_ns - min(self._running.values())  # a batch that is late may be as late again
        return Door(
            busy_ns=free_ns - now_ns, first_ns=min(due_ns, head_due_ns) - free_ns - self.overhead_ns,
            slack_ns=due_ns - now_ns, rows_max=self._chosen, instances=self._instances,
            stretch=self._stretch_now(now_ns), overhead_ns=self.overhead_ns,
            is_full=utilisation(self.demand, self._instances, now_ns) >= _FULL,
        )  # fmt: skip

    def _stretch_now(self, now_ns: int) -> float:
        return self._stretch if now_ns - self._stretched_at_ns < WORK_NS else 1.0

    def _note_work(self, rows: int, duration_ns: int, now_ns: int) -> None:
        """Learn how much longer than expected a batch takes that follows another: what passes between them counts."""
        period_ns = float(duration_ns)
        if self._instances == 1:
            period_ns = min(max(period_ns, now_ns - self.idle_since_ns), 2 * period_ns)
        stretch = min(max(1.0, period_ns / max(self.times.mean_ns(rows), 1.0)), _STRETCH_MAX)
        is_recent = now_ns - self._stretched_at_ns < WORK_NS
        self._stretch += (stretch - self._stretch) / _WORK_BATCHES if is_recent else stretch - self._stretch
        self._stretched_at_ns = now_ns

    def hopeless_before_ns(self, now_ns: int, lane: Lane) -> float:
        """Return the moment before which no deadline can be made any more by a row of a lane."""
        done_ns = self.demand[DONE]
        pause_ns = min(max(PROBE_NS, PROBE_RUNS * self.times.curve.fitted_ns[0]), PROBE_NS_MAX)
        if self.idle and now_ns - done_ns > pause_ns:
            return 0.0
        before_ns = hopeless_before_ns(self._bounds, self.times.curve, self._free_ns(now_ns))
        return before_ns - (1.0 - self._share(lane)) * self.times.curve.fitted_ns[0]

    def chosen_rows(self, now_ns: int) -> int:
        """Return how many of many rows are taken while nobody is near the moment at which they are due."""
        return self._kept_decision(self._batch_rows_max, now_ns).rows

    def decide(self, lane: LaneQueue, now_ns: int, *, may_wait: bool) -> tuple[Decision, int]:
        """Say what an idle instance should do with the rows of a lane, and how many set aside ride along."""
        rows = max(1, lane.rows)
        if not lane.aside and self._is_relaxed(lane, rows, now_ns) and not (may_wait and self._is_scarce(now_ns)):
            decision = self._kept_decision(rows, now_ns)
            if more_rows := self._rows_to_try(lane, decision.rows, rows, now_ns):
                decision = decision._replace(rows=more_rows)
            return decision, 0
        snapshot = self._snapshot(lane, rows, now_ns)
        decision = decide(self._bounds, self.times.curve, snapshot)
        if decision.reason is Reason.WAITING and not may_wait:
            decision = self._decide_at_once(snapshot)
        if decision.late_before_ns > 0.0 and self._share(lane.head.lane) < 1.0:  # it may take less than is thought
            before_ns = min(decision.late_before_ns, self.hopeless_before_ns(now_ns, lane.head.lane))
            decision = decision._replace(late_before_ns=before_ns)
        if not decision.rows:
            return decision, 0
        if more_rows := self._rows_to_try(lane, decision.rows, rows, now_ns):
            return decision._replace(rows=more_rows), 0
        riding_rows = 0
        if lane.aside:
            riding_rows = riders(self._bounds, self.times.curve, snapshot, decision, lane.aside_rows)
        return decision, riding_rows

    def reason_to_take(self, rows: int, now_ns: int) -> Reason | None:
        """Return why so many rows that are never due should run together now; None when they should not."""
        kept = self._kept_decision(rows, now_ns)
        return kept.reason if kept.rows >= rows else None

    def decide_aside(self, lane: LaneQueue, now_ns: int) -> Decision:
        """Say how many of the rows that were set aside should run when nothing else waits."""
        return self._kept_decision(max(1, lane.aside_rows), now_ns)

    def snapshot(self, lane: LaneQueue | None, now_ns: int) -> Snapshot:
        """Return what the policy sees now."""
        if lane is None or not lane.places:
            return self._never_due(0, now_ns)
        return self._snapshot(lane, max(1, lane.rows), now_ns)

    @property
    def bounds(self) -> Bounds:
        """What the policy is bound by."""
        return self._bounds

    # ---- how -------------------------------------------------------------------------------------------------------

    def _rows_to_try(self, lane: LaneQueue, chosen_rows: int, rows: int, now_ns: int) -> int:
        """Return the size to run for what it teaches; 0 for none, or when somebody is late if it is no better."""
        tried_rows = self._exploration.rows_to_try(self.times.curve, chosen_rows, rows, now_ns)
        if not tried_rows:
            return 0
        done_ns = now_ns + self.times.mean_ns(tried_rows) + self._bounds.overhead_ns
        return tried_rows if due_ns(lane.head, self.target_ns) > done_ns else 0

    def _share(self, lane: Lane) -> float:
        """Return which part of the time that rows usually take one of this lane takes."""
        return self._lanes.share(lane, self.times.curve.fitted_ns[0])

    def _is_scarce(self, now_ns: int) -> bool:
        """Say whether waiting for more rows might pay; most of the time it is clear that it does not."""
        if utilisation(self.demand, self._instances, now_ns) < 0.25:
            return False
        return self._slack_ns < NEVER or self.demand[MISSED] >= 0.01

    def _is_relaxed(self, lane: LaneQueue, rows: int, now_ns: int) -> bool:
        """Say whether nobody can be late in any batch that could be taken now."""
        head = lane.head
        if head.deadline_ns is None and self.target_ns >= NEVER:
            return True
        due = due_ns(head, self.target_ns)
        longest_ns = self.times.mean_ns(min(rows, self._batch_rows_max))
        return due > now_ns + longest_ns + self._bounds.overhead_ns

    def _kept_decision(self, rows: int, now_ns: int) -> Decision:
        """Return what to do while nobody is near the moment at which they are due."""
        least_rows = min(rows, self._batch_rows_max)
        if least_rows >> (_STEP_BITS + 2) and not self.times.curve.stepped:
            least_rows = least_rows >> _STEP_BITS << _STEP_BITS
        kept = self._kept.get(least_rows)
        if kept is None:
            decision = self._decide_at_once(self._never_due(least_rows, now_ns))
            kept = self._kept[least_rows] = Kept(decision.rows, decision.reason, decision.rows >= least_rows)
        if not kept.is_all:
            return Decision(kept.rows, now_ns, 0.0, kept.reason)
        if rows >= self._batch_rows_max:
            return Decision(self._batch_rows_max, now_ns, 0.0, Reason.FULL)
        return Decision(rows, now_ns, 0.0, Reason.IDLE)

    def _decide_anew(self, now_ns: int) -> None:
        """Forget decisions that were made for other estimates."""
        self._kept.clear()
        self._kept_for = list(self.times.curve.fitted_ns)
        self._kept_used = utilisation(self.demand, self._instances, now_ns)
        self._kept_until_ns = now_ns + KEPT_NS
        self._chosen = self.chosen_rows(now_ns)

    def _has_moved(self, now_ns: int) -> bool:
        """Say whether decisions were made for other estimates than those of now."""
        if len(self._kept_for) != len(self.times.curve.sizes):
            return True
        if abs(utilisation(self.demand, self._instances, now_ns) - self._kept_used) > 0.1:
            return True
        pairs = zip(self.times.curve.fitted_ns, self._kept_for, strict=True)
        return any(abs(now - then) > _MATERIAL * then for now, then in pairs)

    def _decide_at_once(self, snapshot: Snapshot) -> Decision:
        """Decide without waiting for more rows."""
        decision = decide(self._bounds, self.times.curve, snapshot._replace(draining=True))
        if decision.reason is not Reason.DRAIN:
            return decision
        if decision.rows >= self._batch_rows_max:
            return decision._replace(reason=Reason.FULL)
        return decision._replace(reason=Reason.EFFICIENCY if decision.rows < snapshot.rows else Reason.IDLE)

    def _free_ns(self, now_ns: int) -> float:
        if self.idle or not self._running:
            return now_ns
        return max(now_ns, min(self._running.values()))

    def _next_free_ns(self, now_ns: int) -> float:
        others: Iterable[float] = self._running.values()
        return max(now_ns, min(others, default=NEVER))

    def _never_due(self, rows: int, now_ns: int) -> Snapshot:
        return self._made(rows, ([NEVER] * len(self._sizes), NEVER, NEVER), now_ns, float(now_ns))

    def _snapshot(self, lane: LaneQueue, rows: int, now_ns: int) -> Snapshot:
        moments_ns, last_due_ns = lane.due_ns(self._sizes, self.target_ns)
        since_ns = max(float(lane.head.arrival_ns), self.idle_since_ns)
        dues_ns = moments_ns, due_ns(lane.head, self.target_ns), last_due_ns
        return self._made(rows, dues_ns, now_ns, since_ns)

    def _made(self, rows: int, dues_ns: tuple[list[float], float, float], now_ns: int, since_ns: float) -> Snapshot:
        moments_ns, head_due_ns, last_due_ns = dues_ns
        return Snapshot(
            now_ns=float(now_ns), rows=rows, head_due_ns=head_due_ns, due_ns=moments_ns, last_due_ns=last_due_ns,
            idle=max(1, self.idle),
            free_ns=self._next_free_ns(now_ns), since_ns=since_ns, rows_per_ns=rows_per_ns(self.demand, now_ns),
            came_ns=self.demand[CAME], slack_ns=self._slack_ns,
            used=utilisation(self.demand, self._instances, now_ns), missed=self.demand[MISSED], draining=False,
        )  # fmt: skip

    def _bounds_now(self) -> Bounds:
        return Bounds(self._batch_rows_max, self._queue_rows_max, self._instances, self.overhead_ns)
