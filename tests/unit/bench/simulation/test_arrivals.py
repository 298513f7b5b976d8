import numpy as np
import pytest

from bench.simulation.arrivals import PATTERNS, arrivals, recorded


@pytest.mark.parametrize("pattern", PATTERNS)
def test_requests_come_in_order_at_the_mean_rate_asked_for(pattern):
    times_ns = arrivals(pattern, rate_per_ns=1e-4, count=200_000, seed=3)
    assert (np.diff(times_ns) >= 0).all()
    assert times_ns.size / times_ns[-1] == pytest.approx(1e-4, rel=0.1)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_seed_makes_the_same_arrivals_again(pattern):
    first, again, other = (arrivals(pattern, rate_per_ns=1e-4, count=100, seed=seed) for seed in (3, 3, 4))
    assert (first == again).all()
    assert (first != other).any()


def test_patterns_differ_in_how_bursty_they_are():
    def dispersion(pattern):
        times_ns = arrivals(pattern, rate_per_ns=1e-4, count=200_000, seed=3)
        counts = np.histogram(times_ns, bins=np.arange(0, times_ns[-1], 1e6))[0]
        return counts.var() / counts.mean()

    poisson, modulated, on_off = (dispersion(pattern) for pattern in PATTERNS)
    assert poisson == pytest.approx(1, rel=0.1)
    assert 3 * poisson < modulated < on_off / 2


def test_a_recording_is_repeated_until_there_are_enough(tmp_path):
    trace = tmp_path / "trace.txt"
    trace.write_text("10.0\n10.5\n11.0\n")
    assert (recorded(trace, 5) / 1e9).tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
