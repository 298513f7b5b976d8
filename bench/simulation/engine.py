"""The simulator: one servable, its queue and its instances in virtual time. Compiled; knows no workload by name.

A request's latency is known when its batch is taken, because the world says how long that will take; policies learn it
when the batch is done. Every policy runs through this one loop and differs only in what it decides.
"""

from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from bench.simulation.compiled import compiled, inlined, kernel
from bench.simulation.rivals import BENTO_NUMBERS, begin, bento_drops, learn_batch, rows_to_take
from bench.simulation.world import BENTO, DROPPED, OURS, QUEUE_ROWS_MAX, REFUSED, Floats, Rival, World
from serving.batching.demand import CAME as CAME_NS
from serving.batching.demand import MISSED, NUMBERS
from serving.batching.policy import Bounds, Newcomer, Snapshot
from serving.batching.service_time import Curve, ladder

_core = compiled()
decide, learn, mean_ns, riders = _core.decide, _core.learn, _core.mean_ns, _core.riders
retry_after_ns, hopeless_before_ns = _core.retry_after_ns, _core.hopeless_before_ns
note_arrival, note_batch, note_settled = _core.note_arrival, _core.note_batch, _core.note_settled
rows_per_ns, utilisation, seeded = _core.rows_per_ns, _core.utilisation, _core.seeded

SWEEPS = 3
OURS_GUARDED = Rival(OURS, 0, 0.0, guarded=True)
_UNBOUNDED = 1 << 40

_Curve, _Snapshot = cast("Any", Curve), cast("Any", Snapshot)  # of arrays here, which are no Sequence to mypy

Ints = NDArray[np.int64]

HEAD, TAIL, IDLE, BATCHES, CAME, ASIDE_HEAD, ASIDE_TAIL = range(7)
"""Counters: `queue[HEAD:TAIL]` waits, `aside[ASIDE_HEAD:ASIDE_TAIL]` is set aside, CAME is the next to come."""
WAKE, IDLE_SINCE = range(2)
"""Moments: when to ask again, and since when an instance is idle."""
BATCH_COUNT, BUSY_NS, DECISIONS, LARGEST = range(4)


class Run(NamedTuple):
    """All that changes in a run.

    Per instance: when its batch is done, and expected to be; when it was taken, with how many rows, and how long its
    first row had waited, and how many rows will be late. `totals` are [batches, busy ns, decisions, rows of the
    largest batch].
    """

    queue: Ints
    aside: Ints
    counts: Ints
    moments_ns: Floats
    done_ns: Floats
    expected_ns: Floats
    taken_ns: Floats
    taken_rows: Ints
    waited_ns: Floats
    late_rows: Ints
    demand: Floats
    numbers: Floats
    due_ns: Floats
    latency_ns: Floats
    totals: Floats


def simulate(world: World, rival: Rival) -> tuple[Floats, Floats]:
    """Return the latency of every request in ns (or REFUSED, DROPPED), and the totals of the run."""
    rows_max = min(rival.batch_rows_max, world.service_ns.size - 1)
    sizes = np.array(ladder(rows_max), np.int64)
    blank = [np.zeros(sizes.size) for _ in range(4)]
    curve = _Curve(sizes, blank[0], blank[1], np.full(sizes.size, 1.1), blank[2], blank[3], np.zeros(2), False)
    queue_rows_max = QUEUE_ROWS_MAX if rival.guarded else _UNBOUNDED
    bounds = Bounds(rows_max, queue_rows_max, world.instances, world.overhead_ns)
    run = _new_run(world, sizes.size)
    _simulate(run, world, rival, bounds, curve)
    return run.latency_ns, run.totals


def _new_run(world: World, levels: int) -> Run:
    count, instances = world.times_ns.size, world.instances
    counts = np.zeros(7, np.int64)
    counts[IDLE] = instances
    return Run(
        queue=np.empty(2 * count, np.int64), aside=np.empty(count, np.int64), counts=counts,
        moments_ns=np.array([np.inf, 0.0]), done_ns=np.full(instances, np.inf),
        expected_ns=np.full(instances, np.inf), taken_ns=np.zeros(instances), taken_rows=np.zeros(instances, np.int64),
        waited_ns=np.zeros(instances), late_rows=np.zeros(instances, np.int64), demand=np.zeros(NUMBERS),
        numbers=np.zeros(BENTO_NUMBERS), due_ns=np.full(levels, np.inf), latency_ns=np.zeros(count), totals=np.zeros(4),
    )  # fmt: skip


