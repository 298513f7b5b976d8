"""When an idle instance should take waiting rows, how many, and who is turned away. Pure: snapshot in, decision out.

Natural batching comes first: while every instance is busy the batch grows by itself. An idle instance then takes the
number of rows that are answered in time at the best rate. It waits for more only if rows that come while it runs could
not be answered in time otherwise, and then no longer than the first row's slack and S(1) allow.

A row is *due* at its deadline or at its model's target, whichever comes first. Who cannot make it leaves the front of
the queue at once: past a deadline nobody waits for the answer any more, so the row is dropped; past a target it is
answered late, and *set aside*: it rides along with others or runs when nothing else waits, and counts at the door.

Everything is in ns, as floats; a moment that never comes is infinite. As in `service_time`, the functions work on
plain numbers, so that the simulator in bench/ can compile these very functions: what it proves is what is served.
"""

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from serving.batching.service_time import Curve, best_rows_per_ns, least_rows, mean_ns, nearest

NEVER = math.inf

RETRY_NS = 10e6
"""When to try again while nothing is known about how long batches take."""

_SPARED = 0.1
"""A smaller batch may cost this part of the time that instances have left."""
_GOOD_ENOUGH = 0.997
"""A smaller batch that costs no more than this is as good as a larger one."""
_WORTH_A_LOSS = 1.1
"""A batch for which rows have to go must be so much better than one that does not."""
_BUSY = 0.25
"""Below this utilisation nothing waits."""
_RIDE = 0.25
"""Late rows ride along with others for at most this part of what they would cost alone."""
_MISSED = 0.01
"""From this part of missed rows on, instances' time is scarce."""


@dataclass(frozen=True, slots=True)
class Window:
    """The bounds of one batch in mode `window`; in mode `none` it holds one row and waits for nothing.

    A batch of one of `batch_rows_preferred` does not wait either; the largest one that is filled is taken.
    """

    batch_rows_max: int
    queue_delay_ns_max: int
    batch_rows_preferred: tuple[int, ...] = ()


def take_at_ns(window: Window, *, rows: int, head_arrival_ns: int) -> int:
    """Return the time from which an idle instance may take a batch of `rows` whose first row came at `head_arrival_ns`.

    A time in the past means now.
    """
    if rows >= window.batch_rows_max:
        return head_arrival_ns
    return head_arrival_ns + window.queue_delay_ns_max


def rank(priority: int, due_ns: float, arrival_ns: int) -> tuple[int, float, int]:
    """Return what the queue is sorted by: priority, the lower first, then deadline or target, then arrival."""
    return priority, due_ns, arrival_ns


class Reason(enum.IntEnum):
    """Why a batch is taken, or why none is."""

    FULL = 0
    DEADLINE = 1
    EFFICIENCY = 2
    IDLE = 3
    DRAIN = 4
    GROWING = 5
    WAITING = 6
    EMPTY = 7
    LATE = 8
    SHAPE = 9
    """What waits beside it has other shapes, so the batch could not be larger."""


RELEASES = tuple(
    reason for reason in Reason if reason not in {Reason.GROWING, Reason.WAITING, Reason.EMPTY, Reason.LATE}
)
"""The reasons for which a batch is taken."""


class Bounds(NamedTuple):
    """What is configured.

    `overhead_ns` is spent outside the model, from the close of a batch to its answers. `fixed`: the engine runs only
    the sizes of the curve, so a batch is padded up to the next one, or rows are left for later, whichever is cheaper.
    """

    batch_rows_max: int
    queue_rows_max: int
    instances: int
    overhead_ns: float
    fixed: bool


