"""Refusals of numbers as integers that are negative: what `elements.refuses_*` say, for loops of vector instructions.

They look at the bits of a number, so that what is counted is as wide as the number, and nothing branches. Exact, of
FP32 and of FP64. Source: IEEE 754, binary interchange formats: of infinity and NaN all bits of the exponent are set.
"""

from typing import Any

import numpy as np

EXPONENT_32, EXPONENT_64 = np.int32(0x7F800000), np.int64(0x7FF0000000000000)
BITS_32, BITS_64 = np.int32(0x7FFFFFFF), np.int64(0x7FFFFFFFFFFFFFFF)
FINITE_32, FINITE_64 = np.int32(0x7F7FFFFF), np.int64(0x7FEFFFFFFFFFFFFF)
"""The bits of the largest finite number, without the sign."""
FITS_32 = np.int64(np.float64(2.0**128 - 2.0**103).view(np.int64) - 1)
"""Those of the largest number of FP64 that is rounded to a finite one of FP32."""

ABOVE_32, ABOVE_64 = np.nextafter(np.float32(-1), np.float32(0)), np.nextafter(np.float64(-1), np.float64(0))
"""The number above -1."""


def overflow_32(value: Any, result: Any, *_arguments: Any) -> Any:
    """Signal a finite number that has become one that is not."""
    before = FINITE_32 - (np.float32(value).view(np.int32) & BITS_32)
    after = FINITE_32 - (np.float32(result).view(np.int32) & BITS_32)
    return np.int32(after & ~before)


def overflow_64(value: Any, result: Any, *_arguments: Any) -> Any:
    """Signal a finite number that has become one that is not."""
    before = FINITE_64 - (np.float64(value).view(np.int64) & BITS_64)
    after = FINITE_64 - (np.float64(result).view(np.int64) & BITS_64)
    return np.int64(after & ~before)


def narrowed(value: Any, _result: Any, *_arguments: Any) -> Any:
    """Signal a finite number of FP64 that FP32 has no finite one for."""
    bits = np.float64(value).view(np.int64) & BITS_64
    return np.int64((FITS_32 - bits) & ~(FINITE_64 - bits))


def infinite_32(value: Any, _result: Any) -> Any:
    """Signal what is infinite or no number."""
    return np.int32(FINITE_32 - (np.float32(value).view(np.int32) & BITS_32))


def infinite_64(value: Any, _result: Any) -> Any:
    """Signal what is infinite or no number."""
    return np.int64(FINITE_64 - (np.float64(value).view(np.int64) & BITS_64))


def nan_32(value: Any, _result: Any, *_arguments: Any) -> Any:
    """Signal what is no number."""
    return np.int32(EXPONENT_32 - (np.float32(value).view(np.int32) & BITS_32))


def nan_64(value: Any, _result: Any, *_arguments: Any) -> Any:
    """Signal what is no number."""
    return np.int64(EXPONENT_64 - (np.float64(value).view(np.int64) & BITS_64))


def no_log1p_32(value: Any, _result: Any) -> Any:
    """Signal -1 and less."""
    bits = np.float32(value).view(np.int32) & BITS_32
    return np.int32(np.float32(value - ABOVE_32).view(np.int32) & ~(EXPONENT_32 - bits))


def no_log1p_64(value: Any, _result: Any) -> Any:
    """Signal -1 and less."""
    bits = np.float64(value).view(np.int64) & BITS_64
    return np.int64(np.float64(value - ABOVE_64).view(np.int64) & ~(EXPONENT_64 - bits))


def outside_32(value: Any, _result: Any, low: Any, high: Any) -> Any:
    """Signal what is no number, or without what is behind its point not between `low` and `high`, both included."""
    whole = np.float32(np.trunc(value))
    below = np.float32(whole - low + np.float32(0)).view(np.int32)  # no -0
    above = np.float32(high - whole).view(np.int32)
    return np.int32(below | above | (EXPONENT_32 - (np.float32(value).view(np.int32) & BITS_32)))


def outside_64(value: Any, _result: Any, low: Any, high: Any) -> Any:
    """Signal what is no number, or without what is behind its point not between `low` and `high`, both included."""
    whole = np.float64(np.trunc(value))
    below = np.float64(whole - low + np.float64(0)).view(np.int64)  # no -0
    above = np.float64(high - whole).view(np.int64)
    return np.int64(below | above | (EXPONENT_64 - (np.float64(value).view(np.int64) & BITS_64)))
