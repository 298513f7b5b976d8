"""Rollouts on the compiled path: which slots of a plan have arms, and the kernel that hands requests to them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serving.repository.handle import Handle
from serving.repository.routing import Routing
from serving.wire.plan import Model, Plan
from serving.wire.routes import (
    ROUTE_BELOW,
    ROUTE_CANARY,
    ROUTE_COLUMNS,
    ROUTE_CONTROL,
    ROUTE_SALT,
    route_requests,
)


class Routes:
    """The routes of one plan. Lives on the I/O thread, as long as the plan.

    `slots` are those whose requests are spread, and those that get some of them.
    """

    def __init__(self, plan: Plan, streams: NDArray[np.int64]) -> None:
        self._table = np.zeros((len(plan.models), ROUTE_COLUMNS), np.int64)
        self._newest = {model.name: slot for slot, model in _by_version(plan) if model.is_named}
        self._streams = streams
        self._drawn = np.zeros(1, np.int64)
        self.slots: frozenset[int] = frozenset()

    def add(self, routing: Routing, handles: Sequence[Handle]) -> None:
        """Spread the requests of a model over its arms; `handles` are those of the plan's slots."""
        slot = self._newest.get(routing.model)
        if slot is None:
            return
        canary, control = handles.index(routing.canary), handles.index(routing.control)
        columns = [ROUTE_SALT, ROUTE_BELOW, ROUTE_CANARY, ROUTE_CONTROL]
        self._table[slot, columns] = routing.salt, routing.below, canary, control
        self.slots |= {slot, canary, control}

    def spread(self, buffer: NDArray[np.uint8], source: int, records: NDArray[np.int64]) -> int:
        """Give the accepted records of a buffer the slots of their arms; return the slot of all, or SLOTS_DIFFER."""
        return route_requests(buffer, source, records, self._streams, self._table, self._drawn)


def _by_version(plan: Plan) -> list[tuple[int, Model]]:
    return sorted(enumerate(plan.models), key=lambda item: item[1].version)
