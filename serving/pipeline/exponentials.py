"""exp and log1p of numbers as sums and products alone, for loops of vector instructions, and what is made of them.

A library's function is a call for each number, which is most of what a pass costs that has one. These neither branch
nor call, and their results are within 3 units in the last place; as everywhere, NaN stays NaN. Knows numpy and no step.

Sources: exp by Cody and Waite's reduction to [-ln 2 / 2, ln 2 / 2], and Taylor's series there; log1p by the reduction
and the polynomials of fdlibm's s_log1p.c (Sun Microsystems) and its single precision; a float plus 1.5 times the power
of two where its units begin has the nearest integer in its lowest bits.
"""

from typing import Any

import numpy as np

_ONE_64, _ONE_32 = np.float64(1), np.float32(1)
_HALF_64, _HALF_32 = np.float64(0.5), np.float32(0.5)
_TWO_64, _TWO_32 = np.float64(2), np.float32(2)
_ZERO_64, _ZERO_32 = np.float64(0), np.float32(0)
_UNITS_64, _UNITS_32 = np.float64(1.5 * 2**52), np.float32(1.5 * 2**23)
_UNITS_BITS_64, _UNITS_BITS_32 = _UNITS_64.view(np.int64), _UNITS_32.view(np.int32)
_PER_LN2_64, _PER_LN2_32 = np.float64(1.4426950408889634), np.float32(1.4426950408889634)
_LN2_HIGH_64, _LN2_LOW_64 = np.float64(6.93147180369123816490e-01), np.float64(1.90821492927058770002e-10)
_LN2_HIGH_32, _LN2_LOW_32 = np.float32(0.693359375), np.float32(-2.12194440e-4)
_LEAST_64, _LEAST_32 = np.float64(-708.0), np.float32(-87.0)
"""Below, an exponential has not all its digits, or is 0."""
_ONE_BITS_64, _ONE_BITS_32 = np.int64(0x3FF0000000000000), np.int32(0x3F800000)
_ROOT_BITS_64, _ROOT_BITS_32 = np.int64(0x3FE6A09E00000000), np.int32(0x3F3504F3)
"""The bits of the root of 1/2, where fdlibm lets a mantissa begin."""
_FROM_ROOT_64, _FROM_ROOT_32 = _ONE_BITS_64 - _ROOT_BITS_64, _ONE_BITS_32 - _ROOT_BITS_32
_MANTISSA_64, _MANTISSA_32 = np.int64(0x000FFFFFFFFFFFFF), np.int32(0x007FFFFF)
_WIDTH_64, _WIDTH_32 = np.int64(52), np.int32(23)
_BIAS_64, _BIAS_32 = np.int64(1023), np.int32(127)
_LARGEST_64, _LARGEST_32 = np.finfo(np.float64).max, np.finfo(np.float32).max

# 1 / n! from n = 13, or 7, down to 2
_E13, _E12, _E11, _E10 = (np.float64(1 / x) for x in (6227020800, 479001600, 39916800, 3628800))
_E9, _E8, _E7, _E6 = (np.float64(1 / x) for x in (362880, 40320, 5040, 720))
_E5, _E4, _E3 = (np.float64(1 / x) for x in (120, 24, 6))
_F7, _F6, _F5, _F4, _F3 = (np.float32(1 / x) for x in (5040, 720, 120, 24, 6))

_L1, _L2 = np.float64(6.666666666666735130e-01), np.float64(3.999999999940941908e-01)
_L3, _L4 = np.float64(2.857142874366239149e-01), np.float64(2.222219843214978396e-01)
_L5, _L6 = np.float64(1.818357216161805012e-01), np.float64(1.531383769920937332e-01)
_L7 = np.float64(1.479819860511658591e-01)
_M1, _M2 = np.float32(0.66666662693), np.float32(0.40000972152)
_M3, _M4 = np.float32(0.28498786688), np.float32(0.24279078841)


