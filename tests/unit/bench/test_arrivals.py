import numpy as np
import pytest

from bench.arrivals import BURST_FACTOR, REQUESTS_MAX, times_ns
from bench.slices import OpenLoop
from serving.errors import ConfigError


def load(arrivals, **options):
    return OpenLoop(**({"rate_per_s": 500.0, "duration_s": 20.0, "arrivals": arrivals} | options))


def dispersion(times, window_ns):
    """Return the index of dispersion: variance over mean of the requests per window."""
    counts = np.bincount(times // window_ns)
    return counts.var() / counts.mean()


def trace(tmp_path, text):
    path = tmp_path / "trace.txt"
    path.write_text(text)
    return path


def test_constant_arrivals_are_evenly_spaced_from_the_first_moment_on():
    times = times_ns(load("constant", rate_per_s=4.0, duration_s=1.0))
    assert times.tolist() == [0, 250_000_000, 500_000_000, 750_000_000]


def test_poisson_arrivals_vary_as_a_poisson_process_does():
    times = times_ns(load("poisson", rate_per_s=2000.0, duration_s=100.0, seed=3))
    assert dispersion(times, 100_000_000) == pytest.approx(1, abs=0.15)
    gaps = np.diff(times)
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.02)


def test_bursty_arrivals_vary_more_and_are_silent_most_of_the_time():
    times = times_ns(load("bursty", rate_per_s=2000.0, duration_s=100.0, seed=3))
    assert dispersion(times, 100_000_000) > 20
    busy = np.unique(times // 1_000_000).size / 100_000
    assert busy == pytest.approx(1 / BURST_FACTOR, abs=0.03)


def test_a_bursty_slice_begins_anywhere_in_a_cycle():
    firsts = [times_ns(load("bursty", seed=seed))[0] for seed in range(40)]
    assert min(firsts) < 20_000_000
    assert max(firsts) > 300_000_000


@pytest.mark.parametrize("duration_s", [0.001, 0.3, 2.0])
def test_a_short_bursty_slice_keeps_its_rate(duration_s):
    counts = [len(times_ns(load("bursty", rate_per_s=10_000.0, duration_s=duration_s, seed=s))) for s in range(50)]
    assert np.mean(counts) == pytest.approx(10_000 * duration_s, rel=0.2)


def test_a_trace_is_replayed_from_its_first_entry(tmp_path):
    path = trace(tmp_path, "# seconds\n100.0\n100.5\n\n102.0  # late\n")
    times = times_ns(load("trace", trace=path, rate_per_s=0.0, duration_s=2.5))
    assert times.tolist() == [0, 500_000_000, 2_000_000_000]


def test_a_trace_is_cut_to_the_duration(tmp_path):
    path = trace(tmp_path, "0\n0.5\n2\n")
    assert times_ns(load("trace", trace=path, rate_per_s=0.0, duration_s=1.0)).tolist() == [0, 500_000_000]


def test_a_short_trace_starts_over_after_one_mean_gap(tmp_path):
    path = trace(tmp_path, "0\n0.5\n2\n")
    times = times_ns(load("trace", trace=path, rate_per_s=0.0, duration_s=4.0))
    assert times.tolist() == [0, 500_000_000, 2_000_000_000, 3_000_000_000, 3_500_000_000]


def test_a_rate_scales_a_trace(tmp_path):
    path = trace(tmp_path, "0\n0.5\n2\n")  # 1 per s
    assert times_ns(load("trace", trace=path, rate_per_s=2.0, duration_s=1.2)).tolist() == [0, 250_000_000, 10**9]


def test_a_trace_may_be_an_array(tmp_path):
    np.save(tmp_path / "trace.npy", np.array([5, 6, 7]))
    times = times_ns(load("trace", trace=tmp_path / "trace.npy", rate_per_s=0.0, duration_s=2.5))
    assert times.tolist() == [0, 10**9, 2 * 10**9]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "0 entries, expected at least two"),
        ("1\n", "1 entries, expected at least two"),
        ("1\n1\n", "spans 0 s, expected 1e-09 to 1e\\+09"),
        ("1\n2 s\n", "line 2 is '2 s', expected one time in seconds"),
        ("1\nnan\n3\n", "entry 2 is nan"),
        ("1\n3\n2\n", "entry 3 is 2 s, after one of 3 s; sort the times"),
        ("0\n1e-7\n", "expected at most 20000000; lower the rate"),
    ],
)
def test_a_trace_that_cannot_be_replayed_is_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        times_ns(load("trace", trace=trace(tmp_path, text), rate_per_s=0.0))


@pytest.mark.parametrize("array", [np.ones((2, 2)), np.array(["a", "b"])])
def test_an_array_that_is_no_trace_is_refused(tmp_path, array):
    np.save(tmp_path / "trace.npy", array)
    with pytest.raises(ConfigError, match="expected one dimension of numbers"):
        times_ns(load("trace", trace=tmp_path / "trace.npy"))


def test_a_file_that_is_no_array_is_refused(tmp_path):
    (tmp_path / "trace.npy").write_bytes(b"\x93NUMPY nonsense")
    with pytest.raises(ConfigError, match="not an array of numbers"):
        times_ns(load("trace", trace=tmp_path / "trace.npy"))


def test_a_missing_trace_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        times_ns(load("trace", trace=tmp_path / "none"))
    with pytest.raises(ConfigError, match="without a file"):
        times_ns(load("trace"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arrivals": "possion"}, "'possion', expected one of .*did you mean 'poisson'"),
        ({"rate_per_s": 0.0}, "rate = 0 requests/s"),
        ({"rate_per_s": float("nan")}, "rate = nan"),
        ({"rate_per_s": float("inf")}, "rate = inf"),
        ({"duration_s": 0.0}, "duration = 0 s"),
        ({"duration_s": 1e9}, "duration = 1e\\+09 s"),
        ({"seed": -1}, "seed = -1"),
        ({"rate_per_s": REQUESTS_MAX * 2.0, "duration_s": 1.0}, "1 s hold 4e\\+07 requests, expected at most"),
    ],
)
def test_a_load_that_cannot_be_offered_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        times_ns(load(options.pop("arrivals", "poisson"), **options))