@kernel
def _simulate(run: Run, world: World, rival: Rival, bounds: Bounds, curve: Curve) -> None:
    """Run a world to its end."""
    begin(run.numbers, rival, world)
    _sweep(world, rival, curve)
    while True:
        now_ns = run.moments_ns[WAKE]
        if run.counts[CAME] < world.times_ns.size:
            now_ns = min(now_ns, world.times_ns[run.counts[CAME]])
        for instance in range(world.instances):
            now_ns = min(now_ns, run.done_ns[instance])
        if now_ns == np.inf:
            return
        run.moments_ns[WAKE] = np.inf
        _complete(run, world, rival, curve, now_ns)
        _drop(run, world, rival, hopeless_before_ns(bounds, curve, _free_ns(run, now_ns)), now_ns)
        _arrive(run, world, rival, bounds, curve, now_ns)
        while run.counts[IDLE] > 0 and _waits(run):
            run.totals[DECISIONS] += 1
            more_rows = 0
            if rival.kind == OURS:
                rows, more_rows, at_ns = _decide(run, world, bounds, curve, now_ns)
            else:
                queue = run.queue[run.counts[HEAD] : run.counts[TAIL]]
                rows, at_ns = rows_to_take(rival, run.numbers, world.times_ns, queue, now_ns)
            if at_ns > now_ns:
                run.moments_ns[WAKE] = at_ns
                break
            if rows > 0:
                _take(run, world, rival, curve, rows, more_rows, now_ns)


@inlined
def _waits(run: Run) -> bool:
    """Say whether any request waits."""
    counts = run.counts
    return bool(counts[HEAD] < counts[TAIL] or counts[ASIDE_HEAD] < counts[ASIDE_TAIL])


@inlined
def _sweep(world: World, rival: Rival, curve: Curve) -> None:
    """Let ours run each size at load; rivals, which need a curve only at the door, know the true one."""
    for sweep in range(SWEEPS):
        for level in range(len(curve.sizes)):
            rows = curve.sizes[level]
            noise = world.noise[sweep * len(curve.sizes) + level] if rival.kind == OURS else 1.0
            learn(curve, rows, world.service_ns[rows] * noise, 0.0)
    seeded(curve)


@inlined
def _free_ns(run: Run, now_ns: float) -> float:
    """Return from when an instance is free, as far as anybody can expect."""
    if run.counts[IDLE] > 0:
        return now_ns
    soonest_ns: float = run.expected_ns.min()
    return max(now_ns, soonest_ns)


@inlined
def _complete(run: Run, world: World, rival: Rival, curve: Curve, now_ns: float) -> None:
    """Let batches be done, and let policies learn from them."""
    for instance in range(world.instances):
        if run.done_ns[instance] > now_ns:
            continue
        took_ns = run.done_ns[instance] - run.taken_ns[instance]
        run.done_ns[instance] = run.expected_ns[instance] = np.inf
        run.counts[IDLE] += 1
        run.moments_ns[IDLE_SINCE] = now_ns
        if rival.kind == OURS:
            learn(curve, run.taken_rows[instance], took_ns, now_ns)
            note_batch(run.demand, took_ns, now_ns)
            note_settled(run.demand, run.taken_rows[instance], run.late_rows[instance])
        else:
            learn_batch(rival, run.numbers, world, run.taken_rows[instance], run.waited_ns[instance], took_ns, now_ns)


@inlined
def _drop(run: Run, world: World, rival: Rival, before_ns: float, now_ns: float) -> None:
    """Let go from the front whoever cannot be answered in time; of the rivals' only what has a deadline."""
    guarded = rival.guarded and (world.hard or rival.kind == OURS)
    while run.counts[HEAD] < run.counts[TAIL]:
        due_ns = world.times_ns[run.queue[run.counts[HEAD]]] + world.slack_ns
        if not (guarded and due_ns < before_ns) and not (
            rival.kind == BENTO
            and bento_drops(run.numbers, run.counts[TAIL] - run.counts[HEAD], due_ns, now_ns, run.counts[IDLE])
        ):
            return
        _let_go(run, world.hard or rival.kind == BENTO)


@inlined
def _let_go(run: Run, hard: bool) -> None:
    """Drop the first request, or set it aside."""
    request = run.queue[run.counts[HEAD]]
    run.counts[HEAD] += 1
    if hard:
        run.latency_ns[request] = DROPPED
        note_settled(run.demand, 1, 1)
    else:
        run.aside[run.counts[ASIDE_TAIL]] = request
        run.counts[ASIDE_TAIL] += 1


