"""Which cheap batches run on the I/O thread itself, and for how long per turn of the event loop.

Handing a batch to an instance thread and back costs about 100 us; a batch that takes less than a few of those is run to
completion where it was decoded. All servables share one budget per turn, round robin, so that sockets are read again
soon; what is left waits for the next turn.
"""

import enum
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from serving.clock import Clock


class Left(enum.Enum):
    """What a servable has left for the I/O thread to run."""

    NOTHING = enum.auto()
    MORE = enum.auto()
    MORE_THAN_FITS = enum.auto()
    """Nothing was run: it needs a turn that has more time left."""


class CheapWork(Protocol):
    """A servable, as far as its batches run here."""

    def run_inline(self, budget_ns: int) -> "Left":
        """Run one batch that is likely to fit the budget, if there is one; say what is left."""


class InlineRuns:
    """The cheap work that waits for this turn. Lives on the I/O thread.

    `wake` asks the event loop for a turn; it is called when there is new work. Bound: `budget_ns` per turn, beyond
    which at most one more batch runs. A budget of 0 means that nothing runs here.
    """

    def __init__(self, clock: Clock, *, budget_us: int, wake: Callable[[], None]) -> None:
        self._clock = clock
        self._wake = wake
        self._waiting: OrderedDict[CheapWork, None] = OrderedDict()
        self.budget_ns = budget_us * 1_000

    def add(self, work: CheapWork) -> None:
        """Let a servable have its turn."""
        self._waiting[work] = None
        self._wake()

    def run(self) -> bool:
        """Run what fits into this turn; say whether something is left for the next one."""
        began_ns = self._clock.now_ns()
        left_ns = self.budget_ns
        while self._waiting and left_ns > 0:
            work, _ = self._waiting.popitem(last=False)
            try:
                left = work.run_inline(left_ns)
            except Exception:
                self._waiting[work] = None  # what it has left is not forgotten with its mistake
                raise
            if left is not Left.NOTHING:
                self._waiting[work] = None
            if left is Left.MORE_THAN_FITS:
                self._waiting.move_to_end(work, last=False)
                break
            left_ns = self.budget_ns - (self._clock.now_ns() - began_ns)
        return bool(self._waiting)
