"""The rivals' rules, as published, compiled. Each keeps its numbers in one array.

Clipper (Crankshaw et al., NSDI 2017, section 4.3.1): the largest batch grows by a fixed amount until a batch takes
longer than the objective, and then shrinks by a tenth. BentoML (1.x): a*n + b is fitted by least squares to the last 50
batches every 5 s; a batch waits while n * (age of the newest + tick + a) is at most 0.95 of the mean wait; while
a*n + b and the wait of the oldest exceed the objective the oldest is dropped; it looks once per ms, takes the newest
first and never quite fills a batch.
"""

import numpy as np
from numpy.typing import NDArray

from bench.simulation.compiled import inlined
from bench.simulation.world import AIMD, BENTO, WINDOW, Floats, Rival, World

BENTO_SAMPLES, BENTO_SKIPPED = 50, 2
BENTO_TICK_NS, BENTO_REFRESH_NS, BENTO_DECAY = 1e6, 5e9, 0.95
A, B, WAIT, COUNT, REFRESHED, LOOK = range(6)
BENTO_NUMBERS = 6 + 3 * BENTO_SAMPLES
CAP = 0

AIMD_STEP, AIMD_BACKOFF = 1.0, 0.9


@inlined
def begin(numbers: Floats, rival: Rival, world: World) -> None:
    """Set a rival's first guesses."""
    numbers[:] = 0.0
    if rival.kind == AIMD:
        numbers[CAP] = 1.0
    elif rival.kind == BENTO:
        numbers[A] = min(2e9, world.slack_ns * 2.0 / 30.0)
        numbers[B] = min(1e9, world.slack_ns / 30.0)
        numbers[WAIT] = 10e6


@inlined
def rows_to_take(
    rival: Rival, numbers: Floats, times_ns: Floats, queue: NDArray[np.int64], now_ns: float
) -> tuple[int, float]:
    """Return (how many of the waiting requests to take now, when to ask again); an instance is idle."""
    rows, head_ns = queue.size, times_ns[queue[0]]
    if rival.kind == WINDOW:
        at_ns = now_ns if rows >= rival.batch_rows_max else max(now_ns, head_ns + rival.delay_ns)
        return min(rows, rival.batch_rows_max), at_ns
    if rival.kind == AIMD:
        return min(rows, rival.batch_rows_max, int(numbers[CAP])), now_ns
    if now_ns < numbers[LOOK]:
        return 0, numbers[LOOK]
    newest_ns = now_ns - times_ns[queue[rows - 1]]
    if rows < rival.batch_rows_max and rows * (newest_ns + BENTO_TICK_NS + numbers[A]) <= numbers[WAIT] * BENTO_DECAY:
        numbers[LOOK] = now_ns + BENTO_TICK_NS
        return 0, numbers[LOOK]
    return min(rows, max(1, rival.batch_rows_max - 1)), now_ns


@inlined
def bento_drops(numbers: Floats, rows: int, due_ns: float, now_ns: float, idle: int) -> bool:
    """Say whether BentoML drops the oldest of `rows` requests, which it does even while its instances are busy."""
    if now_ns < numbers[LOOK]:
        return False
    if idle == 0:
        numbers[LOOK] = now_ns + BENTO_TICK_NS
    if rows == 1:
        return idle == 0 and now_ns >= due_ns
    expected_ns: float = numbers[A] * rows + numbers[B]
    return now_ns + expected_ns >= due_ns


@inlined
def learn_batch(
    rival: Rival, numbers: Floats, world: World, rows: int, waited_ns: float, took_ns: float, now_ns: float
) -> None:
    """Let a rival learn from a batch."""
    if rival.kind == AIMD:
        aimd_learn(numbers, rows, took_ns + world.overhead_ns, world.slack_ns)
    elif rival.kind == BENTO:
        bento_learn(numbers, rows, waited_ns, took_ns, now_ns)


@inlined
def aimd_learn(numbers: Floats, rows: int, took_ns: float, slack_ns: float) -> None:
    """Move Clipper's largest batch."""
    if took_ns > slack_ns:
        numbers[CAP] = max(1.0, numbers[CAP] * AIMD_BACKOFF)
    elif rows >= int(numbers[CAP]):
        numbers[CAP] += AIMD_STEP


@inlined
def bento_learn(numbers: Floats, rows: int, waited_ns: float, took_ns: float, now_ns: float) -> None:
    """Keep a batch, and fit again when it is time or the first ones are there."""
    numbers[COUNT] += 1
    if numbers[COUNT] <= BENTO_SKIPPED:
        return
    kept = int(numbers[COUNT]) - BENTO_SKIPPED
    place = 6 + 3 * ((kept - 1) % BENTO_SAMPLES)
    numbers[place], numbers[place + 1], numbers[place + 2] = rows, took_ns, waited_ns
    if kept <= 3 or now_ns - numbers[REFRESHED] >= BENTO_REFRESH_NS:
        numbers[REFRESHED] = now_ns
        _bento_fit(numbers, min(kept, BENTO_SAMPLES))


@inlined
def _bento_fit(numbers: Floats, kept: int) -> None:
    n = np.empty(kept)
    took = np.empty(kept)
    waited = 0.0
    for index in range(kept):
        place = 6 + 3 * index
        n[index], took[index] = numbers[place], numbers[place + 1]
        waited += numbers[place + 2]
    mean_n, mean_took = n.mean(), took.mean()
    spread = ((n - mean_n) ** 2).sum()
    if spread > 0.0:
        slope = ((n - mean_n) * (took - mean_took)).sum() / spread
        intercept = mean_took - slope * mean_n
    else:  # of all lines through one point the least-squares solver gives the shortest (a, b)
        slope = mean_took * mean_n / (mean_n * mean_n + 1.0)
        intercept = mean_took / (mean_n * mean_n + 1.0)
    numbers[A], numbers[B] = max(1e3, slope), max(0.0, intercept)
    numbers[WAIT] = max(0.0, waited / kept)
