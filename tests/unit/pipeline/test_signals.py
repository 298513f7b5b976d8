import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.pipeline import elements, signals

SPECIAL = [
    0.0,
    -0.0,
    1.0,
    np.inf,
    -np.inf,
    np.nan,
    -np.nan,
    5e-324,
    -1.0,
    np.nextafter(-1.0, 0.0),
    np.nextafter(-1.0, -2.0),
    np.nextafter(np.float32(-1), np.float32(0)),
    127.9,
    128.0,
    -128.9,
    -129.0,
    -0.5,
    2.0**128,
    3.4028235677973366e38,
    3.4028234663852886e38,
]
NUMBERS = st.one_of(st.sampled_from(SPECIAL), st.floats(width=64), st.floats(width=32))
EDGE = 2.0**128 - 2.0**103  # the first that FP32 rounds to infinity


@given(NUMBERS, NUMBERS, st.sampled_from([np.float32, np.float64]))
def test_signals_say_what_refusals_say(value, result, kind):
    with np.errstate(all="ignore"):
        value, result, bits = kind(value), kind(result), 8 * kind().itemsize
        for signal, refusal in (
            (f"overflow_{bits}", elements.refuses_overflow),
            (f"infinite_{bits}", elements.refuses_infinite),
            (f"nan_{bits}", elements.refuses_nan),
        ):
            found = getattr(signals, signal)(value, result)
            assert found.dtype == f"int{bits}"
            assert (found < 0) == bool(refusal(value, result)), signal


@given(NUMBERS, st.sampled_from([np.float32, np.float64]), st.sampled_from([(-128, 127), (0, 255), (-(2**31), 2**31)]))
def test_numbers_that_have_no_logarithm_or_no_place_among_integers_are_signalled(value, kind, bounds):
    with np.errstate(all="ignore"):
        value, (low, high), bits = kind(value), map(kind, bounds), 8 * kind().itemsize
        for found, expected in (
            (getattr(signals, f"no_log1p_{bits}")(value, None), elements.refuses_log1p(value, None)),
            (getattr(signals, f"outside_{bits}")(value, None, low, high), not low <= np.trunc(value) <= high),
        ):
            assert found.dtype == f"int{bits}"
            assert (found < 0) == bool(expected)


@given(NUMBERS)
def test_what_fp32_cannot_hold_is_signalled(value):
    with np.errstate(all="ignore"):
        value = np.float64(value)
        expected = bool(elements.refuses_overflow(value, np.float32(value)))
        assert (signals.narrowed(value, np.float32(value)) < 0) == expected


@pytest.mark.parametrize(("value", "is_lost"), [(EDGE, True), (np.nextafter(EDGE, 0), False), (-EDGE, True)])
def test_the_edge_of_fp32_is_exact(value, is_lost):
    with np.errstate(over="ignore"):
        assert np.isinf(np.float32(value)) == is_lost
        assert (signals.narrowed(np.float64(value), None) < 0) == is_lost
