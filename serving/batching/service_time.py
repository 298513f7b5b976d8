"""How long a batch of n rows takes: the service model S(n), learnt from batches that ran. Pure.

Per size on a ladder (powers of two, or the sizes that an engine allows) a decayed mean and how far an upper quantile
lies above it. Between two sizes S is linear, or, where an engine runs these sizes only, what the next one takes, since
a batch is padded to it. Beyond the last one it grows in proportion; of a size never seen it is what its neighbours say.
The curve handed out never falls with n.

What was seen counts for half after `HALF_LIFE_BATCHES` or `HALF_LIFE_NS`. A size that has not run for long keeps its
place in the shape of the curve and follows the sizes that do run: a machine that became slower is slower at all sizes.

The functions work on any sequences of numbers and know no clock, so that the simulator in bench/ can compile these very
functions. `ServiceTimes` is the same for people.
"""

from collections.abc import MutableSequence, Sequence
from itertools import pairwise
from typing import NamedTuple

HALF_LIFE_BATCHES = 200.0
HALF_LIFE_NS = 30e9
CLIP = 4.0
"""A duration counts at most so many times its estimate, and at least so small a part of it."""
UPPER_QUANTILE = 0.9
KNEE = 0.95
"""The knee is the least size whose throughput reaches this part of the best."""

SEEN, BEST = 0, 1

_TRUSTED_WEIGHT = 2.0  # below it a size is too little known for its estimate to clip anything
_LEAST_WEIGHT = 1e-9
_RECENT_BATCHES = 32.0  # half of what makes a size one that runs is gone after so many batches of other sizes
_RECENT_AT_FIRST = 0.5  # the machine may have been busy then, or batches pay otherwise than with random rows
_SPREAD_STEP = 0.02
_SPREAD_AT_FIRST = 1.1


class Curve(NamedTuple):
    """What is known, per size of the ladder. `weights` are decayed counts, 0 for a size never seen.

    `means_ns` is as learnt, `fitted_ns` the same made monotone, `upper` the upper quantile as a multiple of the mean.
    `recent` is 1 for a size that just ran and fades soon.
    `last` holds two numbers: when something was learnt last, in ns, and the best throughput, in rows per ns.
    `stepped`: a batch of another size is padded to the next one.
    """

    sizes: Sequence[int]
    means_ns: MutableSequence[float]
    fitted_ns: MutableSequence[float]
    upper: MutableSequence[float]
    weights: MutableSequence[float]
    recent: MutableSequence[float]
    last: MutableSequence[float]
    stepped: bool


def interpolated(sizes: Sequence[int], values: Sequence[float], rows: float) -> float:
    """Return the value at `rows`: linear between two sizes, in proportion beyond the last, flat below the first."""
    last = len(sizes) - 1
    if rows >= sizes[last]:
        return values[last] * rows / sizes[last]
    above = 0
    while sizes[above] < rows:
        above += 1
    if above == 0:
        return values[0]
    share = (rows - sizes[above - 1]) / (sizes[above] - sizes[above - 1])
    return values[above - 1] + share * (values[above] - values[above - 1])


def mean_ns(curve: Curve, rows: float) -> float:
    """Return how long `rows` rows take on average, with their padding; 0 while nothing is known."""
    if curve.stepped:
        return interpolated(curve.sizes, curve.fitted_ns, max(rows, curve.sizes[nearest(curve.sizes, rows)]))
    return interpolated(curve.sizes, curve.fitted_ns, rows)


def upper_ns(curve: Curve, rows: float) -> float:
    """Return a time within which `rows` rows are likely to be done, never less than the mean."""
    return mean_ns(curve, rows) * curve.upper[nearest(curve.sizes, rows)]


def rows_within(curve: Curve, time_ns: float, rows_max: int, *, runs: float = 1.0) -> int:
    """Return how many rows, at most `rows_max`, are likely to be done within a time; 0 if not even one is.

    With `runs` above 1 that many batches of so many rows are.
    """
    below, below_ns = 0, 0.0
    for level in range(len(curve.sizes)):
        rows, factor = curve.sizes[level], curve.upper[level] * runs
        if curve.fitted_ns[level] * factor > time_ns:
            if below == 0 or curve.stepped:
                return min(below, rows_max)
            share = (time_ns / factor - below_ns) / max(curve.fitted_ns[level] - below_ns, 1.0)
            return min(below + int(max(0.0, share) * (rows - below)), rows_max)
        below, below_ns = rows, curve.fitted_ns[level]
        if rows >= rows_max:
            break
    return min(below, rows_max)