class Snapshot(NamedTuple):
    """What a decision depends on.

    `rows` wait. `due_ns[k]` is when row number `sizes[k]` of the queue's order is due (sizes of the curve; what lies
    beyond `rows` is ignored), `last_due_ns` when the last one is. `idle`
    instances are free; the next other one is expected to be at `free_ns`. `since_ns` is from when the first row could
    have run: it waited and an instance was idle. Rows come at `rows_per_ns`, the last
    one at `came_ns`, and usually have `slack_ns`. `used` is the
    utilisation, `missed` the part of rows that lately missed their moment. `draining` lets nothing wait.
    """

    now_ns: float
    rows: int
    due_ns: Sequence[float]
    last_due_ns: float
    idle: int
    free_ns: float
    since_ns: float
    rows_per_ns: float
    came_ns: float
    slack_ns: float
    used: float
    missed: float
    draining: bool


class Decision(NamedTuple):
    """Take `rows` from the front, or with 0 rows let go of what is due before `late_before_ns` (0: nothing).

    To let go is to drop what has a deadline, and to set aside what has a target.

    With 0 rows ask again at `at_ns`, which is now if something goes, and at the next arrival or completion.
    """

    rows: int
    at_ns: float
    late_before_ns: float
    reason: Reason


class Choice(NamedTuple):
    """A batch of `rows` rows, of which `useful` are answered in time when `lost` ones go before."""

    rows: int
    useful: float
    late_before_ns: float
    rows_per_ns: float
    lost: float


def hopeless_before_ns(bounds: Bounds, curve: Curve, free_ns: float) -> float:
    """Return the moment before which no deadline can be made any more, even alone, from `free_ns` on."""
    return free_ns + curve.fitted_ns[0] + bounds.overhead_ns


class Newcomer(NamedTuple):
    """`rows` rows that come while `queued_rows` wait and an instance is free from `free_ns` on."""

    rows: int
    due_ns: float
    queued_rows: int
    free_ns: float


def retry_after_ns(bounds: Bounds, curve: Curve, newcomer: Newcomer) -> float:
    """Return 0 to admit a newcomer, or after how long it may try again.

    It is refused when the backlog at the best throughput leaves it no time, or when the queue is full.
    """
    best = best_rows_per_ns(curve) * bounds.instances
    excess_rows = newcomer.queued_rows + newcomer.rows - bounds.queue_rows_max
    if excess_rows > 0:
        return excess_rows / best if best > 0.0 else RETRY_NS
    if best <= 0.0:
        return 0.0
    service_ns = run_ns(bounds, curve, newcomer.rows)
    done_ns = newcomer.free_ns + newcomer.queued_rows / best + service_ns + bounds.overhead_ns
    return max(0.0, done_ns - newcomer.due_ns)


def decide_in_window(window: Window, snapshot: Snapshot, head_arrival_ns: int) -> Decision:
    """Say what an idle instance should do now in modes `window` and `none`."""
    if snapshot.rows <= 0:
        return Decision(0, NEVER, 0.0, Reason.EMPTY)
    if snapshot.idle <= 0:
        return Decision(0, NEVER, 0.0, Reason.GROWING)
    filled = [rows for rows in (*window.batch_rows_preferred, window.batch_rows_max) if rows <= snapshot.rows]
    if filled:
        return Decision(max(filled), snapshot.now_ns, 0.0, Reason.FULL)
    if snapshot.draining:
        return Decision(snapshot.rows, snapshot.now_ns, 0.0, Reason.DRAIN)
    at_ns = float(take_at_ns(window, rows=snapshot.rows, head_arrival_ns=head_arrival_ns))
    if at_ns > snapshot.now_ns:
        return Decision(0, at_ns, 0.0, Reason.WAITING)
    return Decision(snapshot.rows, snapshot.now_ns, 0.0, Reason.IDLE)


def run_ns(bounds: Bounds, curve: Curve, rows: float) -> float:
    """Return how long a batch of `rows` rows takes, with its padding if there is some."""
    if bounds.fixed and rows > 0.0:
        return curve.fitted_ns[nearest(curve.sizes, rows)]
    return mean_ns(curve, rows)


