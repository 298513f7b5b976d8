import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.statistics.latency import (
    Answered,
    BatchTimes,
    Duration,
    Histogram,
    ServableStatistics,
    count_plainly,
    octave_edges_ns,
)
from serving.statistics.stage_kernel import count_batch
from serving.statistics.stages import BUCKETS, CARRY_BITS, COLUMNS, bucket_of, edges_ns

FIRST_NS, LAST_NS = octave_edges_ns()[0], octave_edges_ns()[-1]


def middle_of(bucket):
    """The middle of a bucket's range, by its definition: 16 equal parts of a power of two."""
    octave, part = divmod(bucket - 1, 16)
    width = (FIRST_NS << octave) / 16
    return (FIRST_NS << octave) + (part + 0.5) * width


@given(st.integers(FIRST_NS, LAST_NS - 1))
def test_the_middle_of_a_bucket_is_within_its_error_bound(duration_ns):
    middle = middle_of(bucket_of(duration_ns))
    assert abs(middle - duration_ns) <= 0.032 * duration_ns


@given(st.integers(0, 2 * LAST_NS), st.integers(0, 2 * LAST_NS))
def test_a_longer_duration_is_never_in_a_lower_bucket(one, other):
    low, high = sorted((one, other))
    assert 0 <= bucket_of(low) <= bucket_of(high) < BUCKETS


@pytest.mark.parametrize("octave", range(27))
def test_an_octave_begins_with_a_bucket_of_its_own(octave):
    edge = octave_edges_ns()[octave]
    assert bucket_of(edge) == 1 + 16 * octave
    assert bucket_of(edge - 1) == 16 * octave


def test_the_ends_are_open():
    assert bucket_of(0) == bucket_of(FIRST_NS - 1) == 0
    assert bucket_of(-5) == 0
    assert bucket_of(LAST_NS - 1) == bucket_of(LAST_NS) == bucket_of(1 << 62) == BUCKETS - 1


@given(st.lists(st.tuples(st.integers(0, LAST_NS), st.integers(1, 3)), max_size=30))
def test_cumulative_counts_say_how_many_lie_below_each_edge(durations):
    histogram = Histogram()
    for duration_ns, times in durations:
        histogram.add(duration_ns, times)
    counts = histogram.cumulative_by_octave()
    below = [sum(times for ns, times in durations if ns < edge) for edge in octave_edges_ns()]
    last_bucket_from = LAST_NS - LAST_NS // 32  # the last bucket is open above, so it counts below no edge
    below[-1] -= sum(times for ns, times in durations if last_bucket_from <= ns < LAST_NS)
    assert counts == below
    assert histogram.count == sum(times for _, times in durations)
    assert histogram.total_ns == sum(ns * times for ns, times in durations)


def test_a_sum_beyond_64_bits_is_exact():
    histogram = Histogram()
    for _ in range(5):
        histogram.add(1 << (CARRY_BITS - 1), 1)
    histogram.add(3)
    assert histogram.total_ns == (5 << (CARRY_BITS - 1)) + 3
    assert histogram.copy().total_ns == histogram.total_ns


@given(
    st.lists(st.tuples(st.integers(0, LAST_NS), st.integers(1, 300)), max_size=30),
    st.integers(0, 2 * LAST_NS),
    st.integers(LAST_NS, 3 * LAST_NS),
    st.sampled_from([count_batch, count_plainly]),
)
def test_a_batch_is_counted_as_its_requests_one_by_one(arrivals, infer_ns, taken_ns, count):
    statistics, now_ns = ServableStatistics(count), taken_ns + infer_ns
    twin = {stage: Histogram() for stage in statistics.stages}
    for arrival_ns, often in arrivals:
        twin["request"].add(now_ns - arrival_ns, often)
        twin["queue"].add(taken_ns - arrival_ns, often)
        twin["compute_input"].add(900, often)
        twin["compute_infer"].add(infer_ns, often)
        twin["compute_output"].add(1 << 10, often)
    times = BatchTimes(rows=1, taken_ns=taken_ns, input_ns=900, infer_ns=infer_ns, output_ns=1 << 10, reruns=0)
    statistics.batch_done(times, Answered(arrivals, rows=1), now_ns=now_ns, wall_ns=0)
    for stage, histogram in statistics.stages.items():
        assert (histogram.count, histogram.total_ns) == (twin[stage].count, twin[stage].total_ns)
        assert histogram.cumulative_by_octave() == twin[stage].cumulative_by_octave()
        assert np.array_equal(histogram.buckets, twin[stage].buckets)


