import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.statistics.drift.distances import (
    chi_square,
    chi_square_tail,
    distances,
    jensen_shannon,
    kolmogorov_smirnov,
    noise_floor,
    psi,
    smoothed,
    wilson,
)
from serving.statistics.profile import Kind, ReferenceProfile, deviations

RNG = np.random.default_rng(1)
BASE = RNG.normal(10.0, 2.0, 20_000)
COUNTS = st.lists(st.integers(0, 1_000), min_size=8, max_size=8).map(np.array)


def compared(values, base=BASE, design_effect=1.0, **options):
    """What is said of live values beside a reference."""
    feature = ReferenceProfile.of_tensors({"x": np.asarray(base)}, {}, **options).features[0]
    counts = np.bincount(feature.slots_of(values), minlength=feature.slots)
    sums = np.zeros(2)
    if feature.kind is Kind.NUMBER:
        z = deviations(values, feature.centre, feature.spread)
        sums[:] = z.sum(), (z * z).sum()
    return distances(feature, counts, sums, noise_floor=0.0, design_effect=design_effect)


def test_the_reference_itself_is_at_no_distance():
    same = compared(BASE)
    assert (same.psi, same.jensen_shannon, same.kolmogorov_smirnov, same.wasserstein) == (0.0, 0.0, 0.0, 0.0)
    assert same.hellinger < 1e-7
    assert same.mean_shift == pytest.approx(0.0, abs=1e-12)
    assert same.spread_ratio == pytest.approx(1.0)
    assert same.p_value > 0.99
    assert same.moved == ()


def test_a_shifted_mean_is_told_in_spreads_and_in_interquartile_ranges():
    shifted = compared(BASE + 1.0)
    assert shifted.mean_shift == pytest.approx(1.0 / BASE.std(), rel=1e-6)
    quartiles = np.quantile(BASE, [0.25, 0.75])
    assert shifted.wasserstein == pytest.approx(1.0 / (quartiles[1] - quartiles[0]), rel=0.1)
    assert shifted.kolmogorov_smirnov == pytest.approx(math.erf(0.25 / math.sqrt(2)), abs=0.03)
    assert shifted.spread_ratio == pytest.approx(1.0)


def test_a_distance_out_of_the_reference_range_is_not_lost():
    assert compared(BASE + 1_000.0).wasserstein > 300


def test_a_wider_spread_is_told():
    assert compared(10.0 + 3.0 * (BASE - 10.0)).spread_ratio == pytest.approx(3.0, rel=1e-6)


def test_missing_and_out_of_range_shares_have_intervals():
    values = np.concatenate([np.full(60, np.nan), np.full(25, 1e9), np.full(15, -np.inf), BASE[:900]])
    said = compared(values)
    assert said.missing.value == pytest.approx(0.06)
    assert said.out_of_range.value == pytest.approx(0.04)
    assert said.missing.low < 0.06 < said.missing.high
    assert {moved.slot for moved in said.moved} >= {"NaN"}


def test_an_unseen_category_is_out_of_range_and_has_no_order():
    base = np.array(["a", "b", "c"], object)[RNG.integers(0, 3, 3_000)]
    said = compared(np.array(["a", "b", "new", "new"], object), base)
    assert said.out_of_range.value == 0.5
    assert said.moved[0].slot == "unseen"
    assert said.kolmogorov_smirnov is said.wasserstein is said.mean_shift is None


def test_no_rows_say_nothing():
    said = compared(np.empty(0))
    assert said.rows == 0
    assert said.mean_shift is said.wasserstein is None
    assert (said.missing.low, said.missing.high) == (0.0, 1.0)
    assert said.p_value == 1.0


@given(COUNTS, COUNTS)
def test_distances_are_symmetric_and_in_their_ranges(one, other):
    assert psi(one, other) == pytest.approx(float(psi(other, one)))
    assert psi(one, other) >= 0
    p, q = smoothed(one), smoothed(other)
    assert -1e-12 <= jensen_shannon(p, q) <= 1
    assert jensen_shannon(p, q) == pytest.approx(jensen_shannon(q, p), abs=1e-12)
    assert 0 <= kolmogorov_smirnov(one, other) <= 1


def test_the_index_is_its_textbook_formula():
    now, before = np.array([30, 70]), np.array([50, 50])
    p, q = 30.5 / 101, 50.5 / 101
    expected = (p - q) * math.log(p / q) + (q - p) * math.log((1 - p) / (1 - q))
    assert psi(now, before) == pytest.approx(expected)


def test_the_noise_floor_is_the_formula_where_every_slot_is_full_and_is_not_where_slots_are_empty():
    formula = 9 * (1 / 5_000 + 1 / 100_000)
    full = np.full(10, 10_000)
    assert noise_floor(full, 5_000) == pytest.approx(formula, rel=0.1)
    half = np.concatenate([full, np.zeros(10, int)])
    assert noise_floor(half, 5_000) > 1.5 * formula
    assert noise_floor(full, 0) == 0.0


def test_an_index_without_drift_is_about_its_floor():
    before = np.full(30, 500)
    drawn = np.random.default_rng(4).multinomial(1_000, before / before.sum(), size=50)
    assert psi(drawn, before).mean() == pytest.approx(noise_floor(before, 1_000), rel=0.15)


@pytest.mark.parametrize(("degrees", "critical"), [(1, 3.841), (10, 18.307), (33, 47.400)])
def test_the_tail_of_chi_square_is_that_of_the_tables(degrees, critical):
    assert chi_square_tail(critical, degrees) == pytest.approx(0.05, abs=3e-3)


def test_pearsons_statistic_is_that_of_a_known_table():
    statistic, degrees = chi_square(np.array([10, 20, 0]), np.array([20, 10, 0]))
    assert (statistic, degrees) == (pytest.approx(20 / 3), 1)
    assert chi_square(np.array([5, 0]), np.array([5, 0])) == (0.0, 0)


def test_wilsons_interval_is_that_of_the_literature_and_wider_for_clustered_rows():
    ratio = wilson(10, 100, 1.0)
    assert (ratio.low, ratio.high) == (pytest.approx(0.0552, abs=1e-4), pytest.approx(0.1744, abs=1e-4))
    clustered = wilson(10, 100, 5.0)
    assert clustered.low < ratio.low < ratio.high < clustered.high


@given(st.integers(0, 50), st.integers(1, 50), st.floats(1.0, 20.0))
def test_a_share_is_always_within_its_interval(successes, more, effect):
    ratio = wilson(successes, successes + more, effect)
    assert 0 <= ratio.low <= ratio.value <= ratio.high <= 1
