"""What is done to one number at a time, as numba compiles it and as plain Python. Knows numpy and no step.

`refuses_*` functions take the number before, the result, and the arguments. They are sums and comparisons without
branches, so that a pass over many numbers stays one of vector instructions.
"""

from typing import Any

import numpy as np


def impute(value: Any, replacement: Any) -> Any:
    """Put a number where there is none (NaN)."""
    return replacement if value != value else value


def scale(value: Any, mean: Any, divisor: Any) -> Any:
    """Return (value - mean) / divisor."""
    return (value - mean) / divisor


def normalise(value: Any, factor: Any, mean: Any, divisor: Any) -> Any:
    """Return (value * factor - mean) / divisor."""
    return (value * factor - mean) / divisor


def clip(value: Any, low: Any, high: Any) -> Any:
    """Return the number between `low` and `high` that is nearest; NaN stays."""
    raised = max(value, low)  # in this order, so that NaN comes first and wins
    return min(raised, high)


def log1p(value: Any) -> Any:
    """Return the logarithm of 1 + value."""
    return np.log1p(value)


def finite(value: Any) -> Any:
    """Return the number itself; what is not finite is refused."""
    return value


def bucketise_left(value: Any, boundaries: Any) -> Any:
    """Return how many of one or more boundaries are at most the number, in as many steps for every number."""
    low, left = 0, len(boundaries)
    while left > 1:
        half = left // 2
        low += half * (boundaries[low + half - 1] <= value)
        left -= half
    return low + (boundaries[low] <= value)


def bucketise_right(value: Any, boundaries: Any) -> Any:
    """Return how many of one or more boundaries are below the number, in as many steps for every number."""
    low, left = 0, len(boundaries)
    while left > 1:
        half = left // 2
        low += half * (boundaries[low + half - 1] < value)
        left -= half
    return low + (boundaries[low] < value)


def keep(value: Any) -> Any:
    """Return the number; the pass casts it."""
    return value


def truncate(value: Any) -> Any:
    """Drop what is behind the point."""
    return np.trunc(value)


def truncate_within(value: Any, low: Any, high: Any) -> Any:
    """Drop what is behind the point of a number that fits; converting another one would be undefined."""
    whole = np.trunc(value)
    return whole if (low <= whole) & (whole <= high) else low  # without a branch


def is_not_zero(value: Any) -> Any:
    """Return whether the number is not zero; NaN is not."""
    return value != 0


def sigmoid(value: Any) -> Any:
    """Return 1 / (1 + exp(-value)), of an exponential that cannot overflow."""
    small = np.exp(-abs(value))
    return (1 if value >= 0 else small) / (1 + small)


def threshold(value: Any, minimum: Any) -> Any:
    """Return whether the number is at least `minimum`; NaN is not."""
    return value >= minimum


def hash_number(value: Any, seed: Any, buckets: Any) -> Any:
    """Return the bucket of an integer: MurmurHash3 (32 bits) of its 8 bytes, little-endian, modulo `buckets`.

    Source: Appleby, MurmurHash3_x86_32.
    """
    bits = np.uint64(value)
    state = np.uint64(seed)
    for half in (bits & np.uint64(0xFFFFFFFF), bits >> np.uint64(32)):
        word = (half * np.uint64(0xCC9E2D51)) & np.uint64(0xFFFFFFFF)
        word = ((word << np.uint64(15)) | (word >> np.uint64(17))) & np.uint64(0xFFFFFFFF)
        word = (word * np.uint64(0x1B873593)) & np.uint64(0xFFFFFFFF)
        state ^= word
        state = ((state << np.uint64(13)) | (state >> np.uint64(19))) & np.uint64(0xFFFFFFFF)
        state = (state * np.uint64(5) + np.uint64(0xE6546B64)) & np.uint64(0xFFFFFFFF)
    state ^= np.uint64(8)
    state ^= state >> np.uint64(16)
    state = (state * np.uint64(0x85EBCA6B)) & np.uint64(0xFFFFFFFF)
    state ^= state >> np.uint64(13)
    state = (state * np.uint64(0xC2B2AE35)) & np.uint64(0xFFFFFFFF)
    state ^= state >> np.uint64(16)
    return np.int64(state % np.uint64(buckets))


def refuses_overflow(value: Any, result: Any, *_arguments: Any) -> Any:
    """Say whether a finite number has become one that is not: x - x is 0 for finite numbers alone."""
    return (value - value == 0) & (result - result != 0)


def refuses_log1p(value: Any, _result: Any) -> Any:
    """Say whether there is no such logarithm."""
    return value <= -1


def refuses_infinite(value: Any, _result: Any) -> Any:
    """Say whether it is infinite or no number."""
    return value - value != 0


def refuses_nan(value: Any, _result: Any, *_arguments: Any) -> Any:
    """Say whether it is no number."""
    return value != value


def refuses_truncated(value: Any, _result: Any, low: Any, high: Any) -> Any:
    """Say whether what is before the point is not between `low` and `high`, both included."""
    return not (low <= np.trunc(value) <= high)


def refuses_outside(value: Any, _result: Any, low: Any, high: Any) -> Any:
    """Say whether it is not between `low` and `high`, both included."""
    return not (low <= value <= high)