def sigmoid_64(value: Any) -> Any:
    """Return 1 / (1 + exp(-value)), of an exponential that cannot overflow; below 1e-307, 0."""
    low = -abs(value)
    shifted = low * _PER_LN2_64 + _UNITS_64
    whole = shifted - _UNITS_64
    x = (low - whole * _LN2_HIGH_64) - whole * _LN2_LOW_64
    series = _E9 + x * (_E10 + x * (_E11 + x * (_E12 + x * _E13)))
    series = _E3 + x * (_E4 + x * (_E5 + x * (_E6 + x * (_E7 + x * (_E8 + x * series)))))
    series = _ONE_64 + (x + x * x * (_HALF_64 + x * series))
    bits = np.float64(shifted).view(np.int64) << _WIDTH_64
    power = np.int64(bits + _ONE_BITS_64).view(np.float64)
    small = _ZERO_64 if low < _LEAST_64 else series * power
    return (_ONE_64 if value >= _ZERO_64 else small) / (_ONE_64 + small)


def sigmoid_32(value: Any) -> Any:
    """Return 1 / (1 + exp(-value)), of an exponential that cannot overflow; below 1e-37, 0."""
    low = -abs(value)
    shifted = low * _PER_LN2_32 + _UNITS_32
    whole = shifted - _UNITS_32
    x = (low - whole * _LN2_HIGH_32) - whole * _LN2_LOW_32
    series = _HALF_32 + x * (_F3 + x * (_F4 + x * (_F5 + x * (_F6 + x * _F7))))
    series = _ONE_32 + (x + x * x * series)
    bits = np.float32(shifted).view(np.int32) << _WIDTH_32
    power = np.int32(bits + _ONE_BITS_32).view(np.float32)
    small = _ZERO_32 if low < _LEAST_32 else series * power
    return (_ONE_32 if value >= _ZERO_32 else small) / (_ONE_32 + small)


def log1p_64(value: Any) -> Any:
    """Return the logarithm of 1 + value; of -1 and less, no number."""
    above = _ONE_64 + value
    bits = np.int64(np.float64(above).view(np.int64) + _FROM_ROOT_64)
    exponent = np.int64(bits >> _WIDTH_64) - _BIAS_64
    whole = np.int64(exponent + _UNITS_BITS_64).view(np.float64) - _UNITS_64
    lost = (_ONE_64 - (above - value) if above > _TWO_64 else value - (above - _ONE_64)) / above
    x = np.int64((bits & _MANTISSA_64) + _ROOT_BITS_64).view(np.float64) - _ONE_64
    half = _HALF_64 * x * x
    s = x / (_TWO_64 + x)
    z = s * s
    series = z * (_L1 + z * (_L2 + z * (_L3 + z * (_L4 + z * (_L5 + z * (_L6 + z * _L7))))))
    result = s * (half + series) + (whole * _LN2_LOW_64 + lost) - half + x + whole * _LN2_HIGH_64
    return value if value > _LARGEST_64 else result


def log1p_32(value: Any) -> Any:
    """Return the logarithm of 1 + value; of -1 and less, no number."""
    above = _ONE_32 + value
    bits = np.int32(np.float32(above).view(np.int32) + _FROM_ROOT_32)
    exponent = np.int32(bits >> _WIDTH_32) - _BIAS_32
    whole = np.int32(exponent + _UNITS_BITS_32).view(np.float32) - _UNITS_32
    lost = (_ONE_32 - (above - value) if above > _TWO_32 else value - (above - _ONE_32)) / above
    x = np.int32((bits & _MANTISSA_32) + _ROOT_BITS_32).view(np.float32) - _ONE_32
    half = _HALF_32 * x * x
    s = x / (_TWO_32 + x)
    z = s * s
    series = z * (_M1 + z * (_M2 + z * (_M3 + z * _M4)))
    result = s * (half + series) + (whole * _LN2_LOW_32 + lost) - half + x + whole * _LN2_HIGH_32
    return value if value > _LARGEST_32 else result
