"""How much is asked of a servable: how fast rows come, and how much of its instances' time they take. Pure.

The gap between rows is averaged over the last `_ROWS` rows or so, and again over many more: the burst factor is how
much faster they come now than they usually do. As in `service_time`, the functions work on any sequence of numbers.
"""

from collections.abc import MutableSequence

_ROWS, _ROWS_USUAL = 32.0, 1024.0
_ROWS_SETTLED = 256.0
_PAUSE = 8.0
"""A longer gap, as a multiple of the mean, is a pause between bursts and says little about the rate within one."""
_BATCHES = 16.0

GAP, USUAL_GAP, CAME, SERVED, PERIOD, DONE, MISSED = range(7)
"""Where each number lies: mean gap between rows now and usually, the last arrival, mean service time and mean period of
batches, the last completion, all in ns; the part of rows that missed their moment."""
NUMBERS = 7


def note_arrival(demand: MutableSequence[float], rows: int, now_ns: float) -> None:
    """Count `rows` rows that came at `now_ns`."""
    if rows <= 0:
        return
    came_ns, demand[CAME] = demand[CAME], now_ns
    if came_ns <= 0.0:
        return
    gap_ns = max(now_ns - came_ns, 0.0) / rows
    first = demand[GAP] <= 0.0
    now_gap_ns = gap_ns if first else min(gap_ns, _PAUSE * demand[GAP])
    kept = (1.0 - 1.0 / _ROWS) ** rows if not first else 0.0
    demand[GAP] = max(kept * demand[GAP] + (1.0 - kept) * now_gap_ns, 1.0)
    kept = (1.0 - 1.0 / _ROWS_USUAL) ** rows if not first else 0.0
    demand[USUAL_GAP] = max(kept * demand[USUAL_GAP] + (1.0 - kept) * gap_ns, 1.0)


def note_batch(demand: MutableSequence[float], service_ns: float, now_ns: float) -> None:
    """Count a batch that was done at `now_ns` after `service_ns`, on any of the instances."""
    if demand[DONE] <= 0.0:
        demand[SERVED] = demand[PERIOD] = service_ns
    share = 1.0 / _BATCHES if demand[DONE] > 0.0 else 0.0
    demand[SERVED] += share * (service_ns - demand[SERVED])
    demand[PERIOD] += share * (max(now_ns - demand[DONE], 0.0) - demand[PERIOD])
    demand[DONE] = now_ns


def note_settled(demand: MutableSequence[float], rows: int, missed: int) -> None:
    """Count `rows` rows that are over, `missed` of them refused, dropped or late."""
    if rows > 0:
        kept = (1.0 - 1.0 / _ROWS_SETTLED) ** rows
        demand[MISSED] = kept * demand[MISSED] + (1.0 - kept) * missed / rows


def rows_per_ns(demand: MutableSequence[float], now_ns: float) -> float:
    """Return how fast rows come; silence counts."""
    gap_ns = max(demand[GAP], now_ns - demand[CAME])
    return 1.0 / gap_ns if demand[GAP] > 0.0 else 0.0


def burst_factor(demand: MutableSequence[float]) -> float:
    """Return how much faster rows come now than usually."""
    return demand[USUAL_GAP] / demand[GAP] if demand[GAP] > 0.0 else 1.0


def utilisation(demand: MutableSequence[float], instances: int, now_ns: float) -> float:
    """Return which part of the instances' time the last batches took, from 0 to 1."""
    period_ns = max(demand[PERIOD], (now_ns - demand[DONE]) / _BATCHES)
    if period_ns <= 0.0:
        return 0.0
    return min(1.0, demand[SERVED] / (period_ns * instances))
