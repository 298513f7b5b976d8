"""Which sizes to run although another one is chosen, because what is known of them may be wrong. Pure.

Only batches that run teach how long they take. A size that was never run, or that was last run while something else
disturbed it, may be better than the one that is chosen, and would never show it. So when the largest size known is the
best, the next one is tried; and a larger size than the chosen one that was not heard of for long is tried once more.
Larger ones only: the rows of a batch that turns out slow have waited together, which costs little and starves nobody.
"""

from serving.batching.service_time import Curve, nearest

PAUSE_NS, PAUSE_RUNS = 1_000_000_000, 100.0
"""A size is tried again when nothing was heard of it for so long, and for so many times what it takes."""

_TELLS = 0.75
"""A batch that fills this part of a size tells of it."""


class Exploration:
    """Remembers when each size of a ladder was last heard of. Takes no lock; bound: a number per size."""

    def __init__(self, sizes: int) -> None:
        self._heard_ns = [0] * sizes
        self._known_rows = 0  # the largest size that has run; 0: none
        self._untried_rows = 0  # the one above; 0: none, or not to be tried
        self._may_grow = True

    def forbid_growth(self) -> None:
        """Try no size above the largest one that has run."""
        self._may_grow = False
        self._untried_rows = 0

    def note(self, curve: Curve, rows: int, now_ns: int) -> None:
        """Note that a batch of so many rows was learnt from."""
        level = nearest(curve.sizes, rows)
        if rows >= _TELLS * curve.sizes[level]:
            self._heard_ns[level] = now_ns
        if self._untried_rows or not self._known_rows:
            seen = [level for level in range(len(curve.sizes)) if curve.weights[level] > 0.0]
            self._known_rows = curve.sizes[seen[-1]] if seen else 0
            is_last = not seen or seen[-1] == len(curve.sizes) - 1
            self._untried_rows = 0 if is_last or not self._may_grow else curve.sizes[seen[-1] + 1]

    def rows_to_try(self, curve: Curve, chosen_rows: int, waiting_rows: int, now_ns: int) -> int:
        """Return the size to run instead of the chosen one while so many rows wait; 0 for none."""
        if waiting_rows <= chosen_rows:
            return 0
        if chosen_rows == self._known_rows:
            return self._untried_rows if self._untried_rows <= waiting_rows else 0
        oldest_rows, oldest_ns = 0, now_ns
        for level, rows in enumerate(curve.sizes):
            if chosen_rows < rows <= waiting_rows and curve.weights[level] > 0.0:
                pause_ns = max(PAUSE_NS, PAUSE_RUNS * curve.fitted_ns[level])
                heard_ns = self._heard_ns[level]
                if now_ns - heard_ns >= pause_ns and heard_ns < oldest_ns:
                    oldest_rows, oldest_ns = rows, heard_ns
        return oldest_rows
