"""How long a batch of so many rows is going to take, learnt from those that ran. Pure.

Per power of two of rows an estimate follows the upper part of the durations: a longer one moves it up quickly, a
shorter one down slowly, which settles near the nine-tenths expectile (Newey and Powell, 1987). An estimate that has not
been tried for a while is forgotten. A servable is cheap while its batches are; one that took long is cheap again after
a few that did not. Where batches are padded, what runs counts, and not what of it is asked for.
"""

from bisect import bisect_left
from collections.abc import Sequence

LONG_NS = 1_000_000
CHEAP_RUNS = 3
"""So many batches below LONG_NS in a row make a servable cheap."""

ASLEEP_NS = 20_000_000
"""A thread that did nothing for so long in a batch was not waiting for a core: its model waits for something."""

_UP, _DOWN = 0.3, 0.03
_REMEMBERED_RUNS = 64


class Pace:
    """Durations of one servable's batches. Lives on the I/O thread."""

    def __init__(self) -> None:
        self._estimates_ns: dict[int, float] = {}  # by the bit length of the rows: upper estimate for that many rows
        self._last_runs: dict[int, int] = {}  # by the same: which run was the last one
        self._runs = 0
        self._cheap_runs = 0
        self._waiting_runs = 0

    def observe(self, rows: int, duration_ns: int) -> None:
        """Learn from a batch that ran."""
        self._cheap_runs = self._cheap_runs + 1 if duration_ns < LONG_NS else 0
        level = rows.bit_length()
        scaled_ns = duration_ns * _rows_of(level) / max(rows, 1)
        known_ns = self._estimates_ns.get(level, scaled_ns)
        step = _UP if scaled_ns > known_ns else _DOWN
        self._estimates_ns[level] = known_ns + step * (scaled_ns - known_ns)
        self._last_runs[level] = self._runs = self._runs + 1
        if self._runs % _REMEMBERED_RUNS == 0:
            self._forget()

    def cost_ns(self, cpu_ns: int, wall_ns: int) -> int:
        """Return what a batch would take on the I/O thread, of what its thread has worked and what passed meanwhile.

        The difference is mostly waiting for a core or for the interpreter, and says nothing of the batch; but when it
        is long, or comes again and again, the model itself waits.
        """
        waited_ns = wall_ns - cpu_ns
        self._waiting_runs = self._waiting_runs + 1 if waited_ns >= LONG_NS else 0
        return wall_ns if waited_ns >= ASLEEP_NS or self._waiting_runs >= CHEAP_RUNS else cpu_ns

    @property
    def is_cheap(self) -> bool:
        """Whether the last few batches were short."""
        return self._cheap_runs >= CHEAP_RUNS

    def predicted_ns(self, rows: int) -> float:
        """Return how long `rows` rows are likely to take; of a size not seen yet, in proportion to the nearest one."""
        level = rows.bit_length()
        known_ns = self._estimates_ns.get(level)
        if known_ns is None:
            level = min(self._estimates_ns, key=lambda known: abs(known - level))
            known_ns = self._estimates_ns[level]
        return known_ns * rows / _rows_of(level)

    def rows_within(self, rows: int, budget_ns: float) -> int:
        """Return how many of `rows` rows are likely to run within a budget; 0 only when not even one is."""
        while rows > 0 and (predicted_ns := self.predicted_ns(rows)) > budget_ns:
            # The estimate of one size may be far off, so a smaller one is always tried before giving up.
            rows = max(1, min(rows - 1, int(rows * budget_ns / predicted_ns))) if rows > 1 else 0
        return rows

    def _forget(self) -> None:
        for level, last_run in list(self._last_runs.items()):
            if self._runs - last_run >= _REMEMBERED_RUNS:
                del self._last_runs[level], self._estimates_ns[level]


class PaddedPace(Pace):
    """The pace of a servable whose batches run in allowed sizes only, and take what the padded batch takes."""

    def __init__(self, rows_allowed: Sequence[int]) -> None:
        super().__init__()
        self._allowed = tuple(rows_allowed)

    def observe(self, rows: int, duration_ns: int) -> None:
        """See `Pace`."""
        super().observe(self._padded(rows), duration_ns)

    def predicted_ns(self, rows: int) -> float:
        """See `Pace`."""
        return super().predicted_ns(self._padded(rows))

    def rows_within(self, rows: int, budget_ns: float) -> int:
        """Return `rows`, or the most rows of an allowed batch below that are likely to run within a budget, or 0."""
        while rows > 0 and self.predicted_ns(rows) > budget_ns:
            smaller = bisect_left(self._allowed, rows) - 1
            rows = self._allowed[smaller] if smaller >= 0 else 0
        return rows

    def _padded(self, rows: int) -> int:
        return self._allowed[bisect_left(self._allowed, rows)]


def _rows_of(level: int) -> int:
    """Return the number of rows that stands for those of one bit length: the largest."""
    return max(1, (1 << level) - 1)
