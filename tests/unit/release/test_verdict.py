"""What is done about a step follows from the sightings alone, in the order in which they were read."""

import dataclasses

import pytest

from serving.registry.names import Alias, Version
from serving.release.judge import Action, Arm, Block
from serving.release.policy import RolloutConfig
from serving.release.rollout import Rollout
from serving.release.sightings import Sighting
from serving.release.verdict import StepVerdict, rules_of

CONFIG = RolloutConfig(steps=(0.1, 0.5), shadow_requests_per_s=10, block_s=1, hold_s_max=100)
ROLLOUT = Rollout(
    position=7, alias=Alias("m", "production"), candidate=Version("m", 2), package="", control=Version("m", 1),
    control_package="", config=CONFIG, salt=1, who="ada", began="", last=7,
    since="2026-11-25T10:00:00.000+00:00",
)  # fmt: skip
CANARY = dataclasses.replace(ROLLOUT, step=1)


def shadow(requests=100, errors=0, differing=0):
    return Sighting(Block(Arm(requests, errors, {}), Arm(requests, 0, {})), differing=differing)


def canary(requests=100, errors=0, slower=1.0):
    latency = {"p50": 1000.0 * slower, "p90": 2000.0 * slower}
    return Sighting(Block(Arm(requests, errors, latency), Arm(requests, 0, {"p50": 1000.0, "p90": 2000.0})))


def verdict(rollout, sightings, held_s=1.0):
    return StepVerdict(rollout).look(sightings, held_s)


def test_nothing_seen_is_no_verdict():
    assert verdict(ROLLOUT, []).action is Action.HOLD


def test_a_shadow_is_judged_by_its_errors_alone_and_a_canary_by_latency_too():
    assert rules_of(ROLLOUT).latencies == ()
    assert rules_of(CANARY).latencies == ("p50", "p90")
    assert rules_of(ROLLOUT).steps == 3
    assert verdict(ROLLOUT, [shadow()] * 20).action is Action.ADVANCE
    assert verdict(ROLLOUT, [shadow(errors=10)] * 3).action is Action.ROLL_BACK


def test_a_canary_as_fast_as_its_control_goes_on_and_a_slower_one_back():
    assert verdict(CANARY, [canary()] * 80).action is Action.ADVANCE
    found = verdict(CANARY, [canary(slower=1.4)] * 80)
    assert (found.action, found.why) == (Action.ROLL_BACK, "p50 got worse")


def test_the_first_verdict_stays():
    one = StepVerdict(ROLLOUT)
    assert one.look([shadow(errors=50)] * 3, 1).action is Action.ROLL_BACK
    assert one.look([shadow()] * 100, 1).action is Action.ROLL_BACK
    assert one.evidence["canary"]["errors"] <= 150


def test_whoever_reads_all_again_comes_to_the_same_verdict():
    seen = [canary(errors=k % 3) for k in range(60)]
    slowly = StepVerdict(CANARY)
    for each in seen:
        slowly.look([each], 1)
    at_once = StepVerdict(CANARY)
    assert at_once.look(seen, 1) == slowly.look([], 1)
    assert at_once.evidence == slowly.evidence


def test_a_server_that_cannot_serve_it_ends_it():
    trouble = Sighting(Block(Arm(0, 0, {}), Arm(0, 0, {})), trouble="no\nmemory" + "!" * 2000)
    found = verdict(ROLLOUT, [shadow(), trouble])
    assert (found.action, found.why) == (Action.ROLL_BACK, r"a server cannot serve it: no\nmemory" + "!" * 490)


def test_too_little_traffic_ends_it_by_the_clock_however_many_servers_have_seen_some():
    assert verdict(CANARY, [canary(2)], held_s=101).why.startswith("too little traffic to tell in hold_s_max = 100 s")
    assert verdict(CANARY, [canary(2)], held_s=99).action is Action.HOLD
    strict = dataclasses.replace(CANARY, config=dataclasses.replace(CONFIG, latency_margin=0.051))
    assert verdict(strict, [canary(2, slower=1.02)] * 150, held_s=15).action is Action.HOLD
    assert verdict(strict, [canary(2, slower=1.02)] * 150, held_s=101).action is Action.ROLL_BACK


def test_a_canary_without_answers_is_missing_and_that_is_a_failure():
    nothing = Sighting(Block(Arm(0, 0, {}), Arm(50, 0, {"p50": 1.0, "p90": 2.0})))
    assert "lacks requests" in verdict(CANARY, [nothing] * 3).why


@pytest.mark.parametrize(
    ("most", "differing", "action"),
    [(-1.0, 100, Action.ADVANCE), (0.1, 0, Action.ADVANCE), (0.1, 50, Action.ROLL_BACK), (1e-6, 0, Action.HOLD)],
    ids=["reported only", "none differ", "too many differ", "too few were compared"],
)
def test_answers_that_differ_count_where_the_owner_says_so(most, differing, action):
    config = dataclasses.replace(CONFIG, shadow_differences_max=most)
    rollout = dataclasses.replace(ROLLOUT, config=config)
    assert verdict(rollout, [shadow(differing=differing)] * 30).action is action
