import numpy as np
import pytest

from bench.windows import ADAPTIVE, WINDOWS_US, Latency, over_the_best, policies, verdict

NOISE = (0.98, 1.0, 1.02, 0.99, 1.01)


def test_ours_is_compared_with_the_window_whose_latency_is_the_least():
    ours, good, bad = np.log([3.0, 1.0, 2.0]), np.log([4.0, 2.0, 1.0]), np.log([1.0, 9.0, 9.0])
    estimate, low, high = over_the_best(ours, [bad, good], seed=0)
    assert estimate == pytest.approx((6.0 / 8.0) ** (1 / 3))
    assert low < estimate < high


@pytest.mark.parametrize(("mean_ms", "p99_ms", "status"), [(1.05, 5.4, 0), (1.3, 5.0, 1), (1.0, 6.5, 1)])
def test_the_status_says_whether_mean_and_p99_are_within_a_tenth(mean_ms, p99_ms, status):
    found = {policy: [Latency(1.0, 5.0)] * len(NOISE) for policy in policies()}
    found[ADAPTIVE] = [Latency(mean_ms * noise, p99_ms * noise) for noise in NOISE]
    assert verdict({("light", 0.3): found}) == status


def test_what_noise_hides_breaks_no_promise():
    found = {policy: [Latency(1.0, 5.0)] * 4 for policy in policies()}
    found[ADAPTIVE] = [Latency(1.2 * noise, 5.0) for noise in (0.5, 0.8, 1.0, 2.0)]
    assert verdict({("light", 0.3): found}) == 0


def test_there_is_a_policy_for_each_window_and_ours():
    assert policies() == [ADAPTIVE, *(f"window{delay_us}" for delay_us in WINDOWS_US)]
