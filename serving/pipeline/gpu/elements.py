"""Twins of functions of `serving.pipeline.elements` that numba does not compile for GPUs, or to another result.

The others are compiled for GPUs as they are. All are plain functions of one number, with the same results within
rounding: those of `math` round otherwise than numpy's, by 2 units in the last place at most (CUDA C++ Programming
Guide, "Mathematical Functions").
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from serving.gpu.device import device_function
from serving.pipeline import elements


def sigmoid(value: Any) -> Any:
    """Return 1 / (1 + exp(-value)), of an exponential that cannot overflow."""
    small = math.exp(-abs(value))
    return (1 if value >= 0 else small) / (1 + small)


def clip(value: Any, low: Any, high: Any) -> Any:
    """Return the number between `low` and `high` that is nearest; NaN stays."""
    return lower(higher(value, low), high)


@device_function
def higher(one: Any, other: Any) -> Any:
    """Return what the CPU's `max` does, also where one is NaN, which a GPU's own `max` drops."""
    return other if other > one else one  # noqa: FURB136 - see above


@device_function
def lower(one: Any, other: Any) -> Any:
    """Return what the CPU's `min` does, see `higher`."""
    return other if other < one else one  # noqa: FURB136


def log1p(value: Any) -> Any:
    """Return the logarithm of 1 + value; NaN for what has none, which is refused."""
    return math.log1p(value) if value > -1 else math.nan


def truncate_within(value: Any, low: Any, high: Any) -> Any:
    """Return a number that fits, whose conversion drops what is behind the point, else `low`."""
    return value if _fits(value, low, high) else low


def refuses_truncated(value: Any, _result: Any, low: Any, high: Any) -> Any:
    """Say whether what is before the point is not between `low` and `high`."""
    return not _fits(value, low, high)


@device_function
def _fits(value: Any, low: Any, high: Any) -> Any:
    """Say whether trunc(value) is between `low` (0 at most) and `high` (0 at least), both whole."""
    return (value >= low or value > low - 1) and (value <= high or value < high + 1)


TWINS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    elements.clip: clip,
    elements.sigmoid: sigmoid,
    elements.log1p: log1p,
    elements.truncate_within: truncate_within,
    elements.refuses_truncated: refuses_truncated,
}
"""The function to compile in another one's place."""
