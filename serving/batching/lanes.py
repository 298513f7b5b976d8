"""How long one row of each lane takes, where the lanes of a servable differ: a short text takes less than a long one.

The service model knows rows and no shapes: it is the mean over what lately ran. That is enough to choose a batch, but
not to turn somebody away who takes less.
"""

from serving.batching.entries import Lane

LANES_MAX = 256
"""Of further lanes, the one that ran longest ago is forgotten."""

_UP = 0.125  # a shorter duration counts at once: what was in its way before was something else


class LaneTimes:
    """One duration for each lane, in ns. Takes no lock: its batcher holds one. Bound: LANES_MAX lanes."""

    def __init__(self) -> None:
        self._one_row_ns: dict[Lane, float] = {}

    def note(self, lane: Lane, one_row_ns: float) -> None:
        """Learn from a batch that ran."""
        known_ns = self._one_row_ns.pop(lane, one_row_ns)
        self._one_row_ns[lane] = min(one_row_ns, known_ns + _UP * (one_row_ns - known_ns))
        if len(self._one_row_ns) > LANES_MAX:
            del self._one_row_ns[next(iter(self._one_row_ns))]

    def share(self, lane: Lane, usual_ns: float) -> float:
        """Return which part of the usual time a row takes: 1 at most, 0 while others ran and this lane did not."""
        known = self._one_row_ns
        if not known or usual_ns <= 0.0 or (len(known) == 1 and lane in known):
            return 1.0
        return min(1.0, known.get(lane, 0.0) / usual_ns)