def nearest(sizes: Sequence[int], rows: float) -> int:
    """Return the index of the least size that holds `rows`, or of the last one."""
    level = 0
    while level < len(sizes) - 1 and sizes[level] < rows:
        level += 1
    return level


def learn(curve: Curve, rows: int, duration_ns: float, now_ns: float) -> None:
    """Learn from a batch of `rows` rows that took `duration_ns` and was done at `now_ns`."""
    _fade(curve, now_ns)
    above = nearest(curve.sizes, rows)
    if curve.stepped:
        rows = max(rows, curve.sizes[above])
    below = above - 1 if above > 0 and rows < curve.sizes[above] else above
    share = 1.0
    if below < above:
        place = (rows - curve.sizes[below]) / (curve.sizes[above] - curve.sizes[below])
        share = min(max(2.0 * place - 0.5, 0.0), 1.0)  # 17 rows tell nothing of 32: what they take may be a step
    expected_ns = interpolated(curve.sizes, curve.means_ns, rows)
    if expected_ns <= 0.0:  # the first one of all
        curve.means_ns[above] = max(1.0, duration_ns * curve.sizes[above] / max(rows, 1))
        curve.weights[above] = curve.recent[above] = 1.0
        fit(curve)
        return
    ratio = max(duration_ns, 1.0) / expected_ns
    if curve.weights[above] + curve.weights[below] >= _TRUSTED_WEIGHT:
        ratio = min(max(ratio, 1.0 / CLIP), CLIP)
    was_seen = curve.weights[above] > 0.0 and curve.weights[below] > 0.0
    _move(curve, above, share, ratio)
    if below < above:
        _move(curve, below, 1.0 - share, ratio)
    if was_seen:
        _follow(curve, (below if share < 1.0 else above, above if share > 0.0 else below), ratio)
    fit(curve)


def _fade(curve: Curve, now_ns: float) -> None:
    """Let what was seen before count less."""
    passed_ns = max(0.0, now_ns - curve.last[SEEN])
    kept = 0.5 ** (1.0 / HALF_LIFE_BATCHES + passed_ns / HALF_LIFE_NS)
    kept_recent = 0.5 ** (1.0 / _RECENT_BATCHES)
    curve.last[SEEN] = now_ns
    for level in range(len(curve.sizes)):
        if curve.weights[level] > 0.0:  # what was seen stays seen, also after a night without a request
            curve.weights[level] = max(curve.weights[level] * kept, _LEAST_WEIGHT)
        curve.recent[level] *= kept_recent


def _move(curve: Curve, level: int, share: float, ratio: float) -> None:
    """Move one size towards `ratio` times its mean."""
    if share <= 0.0:
        return
    curve.weights[level] += share
    curve.recent[level] = max(curve.recent[level], share)
    step = share / curve.weights[level]
    curve.means_ns[level] = max(1.0, curve.means_ns[level] * (1.0 + step * (ratio - 1.0)))
    upwards = UPPER_QUANTILE if ratio > curve.upper[level] else UPPER_QUANTILE - 1.0
    upper = curve.upper[level] + share * max(_SPREAD_STEP, 0.2 * step) * upwards
    curve.upper[level] = min(max(upper, 1.0), CLIP)


def _follow(curve: Curve, moved: tuple[int, int], ratio: float) -> None:
    """Let sizes that nothing was heard of for long change as those do that run.

    A batch of a rare size moves that size far, since little else is known of it, but others no further than one of the
    size that runs most: rare sizes that moved each other would run away together when some batches stall.
    """
    ratio = min(max(ratio, 1.0 / CLIP), CLIP)
    weight = 1.0  # of the size that runs most
    for level in range(len(curve.sizes)):
        weight = max(weight, curve.weights[level] * curve.recent[level])
    step = 1.0 / weight
    for level in range(len(curve.sizes)):
        if curve.weights[level] > 0.0 and level not in moved:
            factor = 1.0 + step * (ratio - 1.0) * (1.0 - curve.recent[level])
            curve.means_ns[level] = max(1.0, factor * curve.means_ns[level])


def seeded(curve: Curve) -> None:
    """Note that all that is known was measured at one moment: when sizes that run differ from it, others do in part."""
    for level in range(len(curve.sizes)):
        curve.recent[level] = _RECENT_AT_FIRST


