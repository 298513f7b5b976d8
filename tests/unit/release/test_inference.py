"""The statistics keep their promises, in seeded simulations, and agree with what is known in closed form."""

import numpy as np
import pytest
from scipy import stats

from serving.release.inference import (
    corrected_resampled,
    holm,
    homogeneity,
    mean_interval,
    paired_difference,
    stability_index,
    student,
    worst_gap,
)

RUNS = 1500


@pytest.mark.parametrize(("worse", "better", "rows"), [(0.05, 0.03, 300), (0.01, 0.01, 800), (0.1, 0.1, 100)])
def test_the_upper_bound_of_a_difference_of_error_rates_covers_it_in_95_of_100(worse, better, rows):
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(RUNS):
        kind = rng.choice(3, rows, p=[worse, better, 1 - worse - better])
        covered += paired_difference(np.float64(kind == 1), np.float64(kind == 0)).high >= worse - better
    assert covered / RUNS == pytest.approx(0.95, abs=0.02)


def test_without_any_difference_the_bounds_of_error_rates_still_have_a_width():
    same = np.zeros(100)
    found = paired_difference(same, same)
    z = stats.norm.ppf(0.95)
    assert found.number == 0
    assert (found.low, found.high) == pytest.approx((-z * z / (100 + z * z), z * z / (100 + z * z)), abs=1e-6)


def test_bounds_of_error_rates_turn_round_when_the_sides_are_exchanged():
    rng = np.random.default_rng(2)
    before, after = rng.integers(0, 2, (2, 60)).astype(np.float64)
    one, other = paired_difference(before, after), paired_difference(after, before)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=1e-6)


def test_a_paired_difference_of_other_losses_is_students():
    rng = np.random.default_rng(3)
    before, after = rng.normal(size=(2, 50))
    expected = stats.ttest_rel(after, before).confidence_interval(0.90)
    found = paired_difference(before, after)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_the_interval_of_an_error_rate_is_wilsons(share):
    values = np.float64(np.arange(200) < share * 200)
    expected = stats.binomtest(int(values.sum()), 200).proportion_ci(0.95, "wilson")
    found = mean_interval(values, 0.05)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_one_value_says_nothing_of_the_spread():
    assert (student(np.array([2.5]), 0.05).low, student(np.array([2.5]), 0.05).high) == (-np.inf, np.inf)


def test_the_worst_gap_of_equal_groups_is_called_real_in_at_most_5_of_100():
    rng = np.random.default_rng(4)
    wrong = 0
    for _ in range(400):
        groups = {str(group): np.float64(rng.random(200) < 0.2) for group in range(8)}
        wrong += worst_gap(groups).low > 0
    assert wrong / 400 <= 0.05


def test_the_worst_gap_covers_the_largest_of_the_true_gaps():
    rng = np.random.default_rng(5)
    shares = {"a": 0.1, "b": 0.2, "c": 0.4}
    covered = 0
    for _ in range(300):
        found = worst_gap({name: np.float64(rng.random(300) < share) for name, share in shares.items()})
        covered += found.low <= 0.3 <= found.high
    assert covered / 300 >= 0.95


def test_the_corrected_interval_is_wider_than_that_of_independent_folds_by_the_share_of_tests():
    values = np.array([0.9, 0.92, 0.88, 0.91, 0.9])
    found = corrected_resampled(values, 1 / 4)
    error = np.sqrt((1 / 5 + 1 / 4) * values.var(ddof=1))
    assert found.high - found.number == pytest.approx(stats.t.ppf(0.975, 4) * error)


def test_the_same_distribution_is_told_apart_as_often_as_the_level_says():
    rng = np.random.default_rng(6)
    shares = np.array([0.3, 0.3, 0.2, 0.15, 0.04, 0.008, 0.002, 0.0])
    p_values = [homogeneity(rng.multinomial(3000, shares), rng.multinomial(500, shares)) for _ in range(RUNS)]
    assert np.mean(np.array(p_values) < 0.05) == pytest.approx(0.05, abs=0.015)


def test_another_distribution_is_found_and_nothing_is_found_in_nothing():
    assert homogeneity(np.array([500, 500, 0]), np.array([100, 300, 0])) < 1e-6
    assert homogeneity(np.array([3, 2]), np.array([1, 0])) == 1.0


def test_holm_is_bonferroni_for_the_smallest_and_never_falls():
    adjusted = holm(np.array([0.04, 0.01, 0.03]))
    assert adjusted == pytest.approx([0.06, 0.03, 0.06])


def test_the_stability_index_is_zero_only_for_the_same_shares():
    assert stability_index(np.array([10, 20]), np.array([10, 20])) == 0
    assert stability_index(np.array([1000, 1000]), np.array([500, 1500])) == pytest.approx(0.274, abs=0.01)
