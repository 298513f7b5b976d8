"""Laws of the schedules: in order, in time, at the asked rate, and the same for the same seed."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bench.arrivals import times_ns
from bench.slices import OpenLoop

loads = st.builds(
    OpenLoop,
    rate_per_s=st.floats(0.1, 5000),
    duration_s=st.floats(0.001, 4),
    arrivals=st.sampled_from(["constant", "poisson", "bursty"]),
    seed=st.integers(0, 2**32),
)


@given(loads)
def test_times_ascend_within_the_duration(load):
    times = times_ns(load)
    assert times.dtype == np.int64
    assert (np.diff(times) >= 0).all()
    assert not times.size or (times[0] >= 0 and times[-1] < load.duration_s * 1e9 + 1)


@given(loads)
def test_the_same_seed_gives_the_same_times(load):
    np.testing.assert_array_equal(times_ns(load), times_ns(load))


@given(loads)
def test_the_asked_rate_is_kept(load):
    expected = load.rate_per_s * load.duration_s
    spread = 1 if load.arrivals == "constant" else 6 * math.sqrt(expected) + 6
    assert abs(len(times_ns(load)) - expected) <= spread


@given(st.sampled_from(["poisson", "bursty"]), st.integers(0, 1000))
def test_another_seed_gives_other_times(arrivals, seed):
    first, second = (
        times_ns(OpenLoop(rate_per_s=1000, duration_s=1, arrivals=arrivals, seed=s)) for s in (seed, seed + 1)
    )
    assert not np.array_equal(first, second)


@given(st.lists(st.floats(0, 100), min_size=2, max_size=30).filter(lambda times: max(times) - min(times) > 0.1),
       st.floats(0.5, 50))  # fmt: skip
def test_a_trace_repeated_often_has_the_asked_rate(tmp_path_factory, seconds, rate_per_s):
    path = tmp_path_factory.mktemp("trace") / "trace.npy"
    np.save(path, np.sort(np.array(seconds)))
    duration_s = 100 * len(seconds) / rate_per_s
    load = OpenLoop(rate_per_s=rate_per_s, duration_s=duration_s, arrivals="trace", trace=path)
    assert abs(len(times_ns(load)) / (100 * len(seconds)) - 1) < 0.02
