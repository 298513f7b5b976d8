import numpy as np
import pytest

from bench.knee_fit import estimate, fit
from bench.tail_share import SHARE_MAX, TailShare

KNEE = 500.0


def probe(rate, *, slope=20.0, requests=20_000, intervals=20, random=None, lift=1.0):
    """Return what a server with a knee at 500/s shows at a rate; `lift` multiplies its odds."""
    odds = lift * SHARE_MAX / (1 - SHARE_MAX) * (rate / KNEE) ** slope
    share = odds / (1 + odds)
    each = requests // intervals
    over = np.full(intervals, round(share * each)) if random is None else random.binomial(each, share, intervals)
    counts = np.stack([np.full(intervals, each), over], axis=1)
    return rate, TailShare(requests, int(over.sum()), 1.0, counts)


AROUND = (420.0, 460.0, 480.0, 500.0, 520.0, 540.0)


@pytest.mark.parametrize("slope", [5, 20, 100])
def test_the_knee_is_found_between_rates_that_pass_and_fail(slope):
    random = np.random.default_rng(0)
    rate, low, high = estimate([probe(rate, slope=slope, random=random) for rate in AROUND], 100, 1000)
    assert rate == pytest.approx(KNEE, rel=0.02)
    assert low < rate < high


def test_the_interval_holds_the_knee_as_often_as_it_says():
    held = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        _, low, high = estimate([probe(rate, random=random) for rate in AROUND], 100, 1000)
        held += low <= KNEE <= high
    assert held >= 92


def test_more_requests_make_it_surer():
    def width(requests):
        widths = []
        for seed in range(8):
            random = np.random.default_rng(seed)
            _, low, high = estimate([probe(rate, random=random, requests=requests) for rate in AROUND], 100, 1000)
            widths.append(np.log(high / low))
        return np.mean(widths)

    assert width(4_000) > 2 * width(40_000)


def test_one_probe_that_noise_has_turned_is_outvoted():
    random = np.random.default_rng(1)
    probes = [probe(rate, random=random) for rate in AROUND * 3]
    rate, _, _ = estimate([*probes, probe(400.0, lift=200)], 100, 1000)
    assert rate == pytest.approx(KNEE, rel=0.1)


def test_probes_that_contradict_each_other_make_it_less_sure():
    random = np.random.default_rng(2)
    agreeing = [probe(rate, random=random) for rate in AROUND * 2]
    random = np.random.default_rng(2)
    quarrelling = [probe(rate, random=random, lift=3.0 if i % 2 else 0.33) for i, rate in enumerate(AROUND * 2)]
    widths = []
    for probes in (agreeing, quarrelling):
        _, low, high = estimate(probes, 100, 1000)
        widths.append(np.log(high / low))
    assert widths[1] > 3 * widths[0]


def test_the_bracket_s_two_ends_leave_the_knee_between_them():
    posterior = fit([probe(250.0), probe(1000.0)], 125, 2000)
    low, high = posterior.interval()
    assert 150 < low < 350
    assert 600 < high < 1300


def test_a_probe_without_requests_says_nothing():
    nothing = (KNEE, TailShare(0, 0, 5.0, np.zeros((0, 2), np.int64)))
    probes = [probe(rate) for rate in AROUND]
    assert fit([*probes, nothing], 100, 1000).quantile(0.5) == pytest.approx(KNEE, rel=0.02)