def fit(curve: Curve) -> None:
    """Fill in sizes never seen, and hand out the nearest monotone curve: sizes that contradict are pooled by weight.

    Pooling adjacent violators (Ayer et al., 1955): what was seen more, and more lately, counts for more.
    """
    _fill(curve)
    means_ns, fitted_ns, best = curve.means_ns, curve.fitted_ns, 0.0
    for level in range(len(curve.sizes)):
        first, weight = level, curve.weights[level] + _LEAST_WEIGHT
        pooled_ns = means_ns[level]
        while first > 0 and fitted_ns[first - 1] > pooled_ns:
            first -= 1
            more = curve.weights[first] + _LEAST_WEIGHT
            pooled_ns = (weight * pooled_ns + more * means_ns[first]) / (weight + more)
            weight += more
        for pooled in range(first, level + 1):
            fitted_ns[pooled] = pooled_ns
    for level in range(len(curve.sizes)):
        best = max(best, curve.sizes[level] / fitted_ns[level])
    curve.last[BEST] = best


def _fill(curve: Curve) -> None:
    """Give a size never seen what its neighbours say.

    Between two it is linear; above all in proportion, which promises nothing; below all half of that and half flat.
    """
    sizes, means_ns, before = curve.sizes, curve.means_ns, -1
    for level in range(len(sizes)):
        if curve.weights[level] <= 0.0:
            if before >= 0:
                means_ns[level] = means_ns[before] * sizes[level] / sizes[before]
            continue
        for gap in range(before + 1, level):
            if before < 0:
                means_ns[gap] = means_ns[level] * 0.5 * (1.0 + sizes[gap] / sizes[level])
            else:
                share = (sizes[gap] - sizes[before]) / (sizes[level] - sizes[before])
                means_ns[gap] = means_ns[before] + share * (means_ns[level] - means_ns[before])
        before = level


def best_rows_per_ns(curve: Curve) -> float:
    """Return the best throughput of one instance; 0 while nothing is known."""
    return curve.last[BEST]


def least_rows(curve: Curve, rows_max: int, share: float) -> int:
    """Return the least size whose throughput is `share` of the best among those up to `rows_max`, or that itself."""
    best = rows_max / max(mean_ns(curve, rows_max), 1.0)
    for level in range(len(curve.sizes)):
        if curve.sizes[level] <= rows_max:
            best = max(best, curve.sizes[level] / max(curve.fitted_ns[level], 1.0))
    for level in range(len(curve.sizes)):
        rows = curve.sizes[level]
        if rows <= rows_max and rows >= share * best * curve.fitted_ns[level]:
            return rows
    return rows_max


class ServiceTimes:
    """The service model of one servable on one kind of instance. Lives where its owner says; takes no lock.

    Bound: one entry per size of the ladder. `stepped`: no other sizes run, see `Curve`.
    """

    def __init__(self, sizes: Sequence[int], *, stepped: bool = False) -> None:
        count = len(sizes)
        assert count, "bug: a service model without sizes"
        assert all(low < high for low, high in pairwise(sizes)), "bug: sizes do not ascend"
        zeros = [[0.0] * count for _ in range(4)]
        upper = [_SPREAD_AT_FIRST] * count
        self.curve = Curve(tuple(sizes), zeros[0], zeros[1], upper, zeros[2], zeros[3], [0.0, 0.0], stepped)

    def observe(self, rows: int, duration_ns: float, now_ns: int) -> None:
        """Learn from a clean run: not the first of its shape, not beside a load."""
        learn(self.curve, rows, duration_ns, float(now_ns))

    def mean_ns(self, rows: int) -> float:
        """Return how long so many rows take on average; 0 while nothing is known."""
        return mean_ns(self.curve, rows)

    def upper_ns(self, rows: int) -> float:
        """Return a time within which so many rows are likely to be done."""
        return upper_ns(self.curve, rows)

    def known(self) -> list[tuple[int, float]]:
        """Return the sizes of which something is known, in order, and how long each takes in ns."""
        curve = self.curve
        levels = [level for level in range(len(curve.sizes)) if curve.weights[level] > 0.0]
        return [(curve.sizes[level], curve.fitted_ns[level]) for level in levels]

    @property
    def knee_rows(self) -> int:
        """The batch beyond which throughput hardly grows."""
        return least_rows(self.curve, self.curve.sizes[-1], KNEE)

    @property
    def best_rows_per_s(self) -> float:
        """The best throughput of one instance."""
        return best_rows_per_ns(self.curve) * 1e9


def ladder(rows_max: int) -> tuple[int, ...]:
    """Return the powers of two up to `rows_max`, and `rows_max` itself."""
    powers = [1 << power for power in range(rows_max.bit_length()) if 1 << power < rows_max]
    return (*powers, rows_max)
