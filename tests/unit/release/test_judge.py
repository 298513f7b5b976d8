"""The judge's tests hold at every look, its bounds cover, and it says what is missing."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from serving.release import judge as module
from serving.release.judge import Action, Arm, Block, Judge, Rules, proportion_bounds
from serving.release.simulation import World, simulate

RULES = Rules()


def arm(requests=100, errors=0, p50=1000.0, p90=2000.0):
    return Arm(requests, errors, {"p50": p50, "p90": p90})


@pytest.mark.parametrize(("ours", "theirs", "errors"), [(10, 10, 4), (7, 30, 9), (50, 20, 1), (3, 3, 6)])
def test_the_evidence_of_errors_expects_one_when_the_versions_are_the_same(ours, theirs, errors):
    total = np.zeros(len(module.ODDS))
    for count in range(max(0, errors - theirs), min(errors, ours) + 1):
        chance = stats.hypergeom(ours + theirs, errors, ours).pmf(count)
        total += chance * np.exp(module._hypergeometric(Arm(ours, count, {}), Arm(theirs, errors - count, {})))
    np.testing.assert_allclose(total, 1)


def test_the_evidence_of_errors_expects_less_when_the_canary_is_better():
    total = np.zeros(len(module.ODDS))
    for count in range(9):
        chance = stats.nchypergeom_fisher(60, 8, 30, 0.5).pmf(count)
        total += chance * np.exp(module._hypergeometric(Arm(30, count, {}), Arm(30, 8 - count, {})))
    assert (total < 1).all()


@pytest.mark.parametrize("centre", [0.0, -0.01, -0.3])
def test_the_evidence_of_latency_expects_at_most_one_for_whatever_is_symmetric_around_no_more_than_tolerated(centre):
    for reach in np.geomspace(1e-3, 1e3, 200):  # every symmetric distribution is a mixture of such pairs
        pair = [np.exp(module._symmetric(centre + sign * reach)) for sign in (-1, 1)]
        assert (np.mean(pair, axis=0) <= 1 + 1e-12).all()


def test_bounds_of_a_proportion_hold_at_every_look():
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(100):
        successes = np.cumsum(rng.random(500) < 0.1)
        bounds = [proportion_bounds(int(successes[n - 1]), n, 0.05) for n in range(5, 501, 15)]
        missed += any(not low <= 0.1 <= high for low, high in bounds)
    assert missed <= 10


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (0, 1), (1, 1), (0, 10_000_000), (10_000_000, 10_000_000)])
def test_bounds_of_a_proportion_exist_at_the_ends(successes, trials):
    low, high = proportion_bounds(successes, trials, 0.05)
    assert 0 <= low <= high <= 1


def test_everything_failing_is_found_in_the_first_block():
    found = Judge(RULES).look(Block(arm(errors=100), arm()))
    assert (found.action, found.why) == (Action.ROLL_BACK, "errors got worse")


def test_one_slow_block_is_no_reason():
    judge = Judge(RULES)
    assert judge.look(Block(arm(p50=1e6, p90=1e6), arm())).action is Action.HOLD
    assert judge.look(Block(arm(requests=1, errors=1), arm())).action is Action.HOLD


def test_what_is_missing_is_a_failure():
    judge = Judge(RULES)
    silent = Block(Arm(100, 0, {"p50": 1.0}), arm())
    actions = [judge.look(silent) for _ in range(RULES.missing_blocks_max)]
    assert [each.action for each in actions] == [Action.HOLD] * (RULES.missing_blocks_max - 1) + [Action.ROLL_BACK]
    assert actions[-1].why == "the canary lacks p90"
    dead = [Judge(Rules(missing_blocks_max=1)).look(Block(Arm(0, 0, {}), arm()))]
    assert dead[0].why == "the canary lacks requests, p50, p90"


def test_what_is_missing_now_and_then_is_not():
    judge = Judge(RULES)
    for gap in itertools.islice(itertools.cycle([False, True, True]), 12):
        found = judge.look(Block(Arm(100, 0, {}) if gap else arm(), arm()))
        assert found.action is not Action.ROLL_BACK


def test_too_little_traffic_rolls_back_in_the_end():
    judge = Judge(Rules(blocks_max=50))
    empty = Block(Arm(0, 0, {}), Arm(0, 0, {}))
    found = [judge.look(empty) for _ in range(50)]
    assert {each.action for each in found[:-1]} == {Action.HOLD}
    assert (found[-1].action, found[-1].why) == (Action.ROLL_BACK, "too little traffic to tell")


def test_a_better_canary_advances():
    judge = Judge(RULES)
    rng = np.random.default_rng(1)
    for _ in range(RULES.blocks_max):
        noise = math.exp(rng.normal(0, 0.05))
        found = judge.look(Block(arm(requests=1000, p50=900 * noise, p90=1800 * noise), arm(requests=1000, errors=20)))
        if found.action is not Action.HOLD:
            break
    assert found.action is Action.ADVANCE
    assert all(found.good_enough.values())


def test_alpha_is_split_over_steps_and_metrics():
    assert RULES.alarm == pytest.approx(RULES.steps * 3 / RULES.alpha)
    assert RULES.alpha == 0.05


# ---- what the README publishes, on fewer runs ----------------------------------------------------------------------


@pytest.mark.parametrize("world", [World(), World(error_rate=0, canary_error_rate=0)], ids=["errors", "none"])
def test_the_same_version_is_promoted_within_the_published_size(world):
    result = simulate(world, RULES, runs=25, seed=1)
    assert result.rolled_back <= 0.05
    assert result.promoted >= 0.9
    assert result.quantile(0.9)[1] <= 30_000


def test_errors_from_1_to_3_percent_are_caught_within_4000_requests():
    result = simulate(World(canary_error_rate=0.03), RULES, runs=60, seed=2)
    assert result.rolled_back == 1
    assert result.quantile(0.9)[1] <= 4000


def test_a_fifth_slower_is_caught_within_40_blocks():
    result = simulate(World(canary_slowdown=1.2), RULES, runs=40, seed=3)
    assert result.rolled_back == 1
    assert result.quantile(0.9)[0] <= 40


@pytest.mark.slow
def test_the_same_version_is_rolled_back_in_at_most_5_of_100_of_1000_runs():
    result = simulate(World(load_spread=1.0, stumbles=0.1), RULES, runs=1000, seed=4)
    assert result.rolled_back <= 0.05
