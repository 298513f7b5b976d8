"""How many rows are looked at, so that looking costs no more than a share of what inference costs. Pure.

Of each batch every `step`-th row is sampled, from a random one on, so each row has the same chance whatever order rows
come in and however they are batched: the counts stay valid.
"""

import random

INDIRECT = 3.0
"""Counting costs so many times what it takes: those that run next find their memory out of the caches, and the thread
that gives answers finds the interpreter taken. 10 us per batch of a 1 ms model made its median latency 35 us longer
than that of an equal model beside it. Within one session the median grew by less than what the clock says (2 % where
counting all rows took 4 %), so this errs towards counting fewer rows."""
FREE_NS = 50_000_000
"""What counting may take before inference has earned anything, once: so that the first rows are all counted."""
_STEP_MAX = 1 << 20
_DECAY = 0.95
_SURPRISE_MAX = 8.0
_DEBT_NS = 10_000_000


class Governor:
    """Chooses the step of one executor from what sampled rows have cost and what inference takes.

    `sample` belongs to the executor's thread; `spent` and `any_of` to whoever counts, one at a time.
    A share of 1 bounds nothing: every row is looked at.
    """

    __slots__ = ("_cost_per_row_ns", "_random", "_share", "infer_ns", "rows", "spent_ns", "step")

    def __init__(self, share: float) -> None:
        self._share = share
        self._cost_per_row_ns = 0.0
        self._random = random.Random(0).random  # noqa: S311 - which rows are looked at is no secret
        self.step = 1
        self.rows = 0
        self.infer_ns = 0
        self.spent_ns = 0

    @property
    def credit_ns(self) -> float:
        """What counting may still cost; below 0 what it has cost too much."""
        return self._share * self.infer_ns - INDIRECT * (self.spent_ns - FREE_NS)

    def any_of(self, numbers: int) -> int:
        """Return a random number below another one."""
        return int(self._random() * numbers)

    def sample(self, rows: int, infer_ns: int) -> range:
        """Note a batch; return which of its rows are sampled."""
        self.rows += rows
        self.infer_ns += infer_ns
        step = self.step  # `spent` may choose another one meanwhile
        return range(rows) if step == 1 else range(int(self._random() * step), rows, step)

    def spent(self, cost_ns: int, sampled_rows: int) -> None:
        """Note how long looking at rows took, and choose the step anew."""
        per_row = cost_ns / max(1, sampled_rows)
        known = self._cost_per_row_ns or per_row
        # A thread that was held up in the middle has not worked all that time.
        self._cost_per_row_ns = _DECAY * known + (1 - _DECAY) * min(per_row, _SURPRISE_MAX * known)
        self.spent_ns += min(cost_ns, round(_SURPRISE_MAX * known * max(1, sampled_rows)))
        self.step = self._affordable_step()

    def _affordable_step(self) -> int:
        credit_ns = self.credit_ns
        if credit_ns > 0 or self._share >= 1.0:
            return 1
        earned_per_row_ns = self._share * self.infer_ns / max(1, self.rows)
        debt = 1.0 + min(_SURPRISE_MAX, -credit_ns / _DEBT_NS)
        cost_per_row_ns = INDIRECT * self._cost_per_row_ns * debt
        if earned_per_row_ns * _STEP_MAX <= cost_per_row_ns:
            return _STEP_MAX
        return max(1, -int(-cost_per_row_ns // earned_per_row_ns))
