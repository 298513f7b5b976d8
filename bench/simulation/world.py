"""One world that every policy sees alike: when requests come, when they are due, and how long batches really take."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WINDOW, AIMD, BENTO, OURS = range(4)
"""Kinds of policy. No batching and natural batching are windows of 0 ns."""
REFUSED, DROPPED = -1.0, -2.0
"""What stands in place of a latency."""


class World(NamedTuple):
    """Requests of one row each that come at `times_ns` and are due `slack_ns` later, on a servable of `instances`.

    A batch of n rows takes `service_ns[n]` (from n = 0 to the largest batch there is) times the next of `noise`, and
    its answers come `overhead_ns` later. `hard`: past its moment a request has no use, and may be dropped.
    """

    times_ns: Floats
    slack_ns: float
    service_ns: Floats
    noise: Floats
    instances: int
    overhead_ns: float
    hard: bool


class Rival(NamedTuple):
    """A policy. `guarded`: it drops early and refuses at the door as ours does; else it does what was published."""

    kind: int
    batch_rows_max: int
    delay_ns: float
    guarded: bool


QUEUE_ROWS_MAX = 4096
