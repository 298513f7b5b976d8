import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.batching.service_time import CLIP, ServiceTimes, ladder, rows_within

SIZES = ladder(64)
DURATIONS = st.floats(1.0, 1e10)
OBSERVATIONS = st.lists(st.tuples(st.integers(1, 100), DURATIONS, st.integers(0, 10**12)), min_size=1, max_size=60)


def learnt(observations, sizes=SIZES):
    times = ServiceTimes(sizes)
    for rows, duration_ns, now_ns in observations:
        times.observe(rows, duration_ns, now_ns)
    return times


def affine(rows, scale=1.0):
    return scale * (40_000.0 + 1_000.0 * rows)


def test_the_ladder_goes_in_powers_of_two_and_ends_where_batches_do():
    assert ladder(1) == (1,)
    assert ladder(8) == (1, 2, 4, 8)
    assert ladder(24) == (1, 2, 4, 8, 16, 24)


@given(OBSERVATIONS)
def test_more_rows_never_take_less_time(observations):
    times = learnt(observations)
    predicted = [times.mean_ns(rows) for rows in range(1, 130)]
    assert all(later >= earlier * (1 - 1e-9) for earlier, later in pairwise(predicted))
    assert predicted[0] > 0


@given(OBSERVATIONS)
def test_the_upper_quantile_lies_between_the_mean_and_the_clip(observations):
    times = learnt(observations)
    for rows in (1, 3, 16, 64, 100):
        assert times.mean_ns(rows) <= times.upper_ns(rows) <= CLIP * times.mean_ns(rows) * (1 + 1e-9)


@given(st.sampled_from(SIZES), st.lists(st.floats(1e3, 1e6), min_size=1, max_size=60))
def test_an_estimate_stays_within_what_was_seen(rows, seen):
    times = learnt([(rows, duration_ns, 0) for duration_ns in seen])
    assert min(seen) * (1 - 1e-9) <= times.mean_ns(rows) <= max(seen) * (1 + 1e-9)


def test_where_only_some_sizes_run_a_batch_takes_what_the_next_one_does():
    times = ServiceTimes((4, 16), stepped=True)
    times.observe(3, 1e6, 0)
    times.observe(9, 5e6, 0)
    assert [times.mean_ns(rows) for rows in (0, 1, 4, 5, 16)] == [1e6, 1e6, 1e6, 5e6, 5e6]
    assert [times.upper_ns(rows) for rows in (1, 5)] == [times.upper_ns(rows) for rows in (4, 16)]
    assert times.mean_ns(32) == 10e6


def test_where_only_some_sizes_run_those_that_fit_a_time_are_of_these():
    times = ServiceTimes((4, 16), stepped=True)
    for rows, duration_ns in ((4, 1e6), (16, 5e6)):
        times.observe(rows, duration_ns, 0)
    upper_ns = [times.upper_ns(rows) for rows in (4, 16)]
    assert rows_within(times.curve, upper_ns[0] - 1, 16) == 0
    assert rows_within(times.curve, upper_ns[1] - 1, 16) == 4
    assert rows_within(times.curve, upper_ns[1] - 1, 3) == 3
    assert rows_within(times.curve, upper_ns[1], 11) == 11


def test_a_batch_that_was_padded_teaches_the_size_that_ran_and_no_other():
    times = ServiceTimes((4, 16), stepped=True)
    for rows, duration_ns in ((4, 1e6), (16, 5e6), *[(5, 10e6)] * 50):
        times.observe(rows, duration_ns, 0)
    assert times.curve.means_ns[1] > 9e6
    assert times.curve.weights[0] < 1 < times.curve.weights[1]


def test_nothing_is_promised_while_nothing_is_known():
    times = ServiceTimes(SIZES)
    assert times.mean_ns(8) == 0
    assert times.best_rows_per_s == 0