@pytest.mark.parametrize("count", [count_batch, count_plainly])
def test_sums_of_batches_carry_beyond_64_bits(count):
    statistics, eon_ns = ServableStatistics(count), 1 << (CARRY_BITS - 1)
    times = BatchTimes(rows=1, taken_ns=eon_ns, input_ns=0, infer_ns=0, output_ns=0, reruns=0)
    for _ in range(5):
        statistics.batch_done(times, Answered([(0, 1)], rows=1), now_ns=eon_ns, wall_ns=0)
    assert statistics.stages["request"].total_ns == 5 << (CARRY_BITS - 1)


@pytest.mark.parametrize(("stages", "columns", "facts"), [(4, COLUMNS, 2), (5, COLUMNS - 1, 2), (5, COLUMNS, 1)])
def test_the_kernel_writes_to_nothing_but_histograms(stages, columns, facts):
    with pytest.raises(AssertionError, match="bug: "):
        count_batch(np.zeros((stages, columns), np.int64), np.zeros((1, facts), np.int64), 1, 2, 3, 4, 5)


def test_a_duration_counts_and_sums():
    duration = Duration()
    duration.add(5)
    duration.add(7, times=2)
    assert (duration.count, duration.total_ns) == (3, 19)


def test_a_batch_counts_stages_per_request_and_sizes_per_batch():
    statistics = ServableStatistics()
    times = BatchTimes(rows=5, taken_ns=100, input_ns=10, infer_ns=50, output_ns=3, reruns=2)
    statistics.batch_done(times, Answered([(40, 1), (70, 1)], rows=4), now_ns=200, wall_ns=9_000_000)
    counted = {name: (stage.count, stage.total_ns) for name, stage in statistics.stages.items()}
    assert counted == {
        "request": (2, 160 + 130),
        "queue": (2, 60 + 30),
        "compute_input": (2, 20),
        "compute_infer": (2, 100),
        "compute_output": (2, 6),
    }
    assert statistics.inference_count == 4
    assert statistics.execution_count == 3
    assert statistics.rerun_count == 2
    assert statistics.last_inference_ms == 9
    assert list(statistics.batches) == [5]
    assert statistics.batches[5].compute_infer == Duration(1, 50)


def test_failures_are_counted_apart():
    statistics = ServableStatistics()
    statistics.failed(30)
    assert statistics.fail == Duration(1, 30)
    assert statistics.stages["request"].count == 0


def histogram_of(durations_ns):
    histogram = Histogram()
    for duration_ns in durations_ns:
        histogram.add(duration_ns)
    return histogram


DURATIONS = st.lists(st.integers(FIRST_NS, LAST_NS - 1), min_size=1, max_size=50)


@given(DURATIONS, st.floats(0, 1))
def test_a_quantile_is_the_one_that_numpy_finds_but_for_its_bucket(durations_ns, quantile):
    expected = np.quantile(durations_ns, quantile, method="inverted_cdf")
    assert abs(histogram_of(durations_ns).quantile_ns(quantile) - expected) <= expected / 16


def test_nothing_has_no_quantile():
    assert np.isnan(Histogram().quantile_ns(0.5))


@given(st.lists(st.integers(0, 2 * LAST_NS)), st.lists(st.integers(0, 2 * LAST_NS)))
def test_what_came_since_a_copy_is_what_was_added(before_ns, after_ns):
    earlier = histogram_of(before_ns)
    later = earlier.copy()
    for duration_ns in after_ns:
        later.add(duration_ns)
    since, expected = later.since(earlier), histogram_of(after_ns)
    assert (since.buckets.tolist(), since.total_ns) == (expected.buckets.tolist(), expected.total_ns)


def test_what_began_anew_counts_as_a_whole():
    assert histogram_of([5_000]).since(histogram_of([5_000, 9_000])).count == 1


@given(st.integers(0, LAST_NS - 1))
def test_a_bucket_lies_between_its_edges(duration_ns):
    edges, bucket = edges_ns(), bucket_of(duration_ns)
    assert edges[bucket] <= duration_ns < edges[bucket + 1]
