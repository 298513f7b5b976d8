import math
import pickle

import numpy as np
import pytest

from bench.histogram import BUCKETS, TIME_NS_MAX, Histogram, buckets_of, middles_of


def test_the_99th_percentile_of_100_times_is_the_99th():
    histogram = Histogram.of(np.arange(1, 101))
    assert histogram.quantile_ns(0.99) == 99
    assert histogram.quantile_ns(0.5) == 50
    assert histogram.quantile_ns(0) == 1
    assert histogram.quantile_ns(1) == 100


def test_an_empty_histogram_has_no_numbers():
    histogram = Histogram()
    assert histogram.count == 0
    assert all(math.isnan(x) for x in (histogram.mean_ns, histogram.quantile_ns(0.5), histogram.share_within(1)))


def test_times_out_of_range_count_at_its_ends():
    histogram = Histogram.of(np.array([-5, TIME_NS_MAX, TIME_NS_MAX + 1, 2**62]))
    assert histogram.counts[0] == 1
    assert histogram.counts[BUCKETS - 1] == 3
    assert histogram.max_ns == TIME_NS_MAX


def test_small_times_have_buckets_of_their_own():
    np.testing.assert_array_equal(buckets_of(np.arange(2048)), np.arange(2048))
    np.testing.assert_array_equal(middles_of(np.arange(2048)), np.arange(2048))


def test_mean_and_maximum_are_exact():
    histogram = Histogram.of(np.array([1, 10**9 + 7]))
    assert histogram.max_ns == 10**9 + 7
    assert histogram.mean_ns == (10**9 + 8) / 2


@pytest.mark.parametrize(("time_ns", "share"), [(-1, 0.25), (9, 0.25), (10, 0.5), (2e12, 1.0), (math.inf, 1.0)])
def test_a_share_counts_times_up_to_a_time(time_ns, share):
    assert Histogram.of(np.array([0, 10, 1000, 10**9])).share_within(time_ns) == share


def test_a_histogram_travels_as_its_filled_buckets():
    histogram = Histogram.of(np.array([5, 5, 10**6]))
    data = pickle.dumps(histogram)
    copy = pickle.loads(data)  # noqa: S301 - our own bytes
    assert len(data) < 1000
    np.testing.assert_array_equal(copy.counts, histogram.counts)
    assert (copy.total_ns, copy.max_ns) == (histogram.total_ns, histogram.max_ns)
    copy.add(histogram)
    assert copy.count == 6
