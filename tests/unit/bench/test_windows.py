import pytest

from bench.windows import ADAPTIVE, WINDOWS_US, Latency, over_the_best, policies, verdict


def test_ours_is_compared_with_the_window_whose_median_is_the_least():
    assert over_the_best([3.0, 1.0, 2.0], [[4.0, 4.0, 1.0], [1.0, 2.5, 9.0]]) == pytest.approx(2.0 / 2.5)


@pytest.mark.parametrize(("mean_ms", "p99_ms", "status"), [(1.05, 5.4, 0), (1.2, 5.0, 1), (1.0, 5.6, 1)])
def test_the_status_says_whether_mean_and_p99_are_within_a_tenth(mean_ms, p99_ms, status):
    found = {policy: [Latency(1.0, 5.0)] for policy in policies()} | {ADAPTIVE: [Latency(mean_ms, p99_ms)]}
    assert verdict({("light", 0.3): found}) == status


def test_there_is_a_policy_for_each_window_and_ours():
    assert policies() == [ADAPTIVE, *(f"window{delay_us}" for delay_us in WINDOWS_US)]