def test_it_converges_to_a_noisy_curve_from_batches_of_any_size():
    random = np.random.default_rng(0)
    times = ServiceTimes(SIZES)
    for _ in range(3000):
        rows = int(random.integers(1, 65))
        times.observe(rows, affine(rows) * random.lognormal(0, 0.1), 0)
    for rows in (1, 5, 16, 40, 64):
        assert times.mean_ns(rows) == pytest.approx(affine(rows), rel=0.05)
        assert times.upper_ns(rows) == pytest.approx(affine(rows) * np.exp(1.2816 * 0.1), rel=0.08)


def test_half_of_what_was_seen_is_forgotten_after_200_batches():
    times = learnt([(8, 1e6, 0)] * 4000)
    for _ in range(200):
        times.observe(8, 2e6, 0)
    assert times.mean_ns(8) == pytest.approx(1.5e6, rel=0.02)


def test_half_of_what_was_seen_is_forgotten_after_30_seconds():
    times = learnt([(8, 1e6, 0)] * 4000)
    weight = times.curve.weights[3]
    times.observe(8, 1e6, 30_000_000_000)
    assert times.curve.weights[3] == pytest.approx(weight / 2, rel=0.02)


def test_sizes_that_do_not_run_follow_those_that_do():
    times = learnt([(rows, affine(rows), 0) for _ in range(300) for rows in SIZES])
    for _ in range(3000):
        times.observe(1, affine(1, 3.0), 0)
    assert times.mean_ns(1) == pytest.approx(affine(1, 3.0), rel=0.05)
    assert times.mean_ns(64) > 1.5 * affine(64)


def test_a_size_never_seen_lies_between_its_neighbours():
    times = learnt([(1, 10_000, 0), (64, 73_000, 0)])
    assert times.mean_ns(33) == pytest.approx(42_000, rel=0.01)
    assert times.mean_ns(128) == pytest.approx(146_000)


def test_larger_sizes_than_any_that_ran_promise_no_better_throughput():
    times = learnt([(1, 10_000, 0)])
    assert times.best_rows_per_s == pytest.approx(1e5)
    assert times.knee_rows == 1


def test_one_stalled_run_moves_an_estimate_no_further_than_a_clipped_one():
    stalled, clipped = learnt([(4, 1e6, 0)] * 50), learnt([(4, 1e6, 0)] * 50)
    stalled.observe(4, 1e9, 0)
    clipped.observe(4, CLIP * 1e6, 0)
    assert stalled.mean_ns(4) == clipped.mean_ns(4) < 1.1e6


def test_the_knee_is_where_throughput_stops_growing():
    flat_until_8 = learnt([(rows, 1e6 * max(1, rows / 8), 0) for rows in SIZES])
    assert flat_until_8.knee_rows == 8
    assert flat_until_8.best_rows_per_s == pytest.approx(8_000)
    batching_does_not_pay = learnt([(rows, 1e6 * rows * (1 + rows / 64), 0) for rows in SIZES])
    assert batching_does_not_pay.knee_rows == 1


def test_what_was_learnt_outlasts_days_without_a_request():
    times = ServiceTimes(ladder(64))
    for rows in times.curve.sizes:
        times.observe(rows, 1_000_000, 0)
    times.observe(1, 1_000_000, 48 * 3600 * 10**9)
    assert times.mean_ns(64) == pytest.approx(1_000_000)


@pytest.mark.parametrize("stalled", [0.02, 0.3, 0.8])
def test_sizes_that_run_rarely_do_not_drive_each_other_away_when_batches_stall(stalled):
    rng, times = random.Random(3), ServiceTimes(ladder(64))
    worst_ns = 0.0
    for batch in range(10_000):
        rows = 1 if rng.random() < 0.98 else rng.randint(2, 64)
        stall_ns = rng.expovariate(1 / 50e6) if rng.random() < stalled else 0.0
        times.observe(rows, 30_000 + 500 * rows + stall_ns, batch * 16_000_000)
        worst_ns = max(worst_ns, times.mean_ns(1))
    assert worst_ns < 100e6
    assert times.mean_ns(64) < 1e9
