"""What the README promises of the judge, over 1,000 simulated rollouts of each kind: fixed before the run."""

import numpy as np
import pytest

from serving.release.judge import Rules
from serving.release.simulation import SCENARIOS, simulate

RUNS, SEED = 1000, 1
SAME_REQUESTS_MAX = 40_000
"""Within so many requests per arm nine in ten rollouts of the same version are promoted."""
ERRORS_REQUESTS_MAX = 4_000
SLOWER_BLOCKS_MAX = {"20 % slower": 60, "20 % slower, uneven load": 150}


def run(name):
    return simulate(SCENARIOS[name], Rules(), runs=RUNS, seed=SEED)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SCENARIOS if name.startswith("the same version")])
def test_the_same_version_is_promoted_within_the_published_sample_and_rarely_sent_back(name):
    result = run(name)
    assert result.rolled_back <= 0.05
    assert result.promoted >= 0.9
    assert np.quantile(result.requests, 0.9) <= SAME_REQUESTS_MAX


@pytest.mark.slow
@pytest.mark.parametrize("name", ["errors from 1 % to 3 %", "all requests fail"])
def test_errors_that_rise_are_caught_within_4000_requests_per_arm(name):
    result = run(name)
    assert result.rolled_back >= 0.9
    assert result.quantile(0.9)[1] <= ERRORS_REQUESTS_MAX


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOWER_BLOCKS_MAX)
def test_a_slower_version_is_caught_within_a_number_of_blocks_fixed_before(name):
    result = run(name)
    assert result.rolled_back >= 0.9
    assert result.quantile(0.9)[0] <= SLOWER_BLOCKS_MAX[name]
