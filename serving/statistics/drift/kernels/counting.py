"""Counts the columns of a tensor into slots, compiled; `serving.statistics.drift.counting` says the same in numpy.

A textbook binary search is mispredicted at every second step when the data are new. Here each step adds the outcome of
a comparison times its width, so there is nothing to predict. Rows of a column are independent of each other, so the
processor works on several searches at a time. The kernel allocates nothing and gives the GIL up.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.statistics.drift.layout import CENTRE, COLUMN, FIRST_KEY, INVERSE, KNOWN
from serving.statistics.profile import DEVIATION_MAX, EDGES, INF_SLOT, KEYS_MAX, SLOTS_MAX
from serving.wire.compiler import inlined, int64, kernel, unsigned

_SIGNATURE = "void({dtype}[:, ::1], int64, int64, int64[:, ::1], float64[:, ::1], int64[:, ::1], float64[:, ::1])"
_LARGEST = float(np.finfo(np.float64).max)


@inlined
def _bin(edges: NDArray[np.float64], number: float) -> int:
    """Return how many of 31 ascending edges are not above a number; 0 for NaN."""
    k = 16 * int64(edges[unsigned(15)] <= number)
    k += 8 * int64(edges[unsigned(k + 7)] <= number)
    k += 4 * int64(edges[unsigned(k + 3)] <= number)
    k += 2 * int64(edges[unsigned(k + 1)] <= number)
    return k + int64(edges[unsigned(k)] <= number)


@inlined
def _count_numbers(
    x: NDArray[Any], start: int, step: int, column: int,
    reals: NDArray[np.float64], counts: NDArray[np.int64], sums: NDArray[np.float64],
) -> None:  # fmt: skip
    centre, inverse = reals[CENTRE], reals[INVERSE]
    total = 0.0
    squares = 0.0
    for row in range(start, x.shape[0], step):
        number = np.float64(x[unsigned(row), unsigned(column)])
        is_nan = int64(number != number)  # noqa: PLR0124 - only NaN differs from itself
        is_finite = abs(number) <= _LARGEST
        counts[unsigned(_bin(reals, number) if is_finite else INF_SLOT - is_nan)] += 1
        deviation = min(max((number - centre) * inverse, -DEVIATION_MAX), DEVIATION_MAX) if is_finite else 0.0
        total += deviation
        squares += deviation * deviation
    sums[0] += total
    sums[1] += squares


@inlined
def _count_keys(
    x: NDArray[Any], start: int, step: int, column: int, first: int, known: int, counts: NDArray[np.int64]
) -> None:  # fmt: skip
    for row in range(start, x.shape[0], step):
        number = np.float64(x[unsigned(row), unsigned(column)])
        is_nan = int64(number != number)  # noqa: PLR0124
        offset = number - first
        held = min(max(offset, 0.0), np.float64(known - 1)) if not is_nan else 0.0
        key = int64(held)
        is_known = int64(np.float64(key) == offset)
        slot = key * is_known + known * (1 - is_known) + is_nan
        counts[unsigned(slot)] += 1


def _count(
    x: NDArray[Any], start: int, step: int, table: NDArray[np.int64],
    reals: NDArray[np.float64], counts: NDArray[np.int64], sums: NDArray[np.float64],
) -> None:  # fmt: skip
    """Add rows `start`, `start + step`, ... of x [rows, elements] to counts [features, 64] and sums [features, 2]."""
    assert min(start, step - 1) >= 0, "bug: these are no rows"
    features = table.shape[0]
    assert features <= min(reals.shape[0], counts.shape[0], sums.shape[0]), "bug: more features than counters"
    assert counts.shape[1] == SLOTS_MAX, "bug: these are no counters"
    assert sums.shape[1] == 2, "bug: these are no sums"
    assert table.shape[1] > max(COLUMN, FIRST_KEY, KNOWN), "bug: this is no table"
    assert reals.shape[1] > max(CENTRE, INVERSE, EDGES - 1), "bug: not every edge is there"
    for feature in range(features):
        column, known = table[feature, COLUMN], table[feature, KNOWN]
        assert 0 <= column < x.shape[1], "bug: no such column"
        assert 0 <= known <= KEYS_MAX, "bug: too many keys"
        if known:
            _count_keys(x, start, step, column, table[feature, FIRST_KEY], known, counts[feature])
        else:
            _count_numbers(x, start, step, column, reals[feature], counts[feature], sums[feature])


def _kernel(dtype: str) -> Callable[..., None]:
    return kernel(_SIGNATURE.format(dtype=dtype), nogil=True)(_count)


COUNT: Mapping[np.dtype[Any], Callable[..., None]] = {
    np.dtype(name): _kernel(name) for name in ("float32", "float64", "int64")
}
"""By the datatype of x; others are converted to one of these."""