@inlined
def _arrive(run: Run, world: World, rival: Rival, bounds: Bounds, curve: Curve, now_ns: float) -> None:
    """Let requests in, or refuse them at the door."""
    counts, free_ns = run.counts, _free_ns(run, now_ns)
    while counts[CAME] < world.times_ns.size and world.times_ns[counts[CAME]] <= now_ns:
        request = counts[CAME]
        counts[CAME] += 1
        if rival.kind == OURS:
            note_arrival(run.demand, 1, now_ns)
        if rival.guarded:
            queued_rows = counts[TAIL] - counts[HEAD] + counts[ASIDE_TAIL] - counts[ASIDE_HEAD]
            newcomer = Newcomer(1, world.times_ns[request] + world.slack_ns, queued_rows, free_ns)
            if retry_after_ns(bounds, curve, newcomer) > 0.0:
                run.latency_ns[request] = REFUSED
                note_settled(run.demand, 1, 1)
                continue
        run.queue[counts[TAIL]] = request
        counts[TAIL] += 1


@inlined
def _decide(run: Run, world: World, bounds: Bounds, curve: Curve, now_ns: float) -> tuple[int, int, float]:
    """Ask our policy, with what a batcher would tell it; return (rows to take, riders, when to ask again).

    What was set aside is asked about when nothing else waits, as rows that are never due.
    """
    counts, slack_ns = run.counts, world.slack_ns
    rows, last_ns, since_ns = counts[TAIL] - counts[HEAD], np.inf, now_ns
    for level in range(len(curve.sizes)):
        run.due_ns[level] = np.inf
        if curve.sizes[level] <= rows:
            run.due_ns[level] = world.times_ns[run.queue[counts[HEAD] + curve.sizes[level] - 1]] + slack_ns
    if rows > 0:
        last_ns = world.times_ns[run.queue[counts[TAIL] - 1]] + slack_ns
        since_ns = max(world.times_ns[run.queue[counts[HEAD]]], run.moments_ns[IDLE_SINCE])
    aside = rows == 0
    if aside:
        rows = counts[ASIDE_TAIL] - counts[ASIDE_HEAD]
    snapshot = _Snapshot(
        now_ns, rows, run.due_ns[0], run.due_ns, last_ns, counts[IDLE], max(now_ns, run.expected_ns.min()), since_ns,
        rows_per_ns(run.demand, now_ns), run.demand[CAME_NS], slack_ns,
        utilisation(run.demand, world.instances, now_ns), run.demand[MISSED], aside,
    )  # fmt: skip
    decision = decide(bounds, curve, snapshot)
    if decision.late_before_ns > 0.0:
        _drop(run, world, OURS_GUARDED, decision.late_before_ns, now_ns)
    if aside:
        for _ in range(decision.rows):
            run.queue[counts[TAIL]] = run.aside[counts[ASIDE_HEAD]]
            counts[TAIL] += 1
            counts[ASIDE_HEAD] += 1
    more_rows = 0
    if decision.rows > 0:
        more_rows = riders(bounds, curve, snapshot, decision, counts[ASIDE_TAIL] - counts[ASIDE_HEAD])
    return decision.rows, more_rows, decision.at_ns


@inlined
def _take(run: Run, world: World, rival: Rival, curve: Curve, rows: int, more_rows: int, now_ns: float) -> None:
    """Start a batch on an idle instance: `rows` of the queue and `more_rows` that were set aside."""
    counts, instance = run.counts, 0
    while run.done_ns[instance] < np.inf:
        instance += 1
    newest_first = rival.kind == BENTO and not rival.guarded
    begins = counts[TAIL] - rows if newest_first else counts[HEAD]
    all_rows = rows + more_rows
    service_ns = world.service_ns[all_rows] * world.noise[counts[BATCHES] % world.noise.size]
    answered_ns = now_ns + service_ns + world.overhead_ns
    run.late_rows[instance] = 0
    for place in range(begins, begins + rows):
        latency_ns = answered_ns - world.times_ns[run.queue[place]]
        run.latency_ns[run.queue[place]] = latency_ns
        run.late_rows[instance] += latency_ns > world.slack_ns
    for place in range(counts[ASIDE_HEAD], counts[ASIDE_HEAD] + more_rows):
        run.latency_ns[run.aside[place]] = answered_ns - world.times_ns[run.aside[place]]
    run.late_rows[instance] += more_rows
    counts[ASIDE_HEAD] += more_rows
    run.waited_ns[instance] = now_ns - world.times_ns[run.queue[begins]]
    run.taken_ns[instance], run.taken_rows[instance] = now_ns, all_rows
    run.done_ns[instance] = now_ns + service_ns
    run.expected_ns[instance] = now_ns + mean_ns(curve, all_rows)
    if newest_first:
        counts[TAIL] -= rows
    else:
        counts[HEAD] += rows
    counts[IDLE] -= 1
    counts[BATCHES] += 1
    run.totals[BATCH_COUNT] += 1
    run.totals[BUSY_NS] += service_ns
    run.totals[LARGEST] = max(run.totals[LARGEST], float(all_rows))
