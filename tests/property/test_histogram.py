"""Laws of the histogram: no quantile is off by more than 1/1024, and counting apart is counting together."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bench.histogram import BUCKETS, SUB_BITS, TIME_NS_MAX, Histogram, buckets_of, middles_of

times = st.lists(
    st.integers(0, TIME_NS_MAX) | st.integers(0, 40).map(lambda power: min(1 << power, TIME_NS_MAX)), min_size=1
).map(lambda values: np.array(values, np.int64))


@given(times, st.floats(0, 1))
def test_a_quantile_is_the_one_that_numpy_finds(values, quantile):
    expected = np.quantile(values, quantile, method="inverted_cdf")
    assert abs(Histogram.of(values).quantile_ns(quantile) - expected) <= expected / 1024


@given(times, times)
def test_adding_is_counting_together(first, second):
    histogram = Histogram.of(first)
    histogram.add(Histogram.of(second))
    together = Histogram.of(np.concatenate([first, second]))
    np.testing.assert_array_equal(histogram.counts, together.counts)
    assert (histogram.total_ns, histogram.max_ns) == (together.total_ns, together.max_ns)


@given(st.integers(0, BUCKETS - 1))
def test_the_middle_of_a_bucket_lies_in_it(bucket):
    middle = middles_of(np.array([bucket]))
    assert buckets_of(middle.astype(np.int64)).tolist() == [bucket]


@given(st.integers(0, TIME_NS_MAX), st.integers(0, TIME_NS_MAX))
def test_longer_times_lie_in_higher_buckets(first, second):
    low, high = buckets_of(np.array(sorted((first, second))))
    assert low <= high


@given(times, st.floats(0, 1))
def test_a_quantile_has_its_share_below(values, quantile):
    histogram = Histogram.of(values)
    at = histogram.quantile_ns(quantile)
    assert histogram.share_within(at + at / (1 << SUB_BITS)) >= quantile - 1e-9
