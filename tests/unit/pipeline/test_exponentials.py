import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.pipeline import elements, exponentials

KINDS = [np.float32, np.float64]
UNITS_MAX = 3


def units_apart(found, exact, kind):
    """How many units in the last place lie between a number and one of higher precision."""
    return abs(np.longdouble(found) - exact) / np.spacing(np.maximum(np.abs(kind(exact)), np.finfo(kind).tiny))


def smooth(name, kind, value):
    with np.errstate(all="ignore"):
        found = getattr(exponentials, f"{name}_{8 * kind().itemsize}")(kind(value))
    assert found.dtype == kind
    return found


@given(st.floats(-1, 2.0**100, width=32, exclude_min=True) | st.floats(-0.125, 0.125, width=32), st.sampled_from(KINDS))
def test_log1p_is_within_some_units_in_the_last_place(value, kind):
    exact = np.log1p(np.longdouble(kind(value)))
    assert units_apart(smooth("log1p", kind, value), exact, kind) <= UNITS_MAX


@given(st.floats(-80, 80, width=32) | st.floats(-0.125, 0.125, width=32), st.sampled_from(KINDS))
def test_sigmoid_is_within_some_units_in_the_last_place(value, kind):
    exact = 1 / (1 + np.exp(-np.longdouble(kind(value))))
    assert units_apart(smooth("sigmoid", kind, value), exact, kind) <= UNITS_MAX


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [math.inf, math.nan, 0.0, 5e-324, 1.0, -0.5, 3e38, np.nextafter(np.float32(-1), 0)])
def test_numbers_at_the_edges_are_what_the_definition_gives(value, kind):
    with np.errstate(all="ignore"):
        log1p, sigmoid = elements.log1p(kind(value)), kind(elements.sigmoid(np.longdouble(value)))
    np.testing.assert_allclose(smooth("log1p", kind, value), log1p, rtol=3 * np.finfo(kind).eps)
    np.testing.assert_allclose(smooth("sigmoid", kind, value), sigmoid, rtol=3 * np.finfo(kind).eps)


@pytest.mark.parametrize(("kind", "least"), [(np.float32, -87), (np.float64, -708)])
def test_what_has_not_all_its_digits_is_0(kind, least):
    assert smooth("sigmoid", kind, least) > np.finfo(kind).tiny
    assert [smooth("sigmoid", kind, value) for value in (least - 1, -math.inf, np.finfo(kind).min)] == [0, 0, 0]
