"""Who can be let in with a target behind so many rows that wait already. Pure.

Under full load a row waits for one batch to end and runs in the next, so both together may take what it has: that
bounds how large batches can be then (`steady_rows`). Where batches could pay beyond that bound, no more rows wait than
one such batch holds: a larger one would turn away, or make late, those that come while it runs. Where they are bound by
what pays, rows may wait for as many batches as leave the last one in time. Who is let in for a target is never dropped
again, so batches count at their upper quantile.
"""

from typing import NamedTuple

from serving.batching.service_time import Curve, mean_ns, rows_within, upper_ns

_SPARE = 1.03
"""Under full load so much more time is reckoned with, for what nobody foresees: who is late then makes others late."""


class Door(NamedTuple):
    """What decides whether a newcomer is answered in time, all in ns from now.

    An instance is free in `busy_ns`, and the batch that it takes then may run for `first_ns` without making its first
    row late. A newcomer has `slack_ns` in all. Batches have at most `rows_max` rows. They take `stretch` times what the
    curve says, which is what passes between them, and `overhead_ns` passes from the end of a run to its answers.
    `is_full`: instances hardly ever rest.
    """

    busy_ns: float
    first_ns: float
    slack_ns: float
    rows_max: int
    instances: int
    stretch: float
    overhead_ns: float
    is_full: bool


def wait_ns(curve: Curve, door: Door, rows: int) -> float:
    """Return 0 if the last of `rows` rows that wait, the newcomer, is answered in time, or when it may come again."""
    steady = steady_rows(curve, door)
    first = _first_rows(curve, door, steady)
    if rows <= first:
        run_ns = upper_ns(curve, rows)
    elif steady < door.rows_max:
        return max(door.busy_ns, mean_ns(curve, steady))
    else:
        batches_before = 1 + (rows - first - 1) // steady
        run_ns = (batches_before / door.instances + 1.0) * upper_ns(curve, steady)
    return max(0.0, door.busy_ns + run_ns * door.stretch + door.overhead_ns - door.slack_ns)


def rows_in_time(curve: Curve, door: Door) -> int:
    """Return how many rows can wait, so that the last one is answered in time: the most for which `wait_ns` is 0."""
    steady = steady_rows(curve, door)
    first = _first_rows(curve, door, steady)
    left_ns = (door.slack_ns - door.busy_ns - door.overhead_ns) / door.stretch
    if steady == door.rows_max:
        batches_before = int((left_ns / max(upper_ns(curve, steady), 1.0) - 1.0) * door.instances)
        if batches_before >= 1:
            return first + batches_before * steady
    return rows_within(curve, left_ns, first)


def steady_rows(curve: Curve, door: Door) -> int:
    """Return how large batches can be when one follows the other and nobody is to be late, at least 1."""
    both_ns = (door.slack_ns - door.overhead_ns) / door.stretch
    return max(1, rows_within(curve, both_ns, door.rows_max, runs=_SPARE * (1.0 + 1.0 / door.instances)))


def _first_rows(curve: Curve, door: Door, steady: int) -> int:
    """Return how many rows the next batch may hold: what its first one allows, at full load no more than `steady`."""
    return rows_within(curve, door.first_ns / door.stretch, steady if door.is_full else door.rows_max)
