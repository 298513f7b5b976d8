"""What a servable's batcher has learnt and done, as numbers that nobody changes any more."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServiceTime:
    """How long batches of so many rows take: the mean, and what nine in ten stay below, in ns."""

    rows: int
    mean_ns: float
    upper_ns: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchingView:
    """The batcher of one servable at one moment.

    `target_ns` is 0 without an objective. `knee_rows` is the least batch with nearly the best throughput,
    `chosen_rows` the batch that would be taken if many rows waited and none was due. `waiting` says what an idle
    instance is told to do with what waits: rows to take, 0 for none yet, and why; None when nothing waits.
    `utilisation`, `missed` (rows that were lately refused, dropped or late) are parts from 0 to 1, `burst` is how much
    faster rows come now than usually. `expected_ns` and `actual_ns` add up how long the batches that were learnt from
    should have taken and took. `releases` are batches by why they were taken then, `waits` how often an idle instance
    was told to wait for more rows. `rows_allowed` are the sizes to which batches are padded, if they are, and
    `padding_rows` what that has added to those that answered a request.
    """

    mode: str
    instances: int
    target_ns: float
    sizes: Sequence[ServiceTime]
    knee_rows: int
    chosen_rows: int
    best_rows_per_s: float
    waiting: tuple[int, str] | None
    rows_per_s: float
    burst: float
    utilisation: float
    missed: float
    overhead_ns: float
    expected_ns: float
    actual_ns: float
    releases: Mapping[str, int]
    waits: int
    rows_allowed: Sequence[int] = ()
    padding_rows: int = 0


def padding_rows(batches_by_rows: Mapping[int, int], rows_allowed: Sequence[int]) -> int:
    """Return how many rows were added to batches, counted by their own rows, to bring them to the next allowed size."""
    if not rows_allowed:
        return 0
    padded = {rows: rows_allowed[bisect_left(rows_allowed, rows)] for rows in batches_by_rows}
    return sum((padded[rows] - rows) * count for rows, count in batches_by_rows.items())
