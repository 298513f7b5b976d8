import dataclasses
import json

import numpy as np
import pytest

from bench.compare import PAIRS_MIN, Ratio, compare, interval_of_mean
from bench.slices import ClosedLoop, OpenLoop, Recording, Slice
from serving.errors import ConfigError
from tests.support.virtual_servers import recording

A = Slice(load=OpenLoop(rate_per_s=400.0, duration_s=1.0))
B = dataclasses.replace(A, target=1)


class DriftingMachine:
    """Latency is lognormal; every slice has a noise of its own, and the machine becomes slower and faster again."""

    def __init__(self, seed, *, delay=1.0):
        self._random = np.random.default_rng(seed)
        self._phase = self._random.uniform(0, 2 * np.pi)
        self._delay = delay
        self.slices = []

    def measure(self, slice_):
        drift = 0.2 * np.sin(self._phase + len(self.slices) / 8)
        level = 2e-3 * np.exp(drift + self._random.normal(0, 0.03)) * (self._delay if slice_.target else 1)
        self.slices.append(slice_)
        count = 400
        latency = level * self._random.lognormal(0, 0.4, count)
        return recording(slice_, np.linspace(0, 1, count, endpoint=False), latency)


def test_slices_run_in_the_order_a_b_b_a_at_the_same_moments():
    machine = DriftingMachine(0)
    compare(machine.measure, A, b=B)
    assert [slice_.target for slice_ in machine.slices] == [0, 1, 1, 0] * (PAIRS_MIN // 2)
    assert [slice_.load.seed for slice_ in machine.slices] == [number for number in range(PAIRS_MIN) for _ in "AB"]


@pytest.fixture(scope="module")
def with_itself():
    """Twenty servers, each compared with itself."""
    return [compare(DriftingMachine(seed).measure, A, b=B, seed=seed) for seed in range(20)]


@pytest.fixture(scope="module")
def with_a_slower():
    """Ten servers, each compared with one that takes a tenth longer."""
    return [compare(DriftingMachine(seed, delay=1.1).measure, A, b=B, seed=seed) for seed in range(10)]


def shown(comparisons, figure):
    """Count the comparisons that show a difference in a figure."""
    return sum(ratio.shows_difference for each in comparisons for ratio in each.ratios if ratio.figure == figure)


@pytest.mark.parametrize("figure", ["latency mean", "latency p50", "latency p99", "throughput"])
def test_a_server_compared_with_itself_is_no_different(with_itself, figure):
    assert shown(with_itself, figure) <= 3


@pytest.mark.parametrize("figure", ["latency mean", "latency p50"])
def test_a_delay_of_a_tenth_is_shown(with_a_slower, figure):
    assert shown(with_a_slower, figure) >= 9
    estimates = [ratio.estimate for each in with_a_slower for ratio in each.ratios if ratio.figure == figure]
    assert np.mean(estimates) == pytest.approx(1.1, rel=0.02)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    random = np.random.default_rng(0)
    covered = 0
    for seed in range(300):
        low, high = interval_of_mean(random.exponential(1.0, PAIRS_MIN), seed)
        covered += low <= 1 <= high
    assert 0.91 <= covered / 300 <= 0.99


def test_values_that_do_not_vary_have_an_interval_without_width():
    assert interval_of_mean(np.full(20, 0.5), 0) == (0.5, 0.5)


def test_the_same_seed_gives_the_same_intervals():
    first, second = (compare(DriftingMachine(1).measure, A, b=B, seed=9).ratios for _ in range(2))
    assert first == second


def test_a_verdict_says_what_is_shown():
    assert Ratio("latency p99", 1.02, 0.97, 1.08).verdict() == (
        "latency p99: no difference shown (B is between 97.0% and 108.0% of A)"
    )
    assert Ratio("throughput", 0.9, 0.85, 0.95).verdict() == (
        "throughput: B is 10.0% lower (between 85.0% and 95.0% of A)"
    )


def test_a_closed_loop_may_be_compared():
    a = Slice(load=ClosedLoop(concurrency=4, duration_s=1.0))
    comparison = compare(DriftingMachine(3).measure, a, b=dataclasses.replace(a, target=1))
    assert [ratio.figure for ratio in comparison.ratios][-1] == "throughput"


@pytest.mark.parametrize("lost", [0, 1, 7])
def test_pairs_before_a_failure_are_kept(lost):
    machine = DriftingMachine(0)

    def measure(slice_):
        if len(machine.slices) == 2 * lost:
            return Recording(slice_, failure="the server closed the connection")
        return machine.measure(slice_)

    seen = []
    comparison = compare(measure, A, b=B, on_pair=seen.append)
    side = "B" if lost % 2 else "A"
    assert comparison.failure == f"pair {lost + 1}, {side}: the server closed the connection"
    assert len(comparison.pairs) == len(seen) == lost
    assert bool(comparison.ratios) == (lost >= 2)
    json.dumps(comparison.to_json(), allow_nan=False)


def test_a_slice_without_an_answer_ends_the_comparison():
    comparison = compare(lambda slice_: recording(slice_, np.zeros(0), np.zeros(0)), A, b=B)
    assert comparison.failure == "pair 1, A: no request was answered (no answer came)"


@pytest.mark.parametrize("pairs", [0, PAIRS_MIN - 1])
def test_too_few_pairs_are_refused(pairs):
    with pytest.raises(ConfigError, match="expected 20 to 10000; with fewer, chance looks like a change"):
        compare(DriftingMachine(0).measure, A, b=B, pairs=pairs)
