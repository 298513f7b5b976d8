"""When requests are due: the arrivals of an open loop, or the places of a closed one, on the generator's clock."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bench.arrivals import times_ns
from bench.slices import ClosedLoop, OpenLoop, Slice


@dataclass(frozen=True, slots=True)
class Schedule:
    """The intended moments of a slice in ns, counted from `begin_ns` on the generator's clock.

    `due_ns` are all moments of an open loop, or the first ones of a closed loop's places. Moments from `count_from_ns`
    on count; nothing new is due from `end_ns` on; answers are awaited until `give_up_ns`.
    """

    due_ns: NDArray[np.int64]
    is_closed_loop: bool
    count_from_ns: int
    end_ns: int
    give_up_ns: int

    @classmethod
    def of(cls, slice_: Slice, begin_ns: int = 0) -> "Schedule":
        """Lay out a slice. Raises ConfigError for arrivals that cannot be."""
        load = slice_.load
        count_from_ns = begin_ns + round(slice_.warm_up_s * 1e9)
        end_ns = count_from_ns + round(load.duration_s * 1e9)
        if isinstance(load, OpenLoop):
            whole = replace(load, duration_s=load.duration_s + slice_.warm_up_s)
            due_ns = times_ns(whole) + begin_ns
        else:
            due_ns = np.full(load.concurrency, begin_ns, np.int64)
        give_up_ns = end_ns + round(slice_.drain_s * 1e9)
        return cls(due_ns, isinstance(load, ClosedLoop), count_from_ns, end_ns, give_up_ns)

    def moved(self, begin_ns: int) -> "Schedule":
        """Return the schedule with its begin at another moment."""
        return replace(
            self,
            due_ns=self.due_ns + begin_ns,
            count_from_ns=self.count_from_ns + begin_ns,
            end_ns=self.end_ns + begin_ns,
            give_up_ns=self.give_up_ns + begin_ns,
        )


def message_order(slice_: Slice, count: int) -> NDArray[np.int64]:
    """Return the order in which a slice goes round its messages, from its seed."""
    seed = slice_.load.seed if isinstance(slice_.load, OpenLoop) else 0
    return np.random.default_rng(seed).permutation(count)