def _cost_ns(bounds: Bounds, curve: Curve, rows: float) -> float:
    """Return what a batch costs: its run, and what is spent outside of it, on cores that other batches need as well."""
    return max(run_ns(bounds, curve, rows) + bounds.overhead_ns, 1.0)


def decide(bounds: Bounds, curve: Curve, snapshot: Snapshot) -> Decision:
    """Say what an idle instance should do now."""
    if snapshot.rows <= 0:
        return Decision(0, NEVER, 0.0, Reason.EMPTY)
    if snapshot.idle <= 0:
        return Decision(0, NEVER, 0.0, Reason.GROWING)
    choice = choose(bounds, curve, snapshot)
    if choice.lost > 0.0:
        return Decision(0, snapshot.now_ns, choice.late_before_ns, Reason.LATE)
    reason = Reason.IDLE
    if snapshot.draining:
        reason = Reason.DRAIN
    elif choice.rows >= bounds.batch_rows_max:
        reason = Reason.FULL
    elif _is_tight(bounds, curve, snapshot):
        reason = Reason.DEADLINE
    elif snapshot.rows < bounds.batch_rows_max:
        until_ns = wait_until_ns(bounds, curve, snapshot)
        if until_ns > snapshot.now_ns:
            return Decision(0, until_ns, 0.0, Reason.WAITING)
    if reason == Reason.IDLE and choice.rows < snapshot.rows:
        reason = Reason.EFFICIENCY
    return Decision(choice.rows, snapshot.now_ns, 0.0, reason)


def _is_tight(bounds: Bounds, curve: Curve, snapshot: Snapshot) -> bool:
    """Say whether the first row would be late in as large a batch as there could be."""
    rows = min(snapshot.rows, bounds.batch_rows_max)
    return snapshot.now_ns + run_ns(bounds, curve, rows) + bounds.overhead_ns > snapshot.due_ns[0]


def choose(bounds: Bounds, curve: Curve, snapshot: Snapshot) -> Choice:
    """Return the batch with the best rate of rows answered in time, the smallest one of those that are as good."""
    rows_max = min(snapshot.rows, bounds.batch_rows_max)
    best = Choice(0, 0.0, 0.0, 0.0, 0.0)
    enough = min(_GOOD_ENOUGH, 1.0 - _SPARED * (1.0 - snapshot.used))
    level = len(curve.sizes) - 1
    rows = rows_max
    while True:
        choice = _weigh(bounds, curve, snapshot, rows)
        if best.rows == 0 or _is_better(bounds, curve, choice, best, enough):
            best = choice
        while level >= 0 and curve.sizes[level] >= rows:
            level -= 1
        if level < 0:
            break
        rows = curve.sizes[level]
    if best.useful > 0.0:
        return best
    return Choice(least_rows(curve, rows_max, _GOOD_ENOUGH), 0.0, 0.0, 0.0, 0.0)


def _is_better(bounds: Bounds, curve: Curve, choice: Choice, best: Choice, enough: float) -> bool:
    """Compare a smaller batch with the best larger one so far."""
    if choice.useful <= 0.0 or best.useful <= 0.0:
        return choice.useful > best.useful
    if choice.lost < best.lost:
        return choice.rows_per_ns * _WORTH_A_LOSS >= best.rows_per_ns
    if choice.rows_per_ns >= best.rows_per_ns * enough and choice.lost <= best.lost:
        return choice.rows_per_ns > best.rows_per_ns or _is_sooner(bounds, curve, choice.rows, best.rows)
    return False


def _is_sooner(bounds: Bounds, curve: Curve, rows: int, all_rows: int) -> bool:
    """Say whether answers come sooner on average if `rows` of `all_rows` run first, and then the others."""
    others = all_rows - rows
    then_ns = _cost_ns(bounds, curve, others) * others / all_rows
    return run_ns(bounds, curve, rows) + then_ns < run_ns(bounds, curve, all_rows)


def _weigh(bounds: Bounds, curve: Curve, snapshot: Snapshot, rows: int) -> Choice:
    """Say what a batch of `rows` rows is worth."""
    done_ns = snapshot.now_ns + run_ns(bounds, curve, rows) + bounds.overhead_ns
    late = _due_before(curve, snapshot, done_ns)
    if late <= 0.0:
        return Choice(rows, float(rows), 0.0, rows / _cost_ns(bounds, curve, rows), 0.0)
    late_before_ns = done_ns
    if snapshot.idle > 1:
        late_before_ns = min(done_ns, hopeless_before_ns(bounds, curve, snapshot.now_ns))
    lost = _due_before(curve, snapshot, late_before_ns)
    rows = min(rows, int(snapshot.rows - lost))
    if rows <= 0:
        return Choice(0, 0.0, 0.0, 0.0, lost)
    useful = max(0.0, rows - (late - lost))
    return Choice(rows, useful, late_before_ns, useful / _cost_ns(bounds, curve, rows), lost)


def _due_before(curve: Curve, snapshot: Snapshot, moment_ns: float) -> float:
    """Return how many rows are due before a moment; between two known ones they lie evenly."""
    before, before_due_ns = 0, snapshot.due_ns[0]
    for level in range(len(curve.sizes)):
        rows, due_ns = curve.sizes[level], snapshot.due_ns[level]
        if rows >= snapshot.rows:
            rows, due_ns = snapshot.rows, snapshot.last_due_ns
        if due_ns >= moment_ns:
            if before == 0:
                return 0.0
            share = (moment_ns - before_due_ns) / (due_ns - before_due_ns)
            return before + math.ceil(share * (rows - before) - 1.0) if rows - before > 1 else float(before)
        if rows >= snapshot.rows:
            return float(rows)
        before, before_due_ns = rows, due_ns
    return float(before)


def riders(bounds: Bounds, curve: Curve, snapshot: Snapshot, decision: Decision, aside_rows: int) -> int:
    """Return how many rows that were set aside should ride along with a batch that is taken.

    They do if that costs at most a quarter of what they would cost alone, and if it makes nobody late.
    """
    rows = decision.rows
    more_rows = min(aside_rows, bounds.batch_rows_max - rows)
    while more_rows > 0:
        together_ns = run_ns(bounds, curve, rows + more_rows)
        extra_ns = together_ns - run_ns(bounds, curve, rows)
        is_in_time = snapshot.now_ns + together_ns + bounds.overhead_ns <= snapshot.due_ns[0]
        if is_in_time and extra_ns <= _RIDE * run_ns(bounds, curve, more_rows):
            return more_rows
        more_rows //= 2
    return 0


def wait_until_ns(bounds: Bounds, curve: Curve, snapshot: Snapshot) -> float:
    """Return until when the r rows that wait should wait for more; a moment in the past means not at all.

    Joining the next row saves S(r) + S(1) - S(r+1) of the instance's time and costs r rows the time until it comes.
    That pays if the time is needed: if rows miss their moment already, or those that come during S(r) are going to.
    """
    rows, rate = snapshot.rows, snapshot.rows_per_ns
    service_ns = run_ns(bounds, curve, rows)
    if snapshot.used < _BUSY:
        return 0.0
    saved_ns = service_ns + curve.fitted_ns[0] - run_ns(bounds, curve, rows + 1)
    if saved_ns * rate <= rows:
        return 0.0
    next_rows = min(max(1.0, rate * service_ns), float(bounds.batch_rows_max))
    would_take_ns = service_ns / bounds.instances + run_ns(bounds, curve, next_rows) + bounds.overhead_ns
    if would_take_ns <= snapshot.slack_ns and snapshot.missed < _MISSED:
        return 0.0
    by_slack_ns = snapshot.due_ns[0] - run_ns(bounds, curve, rows + 1) - bounds.overhead_ns
    silent_ns = snapshot.came_ns + saved_ns / rows  # then rows come too slowly for it to pay
    return min(by_slack_ns, silent_ns, snapshot.since_ns + curve.fitted_ns[0])
